import Testing

@testable import Raft

/// Ongaro, "Consensus: Bridging Theory and Practice", chapter 4: changes of members.
@Suite("Thesis chapter 4")
struct ThesisChapter4Tests {
    private static func tracker(_ voters: Set<Int>) throws -> Tracker {
        try ConfChanger(
            tracker: Tracker(maxInflightMessages: 4, maxInflightBytes: 0), lastIndex: 1
        ).restore(ConfState(voters: voters.sorted().map { PeerID(UInt64($0)) }))
    }

    private static func wins(_ config: JointConfig, _ peers: Set<Int>) -> Bool {
        config.voteResult { peers.contains(Int($0.rawValue)) } == .won
    }

    // MARK: 4.1 Safety

    @Test("4.1: every majority before a change of one voter meets every majority after it")
    func majoritiesOverlap() throws {
        let sets = ThesisChapter3Tests.subsets(of: 5)
        for voters in sets where !voters.isEmpty {
            let before = try Self.tracker(voters)
            for peer in 1...5 {
                let kind: ConfChangeSingle.Kind = voters.contains(peer) ? .removePeer : .addVoter
                guard voters != [peer] else { continue }
                let after = try ConfChanger(tracker: before, lastIndex: 1)
                    .simple([ConfChangeSingle(kind, PeerID(UInt64(peer)))])
                for one in sets where Self.wins(before.config.voters, one) {
                    for other in sets where Self.wins(after.config.voters, other) {
                        #expect(!one.isDisjoint(with: other), "\(voters) \(peer)")
                    }
                }
            }
        }
    }

