import Testing

@testable import Raft

@Suite("Configuration")
struct ConfigurationTests {
    @Test("a configuration as usual is accepted")
    func usual() throws { try Configuration(id: 1).validate() }

    @Test("what cannot be is named")
    func refused() {
        func reason(_ change: (inout Configuration) -> Void) -> String {
            var configuration = Configuration(id: 1)
            change(&configuration)
            do {
                try configuration.validate()
                return ""
            } catch {
                return error.description
            }
        }
        #expect(reason { $0.id = .none }.contains("reserved"))
        #expect(reason { $0.id = .applyThread }.contains("reserved"))
        #expect(reason { $0.heartbeatTick = 0 }.contains("heartbeatTick"))
        #expect(reason { $0.electionTick = 1 }.contains("electionTick"))
        #expect(reason { $0.maxInflightMessages = 0 }.contains("maxInflightMessages"))
        #expect(reason { $0.maxInflightBytes = 5 }.contains("maxInflightBytes"))
        #expect(reason { $0.maxSizePerMessage = -1 }.contains("bytes"))
        #expect(reason { $0.leaseMarginTicks = 1 }.contains("leaseMarginTicks"))
        #expect(reason { $0.readOnlyOption = .leaseBased }.contains("checkQuorum"))
    }

    @Test("a member does not start on a log that lost what was committed or applied")
    func lostEntries() {
        let storage = MemoryStorage(confState: ConfState(voters: [1]))
        storage.append([Entry(term: 1, index: 1)])
        storage.setHardState(HardState(term: 1, commit: 5))
        #expect(throws: RaftStartError.lostEntries(committed: 5, last: 1)) {
            try RawNode(
                configuration: Configuration(id: 1), storage: storage,
                randomTimeout: { $0.lowerBound })
        }
        storage.setHardState(HardState(term: 1, commit: 1))
        var configuration = Configuration(id: 1)
        configuration.applied = 2
        #expect(throws: RaftStartError.appliedBeyondLog(applied: 2, last: 1)) {
            try RawNode(
                configuration: configuration, storage: storage,
                randomTimeout: { $0.lowerBound })
        }
    }

    @Test("what was applied was committed, whatever commit index was persisted")
    func appliedIsCommitted() throws {
        let storage = MemoryStorage(confState: ConfState(voters: [1, 2]))
        storage.append((1...4).map { Entry(term: 1, index: $0) })
        storage.setHardState(HardState(term: 1, commit: 1))
        var configuration = Configuration(id: 1)
        configuration.applied = 3
        let node = try RawNode(
            configuration: configuration, storage: storage, randomTimeout: { $0.lowerBound })
        #expect(node.basicStatus.hardState.commit == 3)
        #expect(!node.hasReady)
    }
}

@Suite("ConfChange")
struct ConfChangeTests {
    @Test("a change comes back from its bytes as it was")
    func roundTrip() throws {
        let single = ConfChange(.addLearner, 0x1122_3344_5566_7788, context: [9, 8])
        #expect(try ConfChange(decoding: single.encoded) == single)
        #expect(single.encoded.count == 1 + 9 + 2)
        for transition in [ConfChangeV2.Transition.auto, .jointImplicit, .jointExplicit] {
            for count in [0, 1, 3, 256] {
                let change = ConfChangeV2(
                    transition: transition,
                    changes: (0..<count).map { ConfChangeSingle(.removePeer, PeerID(UInt64($0))) },
                    context: [1])
                #expect(try ConfChangeV2(decoding: change.encoded) == change)
            }
        }
    }

    @Test("the change that leaves a joint configuration has no bytes")
    func leave() throws {
        #expect(ConfChangeV2().encoded.isEmpty)
        #expect(try ConfChangeV2(decoding: []).leavesJoint)
    }

    @Test("bytes that are no change are refused, and say why")
    func malformed() {
        let good = ConfChangeV2(changes: [ConfChangeSingle(.addVoter, 3)]).encoded
        for length in 1..<good.count {
            #expect(throws: ConfChangeError.truncated) {
                try ConfChangeV2(decoding: Array(good[..<length]))
            }
        }
        #expect(throws: ConfChangeError.unknownVersion(2)) {
            try ConfChangeV2(decoding: [2] + good.dropFirst())
        }
        #expect(throws: ConfChangeError.unknownKind(7)) {
            try ConfChangeV2(decoding: [1, 7] + good.dropFirst(2))
        }
        #expect(throws: ConfChangeError.tooManyChanges(257)) {
            try ConfChangeV2(decoding: [1, 0, 1, 1])
        }
        #expect(throws: ConfChangeError.unknownKind(9)) {
            try ConfChange(decoding: [1, 9, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        #expect(throws: ConfChangeError.notAConfChange) { try ConfChangeV2(entry: Entry()) }
    }

    @Test("a leader drops a proposal whose change cannot be read")
    func proposal() throws {
        var group = ThesisGroup("voters=1")
        group.run("campaign 1", "run")
        let node = group.transcript.nodes[0].node
        #expect(throws: RaftError.malformedConfChange(.unknownVersion(9))) {
            try node.propose([Entry(kind: .confChange, data: [9])])
        }
        #expect(node.basicStatus.lastIndex == 11)
    }
}

@Suite("Inflights")
struct InflightsTests {
    @Test("the window is full by count or by bytes, and frees up to an index")
    func window() {
        var window = Inflights(capacity: 10, byteLimit: 100)
        for index in 1...9 as ClosedRange<LogIndex> {
            window.add(lastIndex: index, byteCount: 11)
            #expect(!window.isFull)
        }
        window.add(lastIndex: 10, byteCount: 1)
        #expect(window.isFull)
        window.free(through: 4)
        #expect(window.count == 6)
        #expect(window.byteCount == 56)
        window.add(lastIndex: 20, byteCount: 44)
        #expect(window.isFull)
        window.free(through: 0)
        #expect(window.isFull)
        window.free(through: 99)
        #expect(window.count == 0 && window.byteCount == 0)
    }

    @Test("the ring turns many times over and keeps its order")
    func ring() {
        var window = Inflights(capacity: 5, byteLimit: 0)
        var freed: LogIndex = 0
        for index in 1...1_000 as ClosedRange<LogIndex> {
            if window.isFull {
                freed += 1 + index % 3
                window.free(through: freed)
            }
            window.add(lastIndex: index, byteCount: 2)
            #expect(window.count == Int(index - freed))
            #expect(window.byteCount == 2 * window.count)
        }
    }
}

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
