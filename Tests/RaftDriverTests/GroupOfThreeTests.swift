import Eventually
import Foundation
import GroupTestSupport
import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Testing

@testable import RaftDriver

@Suite("A group of three, over sockets and files", .serialized)
struct GroupOfThreeTests {
    private func withGroup(
        count: Int = 3, options: MetadataGroupOptions? = nil,
        _ body: (GroupOfThree) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let group = try GroupOfThree(directory, count: count, options: options)
            do {
                try await group.startAll()
                try await body(group)
            } catch {
                await group.end()
                throw error
            }
            await group.end()
        }
    }

    @Test("it elects, replicates, loses its leader, and recovers")
    func leaderLost() async throws {
        try await withGroup { group in
            for value in 0..<20 as Range<UInt8> {
                let answer = try await group.propose([1, value])
                #expect(answer == Array(0...value))
            }
            let first = try await group.leader()
            try await group.stop(first)
            for value in 20..<40 as Range<UInt8> { _ = try await group.propose([1, value]) }
            let second = try await group.leader()
            #expect(second.id != first.id)
            try await group.start(first)
            for value in 40..<50 as Range<UInt8> { _ = try await group.propose([1, value]) }
            try await group.converge()
            for node in group.nodes {
                #expect(try await group.value(1, on: node) == Array(0..<50), "member \(node.id)")
            }
        }
    }

    @Test("a follower refuses commands and names the leader; reads on it see what was answered")
    func followers() async throws {
        try await withGroup { group in
            _ = try await group.propose([3, 1])
            for node in group.nodes {
                // A follower that has not heard of the leader yet says so; one that was elected
                // meanwhile takes the command; the leader that it named may have changed.
                var isNamed = false
                for _ in 0..<500 where !isNamed {
                    let leader = try await group.leader()
                    guard node.id != leader.id else { break }
                    let member = try #require(node.group)
                    do throws(StoreError) {
                        _ = try await member.propose([4, 9])
                        isNamed = await node.member?.state.role == .leader
                    } catch {
                        #expect(error.code == .notLeader)
                        isNamed = error.message.contains("member \(leader.id) leads")
                    }
                    if !isNamed { try await Task.sleep(for: .milliseconds(10)) }
                }
                let role = await node.member?.state.role
                #expect(isNamed || role == .leader, "member \(node.id) never names the leader")
            }
            for round in 2..<20 as Range<UInt8> {
                _ = try await group.propose([3, round])
                for node in group.nodes {
                    let member = try #require(node.group)
                    let value = try await member.read { $0.get(Appending.table, [3]) }
                    #expect(value == Array(1...round), "a read misses an answered change")
                }
            }
        }
    }

    @Test("a leader that is cut off gives way, and what it could not replicate is not answered")
    func cutOff() async throws {
        try await withGroup { group in
            _ = try await group.propose([1, 1])
            let old = try await group.leader()
            let member = try #require(old.group)
            old.cut.isCut = true
            let lost = Task { () -> StoreError.Code? in
                do throws(StoreError) {
                    _ = try await member.propose([1, 99])
                    return nil
                } catch {
                    return error.code
                }
            }
            let new = try await group.leader()
            #expect(new.id != old.id)
            #expect(try await group.propose([1, 2]) == [1, 2])
            // Its lease has run out: it does not answer reads from its old state.
            let stale = await #expect(throws: StoreError.self) {
                try await member.read { $0.get(Appending.table, [1]) }
            }
            #expect(stale?.code == .notLeader)
            old.cut.isCut = false
            let outcome = await lost.value
            #expect(outcome == .connection || outcome == .notLeader)
            #expect(try await group.propose([1, 3]) == [1, 2, 3])
            try await group.converge()
            for node in group.nodes { #expect(try await group.value(1, on: node) == [1, 2, 3]) }
        }
    }

    @Test("a leader that is closed does not say of a command in its log that it was not made")
    func closedUnderWay() async throws {
        try await withGroup { group in
            _ = try await group.propose([1, 1])
            let leader = try await group.leader()
            let member = try #require(leader.group)
            // What it sent may be committed by the others.
            leader.cut.isCut = true
            let before = await member.engine.member.log.lastIndex
            let outcome = Task { () -> StoreError.Code? in
                do throws(StoreError) {
                    _ = try await member.propose([1, 2])
                    return nil
                } catch {
                    return error.code
                }
            }
            try await eventually("the change is in the log") {
                await member.engine.member.log.lastIndex > before
            }
            try await group.stop(leader)
            #expect(await outcome.value == .connection)
        }
    }

    @Test("members come and go one by one and through a joint configuration")
    func membership() async throws {
        try await withGroup { group in
            for value in 0..<10 as Range<UInt8> { _ = try await group.propose([5, value]) }
            let fourth = try group.addNode()
            try await group.start(fourth, voters: [])
            var leader = try await group.leader()
            var state = try await #require(leader.member).change(
                ConfChangeV2(changes: [ConfChangeSingle(.addLearner, 4)]))
            #expect(state.learners == [4])
            try await group.converge()
            #expect(try await group.value(5, on: fourth) == Array(0..<10))
            // The fourth takes the place of a follower in one step.
            leader = try await group.leader()
            let leaving = try #require(group.nodes.first { $0.id != leader.id && $0.id != 4 })
            state = try await #require(leader.member).change(
                ConfChangeV2(changes: [
                    ConfChangeSingle(.addVoter, 4), ConfChangeSingle(.removePeer, leaving.id),
                ]))
            #expect(state.voters.contains(4))
            #expect(try await group.propose([5, 10]) == Array(0...10))
            try await group.stop(leaving)
            for value in 11..<20 as Range<UInt8> { _ = try await group.propose([5, value]) }
            try await group.converge()
            #expect(try await group.value(5, on: fourth) == Array(0..<20))
            // After a restart the log knows the members.
            for node in group.nodes where node.group != nil { try await group.stop(node) }
            for node in group.nodes where node.id != leaving.id { try await group.start(node) }
            #expect(try await group.propose([5, 20]) == Array(0...20))
            let members = await group.nodes[3].member?.members
            #expect(members?.voters.contains(leaving.id) == false)
        }
    }

    @Test("leadership is handed over without a lost command")
    func transfer() async throws {
        try await withGroup { group in
            _ = try await group.propose([1, 0])
            let old = try await group.leader()
            let target = try #require(group.nodes.first { $0.id != old.id })
            await old.member?.transferLeadership(to: target.id)
            for _ in 0..<500 {
                if await target.member?.state.role == .leader { break }
                try await Task.sleep(for: .milliseconds(10))
            }
            #expect(await target.member?.state.role == .leader)
            #expect(try await group.propose([1, 1]) == [0, 1])
        }
    }

    @Test("a member that is far behind is given a snapshot")
    func snapshot() async throws {
        var options = MetadataGroupOptions(
            log: .init(segmentSize: 256 << 10), checkpointBytes: 64 << 10)
        options.trailingEntries = 10
        try await withGroup(options: options) { group in
            _ = try await group.propose([1, 1])
            let leader = try await group.leader()
            let late = try #require(group.nodes.first { $0.id != leader.id })
            try await group.stop(late, noticedBy: leader)
            // More than the log keeps, and a state of some pieces.
            let bulk = [UInt8](repeating: 7, count: 20_000)
            for key in 0..<200 { _ = try await group.propose([UInt8(key)] + bulk) }
            try await leader.group?.checkpoint()
            try await group.start(late)
            try await group.converge()
            let first = await late.member?.log.firstIndex ?? 0
            #expect(first > 150, "the log begins at \(first): no snapshot was installed")
            // Whatever the state machine had in memory of the old tables is void.
            #expect(late.group?.machine.resets.count == 2)
            #expect(leader.group?.machine.resets.count == 1)
            for key in [1, 77, 199] as [UInt8] {
                let expected = try await group.value(key, on: leader)
                #expect(try await group.value(key, on: late) == expected)
                #expect(expected.count >= 20_000)
            }
            #expect(try await group.propose([250, 5]) == [5])
            try await group.converge()
            // What was received is installed and gone; the member starts again on its own.
            try await group.stop(late)
            let left = try FileManager.default.contentsOfDirectory(
                atPath: group.directory + "/member-\(late.id)/snapshots")
            #expect(left == [])
            try await group.start(late)
            try await group.converge()
            #expect(try await group.value(250, on: late) == [5])
        }
    }

    @Test("many proposers through three changes of leader: each answer is kept, in one order")
    func chaos() async throws {
        try await withGroup { group in
            let outcome = Outcome()
            await withTaskGroup(of: Void.self) { tasks in
                for key in 0..<6 as Range<UInt8> {
                    tasks.addTask {
                        var round: UInt8 = 0
                        while !outcome.isDone.load(ordering: .relaxed), round < 250 {
                            let answer = try? await group.propose([key, round])
                            round += 1
                            if let answer { outcome.answered.withLock { $0[key] = answer } }
                        }
                    }
                }
                tasks.addTask {
                    for _ in 0..<3 {
                        try? await Task.sleep(for: .milliseconds(300))
                        guard let leader = try? await group.leader() else { continue }
                        leader.cut.isCut = true
                        try? await Task.sleep(for: .milliseconds(900))
                        leader.cut.isCut = false
                    }
                    outcome.isDone.store(true, ordering: .relaxed)
                }
            }
            _ = try await group.propose([9, 9])
            try await group.converge()
            for (key, promised) in outcome.answered.withLock({ $0 }) {
                let values = try await group.nodes.asyncMap { try await group.value(key, on: $0) }
                #expect(Set(values).count == 1, "members differ")
                #expect(values[0].starts(with: promised), "an answered command is lost")
            }
        }
    }
}

/// What proposers were answered, by key.
private final class Outcome: Sendable {
    let answered = Mutex<[UInt8: [UInt8]]>([:])
    let isDone = Atomic(false)
}

extension [GroupOfThree.Node] {
    fileprivate func asyncMap<R>(_ body: (Element) async throws -> R) async throws -> [R] {
        var result: [R] = []
        for element in self { result.append(try await body(element)) }
        return result
    }
}
