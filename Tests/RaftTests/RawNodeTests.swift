import Testing

@testable import Raft

@Suite("RawNode")
struct RawNodeTests {
    private func node() throws -> RawNode<MemoryStorage> {
        try RawNode(
            configuration: Configuration(id: 1),
            storage: MemoryStorage(confState: ConfState(voters: [1, 2, 3])),
            randomTimeout: { $0.lowerBound })
    }

    @Test("local messages of peers and answers of strangers are refused")
    func refuses() throws {
        let node = try node()
        for kind: MessageKind in [
            .hup, .beat, .unreachable, .snapshotStatus, .checkQuorum, .storageAppend,
            .storageApply,
        ] {
            #expect(throws: RaftError.stepLocal) { try node.step(Message(kind, from: 2)) }
        }
        for kind: MessageKind in [
            .appendResponse, .voteResponse, .heartbeatResponse, .preVoteResponse,
        ] {
            #expect(throws: RaftError.stepPeerNotFound) { try node.step(Message(kind, from: 9)) }
        }
    }

    @Test("a group is begun by the same first entries on every member")
    func bootstrap() throws {
        var logs: [[Entry]] = []
        for id in [1, 2] as [PeerID] {
            let storage = MemoryStorage()
            let node = try RawNode(
                configuration: Configuration(id: id), storage: storage,
                randomTimeout: { $0.lowerBound })
            node.bootstrap([(1, [7]), (2, [])])
            let ready = node.ready()
            #expect(ready.hardState == HardState(term: 1, commit: 2))
            #expect(ready.committedEntries == ready.entries)
            logs.append(ready.entries)
            storage.append(ready.entries)
            for entry in ready.committedEntries {
                try node.applyConfChange(try ConfChangeV2(entry: entry))
            }
            node.advance()
            #expect(node.status.members.voters == [1, 2])
            node.campaign()
            #expect(node.basicStatus.softState.role == .candidate)
            #expect(node.basicStatus.hardState.term == 2)
        }
        #expect(logs[0] == logs[1])
    }

    @Test("an idle member has nothing ready, tick after tick")
    func idle() throws {
        let node = try node()
        try node.step(Message(.heartbeat, to: 1, from: 2, term: 1))
        _ = node.ready()
        node.advance()
        for _ in 0..<9 {
            node.tick()
            #expect(!node.hasReady)
        }
        node.tick()
        #expect(node.hasReady)
    }

    @Test("reads beyond the limit are refused, not kept")
    func readLimit() throws {
        let node = try node()
        node.campaign()
        _ = node.ready()
        node.advance()
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 1))
        for _ in 0..<Limits.pendingReads { try node.readIndex(context: []) }
        #expect(throws: RaftError.readDropped) { try node.readIndex(context: []) }
    }

    /// Writes what is ready until nothing is.
    private func drain(_ node: RawNode<MemoryStorage>) {
        while node.hasReady {
            let ready = node.ready()
            if let state = ready.hardState { node.storage.setHardState(state) }
            node.storage.append(ready.entries)
            node.advance()
        }
    }

    @Test("a member that lost what it acknowledged says so, and takes no append with a hole")
    func damage() throws {
        let node = try node()
        try node.step(
            Message(
                .append, to: 1, from: 2, term: 1,
                entries: [Entry(term: 1, index: 1), Entry(term: 1, index: 2)], commit: 2))
        drain(node)
        #expect(throws: RaftError.lostEntries(committed: 3, last: 2)) {
            try node.step(Message(.heartbeat, to: 1, from: 2, term: 1, commit: 3))
        }
        #expect(throws: RaftError.malformedAppend) {
            try node.step(
                Message(
                    .append, to: 1, from: 2, term: 1, logTerm: 1, index: 2,
                    entries: [Entry(term: 1, index: 7)]))
        }
        #expect(node.basicStatus.lastIndex == 2)
        #expect(node.basicStatus.hardState.commit == 2)
    }

    @Test("an acknowledgement of what the leader never had is ignored")
    func impossibleAcknowledgement() throws {
        let node = try node()
        node.campaign()
        drain(node)
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 1))
        drain(node)
        try node.step(Message(.appendResponse, to: 1, from: 2, term: 1, index: 99))
        #expect(node.basicStatus.hardState.commit == 0)
        #expect(node.progress[1].match == 0)
    }

    @Test("a proposal of many entries is one append a peer")
    func batches() throws {
        let node = try node()
        node.campaign()
        drain(node)
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 1))
        drain(node)
        for peer in [2, 3] as [PeerID] {
            try node.step(Message(.appendResponse, to: 1, from: peer, term: 1, index: 1))
        }
        drain(node)
        try node.propose((0..<500).map { Entry(data: [UInt8(truncatingIfNeeded: $0)]) })
        let sent = node.ready().messages.filter { $0.kind == .append }
        #expect(sent.map(\.to) == [2, 3])
        #expect(sent.allSatisfy { $0.entries.count == 500 })
    }
}
