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
