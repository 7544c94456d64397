import Foundation
import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

/// A member: the core over a group of a log on disk, and the data of the entries it applied.
private final class Member {
    let log: SharedLog
    let group: GroupLog
    let node: RawNode<GroupLog>
    var applied: [[UInt8]]
    var fetches = 0

    init(_ id: UInt64, _ log: SharedLog, applied: [[UInt8]], at index: LogIndex) async throws {
        self.log = log
        self.applied = applied
        let existing = log.group(groupID(7))
        if let existing {
            group = existing
        } else {
            group = try await log.create(groupID(7), confState: ConfState(voters: [1, 2, 3]))
        }
        var configuration = Configuration(id: PeerID(id))
        configuration.applied = index
        configuration.maxSizePerMessage = 4000
        configuration.maxCommittedSizePerReady = 4000
        node = try RawNode(configuration: configuration, storage: group) { $0.lowerBound }
    }

    /// Does what the core asks for, in its order; returns what is to be sent.
    func work() async throws -> [Message] {
        var messages: [Message] = []
        while true {
            try await fetch()
            guard node.hasReady else { return messages }
            let ready = node.ready()
            try await group.append(
                entries: ready.entries, hardState: ready.hardState,
                snapshot: ready.snapshot?.metadata)
            messages += ready.messages
            for entry in ready.committedEntries where !entry.data.isEmpty {
                applied.append(entry.data)
            }
            node.advance()
        }
    }

    private func fetch() async throws {
        guard node.isFetching else { return }
        for peer in node.fetching {
            let status = node.basicStatus
            let from =
                peer == status.id
                ? status.applied + 1 : node.progress.first { $0.peer == peer }?.next ?? 1
            try await group.fetch(from: from, to: group.lastIndex + 1, maxSize: 4000)
            fetches += 1
            node.entriesFetched(for: peer)
        }
    }
}

@Suite("The core on the log")
struct CoreOnLogTests {
    private func deliver(_ members: [UInt64: Member]) async throws {
        var isBusy = true
        while isBusy {
            isBusy = false
            for id in members.keys.sorted() {
                for message in try await members[id]!.work() {
                    isBusy = true
                    try members[message.to.rawValue]?.node.step(message)
                }
            }
        }
    }

    @Test("three members with next to no memory elect, replicate, restart and catch up")
    func threeMembers() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var members: [UInt64: Member] = [:]
            for id in 1...3 as ClosedRange<UInt64> {
                let log = try await smallLog(
                    "\(directory)/\(id)", on: reactor, segmentSize: 128 << 10, cacheBytes: 6000)
                members[id] = try await Member(id, log, applied: [], at: 0)
            }
            members[1]?.node.campaign()
            try await deliver(members)
            #expect(members[1]?.node.basicStatus.softState.role == .leader)
            var expected: [[UInt8]] = []
            func propose(_ count: Int) async throws {
                for _ in 0..<count {
                    let data = [UInt8](repeating: UInt8(expected.count % 251), count: 700)
                    try members[1]?.node.propose(data)
                    expected.append(data)
                    try await deliver(members)
                }
            }
            try await propose(20)
            // What a quiet moment takes out of memory is read again from disk.
            for member in members.values {
                await member.log.releaseMemory()
                #expect(await member.log.memoryBytes == 0)
            }
            // The third is away for so long that what it lacks is nowhere in memory, and comes
            // back from its own log, having applied the first five entries only.
            let away = try #require(members[3])
            members[3] = nil
            try await away.log.close()
            try await propose(60)
            let log = try await smallLog(
                "\(directory)/3", on: reactor, segmentSize: 128 << 10, cacheBytes: 6000)
            #expect(log.group(groupID(7))?.lastIndex == 21)
            members[3] = try await Member(3, log, applied: Array(expected.prefix(5)), at: 6)
            for _ in 0..<40 {
                members[1]?.node.tick()
                try await deliver(members)
            }
            try await propose(1)
            for member in members.values { #expect(member.applied == expected) }
            let first = try await ModelGroup(reading: members[1]!.group)
            for member in members.values {
                let found = try await ModelGroup(reading: member.group)
                #expect(found.entries == first.entries)
            }
            #expect(members[1]!.fetches > 5)
            #expect(members[3]!.fetches >= 1)
            for member in members.values { try await member.log.close() }
        }
    }
}
