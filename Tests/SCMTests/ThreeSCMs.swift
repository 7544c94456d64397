import Foundation
import GroupTestSupport
import Logging
import Model
import Raft
import RaftDriver
import RaftLog
import Reactor
import SCM
import Synchronization
import Transport
import Wire

@testable import SCMCore

/// Three members of SCM in one process: files of their own, sockets between them.
final class ThreeSCMs: Sendable {
    final class Node: Sendable {
        let link: CuttableLink
        private let running = Mutex<StorageContainerManager?>(nil)

        /// nil while it is down.
        var scm: StorageContainerManager? {
            get { running.withLock { $0 } }
            set { running.withLock { $0 = newValue } }
        }

        init(_ id: PeerID) throws { link = try CuttableLink(id, of: ThreeSCMs.name) }

        var id: PeerID { link.id }
        var cut: CuttableLink.Cut { link.cut }
        var reactor: Reactor { link.reactor }
        var server: RPCServer { link.server }
        var isLeading: Bool { scm?.group.leadership.isLeading == true }

        /// Asks this member; `connection` while it is down.
        func ask(_ method: SCMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
            guard let scm else { throw StoreError(.connection, "it is down") }
            return try await scm.handle(
                RPCRequest(method: method.rawValue, message: message)
            ).message
        }
    }

    static let name = GroupID(high: 7, low: 11)
    let nodes: [Node]
    private let directory: String
    private let options: StorageContainerManager.Options

    init(_ directory: String, options: StorageContainerManager.Options = .init()) throws {
        self.directory = directory
        self.options = options
        nodes = try (1...3).map { try Node(PeerID(UInt64($0))) }
        CuttableLink.connect(nodes.map(\.link))
    }

    func start(_ node: Node) async throws {
        var settings = MetadataGroupOptions(log: .init(segmentSize: 256 << 10))
        settings.group = Self.name
        settings.voters = nodes.map(\.id)
        settings.member = RaftMemberOptions(id: node.id)
        settings.member.tick = .milliseconds(20)
        var options = options
        options.tick = .milliseconds(50)
        options.heartbeat = .milliseconds(50)
        let scm = try await StorageContainerManager.open(
            directory: "\(directory)/scm-\(node.id)", reactor: node.reactor, options: options,
            group: settings, transport: node.link.transport,
            random: SystemRandomNumberGenerator(), logger: Logger(label: "scm\(node.id)"))
        node.link.attach(scm.group.engine.member)
        node.scm = scm
        await scm.start()
    }

    func startAll() async throws {
        for node in nodes { try await start(node) }
    }

    /// Takes a node down; what is in its log is on its disk.
    func stop(_ node: Node) async throws {
        let scm = node.scm
        node.scm = nil
        node.link.detach()
        try await scm?.close()
    }

    func end() async {
        for node in nodes {
            try? await stop(node)
            await node.link.end()
        }
    }

