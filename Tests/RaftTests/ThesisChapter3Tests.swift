import Chance
import Testing

@testable import Raft

/// Ongaro, "Consensus: Bridging Theory and Practice", chapter 3: the basic algorithm.
@Suite("Thesis chapter 3")
struct ThesisChapter3Tests {
    // MARK: 3.3 Raft basics

    @Test(
        "3.3: a member adopts a later term and becomes follower",
        arguments: [Role.follower, .candidate, .leader])
    func adoptsLaterTerm(role: Role) {
        var group = ThesisGroup()
        if role != .follower { group.run("campaign 1", "ready 1") }
        if role == .leader { group.run("run") }
        #expect(group.role(1) == role)
        group.step(Message(.append, to: 1, from: 2, term: 7, logTerm: 1, index: 10))
        #expect(group.role(1) == .follower)
        #expect(group.term(1) == 7)
        #expect(group.status(1).softState.leader == 2)
    }

    @Test("3.3: a request of a stale term changes nothing")
    func refusesStaleTerm() {
        var group = ThesisGroup()
        group.run("campaign 2", "run", "campaign 3", "run")
        #expect(group.term(1) == 2)
        let before = group.status(1)
        group.step(
            Message(
                .append, to: 1, from: 2, term: 1, logTerm: 1, index: 11,
                entries: [Entry(term: 1, index: 12)], commit: 12))
        group.step(Message(.vote, to: 1, from: 2, term: 1, logTerm: 9, index: 99))
        #expect(group.status(1) == before)
        #expect(group.bag.isEmpty)
    }

    // MARK: 3.4 Leader election

    @Test("3.4: a follower that hears nothing for its timeout campaigns in the next term")
    func campaignsOnTimeout() {
        var group = ThesisGroup()
        group.run("timeout 1 14", "tick 1 13")
        #expect(group.role(1) == .follower)
        group.run("tick 1")
        #expect(group.role(1) == .candidate)
        #expect(group.term(1) == 1)
        #expect(group.status(1).hardState.vote == 1)
    }

    @Test("3.4: heartbeats keep followers from campaigning")
    func heartbeats() {
        var group = ThesisGroup()
        group.run("campaign 1", "run")
        for _ in 0..<50 { group.run("tick 1", "tick 2", "tick 3", "run") }
        #expect(group.leader == 1)
        #expect(group.term(1) == 1)
    }

    @Test("3.4: a member votes once a term, first come, first served")
    func oneVoteATerm() {
        var group = ThesisGroup()
        group.step(Message(.vote, to: 3, from: 2, term: 1, logTerm: 1, index: 10))
        group.step(Message(.vote, to: 3, from: 1, term: 1, logTerm: 9, index: 99))
        group.run("ready 3")
        #expect(group.bag.map(\.reject) == [false, true])
        #expect(group.bag.map(\.to) == [2, 1])
        // The first may ask again: its answer was lost.
        group.step(Message(.vote, to: 3, from: 2, term: 1, logTerm: 1, index: 10))
        group.run("ready 3")
        #expect(group.bag.last?.reject == false)
    }

    @Test("3.4: a candidate that hears the term's leader follows it")
    func candidateFollows() {
        var group = ThesisGroup()
        group.run("campaign 1", "ready 1")
        group.step(Message(.append, to: 1, from: 2, term: 1, logTerm: 1, index: 10))
        #expect(group.role(1) == .follower)
        #expect(group.status(1).softState.leader == 2)
    }

    @Test(
        "3.4: a candidate leads with a majority, and only with one",
        arguments: [(5, 1, Role.candidate), (5, 2, .leader), (5, 4, .leader), (4, 2, .leader)])
    func majority(size: Int, granted: Int, expected: Role) {
        let voters = (1...size).map(String.init).joined(separator: ",")
        var group = ThesisGroup("voters=\(voters)")
        group.run("campaign 1", "ready 1")
        for peer in 2..<2 + granted {
            group.step(
                Message(.voteResponse, to: 1, from: PeerID(UInt64(peer)), term: 1))
        }
        #expect(group.role(1) == expected)
    }

