import Testing

@testable import Raft

/// Ongaro, "Consensus: Bridging Theory and Practice", chapter 6: client interaction.
@Suite("Thesis chapter 6")
struct ThesisChapter6Tests {
    private func reads(_ answer: [String]) -> [String] { answer.filter { $0.contains(": read ") } }

    @Test("6.2: a follower forwards a command to its leader, and drops it where it knows none")
    func routing() {
        var group = ThesisGroup()
        #expect(group.run("propose 2 a") == ["error: proposalDropped"])
        group.run("campaign 1", "run")
        #expect(group.run("propose 2 a").isEmpty)
        group.run("run")
        #expect(group.applied(3) == ["a"])
    }

    @Test("6.2: a leader that hears no majority for an election timeout steps down")
    func stepsDown() {
        var group = ThesisGroup("voters=1,2,3 check-quorum")
        group.run("campaign 1", "run")
        // Heard by one of two followers: enough.
        for _ in 0..<40 { group.run("tick 1", "ready 1", "drop 3", "run 1 2") }
        #expect(group.role(1) == .leader)
        for _ in 0..<20 { group.run("tick 1", "quietly drop 2 3") }
        #expect(group.role(1) == .follower)
        #expect(group.run("propose 1 a") == ["error: proposalDropped"])
    }

    @Test("6.3: a command that is proposed twice is in the log twice, for sessions to filter")
    func duplicates() {
        // Exactly-once is the state machine's: the core delivers every accepted proposal, in one
        // order to all members, which is what a session's serial numbers need.
        var group = ThesisGroup()
        group.run("campaign 1", "run", "propose 1 s1", "ready 1", "deliver 2", "ready 2")
        group.run("drop 1", "drop 3", "campaign 2", "run", "propose 2 s1", "run")
        for member in 1...3 { #expect(group.applied(member) == ["s1", "s1"]) }
    }

    @Test("6.4: a leader reads nothing before an entry of its term is committed")
    func waitsForItsTerm() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "propose 1 a", "ready 1", "deliver 2", "ready 2")
        // 1 commits a with the copy of 2 and answers its client; 2 does not hear of it.
        group.run("deliver 1", "ready 1", "drop 2", "drop 3")
        #expect(group.commit(1) == 12)
        group.elect(2, by: [3])
        #expect(group.role(2) == .leader)
        #expect(group.commit(2) == 11)
        group.run("read 2 x")
        #expect(reads(group.run("ready 2")).isEmpty)
        let answer = group.run("run")
        #expect(reads(answer) == ["2: read x at 13"])
        #expect(group.applied(2) == ["a"])
    }

    @Test("6.4: a read is answered after a majority has confirmed the leader, and not before")
    func confirmedByMajority() {
        var group = ThesisGroup("voters=1,2,3,4,5")
        group.run("campaign 1", "run", "read 1 x")
        #expect(reads(group.run("ready 1")).isEmpty)
        group.run("deliver 2", "ready 2", "deliver 1")
        #expect(reads(group.run("ready 1")).isEmpty)
        group.run("deliver 3", "ready 3", "deliver 1")
        #expect(reads(group.run("ready 1")) == ["1: read x at 11"])
    }

    @Test("6.4: the answer of a heartbeat that was sent before a read does not confirm it")
    func earlierHeartbeats() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "tick 1", "ready 1", "read 1 x", "ready 1")
        // The heartbeat before the read, and its answer.
        let first = group.bag.first { $0.to == 2 && $0.kind == .heartbeat }
        group.run("drop 2", "drop 3")
        if let first { group.step(first) }
        group.run("ready 2", "deliver 1")
        #expect(reads(group.run("ready 1")).isEmpty)
    }

    @Test("6.4: one round of heartbeats serves all reads that came before it")
    func readsAreBatched() {
        var group = ThesisGroup()
        group.run("campaign 1", "run")
        for number in 0..<100 { group.run("read 1 r\(number)") }
        group.run("ready 1")
        let last = group.bag.last { $0.to == 2 }
        group.run("drop 2", "drop 3")
        if let last { group.step(last) }
        group.run("ready 2", "deliver 1")
        #expect(reads(group.run("ready 1")) == (0..<100).map { "1: read r\($0) at 11" })
    }

    @Test("6.4: a leader that was deposed without knowing answers no read")
    func deposed() {
        var group = ThesisGroup()
        group.run("campaign 1", "run")
        group.elect(2, by: [3])
        group.run("ready 2", "drop 1", "run 2 3", "drop 1", "propose 2 a", "run 2 3", "drop 1")
        #expect(group.role(1) == .leader)
        group.run("read 1 x", "ready 1", "deliver 2", "deliver 3")
        #expect(reads(group.run("run 1")).isEmpty)
        group.run("run")
        #expect(group.role(1) == .leader || group.role(1) == .follower)
        #expect(reads(group.run("ready 1")).isEmpty)
    }

    @Test("6.4: a follower reads at the index its leader confirmed")
    func followerReads() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "propose 1 a", "ready 1", "drop 3", "run 1 2", "drop 3")
        #expect(group.commit(3) == 11)
        group.run("read 3 x")
        #expect(reads(group.run("run")).contains("3: read x at 12"))
    }

    @Test("6.4: a group of one reads when its term's first entry is committed")
    func single() {
        var group = ThesisGroup("voters=1")
        group.run("campaign 1", "run", "propose 1 a", "run", "restart 1")
        // What it answered its clients may be ahead of the commit index on the medium.
        group.run("campaign 1", "ready 1", "read 1 x")
        #expect(reads(group.run("ready 1")).isEmpty)
        #expect(reads(group.run("run")) == ["1: read x at 13"])
    }

    @Test("6.4.1: a lease serves reads without messages, and ends before another may lead")
    func lease() throws {
        for margin in 2...5 {
            // From the tick in which the last answered heartbeat was sent, the others refuse
            // their votes for 10 ticks.
            var node = try LeaseNode(margin: margin)
            for age in 0...12 {
                let served = try node.reads()
                #expect(served == (age + margin <= 10), "margin \(margin), age \(age)")
                node.tick()
            }
        }
    }

    @Test("6.4.1: while a lease may hold, no member votes, in whatever term it is")
    func leaseHolds() {
        var group = ThesisGroup("voters=1,2,3 lease")
        group.run("campaign 1", "run", "tick 1", "run")
        // 2 learns of a later term, in which it has no leader.
        group.step(Message(.appendResponse, to: 2, from: 3, term: 5))
        #expect(group.term(2) == 5)
        for term: Term in [5, 6] {
            group.step(Message(.vote, to: 2, from: 3, term: term, logTerm: 9, index: 99))
            group.step(Message(.preVote, to: 2, from: 3, term: term, logTerm: 9, index: 99))
        }
        group.run("ready 2")
        #expect(!group.bag.contains { $0.kind == .voteResponse || $0.kind == .preVoteResponse })
        group.run("timeout 2 19", "tick 2 10")
        group.step(Message(.vote, to: 2, from: 3, term: 6, logTerm: 9, index: 99))
        group.run("ready 2")
        #expect(group.bag.contains { $0.kind == .voteResponse && !$0.reject })
    }
}