    /// Waits for a leader that is running and not cut off.
    func leader(but old: Node? = nil) async throws -> Node {
        for _ in 0..<6000 {
            for node in nodes where !node.cut.isCut && node.id != old?.id && node.isLeading {
                return node
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        throw StoreError(.deadlineExceeded, "no leader for 30 s")
    }

    /// Groups from whoever leads, through its change.
    func allocate(_ text: String = "rs-3-2-1024k", count: Int) async throws -> [BlockGroup] {
        var request = SCMAllocateRequest()
        request.replication = try ReplicationConfig(text).message
        request.count = UInt32(count)
        return try await onLeader(.allocate, request.encoded) {
            var groups: [BlockGroup] = []
            for group in try SCMGroupsResponse(parsing: $0).groups {
                groups.append(try BlockGroup(group))
            }
            return groups
        }
    }

    /// Asks one after the other until one answers: as a channel does that follows the leader.
    func onLeader<R>(
        _ method: SCMMethod, _ message: [UInt8], _ parse: ([UInt8]) throws -> R
    ) async throws -> R {
        for attempt in 0..<6000 {
            let node = nodes[attempt % nodes.count]
            do {
                let answer = try await node.ask(method, message)
                return try parse(answer)
            } catch let error as StoreError {
                switch error.code {
                case .notLeader, .connection, .notReady, .overloaded: break
                default: throw error
                }
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        throw StoreError(.deadlineExceeded, "no SCM answers \(method) for 30 s")
    }

    /// Waits until all members have applied the same.
    func converge() async throws {
        for _ in 0..<3000 {
            let applied = Set(nodes.map { $0.scm?.group.appliedIndex ?? 0 })
            if applied.count == 1, nodes.contains(where: \.isLeading) { return }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw StoreError(.deadlineExceeded, "the members do not come together")
    }
}

/// Datanodes that report to all SCMs, each to each in a loop of its own, and carry out at once what
/// the one orders that leads.
final class FakeDatanodes: Sendable {
    struct State {
        /// What was ordered, by the term of whoever did.
        var orders: [(node: Int, term: UInt64, number: UInt64)] = []
        /// Numbers of deletions that were carried out and not told, by datanode.
        var outcomes: [Int: Set<UInt64>] = [:]
        /// Whether outcomes are told.
        var tells = true
        /// What datanodes report of containers, all of it each time.
        var replicas: [Int: [UInt64: SCMReplicaReport]] = [:]
        /// Tokens of the orders to rebuild a replica that were heard.
        var rebuilding: Set<UInt64> = []
        /// Whether what is to be rebuilt is, at once.
        var rebuilds = true

        /// A datanode does what it is told of replicas.
        mutating func carryOut(_ command: SCMDatanodeCommand, on number: Int) {
            var replica = SCMReplicaReport()
            switch command.command {
            case .reconstruct(let order):
                rebuilding.insert(order.token)
                replica.container = order.container
                replica.replicaIndex = order.replicaIndex
                replica.state = rebuilds ? .closed : .recovering
                replica.token = rebuilds ? 0 : order.token
                replica.blocks = 1
                replicas[number, default: [:]][order.container] = replica
            case .removeReplica(let removal):
                replica.container = removal.container
                replica.state = .none
                replicas[number]?[removal.container] = replica
            case .closeContainer(let id): replicas[number]?[id]?.state = .closed
            default: return
            }
        }
    }

    let state = Mutex(State())
    private let scms: ThreeSCMs
    private let count: Int
    private let loops = Mutex<[Task<Void, Never>]>([])

    init(_ count: Int, of scms: ThreeSCMs) {
        self.scms = scms
        self.count = count
    }

    static func address(_ number: Int) -> DatanodeAddress {
        DatanodeAddress(
            id: Identity128(high: 9, low: UInt64(number + 1)), host: "127.0.0.1",
            port: 2000 + number)
    }

    static var volume: DNVolume {
        var volume = DNVolume()
        volume.capacity = 1 << 40
        volume.available = 1 << 39
        return volume
    }

    func start() {
        for number in 0..<count {
            for node in scms.nodes {
                let task = Task { await self.report(number, to: node) }
                loops.withLock { $0.append(task) }
            }
        }
    }

    func stop() async {
        for loop in loops.withLock({ $0 }) {
            loop.cancel()
            await loop.value
        }
    }

    func registration(_ number: Int) -> SCMRegisterRequest {
        var request = SCMRegisterRequest()
        request.address = Self.address(number).message
        request.volumes = [Self.volume]
        request.store = 100 + UInt64(number)
        request.epoch = 1
        request.replicas = replicas(of: number)
        return request
    }

    private func replicas(of number: Int) -> [SCMReplicaReport] {
        state.withLock { ($0.replicas[number] ?? [:]).values.map { $0 } }
    }

    private func report(_ number: Int, to node: ThreeSCMs.Node) async {
        var isRegistered = false
        while !Task.isCancelled {
            do throws(StoreError) {
                if !isRegistered { _ = try await node.ask(.register, registration(number).encoded) }
                isRegistered = true
                isRegistered = try await heartbeat(number, to: node)
            } catch {
                isRegistered = false
            }
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    private func heartbeat(
        _ number: Int, to node: ThreeSCMs.Node
    ) async throws(StoreError) -> Bool {
        var request = SCMHeartbeatRequest()
        request.id = Self.address(number).id.message
        request.volumes = [Self.volume]
        request.store = 100 + UInt64(number)
        request.epoch = 1
        request.replicas = replicas(of: number)
        let outcome = state.withLock { $0.tells ? $0.outcomes[number] ?? [] : [] }
        request.doneCommands = outcome.sorted()
        let response = try SCMHeartbeatResponse(
            parsing: try await node.ask(.heartbeat, request.encoded))
        guard !response.commands.contains(where: { $0.command == .registerAgain(true) }) else {
            return false
        }
        guard response.leading == .leads else { return true }
        state.withLock { state in
            state.outcomes[number, default: []].subtract(outcome)
            for command in response.commands { state.carryOut(command, on: number) }
            for command in response.commands where !command.deleteBlocks.blocks.isEmpty {
                state.orders.append((number, response.term, command.number))
                state.outcomes[number, default: []].insert(command.number)
            }
        }
        return true
    }
}
