import Testing

@testable import Raft

/// What a leader need not say at once: that entries are committed (`tellsCommitLate`), and entries to
/// members whom no quorum needs (`sendsQuorumFirst`).
@Suite("Messages that may wait")
struct LateMessagesTests {
    /// 1 leads, everybody has everything, and who gets entries later is decided.
    private func led(_ settings: String) -> ThesisGroup {
        var group = ThesisGroup(settings)
        group.run("campaign 1", "run", "tick 1", "run", "tick 1", "run")
        return group
    }

    private func appends(_ group: ThesisGroup, to member: UInt64) -> [Message] {
        group.bag.filter { $0.kind == .append && $0.to == PeerID(member) }
    }

    @Test("a follower hears of a commit with the next entries, and no message goes for it alone")
    func commitRidesAlong() {
        var group = led("voters=1,2,3 late-commit")
        let first = group.commit(1)
        group.run("propose 1 a", "run")
        #expect(group.commit(1) == first + 1)
        #expect(group.applied(1) == ["a"])
        #expect(group.bag.isEmpty)
        #expect(group.commit(2) == first && group.commit(3) == first)
        group.run("propose 1 b", "run")
        #expect(group.applied(2) == ["a"] && group.applied(3) == ["a"])
    }

    @Test("without further entries a follower hears of a commit with the next tick")
    func commitWithTick() {
        for heartbeat in [1, 5] {
            var group = led("voters=1,2,3 late-commit heartbeat=\(heartbeat)")
            group.run("propose 1 a", "run", "tick 1", "run")
            #expect(group.applied(2) == ["a"] && group.applied(3) == ["a"])
            group.run("tick 1", "ready 1")
            #expect(appends(group, to: 2).isEmpty, "what is known is not told again")
        }
    }

    @Test("a follower that reads is told at once what is committed")
    func commitForRead() {
        var group = led("voters=1,2,3 late-commit")
        group.run("propose 1 a", "run")
        #expect(group.applied(3).isEmpty)
        let answer = group.run("read 3 x", "run")
        #expect(answer.contains { $0.contains("3: read x at") })
        #expect(group.applied(3) == ["a"])
    }