/// A leader of three by lease, whose followers answered its heartbeats in the tick of its start.
private struct LeaseNode {
    private let node: RawNode<MemoryStorage>
    private let storage: MemoryStorage
    private var count = 0

    init(margin: Int) throws {
        storage = MemoryStorage(confState: ConfState(voters: [1, 2, 3]))
        var configuration = Configuration(id: 1)
        configuration.checkQuorum = true
        configuration.readOnlyOption = .leaseBased
        configuration.leaseMarginTicks = margin
        node = try RawNode(
            configuration: configuration, storage: storage, randomTimeout: { $0.lowerBound })
        node.campaign()
        _ = drain()
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 1))
        _ = drain()
        try node.step(Message(.appendResponse, to: 1, from: 2, term: 1, index: 1))
        node.tick()
        for message in drain().messages where message.kind == .heartbeat && message.to == 2 {
            try node.step(
                Message(.heartbeatResponse, to: 1, from: 2, term: 1, context: message.context))
        }
        _ = drain()
    }

    @discardableResult
    private func drain() -> (messages: [Message], reads: Int) {
        var messages: [Message] = []
        var reads = 0
        while node.hasReady {
            let ready = node.ready()
            if let state = ready.hardState { storage.setHardState(state) }
            storage.append(ready.entries)
            messages += ready.messages
            reads += ready.readStates.count
            node.advance()
        }
        return (messages, reads)
    }

    /// Whether a read is answered at once.
    mutating func reads() throws -> Bool {
        count += 1
        try node.readIndex(context: [UInt8(count)])
        return drain().reads > 0
    }

    mutating func tick() {
        node.tick()
        drain()
    }
}
