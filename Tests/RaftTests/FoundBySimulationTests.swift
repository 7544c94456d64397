import Raft
import Testing

/// Defects that the simulator found, told anew with a member or two.
@Suite("Found by simulation")
struct FoundBySimulationTests {
    private static func member(
        _ id: PeerID, _ members: ConfState, entries: [Entry] = [], term: Term = 1,
        commit: LogIndex = 1
    ) throws -> RawNode<MemoryStorage> {
        let storage = MemoryStorage()
        try storage.applySnapshot(
            Snapshot(metadata: SnapshotMetadata(confState: members, index: 1, term: 1)))
        storage.append(entries)
        storage.setHardState(HardState(term: term, commit: commit))
        var configuration = Configuration(id: id)
        configuration.applied = 1
        return try RawNode(
            configuration: configuration, storage: storage, randomTimeout: { $0.lowerBound })
    }

    /// Does what the member wants done; returns what it sent.
    @discardableResult
    private static func settle(_ node: RawNode<MemoryStorage>) throws -> [Message] {
        var sent: [Message] = []
        while node.hasReady {
            let ready = node.ready()
            if let snapshot = ready.snapshot { try node.storage.applySnapshot(snapshot) }
            node.storage.append(ready.entries)
            if let state = ready.hardState { node.storage.setHardState(state) }
            sent += ready.messages
            for entry in ready.committedEntries where entry.kind != .normal {
                try node.applyConfChange(ConfChangeV2(entry: entry))
            }
            node.advance()
        }
        return sent
    }

    @Test("a snapshot waits until a change of members that is being applied is applied")
    func snapshotDuringChange() throws {
        let node = try Self.member(2, ConfState(voters: [1, 2]))
        let change = ConfChange(.addLearner, 3)
        try node.step(
            Message(
                .append, to: 2, from: 1, term: 1, logTerm: 1, index: 1,
                entries: [Entry(term: 1, index: 2, kind: .confChange, data: change.encoded)],
                commit: 2))
        let ready = node.ready()
        node.storage.append(ready.entries)
        try #require(ready.committedEntries.count == 1)
        let members = ConfState(voters: [1, 2, 3])
        let snapshot = Message(
            .snapshot, to: 2, from: 1, term: 1,
            snapshot: Snapshot(metadata: SnapshotMetadata(confState: members, index: 9, term: 1)))
        try node.step(snapshot)
        #expect(node.basicStatus.hardState.commit == 2)
        // The members after the entry are those that the entry made.
        #expect(
            try node.applyConfChange(change.v2) == ConfState(voters: [1, 2], learners: [3]))
        node.advance()
        try Self.settle(node)
        try node.step(snapshot)
        try Self.settle(node)
        #expect(node.status.members == members)
        #expect(node.basicStatus.hardState.commit == 9)
    }

    @Test("a voter that is out shows a candidate that it needs no vote any more")
    func refusalBringsCommit() throws {
        let joint = ConfState(voters: [2], votersOutgoing: [1, 2], autoLeave: true)
        let leave = Entry(term: 1, index: 2, kind: .confChangeV2)
        let out = try Self.member(
            1, joint, entries: [leave, Entry(term: 1, index: 3)], commit: 2)
        try Self.settle(out)
        #expect(out.status.members == ConfState(voters: [2]))
        let candidate = try Self.member(2, joint, entries: [leave], commit: 1)
        candidate.campaign()
        let request = try #require(try Self.settle(candidate).first { $0.kind == .vote })
        try out.step(request)
        let refusal = try #require(try Self.settle(out).first { $0.kind == .voteResponse })
        #expect(refusal.reject)
        try candidate.step(refusal)
        try Self.settle(candidate)
        #expect(candidate.status.members == ConfState(voters: [2]))
        candidate.campaign()
        try Self.settle(candidate)
        #expect(candidate.basicStatus.softState.role == .leader)
    }

    @Test("a candidate that learns that it is out does not lead, whatever votes still come")
    func outsiderDoesNotLead() throws {
        let joint = ConfState(voters: [2, 3], votersOutgoing: [1, 2, 3], autoLeave: true)
        let leave = Entry(term: 1, index: 2, kind: .confChangeV2)
        let candidate = try Self.member(1, joint, entries: [leave], commit: 1)
        candidate.campaign()
        try Self.settle(candidate)
        try candidate.step(
            Message(
                .voteResponse, to: 1, from: 3, term: 2, logTerm: 1, commit: 2, reject: true))
        try Self.settle(candidate)
        #expect(candidate.status.members == ConfState(voters: [2, 3]))
        try? candidate.step(Message(.voteResponse, to: 1, from: 2, term: 2))
        #expect(candidate.basicStatus.softState.role == .follower)
    }

    @Test("with asynchronous writes a candidate leads once its own vote is durable, not before")
    func ownVoteFirst() throws {
        let storage = MemoryStorage(confState: ConfState(voters: [1, 2, 3]))
        var configuration = Configuration(id: 1)
        configuration.asyncStorageWrites = true
        let node = try RawNode(
            configuration: configuration, storage: storage, randomTimeout: { $0.lowerBound })
        node.campaign()
        let write = try #require(
            node.ready().messages.first { $0.kind == .storageAppend })
        #expect(write.hardState == HardState(term: 1, vote: 1))
        for voter in [2, 3] as [PeerID] {
            try node.step(Message(.voteResponse, to: 1, from: voter, term: 1))
        }
        #expect(node.basicStatus.softState.role == .candidate)
        for response in write.responses { try node.step(response) }
        #expect(node.basicStatus.softState.role == .leader)
    }

    @Test("a learner in a later term tells the leader, and a voter among strangers does")
    func laterTermSpreads() throws {
        for members in [ConfState(voters: [1], learners: [2]), ConfState(voters: [2, 3])] {
            let node = try Self.member(2, members, term: 8)
            try node.step(Message(.heartbeat, to: 2, from: 1, term: 5))
            let answer = try #require(try Self.settle(node).first)
            #expect(answer.to == 1)
            #expect(answer.term == 8)
        }
        // One whose campaigns reach the leader keeps silent, as etcd's core does.
        let node = try Self.member(2, ConfState(voters: [1, 2]), term: 8)
        try node.step(Message(.heartbeat, to: 2, from: 1, term: 5))
        #expect(try Self.settle(node).isEmpty)
    }

    @Test("a joint configuration is left after a transfer that came in between has failed")
    func jointAfterTransfer() throws {
        let node = try Self.member(1, ConfState(voters: [1, 2]))
        node.campaign()
        try Self.settle(node)
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 2))
        try Self.settle(node)
        try node.step(Message(.appendResponse, to: 1, from: 2, term: 2, index: 2))
        try node.proposeConfChange(
            ConfChangeV2(transition: .jointImplicit, changes: [ConfChangeSingle(.addLearner, 3)]))
        node.transferLeader(to: 2)
        try Self.settle(node)
        try node.step(Message(.appendResponse, to: 1, from: 2, term: 2, index: 3))
        try Self.settle(node)
        #expect(node.status.members.votersOutgoing == [1, 2])
        for _ in 0..<20 { node.tick() }
        try Self.settle(node)
        try node.step(Message(.appendResponse, to: 1, from: 2, term: 2, index: 4))
        try Self.settle(node)
        #expect(node.status.members == ConfState(voters: [1, 2], learners: [3]))
    }
}