    @Test("a follower that reads gets the entries it waits for at once")
    func entriesForRead() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        group.run("propose 1 a", "run")
        #expect(group.log(3).count + 1 == group.log(1).count)
        let answer = group.run("read 3 x", "run")
        #expect(answer.contains { $0.contains("3: read x at") })
        #expect(group.applied(3) == ["a"])
    }

    @Test("now and then entries go to all, and who acknowledges first gets them first")
    func looksAgain() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        for _ in 0..<Limits.restsBetweenTrials {
            #expect(group.transcript.nodes[0].node.core.deferred == [3])
            group.run("propose 1 a", "run", "rest 1", "run")
        }
        #expect(group.transcript.nodes[0].node.core.deferred.isEmpty)
        #expect(!group.transcript.nodes[0].node.hasRest, "without entries nothing is to be learnt")
        // Ticks do not end it.
        group.run("tick 1", "run")
        group.run("propose 1 b", "ready 1", "run 1 3", "run")
        #expect(group.transcript.nodes[0].node.hasRest)
        group.run("rest 1", "run")
        #expect(group.transcript.nodes[0].node.core.deferred == [2])
        group.run("propose 1 c", "run")
        #expect(group.log(3).count == group.log(1).count)
        #expect(group.log(2).count + 1 == group.log(1).count)
    }

    @Test("a leader that needs nobody else makes no trials with its learners")
    func learnersAlone() {
        var group = ThesisGroup("voters=1 learners=2 quorum-first late-commit")
        group.run("campaign 1", "run", "tick 1", "run", "tick 1", "run")
        for _ in 0...2 * Limits.restsBetweenTrials {
            group.run("propose 1 a", "run", "rest 1", "run")
        }
        #expect(group.transcript.nodes[0].node.core.deferred == [2])
        #expect(!group.transcript.nodes[0].node.hasRest, "the driver may rest")
        #expect(group.log(2).count == group.log(1).count)
    }

    @Test("a leader sends entries to a quorum at once, and to the rest when its driver says so")
    func quorumFirst() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        let start = group.commit(1)
        group.run("propose 1 a", "run", "propose 1 b", "run")
        #expect(group.applied(1) == ["a", "b"])
        #expect(group.log(2).count == group.log(1).count)
        #expect(group.log(3).count + 2 == group.log(1).count)
        group.run("rest 1", "ready 1")
        let late = appends(group, to: 3)
        #expect(late.count == 1 && late.first?.entries.count == 2)
        #expect(late.first?.commit == start + 2)
        group.run("run")
        #expect(group.applied(3) == ["a", "b"])
    }

    @Test("in a group of five the leader and two others are enough")
    func quorumOfFive() {
        var group = led("voters=1,2,3,4,5 quorum-first late-commit")
        let before = (1...5).map { group.log($0).count }
        group.run("propose 1 a", "run")
        let have = (1...5).filter { group.log($0).count > before[$0 - 1] }
        #expect(have.count == 3 && have.contains(1))
        #expect(group.applied(1) == ["a"])
        group.run("rest 1", "run")
        #expect((1...5).allSatisfy { group.log($0).count == group.log(1).count })
    }

    @Test("where the one that is sent to first is silent, the rest commits, and takes its place")
    func silentFirst() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        group.run("propose 1 a", "ready 1", "drop 2", "run 1 3")
        #expect(group.applied(1).isEmpty)
        // The driver's time has come: 3 makes the quorum.
        group.run("rest 1", "run 1 3")
        #expect(group.applied(1) == ["a"])
        group.run("drop 2", "propose 1 b", "ready 1", "drop 2", "rest 1", "run 1 3", "drop 2")
        #expect(group.applied(1) == ["a", "b"])
        // From now on 3 is the first, and commits without the driver's word.
        group.run("propose 1 c", "ready 1", "drop 2", "run 1 3")
        #expect(group.applied(1) == ["a", "b", "c"])
    }

    @Test("a member that fell far behind is not made to wait")
    func catchesUp() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        for _ in 0..<3 { group.run("propose 1 a", "run") }
        let node = group.transcript.nodes[0].node
        let far = PeerID(3)
        #expect(node.core.deferred == [far])
        guard let position = node.core.tracker.position(of: far) else {
            Issue.record("3 is a member")
            return
        }
        #expect(node.core.mayWait(position))
        var core = node.core
        core.transferee = far
        #expect(!core.mayWait(position), "it is to lead")
        core = node.core
        core.log.append(
            (1...Limits.deferredEntries).map {
                Entry(term: core.term, index: core.log.lastIndex + $0)
            })
        #expect(!core.mayWait(position))
    }

    @Test("changed members are all sent to at once until it is decided anew")
    func membersChange() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        #expect(group.transcript.nodes[0].node.core.deferred == [3])
        group.run("change 1 r2", "run", "rest 1", "run")
        group.run("propose 1 a", "run")
        // 1 and 3 are left: 3 is needed.
        #expect(group.applied(1).last == "a")
        #expect(group.log(3).count == group.log(1).count)
    }

    @Test("who has more of the log campaigns in the place of one that notices first")
    func campaignsInPlace() {
        var group = led("voters=1,2,3 quorum-first late-commit pre-vote check-quorum")
        group.run("propose 1 a", "run")
        #expect(group.log(2).count == group.log(3).count + 1)
        group.run("timeout 2 19", "timeout 3 10", "tick 2 10", "tick 3 10", "run 2 3")
        #expect(group.role(2) == .leader && group.applied(2) == ["a"])
        // Not before it might campaign itself: a leader may be there that it has heard of.
        group = led("voters=1,2,3 quorum-first late-commit pre-vote check-quorum")
        group.run("propose 1 a", "run")
        group.run("timeout 2 19", "timeout 3 10", "tick 2 9", "tick 3 10", "run 2 3")
        #expect(group.role(2) == .follower)
        #expect(group.term(2) == group.term(1))
    }

    @Test("a change of members goes to all at once, and so does the news that it is committed")
    func changeAtOnce() {
        var group = ThesisGroup("voters=1,2,3 learners=4 quorum-first late-commit")
        group.run("campaign 1", "run", "tick 1", "run", "tick 1", "run")
        let before = group.commit(1)
        group.run("change 1 v4", "run")
        #expect((1...4).allSatisfy { group.commit($0) == before + 1 })
        #expect(
            group.transcript.nodes.allSatisfy { $0.node.status.members.voters == [1, 2, 3, 4] })
    }

    @Test("a leader of a later term begins by sending to all")
    func newTerm() {
        var group = led("voters=1,2,3 quorum-first late-commit")
        group.run("propose 1 a", "run", "rest 1", "run")
        group.run("campaign 2", "run")
        #expect(group.role(2) == .leader && group.transcript.nodes[0].node.core.deferred.isEmpty)
        #expect(group.transcript.nodes[1].node.core.deferred.isEmpty)
        group.run("propose 2 b", "run")
        #expect((1...3).allSatisfy { group.log($0).count == group.log(2).count })
    }
}