    @Test("4.1: a change of two voters at once is refused without a joint configuration")
    func refusesTwo() throws {
        let changer = ConfChanger(tracker: try Self.tracker([1, 2, 3]), lastIndex: 1)
        #expect(throws: ConfChangeRefusal.moreThanOneVoter) {
            try changer.simple([
                ConfChangeSingle(.removePeer, 3), ConfChangeSingle(.addVoter, 4),
            ])
        }
    }

    @Test("4.1: a change waits for the one before it to be applied")
    func oneAtATime() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "change 1 r3", "change 1 r2", "run")
        let node = group.transcript.nodes[0]
        #expect(node.node.status.members.voters == [1, 2])
        #expect(node.appliedEntries.filter { $0.kind != .normal }.count == 1)
        group.run("change 1 r2", "run")
        #expect(node.node.status.members.voters == [1])
    }

    @Test("4.1 and its erratum: changes of two leaders are decided by quorums that meet")
    func changesOfTwoLeaders() {
        // If members acted on a change as soon as it is appended, 2 could commit the removal of 1
        // with 3 alone, and 1 then win with 4 and the 5 it added (Ongaro, raft-dev, July 2015).
        // Here a change acts when it is applied, and both need three of the first four.
        var group = ThesisGroup("voters=1,2,3,4")
        group.run("campaign 1", "run", "join", "change 1 v5", "ready 1")
        group.run("drop 2", "drop 3", "drop 4", "drop 5")
        group.elect(2, by: [3, 4])
        #expect(group.role(2) == .leader)
        group.run("change 2 r1", "ready 2", "drop 1", "drop 4", "drop 5", "run 2 3")
        #expect(group.commit(2) == 11)
        group.run("drop 1", "drop 4", "drop 5")
        // 1 comes back, finds term 2 taken, and tries term 3.
        group.run("restart 1", "campaign 1", "ready 1", "drop 2", "drop 3", "drop 4")
        group.elect(1, by: [4, 5])
        #expect(group.term(1) == 3)
        #expect(group.role(1) == .candidate)
    }

    @Test("4.1: a member that has not applied a committed change does not campaign")
    func campaignsWithKnownMembers() {
        var group = ThesisGroup("voters=1,2,3 async")
        group.run("campaign 1", "run", "change 1 r3", "ready 1", "deliver 2", "ready 2")
        group.run("write 1", "write 2", "deliver 1", "ready 1", "deliver 2", "ready 2")
        // 2 knows that the change is committed, and its state machine has not seen it.
        #expect(group.commit(2) == 12)
        group.run("campaign 2")
        #expect(group.role(2) == .follower)
        group.run("write 2", "deliver 2", "ready 2", "apply 2", "deliver 2", "campaign 2")
        #expect(group.role(2) == .candidate)
    }

    // MARK: 4.2 Availability

    @Test("4.2.1: a newcomer catches up as a learner and counts for nothing until it is a voter")
    func catchUp() {
        var group = ThesisGroup("voters=1,2")
        group.run("campaign 1", "run", "propose 1 a b c", "run", "compact 1 13", "join")
        group.run("change 1 l3", "run")
        #expect(group.applied(3).isEmpty)
        #expect(group.commit(3) == group.commit(1))
        #expect(group.transcript.nodes[2].storage.current.data == Array("abc".utf8))
        // 2 is away: 1 and a learner commit nothing.
        group.run("propose 1 d", "ready 1", "drop 2", "run 1 3", "drop 2")
        #expect(group.commit(1) == 15)
        group.run("tick 1", "run")
        #expect(group.commit(1) == 16)
        // As a voter it does count, with 2 away again.
        group.run("change 1 v3", "run", "propose 1 e", "ready 1", "drop 2", "run 1 3", "drop 2")
        #expect(group.commit(1) == 18)
    }

    @Test("4.2.2: a leader that removes itself commits that by the others, and steps down")
    func removesItself() {
        var group = ThesisGroup("voters=1,2 step-down")
        group.run("campaign 1", "run", "change 1 r1", "ready 1")
        // Its own copy does not commit it.
        #expect(group.commit(1) == 11)
        group.run("run")
        #expect(group.role(1) == .follower)
        #expect(group.commit(2) == 12)
        group.run("campaign 1")
        #expect(group.role(1) == .follower)
        group.run("campaign 2", "run")
        #expect(group.leader == 2)
    }

    @Test("4.2.3: a removed server that campaigns does not depose a leader that is heard")
    func disruptiveServers() {
        var group = ThesisGroup("voters=1,2,3,4 check-quorum")
        group.run("campaign 1", "run")
        // 4 is removed and does not hear of it.
        group.run("change 1 r4", "ready 1", "drop 4", "run 1 2 3", "drop 4")
        for _ in 0..<5 {
            group.run("timeout 4 10", "tick 4 10", "run")
            group.run("tick 1", "tick 2", "tick 3", "run 1 2 3", "drop 4")
        }
        #expect(group.term(4) > 1)
        #expect(group.leader == 1)
        #expect(group.term(1) == 1)
        // One that a transfer told to campaign is heard all the same.
        group.run("transfer 1 2", "run")
        #expect(group.leader == 2)
    }

    // MARK: 4.3 Arbitrary changes using joint consensus

    @Test("4.3: in a joint configuration, decisions take majorities of the old and the new")
    func jointMajorities() throws {
        let sets = ThesisChapter3Tests.subsets(of: 5)
        for old in sets where !old.isEmpty {
            for new in sets where !new.isEmpty {
                let changes =
                    old.map { ConfChangeSingle(.removePeer, PeerID(UInt64($0))) }
                    + new.map { ConfChangeSingle(.addVoter, PeerID(UInt64($0))) }
                let before = try Self.tracker(old)
                let joint = try ConfChanger(tracker: before, lastIndex: 1)
                    .enterJoint(autoLeave: false, changes)
                let after = try ConfChanger(tracker: joint, lastIndex: 1).leaveJoint()
                #expect(after.config == (try Self.tracker(new)).config)
                for one in sets {
                    let both =
                        Self.wins(before.config.voters, one)
                        && Self.wins(after.config.voters, one)
                    #expect(Self.wins(joint.config.voters, one) == both)
                }
            }
        }
    }

    @Test("4.3: an election in a joint configuration takes both majorities")
    func jointElection() {
        var group = ThesisGroup()
        group.run("campaign 1", "run", "join count=2")
        group.run("change 1 explicit r2 r3 v4 v5", "run")
        #expect(group.transcript.nodes[3].node.status.members.votersOutgoing == [1, 2, 3])
        // 4 with 5 is a majority of the new voters alone.
        group.elect(4, by: [5])
        #expect(group.role(4) == .candidate)
        group.elect(4, by: [5, 2])
        #expect(group.role(4) == .candidate)
        group.elect(4, by: [5, 2, 3])
        #expect(group.role(4) == .leader)
    }

    @Test("4.3: a group of three is replaced by another, one leader following the other")
    func replacesAll() {
        var group = ThesisGroup("voters=1,2,3 step-down")
        group.run("campaign 1", "run", "propose 1 a", "run", "join count=3")
        group.run("change 1 r1 r2 r3 v4 v5 v6", "run")
        for member in 4...6 {
            #expect(group.transcript.nodes[member - 1].node.status.members.voters == [4, 5, 6])
            #expect(!group.transcript.nodes[member - 1].node.status.members.autoLeave)
        }
        #expect(group.role(1) == .follower)
        group.run("campaign 5", "run", "propose 5 b", "run")
        #expect(group.leader == 5)
        for member in 4...6 { #expect(group.applied(member).last == "b") }
        #expect(group.applied(1) == ["a"])
    }
}
