import Chance
import Testing

@testable import Raft

/// Ongaro, "Consensus: Bridging Theory and Practice", chapter 9: leader election evaluation.
@Suite("Thesis chapter 9")
struct ThesisChapter9Tests {
    /// Ticks from the start of five members until one leads, with a latency of one tick.
    private static func election(seed: UInt64, electionTick: Int, preVote: Bool) throws -> Int {
        var nodes: [InteractionNode] = []
        let members = ConfState(voters: [1, 2, 3, 4, 5])
        let first = Snapshot(metadata: SnapshotMetadata(confState: members, index: 1, term: 1))
        for id in members.voters {
            var configuration = Configuration(id: id)
            configuration.electionTick = electionTick
            configuration.preVote = preVote
            configuration.checkQuorum = preVote
            var generator = SeededGenerator(seed: seed &* 100 &+ id.rawValue)
            nodes.append(
                try InteractionNode(
                    configuration, snapshot: first,
                    randomTimeout: { Int.random(in: $0, using: &generator) }))
        }
        var flying: [Message] = []
        for tick in 1...2_000 {
            let arrived = flying
            flying = []
            for message in arrived {
                try nodes[Int(message.to.rawValue) - 1].node.step(message)
            }
            for position in nodes.indices {
                nodes[position].node.tick()
                while nodes[position].node.hasReady {
                    flying += try nodes[position].process(nodes[position].node.ready())
                    nodes[position].node.advance()
                }
                if nodes[position].node.basicStatus.softState.role == .leader { return tick }
            }
        }
        return .max
    }

    @Test(
        "9.2: with timeouts spread over many latencies, few elections take a second round",
        arguments: [false, true])
    func electionTimes(preVote: Bool) throws {
        var times: [Int] = []
        for seed in 1...400 as ClosedRange<UInt64> {
            times.append(try Self.election(seed: seed, electionTick: 20, preVote: preVote))
        }
        times.sort()
        // One timeout, and a round trip, or two with a pre-vote.
        #expect(times[200] <= 40)
        #expect(times[360] <= 60)
        #expect(times[399] < 200)
    }

    @Test("9.2: with no spread to speak of, votes split more often")
    func splitVotes() throws {
        func second(_ electionTick: Int) throws -> Int {
            try (1...200 as ClosedRange<UInt64>).count { seed in
                let time = try Self.election(
                    seed: seed, electionTick: electionTick, preVote: false)
                return time > 2 * electionTick + 2
            }
        }
        let narrow = try second(2)
        let wide = try second(40)
        #expect(narrow > 2 * wide)
    }

    @Test("9.6: a member that is cut off with pre-vote does not raise its term")
    func termStays() {
        var group = ThesisGroup("voters=1,2,3 pre-vote check-quorum")
        group.run("campaign 1", "run")
        for _ in 0..<100 { group.run("tick 3", "ready 3", "drop 1", "drop 2") }
        #expect(group.role(3) == .preCandidate)
        #expect(group.term(3) == 1)
        // It comes back, and leadership is as it was.
        group.run("tick 1", "run")
        #expect(group.role(3) == .follower)
        #expect(group.leader == 1)
        #expect(group.term(1) == 1)
    }

    @Test("9.6: without pre-vote, one that was cut off deposes the leader when it comes back")
    func deposesWithout() {
        var group = ThesisGroup()
        group.run("campaign 1", "run")
        for _ in 0..<100 { group.run("tick 3", "ready 3", "drop 1", "drop 2") }
        #expect(group.term(3) > 5)
        group.run("campaign 3", "run")
        #expect(group.term(1) == group.term(3))
        #expect(group.role(1) == .follower)
    }

    @Test("9.6: a pre-vote goes only to a log that is up-to-date, and changes no one's state")
    func preVotesChangeNothing() throws {
        var group = try ThesisGroup(logs: [[1, 1, 2], [], []])
        let before = group.status(1)
        group.step(Message(.preVote, to: 1, from: 2, term: 9, logTerm: 2, index: 2))
        group.step(Message(.preVote, to: 1, from: 3, term: 9, logTerm: 2, index: 3))
        // Another of the same term is granted too: a pre-vote is not a vote.
        group.step(Message(.preVote, to: 1, from: 2, term: 9, logTerm: 3, index: 1))
        group.run("ready 1")
        #expect(group.bag.map(\.reject) == [true, false, false])
        #expect(group.status(1) == before)
    }

    @Test("9.6: a pre-candidate that wins campaigns in the next term, and needs votes anew")
    func preElectionThenElection() {
        var group = ThesisGroup("voters=1,2,3 pre-vote")
        group.run("campaign 1", "ready 1", "deliver 2", "ready 2", "deliver 1")
        #expect(group.role(1) == .candidate)
        #expect(group.term(1) == 1)
        // A pre-vote that comes late is no vote.
        group.step(Message(.preVoteResponse, to: 1, from: 3, term: 1))
        #expect(group.role(1) == .candidate)
        group.run("run")
        #expect(group.role(1) == .leader)
    }
}
