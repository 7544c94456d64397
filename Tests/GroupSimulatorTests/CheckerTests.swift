import Raft
import Simulator
import Testing

@testable import GroupSimulator

@Suite("What is checked of a simulated group")
struct GroupCheckerTests {
    private static func command(_ sequence: UInt64) -> RegisterCommand {
        RegisterCommand(client: 1, sequence: sequence, register: 0, request: .write(5))
    }

    @Test("two leaders of a term, two votes in a term")
    func elections() {
        var checker = GroupChecker()
        checker.observe(1, .leader, 4)
        checker.observe(2, .leader, 5)
        #expect(checker.violation == nil)
        checker.observe(3, .leader, 5)
        #expect(checker.violation?.property == .electionSafety)
        checker = GroupChecker()
        checker.sent(Message(.voteResponse, to: 1, from: 3, term: 4))
        checker.sent(Message(.voteResponse, to: 1, from: 3, term: 4))
        checker.sent(Message(.voteResponse, to: 2, from: 3, term: 5))
        #expect(checker.violation == nil)
        checker.sent(Message(.voteResponse, to: 1, from: 3, term: 5))
        #expect(checker.violation?.property == .hardState)
    }

    @Test("a member that begins again without what it promised")
    func promises() {
        var checker = GroupChecker()
        checker.sent(Message(.appendResponse, to: 1, from: 2, term: 4, index: 9))
        checker.began(2, term: 4, last: 9)
        #expect(checker.violation == nil)
        var other = checker
        other.began(2, term: 4, last: 8)
        #expect(other.violation?.property == .durablePromise)
        checker.began(2, term: 3, last: 9)
        #expect(checker.violation?.property == .hardState)
    }

    private static func found(
        term: Term, vote: PeerID = .none, first: LogIndex = 1, last: LogIndex
    ) -> FoundLog {
        FoundLog(state: HardState(term: term, vote: vote, commit: 0), first: first, last: last)
    }

    @Test("what a member would find that has given a vote and acknowledged an entry")
    func disks() {
        func property(
            _ found: FoundLog?, tables: UInt64 = 0, snapshot: LogIndex? = nil
        ) -> Property? {
            var checker = GroupChecker()
            checker.sent(Message(.voteResponse, to: 1, from: 2, term: 4))
            checker.sent(Message(.appendResponse, to: 1, from: 2, term: 4, index: 9))
            checker.wouldFind(2, "killed now", found, tables: tables, snapshot: snapshot)
            return checker.violation?.property
        }
        #expect(property(Self.found(term: 4, vote: 1, last: 9)) == nil)
        #expect(property(Self.found(term: 5, last: 2)) == nil)
        #expect(property(nil) == .durablePromise)
        #expect(property(Self.found(term: 3, last: 9)) == .hardState)
        #expect(property(Self.found(term: 4, last: 9)) == .hardState)
        #expect(property(Self.found(term: 4, vote: 3, last: 9)) == .hardState)
        #expect(property(Self.found(term: 4, vote: 1, last: 8)) == .durablePromise)
        // The log begins behind the tables, unless a snapshot is between.
        let short = Self.found(term: 4, vote: 1, first: 6, last: 9)
        #expect(property(short, tables: 4) == .recovery)
        #expect(property(short, tables: 5) == nil)
        #expect(property(short, tables: 4, snapshot: 5) == nil)
        #expect(property(short, tables: 4, snapshot: 4) == .recovery)
        #expect(property(short, tables: 10) == .recovery)
    }

    @Test("who leads has its own vote, and a refusal names a term that is kept")
    func termsOfMessages() {
        var checker = GroupChecker()
        checker.sent(Message(.heartbeat, to: 1, from: 2, term: 6))
        var other = checker
        checker.wouldFind(2, "killed now", Self.found(term: 6, last: 0), tables: 0, snapshot: nil)
        #expect(checker.violation?.property == .hardState)
        other.sent(Message(.appendResponse, to: 1, from: 3, term: 7, reject: true))
        other.began(3, term: 6, last: 0)
        #expect(other.violation?.property == .hardState)
    }

    @Test("calls of a client that are carried out in another order than they were made")
    func order() {
        var checker = GroupChecker()
        checker.carriesOut(Self.command(2), at: 5, 1)
        checker.carriesOut(Self.command(4), at: 9, 1)
        checker.carriesOut(Self.command(3), at: 7, 2)
        #expect(checker.violation == nil)
        checker.carriesOut(Self.command(1), at: 11, 2)
        #expect(checker.violation?.property == .exactlyOnce)
    }

    @Test("members that two members do not agree on after the same entry")
    func configurations() {
        var checker = GroupChecker()
        checker.configuration(ConfState(voters: [1, 2]), after: 5, 1)
        checker.configuration(ConfState(voters: [1, 2, 3]), after: 6, 1)
        checker.configuration(ConfState(voters: [1, 2]), after: 5, 2)
        #expect(checker.violation == nil)
        checker.configuration(ConfState(voters: [1, 2, 3]), after: 5, 3)
        #expect(checker.violation?.property == .sameConfiguration)
    }

    @Test("a call that is carried out twice, or though it was settled")
    func calls() {
        var checker = GroupChecker()
        checker.carriesOut(Self.command(1), at: 5, 1)
        checker.carriesOut(Self.command(1), at: 5, 2)
        checker.settles(client: 1, sequence: 2)
        #expect(checker.violation == nil)
        var twice = checker
        twice.carriesOut(Self.command(1), at: 6, 2)
        #expect(twice.violation?.property == .exactlyOnce)
        checker.carriesOut(Self.command(2), at: 7, 1)
        #expect(checker.violation?.property == .exactlyOnce)
    }

    @Test("tables that differ, and an entry that is not the same everywhere")
    func states() {
        var checker = GroupChecker()
        checker.state(11, after: 5, 1)
        checker.state(11, after: 5, 2)
        let entry = Entry(term: 2, index: 6, data: [1])
        checker.sent(Message(.append, to: 2, from: 1, term: 2, logTerm: 2, entries: [entry]))
        #expect(checker.violation == nil)
        var tables = checker
        tables.state(12, after: 5, 3)
        #expect(tables.violation?.property == .stateMachineSafety)
        let bent = Entry(term: 2, index: 6, data: [2])
        checker.sent(Message(.append, to: 3, from: 1, term: 2, logTerm: 2, entries: [bent]))
        #expect(checker.violation?.property == .logMatching)
    }
}
