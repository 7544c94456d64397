import ContainerStore
import Eventually
import Foundation
import Logging
import Model
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import Datanode

/// SCM as a datanode sees it: counts heartbeats, hands out commands, keeps what was reported.
final class FakeSCM: RPCHandler {
    struct State {
        var heartbeats = 0
        var registrations = 0
        var commands: [SCMDatanodeCommand] = []
        var done: [UInt64] = []
        var failed: [UInt64] = []
        var absent: [UInt64] = []
        /// Ends of orders to heal, and how often one was told to be under way.
        var heals: [SCMHeartbeatRequest.HealResult] = []
        var healsUnderWay = 0
        /// Heartbeats in a row that told nothing of orders to heal.
        var quietBeats = 0
        var store: UInt64 = 0
        var epoch: UInt64 = 0
        /// What was reported last, by container.
        var replicas: [UInt64: SCMReplicaReport] = [:]
        var term: UInt64 = 0
        var leading = SCMLeading.notSaid
        var scms: [String] = []
        /// Whether it leads no more once it has given an order.
        var isDeposedByItsOrders = false
        /// Whether nothing is answered, and who waits for that.
        var isHanging = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }
    let state = Mutex(State())

    /// Answers again.
    func goOn() {
        let waiting = state.withLock { state in
            state.isHanging = false
            defer { state.waiting = [] }
            return state.waiting
        }
        for waiter in waiting { waiter.resume() }
    }

    private func hang() async {
        await withCheckedContinuation { waiter in
            let isHanging = state.withLock { state in
                if state.isHanging { state.waiting.append(waiter) }
                return state.isHanging
            }
            if !isHanging { waiter.resume() }
        }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        await hang()
        switch SCMMethod(rawValue: request.method) {
        case .register:
            let registration = try SCMRegisterRequest(parsing: request.message)
            state.withLock { state in
                state.registrations += 1
                state.store = registration.store
                state.epoch = registration.epoch
            }
            var response = SCMRegisterResponse()
            response.cluster = Identity128(high: 1, low: 2).message
            response.heartbeatMilliseconds = 50
            state.withLock { state in
                response.term = state.term
                response.leading = state.leading
                response.scms = state.scms
            }
            return RPCReply(response.encoded)
        case .heartbeat:
            let heartbeat = try SCMHeartbeatRequest(parsing: request.message)
            var response = SCMHeartbeatResponse()
            response.commands = state.withLock { state in
                state.heartbeats += 1
                state.done += heartbeat.doneCommands
                state.failed += heartbeat.failedCommands
                state.absent += heartbeat.absentCommands
                state.heals += heartbeat.heals.filter { $0.outcome != .underWay }
                state.healsUnderWay += heartbeat.heals.count { $0.outcome == .underWay }
                state.quietBeats = heartbeat.heals.isEmpty ? state.quietBeats + 1 : 0
                for replica in heartbeat.replicas { state.replicas[replica.container] = replica }
                response.term = state.term
                response.leading = state.leading
                response.scms = state.scms
                let commands = state.commands
                if state.isDeposedByItsOrders, !commands.isEmpty {
                    state.leading = .follows
                    state.commands = []
                }
                return commands
            }
            return RPCReply(response.encoded)
        default: throw StoreError(.unsupported, "a fake SCM has no method \(request.method)")
        }
    }

    var heartbeats: Int { state.withLock { $0.heartbeats } }
}

/// A datanode on a disk whose faults are injected, and the SCMs that it reports to.
struct Rig {
    let directory: String
    let faults = FaultInjector(seed: 1, rates: .init())
    let reactors: [Reactor]
    let scms: [FakeSCM]
    let servers: [RPCServer]
    let datanode: Datanode

    /// The first SCM.
    var scm: FakeSCM { scms[0] }
    /// Of all SCMs.
    var addresses: [String] { servers.map { "127.0.0.1:\($0.port)" } }

