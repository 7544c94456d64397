import Testing

@testable import Raft

@Suite("Messages that no member sends")
struct ForgedMessageTests {
    private func node(_ configure: (inout Configuration) -> Void = { _ in }) throws -> RawNode<
        MemoryStorage
    > {
        var configuration = Configuration(id: 1)
        configure(&configuration)
        return try RawNode(
            configuration: configuration,
            storage: MemoryStorage(confState: ConfState(voters: [1, 2, 3])),
            randomTimeout: { $0.lowerBound })
    }

    private func leader(
        _ configure: (inout Configuration) -> Void = { _ in }
    ) throws -> RawNode<MemoryStorage> {
        let node = try node(configure)
        node.campaign()
        _ = settle(node)
        try node.step(Message(.voteResponse, to: 1, from: 2, term: node.term))
        _ = settle(node)
        #expect(node.basicStatus.softState.role == .leader)
        return node
    }

    private func settle(_ node: RawNode<MemoryStorage>) -> [Message] {
        var sent: [Message] = []
        while node.hasReady {
            let ready = node.ready()
            node.storage.append(ready.entries)
            sent += ready.messages
            node.advance()
        }
        return sent
    }

    @Test("numbers from which counting on could overflow are refused, in every kind of message")
    func extremes() throws {
        for role in [Role.follower, .leader] {
            for kind in MessageKind.allCases where kind.travels && kind != .propose {
                for number: UInt64 in [.max, .max - 1, 1 << 63, Limits.largestNumber + 1] {
                    let node = role == .leader ? try leader() : try node()
                    let term = max(node.term, 1)
                    let snapshot = Snapshot(
                        metadata: SnapshotMetadata(
                            confState: ConfState(voters: [1, 2]), index: number, term: 1))
                    for message in [
                        Message(kind, to: 1, from: 2, term: number),
                        Message(kind, to: 1, from: 2, term: term, logTerm: number),
                        Message(
                            kind, to: 1, from: 2, term: term, index: number,
                            entries: [Entry(term: 1, index: 0)]),
                        Message(kind, to: 1, from: 2, term: term, commit: number),
                        Message(
                            kind, to: 1, from: 2, term: term, reject: true, rejectHint: number),
                        Message(kind, to: 1, from: 2, term: term, snapshot: snapshot),
                    ] {
                        #expect(throws: RaftError.outOfRange) { try node.step(message) }
                    }
                    #expect(node.term < 10)
                    // It goes on, and campaigns, without a trap.
                    for _ in 0..<40 { node.tick() }
                    _ = settle(node)
                }
            }
        }
    }

    @Test("an append whose entries leave a hole or go back in their terms is refused")
    func entries() throws {
        let entry = { (index: UInt64, term: UInt64) in Entry(term: term, index: index) }
        for entries in [
            [entry(1, 1), entry(9, 1), entry(3, 1)], [entry(1, 1), entry(1, 1), entry(3, 1)],
            [entry(2, 1)], [entry(1, 2), entry(2, 1)], [entry(1, 6)], [entry(.max, 1)],
            [entry(1, 1), entry(2, 1), entry(0, 1)],
        ] {
            let node = try node()
            #expect(throws: RaftError.malformedAppend, "\(entries)") {
                try node.step(Message(.append, to: 1, from: 2, term: 5, entries: entries))
            }
            #expect(node.lastIndex == 0)
            // It takes what is right afterwards.
            try node.step(
                Message(.append, to: 1, from: 2, term: 5, entries: [entry(1, 1), entry(2, 5)]))
            #expect(node.lastIndex == 2)
        }
    }

    @Test("an answer to a heartbeat that was not sent confirms no read and no lease")
    func heartbeats() throws {
        for lease in [false, true] {
            let node = try leader {
                $0.checkQuorum = true
                $0.readOnlyOption = lease ? .leaseBased : .safe
            }
            let term = node.term
            try node.step(Message(.appendResponse, to: 1, from: 2, term: term, index: 1))
            _ = settle(node)
            let ahead = HeartbeatContext(read: 1000, tick: 1_000_000)
            for peer in [2, 3] as [PeerID] {
                try node.step(
                    Message(
                        .heartbeatResponse, to: 1, from: peer, term: term,
                        context: ahead.encoded))
            }
            try node.readIndex(context: [7])
            var states: [ReadState] = []
            while node.hasReady {
                let ready = node.ready()
                node.storage.append(ready.entries)
                states += ready.readStates
                node.advance()
            }
            #expect(states.isEmpty)
            #expect(node.core.tracker[2]?.acknowledgedRead == 0)
            #expect(node.core.tracker[2]?.acknowledgedTick == 0)
        }
    }
}