    @Test("3.4: a split vote elects nobody, and the next term decides")
    func splitVote() {
        var group = ThesisGroup("voters=1,2,3,4")
        group.run("campaign 1", "campaign 2", "ready 1", "ready 2")
        group.run("deliver 3 kind=vote", "deliver 4 kind=vote", "run")
        #expect(group.leader == nil || group.term(group.leader ?? 1) == 1)
        if group.leader == nil {
            group.run("campaign 1", "run")
            #expect(group.leader == 1)
            #expect(group.term(1) == 2)
        }
    }

    @Test("3.4: election timeouts are drawn evenly from once to twice the least")
    func randomTimeouts() throws {
        var counts = [Int](repeating: 0, count: 20)
        var generator = SeededGenerator(seed: 3)
        let storage = MemoryStorage(confState: ConfState(voters: [1, 2, 3]))
        let node = try RawNode(
            configuration: Configuration(id: 1), storage: storage,
            randomTimeout: { Int.random(in: $0, using: &generator) })
        for term in 1...10_000 {
            try node.step(Message(.append, to: 1, from: 2, term: Term(term)))
            counts[node.core.randomizedElectionTimeout] += 1
        }
        #expect(counts[..<10].allSatisfy { $0 == 0 })
        #expect(counts[10...].allSatisfy { $0 > 800 && $0 < 1_200 })
    }

    // MARK: 3.5 Log replication

