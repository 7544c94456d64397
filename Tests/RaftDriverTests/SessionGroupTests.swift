import Foundation
import GroupTestSupport
import Model
import Raft
import RaftLog
import Synchronization
import Testing

@testable import RaftDriver

extension GroupOfThree {
    /// Makes a call until it is answered, on whichever member leads.
    func call(_ id: CallID, _ command: [UInt8]) async throws -> [UInt8] {
        for _ in 0..<400 {
            let node = try await leader()
            guard let group = node.group else { continue }
            do throws(StoreError) {
                return try await group.propose(command, for: id)
            } catch {
                guard error.code == .notLeader || error.code == .connection else { throw error }
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw StoreError(.deadlineExceeded, "nobody answered the call")
    }
}

private final class Progress: Sendable {
    let isDone = Atomic(false)
    /// Calls that were answered, by client.
    let counts = Mutex<[UInt8: Int]>([:])
}

@Suite("Sessions in a group of three", .serialized, .timeLimit(.minutes(10)))
struct SessionGroupTests {
    private func withGroup(
        options: MetadataGroupOptions? = nil, _ body: (GroupOfThree) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let group = try GroupOfThree(directory, options: options)
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

    private func id(_ client: UInt64, _ sequence: UInt64) -> CallID {
        CallID(
            client: Identity128(high: 4, low: client), sequence: sequence,
            answeredBelow: sequence)
    }

    @Test("the leader dies before the answer arrives: the next one gives it, and changes nothing")
    func leaderDies() async throws {
        try await withGroup { group in
            let answer = try await group.call(id(1, 1), [5, 1])
            let first = try await group.leader()
            try await group.stop(first)
            // The caller has seen nothing of it.
            #expect(try await group.call(id(1, 1), [5, 1]) == answer)
            let second = try await group.leader()
            #expect(second.id != first.id)
            #expect(try await group.call(id(2, 1), [5, 2]) == [1, 2])
            let found = try await second.group?.answer(to: id(1, 1))
            #expect(found == [1])
            let other = try await second.group?.answer(to: id(1, 2))
            #expect(other == nil)
            try await group.start(first)
            try await group.converge()
            for node in group.nodes { #expect(try await group.value(5, on: node) == [1, 2]) }
        }
    }

    @Test("committed, but the leader was cut off before it could say so")
    func cutOff() async throws {
        try await withGroup { group in
            _ = try await group.call(id(9, 1), [5, 9])
            let first = try await group.leader()
            // Whether these are committed is open; each is asked for until it is answered.
            await withTaskGroup(of: Void.self) { tasks in
                for client in 1...8 as ClosedRange<UInt64> {
                    let id = id(client, 1)
                    tasks.addTask {
                        _ = try? await first.group?.propose([5, UInt8(client)], for: id)
                    }
                }
                tasks.addTask {
                    try? await Task.sleep(for: .milliseconds(2))
                    first.cut.isCut = true
                }
            }
            for client in 1...8 as ClosedRange<UInt64> {
                _ = try await group.call(id(client, 1), [5, UInt8(client)])
            }
            first.cut.isCut = false
            try await group.converge()
            for node in group.nodes {
                #expect(try await group.value(5, on: node).sorted() == Array(1...9))
            }
        }
    }

    @Test("many clients through three changes of leader: all is answered, and done once")
    func chaos() async throws {
        try await withGroup { group in
            let progress = Progress()
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for client in 0..<6 as Range<UInt8> {
                    tasks.addTask {
                        var round: UInt8 = 0
                        while !progress.isDone.load(ordering: .relaxed), round < 250 {
                            let id = self.id(UInt64(client), UInt64(round) + 1)
                            let answer = try await group.call(id, [client, round])
                            // Everything before it is there, once.
                            #expect(answer == Array(0...round))
                            round += 1
                        }
                        progress.counts.withLock { $0[client] = Int(round) }
                    }
                }
                tasks.addTask {
                    for _ in 0..<3 {
                        try await Task.sleep(for: .milliseconds(300))
                        let leader = try await group.leader()
                        leader.cut.isCut = true
                        try await Task.sleep(for: .milliseconds(900))
                        leader.cut.isCut = false
                    }
                    progress.isDone.store(true, ordering: .relaxed)
                }
                try await tasks.waitForAll()
            }
            try await group.converge()
            for (client, count) in progress.counts.withLock({ $0 }) {
                for node in group.nodes {
                    let value = try await group.value(client, on: node)
                    #expect(value == (0..<count).map { UInt8($0) })
                }
            }
        }
    }

    @Test(
        "a member that was given a snapshot, and one that starts again, remember what was answered")
    func snapshot() async throws {
        var options = MetadataGroupOptions(
            log: .init(segmentSize: 256 << 10), checkpointBytes: 64 << 10)
        options.trailingEntries = 10
        try await withGroup(options: options) { group in
            let leader = try await group.leader()
            let late = try #require(group.nodes.first { $0.id != leader.id })
            try await group.stop(late, noticedBy: leader)
            _ = try await group.call(id(1, 1), [5, 1])
            let bulk = [UInt8](repeating: 7, count: 20_000)
            for key in 0..<100 { _ = try await group.propose([UInt8(key) + 100] + bulk) }
            try await leader.group?.checkpoint()
            try await group.start(late)
            try await group.converge()
            let first = await late.member?.log.firstIndex ?? 0
            #expect(first > 50, "the log begins at \(first): no snapshot was installed")
            #expect(try await late.group?.answer(to: id(1, 1)) == [1])
            for node in group.nodes {
                try await group.stop(node)
                try await group.start(node)
            }
            #expect(try await group.call(id(1, 1), [5, 1]) == [1])
            try await group.converge()
            for node in group.nodes { #expect(try await group.value(5, on: node) == [1]) }
        }
    }
}