    /// - Parameters:
    ///   - count: SCMs that there are.
    ///   - known: how many of them the datanode knows at its start.
    ///   - prepare: what they are to answer from the beginning, with the addresses of all.
    init(
        scms count: Int = 1, known: Int? = nil,
        _ prepare: ([FakeSCM], [String]) -> Void = { _, _ in }
    ) async throws {
        directory =
            FileManager.default.temporaryDirectory
            .appendingPathComponent("apus-datanode-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        reactors = [try Reactor.start(.init(backend: .faulty(faults))), try Reactor.start()]
        scms = (0..<count).map { _ in FakeSCM() }
        servers = try scms.map { [reactors] scm in
            try RPCServer(
                host: "127.0.0.1", port: 0, name: "scm", reactors: [reactors[1]], handler: scm)
        }
        for server in servers { server.start() }
        let addresses = servers.map { "127.0.0.1:\($0.port)" }
        prepare(scms, addresses)
        let reactor = reactors[0]
        let clients = try SCMClients(Array(addresses.prefix(known ?? count))) {
            address throws(StoreError) in
            let place = try HostPort(address)
            return SCMClient(
                RPCChannel(
                    .remote(host: place.host, port: place.port), name: "datanode", on: reactor))
        }
        datanode = try await Datanode.open(
            .init(
                host: "127.0.0.1", port: 0, volumes: [directory + "/volume"],
                metadataDirectory: directory + "/node"),
            scms: clients, reactors: [reactors[0]],
            random: SystemRandomNumberGenerator(), logger: Logger(label: "test"))
        _ = try datanode.start(reactors: [reactors[0]])
        let first = scms[0]
        try await until { first.heartbeats > 0 || first.state.withLock { $0.isHanging } }
    }

    func until(_ condition: () -> Bool) async throws {
        try await eventually("what a heartbeat brings", condition)
    }

    func end() async throws {
        for scm in scms { scm.goOn() }
        try await datanode.close()
        for server in servers { await server.stop() }
        for reactor in reactors { reactor.stop() }
        try FileManager.default.removeItem(atPath: directory)
    }
}

@Suite("heartbeats", .timeLimit(.minutes(10)))
struct HeartbeatTests {
    private static let replication = "rs-3-2-64k"

    private func close(_ id: UInt64) -> SCMDatanodeCommand {
        var command = SCMDatanodeCommand()
        command.closeContainer = id
        return command
    }

    private func delete(_ number: UInt64, container: UInt64) -> SCMDatanodeCommand {
        var command = SCMDatanodeCommand()
        command.number = number
        command.deleteBlocks.blocks = [
            BlockID(containerID: ContainerID(container), localID: 1).message
        ]
        return command
    }

    @Test("a disk that hangs, with commands waiting for it, keeps no heartbeat")
    func hungDisk() async throws {
        let rig = try await Rig()
        let replication = try ReplicationConfig(Self.replication)
        try await rig.datanode.store.createContainer(
            ContainerID(1), replication: replication, replicaIndex: 1)
        rig.faults.set(isHung: true)
        rig.scm.state.withLock { $0.commands = [close(1), delete(7, container: 1)] }
        let before = rig.scm.heartbeats
        try await rig.until { rig.scm.heartbeats >= before + 20 }
        #expect(await rig.datanode.store.report()[0].state != .closed)
        #expect(rig.scm.state.withLock { $0.registrations } == 1)
        rig.faults.set(isHung: false)
        try await rig.until { rig.scm.state.withLock { $0.done.contains(7) } }
        try await eventually("the container is closed") {
            await rig.datanode.store.report()[0].state == .closed
        }
        try await rig.end()
    }

    @Test("a deletion is confirmed once, and again when SCM asks again; a lost replica's is told")
    func outcomes() async throws {
        let rig = try await Rig()
        let replication = try ReplicationConfig(Self.replication)
        try await rig.datanode.store.createContainer(
            ContainerID(1), replication: replication, replicaIndex: 1)
        rig.scm.state.withLock { $0.commands = [delete(3, container: 1)] }
        try await rig.until { rig.scm.state.withLock { $0.done.count >= 2 } }
        #expect(rig.scm.state.withLock { Set($0.done) } == [3])
        // Where there is no replica nothing was deleted: that is another answer.
        rig.scm.state.withLock { $0.commands = [delete(6, container: 9)] }
        try await rig.until { rig.scm.state.withLock { $0.absent.contains(6) } }
        #expect(rig.scm.state.withLock { !$0.done.contains(6) && !$0.failed.contains(6) })
        rig.faults.set(rates: .init(error: 1))
        rig.scm.state.withLock { $0.commands = [delete(4, container: 1)] }
        // The volume is taken out: then its replicas are not to be had, which is no failure.
        await #expect(throws: StoreError.self) {
            try await rig.datanode.store.closeContainer(ContainerID(1))
        }
        rig.scm.state.withLock { $0.commands = [delete(5, container: 1)] }
        try await rig.until { rig.scm.state.withLock { $0.absent.contains(5) } }
        rig.faults.set(rates: .init())
        rig.scm.state.withLock { $0.commands = [] }
        try await rig.end()
    }
}