    @Test("3.5: an entry is committed when a majority has it, and applied in order by all")
    func commits() {
        var group = ThesisGroup("voters=1,2,3,4,5")
        group.run("campaign 1", "run", "propose 1 a", "propose 1 b", "ready 1")
        group.run("deliver 2", "ready 2", "deliver 1")
        #expect(group.commit(1) == 11)
        group.run("deliver 3", "ready 3", "deliver 1")
        #expect(group.commit(1) == 13)
        group.run("run")
        for member in 1...5 { #expect(group.applied(member) == ["a", "b"]) }
    }

    @Test(
        "3.5: the consistency check refuses an append whose previous entry is not there",
        arguments: [
            (LogIndex(10), Term(1), false), (10, 2, true), (11, 1, true), (9, 1, false),
        ])
    func consistencyCheck(index: LogIndex, term: Term, rejected: Bool) {
        var group = ThesisGroup()
        group.step(
            Message(
                .append, to: 1, from: 2, term: 3, logTerm: term, index: index,
                entries: [Entry(term: 3, index: index + 1)]))
        group.run("ready 1")
        #expect(group.bag.first?.kind == .appendResponse)
        #expect(group.bag.first?.reject == rejected)
    }

    @Test("3.5, figure 3.6: a leader makes every follower's log like its own")
    func figure36() throws {
        let leader: [Term] = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
        let followers: [[Term]] = [
            [1, 1, 1, 4, 4, 5, 5, 6, 6],
            [1, 1, 1, 4],
            [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
            [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
            [1, 1, 1, 4, 4, 4, 4],
            [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
        ]
        var group = try ThesisGroup(logs: [leader] + followers, current: [7, 7, 7, 7, 7, 7, 7])
        // In term 8, with the votes of those whose logs are not more up-to-date: a, b, e, f.
        group.elect(1, by: [2, 3, 6, 7])
        #expect(group.role(1) == .leader)
        #expect(group.term(1) == 8)
        group.run("run")
        for _ in 0..<3 { group.run("tick 1", "run") }
        for member in 1...7 {
            #expect(group.log(member) == leader + [8], "member \(member)")
            #expect(group.commit(member) == 11)
            #expect(group.applied(member) == group.applied(1))
        }
    }

    @Test("3.5: the log never loses an entry to a repeated or reordered append of its leader")
    func appendsAreIdempotent() {
        var group = ThesisGroup()
        let entries = (11...14).map { Entry(term: 2, index: $0, data: [UInt8($0)]) }
        func append(_ range: Range<Int>) -> Message {
            let first = entries[range.lowerBound]
            return Message(
                .append, to: 1, from: 2, term: 2, logTerm: first.index == 11 ? 1 : 2,
                index: first.index - 1, entries: Array(entries[range]))
        }
        group.step(append(0..<4))
        group.step(append(0..<1))
        group.step(append(2..<4))
        group.step(append(0..<2))
        group.run("ready 1")
        #expect(group.log(1) == [2, 2, 2, 2])
    }

    // MARK: 3.6 Safety

    @Test(
        "3.6.1: a vote goes only to a log that is at least as up-to-date",
        arguments: [
            // (candidate's last term, last index), granted
            (Term(3), LogIndex(5), true), (3, 6, true), (4, 1, true), (3, 4, false),
            (2, 9, false),
        ])
    func electionRestriction(term: Term, index: LogIndex, granted: Bool) throws {
        var group = try ThesisGroup(logs: [[1, 1, 2, 3, 3], [], []])
        group.step(Message(.vote, to: 1, from: 2, term: 9, logTerm: term, index: index))
        group.run("ready 1")
        #expect(group.bag.first?.reject == !granted)
    }

    @Test("3.6.2, figure 3.7: an older term's entry is not committed by counting its copies")
    func figure37() throws {
        // (a), (b): 1 led term 2 and copied entry 2 to 2; 5 led term 3 and has another there.
        var group = try ThesisGroup(
            logs: [[1, 2], [1, 2], [1], [1], [1, 3]], current: [2, 2, 3, 3, 3])
        // (c): 1 leads term 4, and copies entry 2 to 3. A majority has it.
        group.run("campaign 1", "ready 1", "drop 2", "drop 3", "drop 4", "drop 5")
        group.elect(1, by: [2, 3, 4])
        #expect(group.term(1) == 4)
        group.run("ready 1", "drop 4", "drop 5", "drop 2")
        group.run("deliver 3", "ready 3", "deliver 1")
        // The append reached 3 with entry 2 alone: give it just that.
        group.run("ready 1")
        let copy = group.bag.first { $0.to == 3 && $0.kind == .append }
        #expect(copy?.entries.map(\.term) == [2, 4])
        group.run("drop 3")
        group.step(
            Message(
                .append, to: 3, from: 1, term: 4, logTerm: 1, index: 1,
                entries: [copy?.entries.first].compactMap { $0 }))
        group.run("ready 3")
        #expect(group.log(3) == [1, 2])
        group.run("deliver 1")
        group.step(Message(.appendResponse, to: 1, from: 2, term: 4, index: 2))
        #expect(group.commit(1) == 0)
        // (e): with its own entry on a majority, both are committed.
        group.step(Message(.appendResponse, to: 1, from: 2, term: 4, index: 3))
        group.step(Message(.appendResponse, to: 1, from: 3, term: 4, index: 3))
        #expect(group.commit(1) == 3)
    }

    @Test("3.6.2, figure 3.7 (d): the entry that was counted and not committed can be replaced")
    func figure37d() throws {
        var group = try ThesisGroup(
            logs: [[1, 2, 4], [1, 2], [1, 2], [1], [1, 3]], current: [4, 4, 4, 4, 3])
        group.run("campaign 5", "ready 5", "drop 1", "drop 2", "drop 3", "drop 4")
        group.elect(5, by: [2, 3, 4])
        #expect(group.role(5) == .leader)
        group.run("run")
        for _ in 0..<3 { group.run("tick 5", "run") }
        for member in 1...5 { #expect(group.log(member) == [1, 3, 5]) }
    }

    @Test("3.6.3: no member without a committed entry can be elected, whoever has it and votes")
    func leaderCompleteness() throws {
        // Every majority that may have the entry, every candidate, every majority of voters.
        var elections = 0
        for holders in Self.subsets(of: 5) where holders.count >= 3 && holders.contains(1) {
            let logs: [[Term]] = (1...5).map { holders.contains($0) ? [1, 2] : [1] }
            for candidate in 2...5 {
                for voters in Self.subsets(of: 5)
                where voters.count >= 2 && !voters.contains(candidate) {
                    var group = try ThesisGroup(logs: logs, current: [2, 2, 2, 2, 2])
                    group.elect(candidate, by: voters.sorted())
                    if group.role(candidate) == .leader {
                        elections += 1
                        #expect(holders.contains(candidate), "\(holders) \(candidate) \(voters)")
                    }
                }
            }
        }
        #expect(elections > 100)
    }

    static func subsets(of count: Int) -> [Set<Int>] {
        (0..<1 << count).map { bits in Set((1...count).filter { bits >> ($0 - 1) & 1 == 1 }) }
    }

    // MARK: 3.7 to 3.10

    @Test("3.7: a follower that was down gets what it missed, and again what it may have had")
    func followerCrash() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "propose 1 a", "ready 1", "drop 3", "run 1 2", "drop 3")
        group.run("restart 3", "tick 1", "run")
        #expect(group.log(3) == group.log(1))
        #expect(group.applied(3) == ["a"])
    }

    @Test("3.8: no vote and no acknowledgement leaves before what it depends on is durable")
    func persistence() {
        var group = ThesisGroup("voters=1,2,3 async")
        group.run("campaign 1", "ready 1", "deliver 2", "ready 2")
        #expect(!group.bag.contains { $0.kind == .voteResponse })
        group.run("write 2")
        #expect(group.bag.contains { $0.kind == .voteResponse && $0.from == 2 })
        group.run("write 1", "deliver 1", "ready 1", "deliver 2", "ready 2")
        #expect(group.role(1) == .leader)
        #expect(!group.bag.contains { $0.kind == .appendResponse })
        group.run("write 2")
        #expect(group.bag.contains { $0.kind == .appendResponse && $0.from == 2 })
    }

    @Test("3.8: a restarted member keeps its term and its vote")
    func restart() {
        var group = ThesisGroup()
        group.run("campaign 2", "ready 2", "deliver 3", "ready 3", "restart 3")
        #expect(group.term(3) == 1)
        group.step(Message(.vote, to: 3, from: 1, term: 1, logTerm: 9, index: 99))
        group.run("ready 3")
        #expect(group.bag.last?.reject == true)
    }

    @Test("3.8: commit and applied index may be lost; they are found again from the log")
    func volatileState() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "propose 1 a", "run")
        let storage = group.transcript.nodes[1].storage
        storage.log.setHardState(HardState(term: 1, vote: 1, commit: 10))
        storage.current.metadata.index = 10
        group.run("restart 2")
        #expect(group.commit(2) == 10)
        group.run("tick 1", "run")
        #expect(group.commit(2) == 12)
        #expect(group.applied(2) == ["a"])
    }

    @Test("3.10: a transfer stops proposals, brings the target up to date and lets it campaign")
    func transfer() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "propose 1 a", "ready 1", "transfer 1 2")
        #expect(group.run("propose 1 b") == ["error: proposalDropped"])
        #expect(!group.bag.contains { $0.kind == .timeoutNow })
        group.run("deliver 2", "ready 2", "deliver 1", "ready 1")
        #expect(group.bag.contains { $0.kind == .timeoutNow })
        group.run("run")
        #expect(group.leader == 2)
        #expect(group.applied(2) == ["a"])
    }

    @Test("3.10: a transfer that takes an election timeout is given up")
    func transferAborts() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "transfer 1 2", "ready 1", "drop 2", "tick 1 10")
        #expect(group.run("propose 1 a").isEmpty)
        #expect(group.role(1) == .leader)
    }
}
