import Eventually
import Foundation
import GroupTestSupport
import Logging
import Model
import RaftDriver
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import SCM
@testable import SCMCore

/// What was given out, and how often.
private final class Allocated: Sendable {
    private struct State {
        var blocks: [BlockID: Int] = [:]
        var places: [ContainerID: [DatanodeAddress?]] = [:]
        var isOver = false
    }
    private let state = Mutex(State())

    var blocks: [BlockID: Int] { state.withLock { $0.blocks } }
    var places: [ContainerID: [DatanodeAddress?]] { state.withLock { $0.places } }
    var isOver: Bool { state.withLock { $0.isOver } }
    func end() { state.withLock { $0.isOver = true } }

    func add(_ groups: [BlockGroup]) {
        state.withLock { state in
            for group in groups {
                state.blocks[group.blockID, default: 0] += 1
                state.places[group.blockID.containerID] = group.nodes
            }
        }
    }
}

@Suite("three SCMs", .serialized, .timeLimit(.minutes(10)))
struct ThreeSCMsTests {
    private func withSCMs(
        datanodes count: Int = 5, options: StorageContainerManager.Options = .init(),
        _ body: (ThreeSCMs, FakeDatanodes) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let scms = try ThreeSCMs(directory, options: options)
            let datanodes = FakeDatanodes(count, of: scms)
            do {
                try await scms.startAll()
                datanodes.start()
                try await eventually("all members have heard all datanodes") {
                    scms.nodes.allSatisfy { $0.scm?.healthyDatanodes == count }
                }
                try await body(scms, datanodes)
            } catch {
                await datanodes.stop()
                await scms.end()
                throw error
            }
            await datanodes.stop()
            await scms.end()
        }
    }

    /// What a member knows from its log.
    private struct Known: Equatable {
        var cluster: ClusterID?
        var containers: [ContainerID: SCMState.Container]
        var reserved: UInt64
        var deletions: [UInt64: Set<DatanodeID>]
        var addresses: [DatanodeID: DatanodeAddress]

        init(_ node: ThreeSCMs.Node) throws {
            let scm = try #require(node.scm)
            let state = scm.memory.withState { state, _ in state }
            cluster = state.cluster
            containers = state.containers
            reserved = state.reservedLocalIDs
            deletions = state.deletions.all
            addresses = state.nodes.mapValues(\.address)
        }
    }

    @Test("numbers are given out once by whoever leads, and all members know the same in the end")
    func allocations() async throws {
        try await withSCMs { scms, _ in
            let allocated = Allocated()
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<3 {
                    group.addTask {
                        while !allocated.isOver {
                            allocated.add(try await scms.allocate(count: 20))
                        }
                    }
                }
                group.addTask {
                    for round in 0..<6 {
                        try await changeLeader(of: scms, round)
                        let before = allocated.blocks.count
                        try await eventually("groups after a change of leaders") {
                            allocated.blocks.count > before + 200
                        }
                    }
                    allocated.end()
                }
                try await group.waitForAll()
            }
            let counts = allocated.blocks
            #expect(counts.values.allSatisfy { $0 == 1 }, "a block was given out twice")
            #expect(Set(counts.keys.map(\.localID)).count == counts.count)
            try await scms.converge()
            let known = try scms.nodes.map { try Known($0) }
            #expect(known[0] == known[1] && known[1] == known[2])
            for (id, nodes) in allocated.places {
                #expect(known[0].containers[id]?.nodes == nodes.map { $0?.id }, "container \(id)")
            }
        }
    }

    /// By a transfer, a cut, and a stop, in turn.
    private func changeLeader(of scms: ThreeSCMs, _ round: Int) async throws {
        let leader = try await scms.leader()
        switch round % 3 {
        case 0:
            let other = try #require(scms.nodes.first { $0.id != leader.id })
            await leader.scm?.group.engine.member.transferLeadership(to: other.id)
        case 1:
            leader.cut.isCut = true
            _ = try await scms.leader(but: leader)
            try await Task.sleep(for: .milliseconds(50))
            leader.cut.isCut = false
        default:
            try await scms.stop(leader)
            _ = try await scms.leader()
            try await scms.start(leader)
        }
    }

    @Test("a member that does not lead says who does, whatever it is asked")
    func followers() async throws {
        try await withSCMs { scms, _ in
            _ = try await scms.allocate(count: 1)
            var allocate = SCMAllocateRequest()
            allocate.replication = try ReplicationConfig("rs-3-2-1024k").message
            allocate.count = 1
            let asked: [(SCMMethod, [UInt8])] = [
                (.allocate, allocate.encoded), (.locate, SCMLocateRequest().encoded),
                (.deleteBlocks, SCMDeleteBlocksRequest().encoded),
                (.closeContainer, DNContainerRequest().encoded),
                (.safeMode, SCMSafeModeRequest().encoded),
                (.closings, SCMClosingsRequest().encoded),
                (.status, SCMStatusRequest().encoded),
                (.reportCorrupt, SCMReportCorruptRequest().encoded),
                (.safety, SCMSafetyRequest().encoded),
            ]
            for (method, message) in asked {
                // Leadership may change between the questions.
                try await eventually("\(method) is refused with the leader's address") {
                    let leader = try await scms.leader()
                    let follower = try #require(scms.nodes.first { $0.id != leader.id })
                    do throws(StoreError) {
                        _ = try await follower.ask(method, message)
                        return false
                    } catch {
                        return error.code == .notLeader
                            && error.leader == "127.0.0.1:\(leader.server.port)"
                    }
                }
            }
        }
    }

    @Test("a registration before there is a leader is to come again; then all name one cluster")
    func naming() async throws {
        try await withTemporaryDirectory { directory in
            var options = StorageContainerManager.Options()
            let cluster = ClusterID(high: 3, low: 4)
            options.cluster = cluster
            let scms = try ThreeSCMs(directory, options: options)
            let datanodes = FakeDatanodes(1, of: scms)
            try await scms.start(scms.nodes[0])
            do throws(StoreError) {
                _ = try await scms.nodes[0].ask(.register, datanodes.registration(0).encoded)
                Issue.record("registered without a cluster")
            } catch {
                #expect(error.code == .notReady)
            }
            try await scms.start(scms.nodes[1])
            try await scms.start(scms.nodes[2])
            for node in scms.nodes {
                try await eventually("member \(node.id) takes the registration") {
                    guard
                        let answer = try? await node.ask(
                            .register, datanodes.registration(0).encoded)
                    else { return false }
                    let response = try SCMRegisterResponse(parsing: answer)
                    #expect(Identity128(response.cluster) == cluster)
                    #expect(response.leading != .notSaid)
                    return true
                }
            }
            try await scms.converge()
            #expect(scms.nodes.allSatisfy { $0.scm?.cluster == cluster })
            await scms.end()
            // With settings of another cluster the files are refused, with both names.
            options.cluster = ClusterID(high: 5, low: 6)
            let other = try ThreeSCMs(directory, options: options)
            let error = await #expect(throws: StoreError.self) {
                try await other.start(other.nodes[0])
            }
            #expect(error?.code == .invalidArgument)
            for name in [cluster, ClusterID(high: 5, low: 6)] {
                #expect(error?.message.contains("\(name)") == true, "\(error?.message ?? "")")
            }
            await other.end()
        }
    }

    @Test(
        "a leader that is cut off gives out nothing, and the next one is out of safe mode at once")
    func cutOff() async throws {
        try await withSCMs { scms, _ in
            _ = try await scms.allocate(count: 1)
            let first = try await scms.leader()
            try await eventually("the followers have heard the datanodes") {
                scms.nodes.allSatisfy {
                    $0.scm?.isInSafeMode == false && $0.scm?.healthyDatanodes == 5
                }
            }
            first.cut.isCut = true
            // It believes that it leads for a while, and has containers and numbers.
            var request = SCMAllocateRequest()
            request.replication = try ReplicationConfig("rs-3-2-1024k").message
            request.count = 1
            // As long as its lease lasts no other leads, and what it gives out is given once.
            let message = request.encoded
            try await eventually("it gives out nothing any more") {
                do throws(StoreError) {
                    _ = try await first.ask(.allocate, message)
                    return false
                } catch {
                    #expect(error.code == .notLeader || error.code == .connection, "\(error)")
                    return true
                }
            }
            let second = try await scms.leader(but: first)
            #expect(second.scm?.isInSafeMode == false)
            let groups = try await scms.allocate(count: 10)
            #expect(groups.count == 10)
            first.cut.isCut = false
        }
    }

    @Test("what was ordered before a change of leaders is ordered again, and confirmed by the next")
    func deletions() async throws {
        try await withSCMs { scms, datanodes in
            let groups = try await scms.allocate(count: 40)
            datanodes.state.withLock { $0.tells = false }
            var request = SCMDeleteBlocksRequest()
            request.blocks = groups.map(\.blockID.message)
            try await scms.onLeader(.deleteBlocks, request.encoded) { _ in }
            let first = try await scms.leader()
            try await eventually("the datanodes have their orders") {
                datanodes.state.withLock { Set($0.orders.map(\.node)).count } == 5
            }
            let term = try #require(first.scm?.group.leadership.term)
            try await scms.stop(first)
            // The datanodes have forgotten what they did, as after a restart.
            datanodes.state.withLock { $0.outcomes = [:] }
            let second = try await scms.leader()
            try await eventually("the next leader orders the same, in its own term") {
                datanodes.state.withLock { state in
                    let later = state.orders.filter { $0.term > term }
                    return Set(later.map(\.node)).count == 5
                        && Set(later.map(\.number)) == Set(state.orders.map(\.number))
                }
            }
            #expect(second.scm?.memory.withState { state, _ in state.pendingDeletions } != 0)
            datanodes.state.withLock { $0.tells = true }
            try await scms.start(first)
            try await eventually("no deletion is left anywhere") {
                scms.nodes.allSatisfy { node in
                    node.scm?.memory.withState { state, _ in state.deletions.all.isEmpty } == true
                }
            }
        }
    }

    @Test("a lost replica is rebuilt elsewhere, begun by one leader and ended by the next")
    func repair() async throws {
        var options = StorageContainerManager.Options()
        options.state.closeDelayNanoseconds = 0
        try await withSCMs(datanodes: 6, options: options) { scms, datanodes in
            let group = try await scms.allocate(count: 1)[0]
            let id = group.blockID.containerID
            let numbers = group.nodes.map { node in
                (0..<6).first { FakeDatanodes.address($0).id == node?.id } ?? -1
            }
            func report(_ place: Int, _ state: SCMReplicaState) {
                var replica = SCMReplicaReport()
                replica.container = id.rawValue
                replica.replicaIndex = UInt32(place + 1)
                replica.state = state
                replica.blocks = 1
                datanodes.state.withLock {
                    $0.replicas[numbers[place], default: [:]][id.rawValue] = replica
                }
            }
            for place in 0..<5 { report(place, .closed) }
            func container(_ node: ThreeSCMs.Node) -> SCMState.Container? {
                node.scm?.memory.withState { state, _ in state.containers[id] }
            }
            func safety() async throws -> SCMSafetyResponse {
                try await scms.onLeader(.safety, SCMSafetyRequest().encoded) {
                    try SCMSafetyResponse(parsing: $0)
                }
            }
            try await eventually("the container is closed") {
                scms.nodes.allSatisfy { container($0)?.state == .containerClosed }
            }
            #expect(try await safety().degradedBlocks == 0)
            datanodes.state.withLock { $0.rebuilds = false }
            report(2, .lost)
            try await eventually("its target is at it") {
                datanodes.state.withLock { $0.rebuilding.count } == 1
            }
            let begun = try await safety()
            #expect(begun.degradedBlocks == 1 && begun.rows[0].repairs == 1)
            for round in 0..<3 { try await changeLeader(of: scms, round) }
            datanodes.state.withLock { $0.rebuilds = true }
            try await eventually("the replica has its place") {
                scms.nodes.allSatisfy { node in
                    guard let container = container(node) else { return false }
                    return container.repairs.isEmpty && container.nodes[2] != group.nodes[2]?.id
                }
            }
            #expect(datanodes.state.withLock { $0.rebuilding.count } == 1, "by one order alone")
            try await eventually("all is whole") { try await safety().degradedBlocks == 0 }
            try await scms.converge()
            let known = try scms.nodes.map { try Known($0) }
            #expect(known[0] == known[1] && known[1] == known[2])
            // Who had the place is back, and has to give up what it has.
            report(2, .closed)
            try await eventually("the surplus replica is gone") {
                datanodes.state.withLock { $0.replicas[numbers[2]]?[id.rawValue]?.state }
                    == SCMReplicaState.none
            }
        }
    }

    @Test(
        "the next leader logs a datanode that only followers have heard of, or not where it is"
    )
    func unlogged() async throws {
        try await withSCMs(datanodes: 1) { scms, datanodes in
            let leader = try await scms.leader()
            let follower = try #require(scms.nodes.first { $0.id != leader.id })
            // As if the leader had died before it logged them.
            await datanodes.stop()
            var moved = datanodes.registration(0)
            moved.address.port += 500
            let new = datanodes.registration(7)
            // As long as it was heard of at its first place it is taken for another one's copy.
            let early = await #expect(throws: StoreError.self) {
                try await follower.ask(.register, moved.encoded)
            }
            #expect(early?.code == .conflict)
            try await Task.sleep(for: .milliseconds(5300))
            for request in [moved, new] { _ = try await follower.ask(.register, request.encoded) }
            await leader.scm?.group.engine.member.transferLeadership(to: follower.id)
            try await eventually("the follower leads") { follower.isLeading }
            for request in [moved, new] {
                var heartbeat = SCMHeartbeatRequest()
                heartbeat.id = request.address.id
                heartbeat.store = request.store
                heartbeat.epoch = request.epoch
                let answer = try SCMHeartbeatResponse(
                    parsing: try await follower.ask(.heartbeat, heartbeat.encoded))
                #expect(answer.leading == .leads)
                #expect(answer.commands.map(\.registerAgain) == [true])
                _ = try await follower.ask(.register, request.encoded)
                let again = try SCMHeartbeatResponse(
                    parsing: try await follower.ask(.heartbeat, heartbeat.encoded))
                #expect(again.commands.isEmpty)
            }
            try await scms.converge()
            for node in scms.nodes {
                let known = try Known(node).addresses.values.map(\.port).sorted()
                #expect(known == [2007, 2500], "member \(node.id)")
            }
        }
    }

    @Test("after a restart of all three, with datanodes coming back, containers are open as before")
    func restart() async throws {
        try await withSCMs { scms, datanodes in
            _ = try await scms.allocate(count: 1)
            try await scms.converge()
            await datanodes.stop()
            for node in scms.nodes { try await scms.stop(node) }
            try await scms.startAll()
            let leader = try await scms.leader()
            // One after the other; the leader looks several times in between.
            for number in 0..<5 {
                let request = datanodes.registration(number).encoded
                for node in scms.nodes { _ = try await node.ask(.register, request) }
                #expect(leader.scm?.isInSafeMode == (number < 4), "with \(number + 1) datanodes")
                try await Task.sleep(for: .milliseconds(120))
            }
            let states = try Known(leader).containers.values.map(\.state)
            #expect(states.count == 3 && states.allSatisfy { $0 == .containerOpen }, "\(states)")
            #expect(try await scms.allocate(count: 5).count == 5)
            #expect(try Known(leader).containers.count == 3)
        }
    }
}
