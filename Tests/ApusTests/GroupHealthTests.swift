import Model
import Testing
import Wire

@testable import apus

@Suite("The page of a group's members")
struct GroupHealthTests {
    private let addresses = [1: "host1:9862", 2: "host2:9862", 3: "host3:9862"]

    /// What member `number` says of a group of three that `leader` leads.
    private func answer(
        _ number: Int, leader: UInt64 = 1, applied: [UInt64] = [100, 100, 100],
        unreachable: Set<Int> = [], learner: Int? = nil, count: Int = 3, term: UInt64 = 5
    ) -> GroupStatusResponse {
        var response = GroupStatusResponse()
        response.peer = UInt64(number)
        response.term = term
        response.leader = leader
        response.cluster = "prod"
        response.appliedIndex = applied[number - 1]
        response.members = (1...count).map { index in
            var member = GroupMember()
            member.peer = UInt64(index)
            member.name = "om\(index)"
            member.address = addresses[index] ?? ""
            member.role =
                index == learner ? .learner : UInt64(index) == leader ? .leader : .follower
            member.appliedIndex = applied[index - 1]
            member.isReachable = !unreachable.contains(index)
            return member
        }
        return response
    }

    private func health(_ answers: [Int: GroupStatusResponse]) -> GroupHealth {
        GroupHealth(
            role: .om,
            views: (1...3).map { number in
                .init(
                    name: "om\(number)", address: addresses[number] ?? "",
                    answer: answers[number].map { .success($0) }
                        ?? .failure(StoreError(.connection, "refused")))
            })
    }

    @Test("three members that answer and follow are well")
    func well() {
        let group = health([1: answer(1), 2: answer(2), 3: answer(3)])
        #expect(group.findings.isEmpty)
        #expect(group.summary == "OM: om1 leads, om2 om3 follow")
    }

    @Test("a member that does not answer is named, with what the group can still lose")
    func oneSilent() {
        let group = health([1: answer(1), 3: answer(3)])
        #expect(group.summary == "OM: om1 leads, om3 follows, om2 does not answer")
        #expect(group.findings.count == 1)
        #expect(group.findings.first?.severity == .danger)
        #expect(
            group.findings.first?.what
                == "om2 (host2:9862) does not answer; the group can lose no further member")
        #expect(
            group.findings.first?.advice.hasPrefix("start it: systemctl start apus-om on host2")
                == true)
    }

    @Test("without a majority nothing is written, and that comes first")
    func minority() {
        let group = health([3: answer(3, leader: 0)])
        #expect(group.findings.first?.severity == .outage)
        #expect(group.findings.first?.what == "OM: 1 of 3 members are there, and 2 must be")
        #expect(group.findings.count == 3)
    }

    @Test("nobody answers; nobody leads")
    func nobody() {
        #expect(health([:]).findings.map(\.what) == ["OM: none of its 3 members answers"])
        #expect(health([:]).summary == "OM: no member answers")
        let group = health([
            1: answer(1, leader: 0), 2: answer(2, leader: 0), 3: answer(3, leader: 0),
        ])
        #expect(group.findings.map(\.what) == ["OM: no member leads"])
    }

    @Test("a member that lags, or that only the leader does not reach, is told apart")
    func progress() {
        let applied: [UInt64] = [50_000, 49_999, 100]
        let behind = health([
            1: answer(1, applied: applied), 2: answer(2, applied: applied),
            3: answer(3, applied: applied),
        ])
        #expect(
            behind.findings.map(\.what) == ["om3 (host3:9862) is 49900 entries behind the leader"])
        let cut = health([1: answer(1, unreachable: [2]), 2: answer(2), 3: answer(3)])
        #expect(
            cut.findings.map(\.what) == [
                "om2 (host2:9862) answers here, but the leader does not reach it"
            ])
        let learning = health([
            1: answer(1, applied: applied, learner: 3), 2: answer(2, applied: applied),
            3: answer(3, applied: applied),
        ])
        #expect(learning.findings.first?.advice.contains("catches up") == true)
        #expect(learning.summary == "OM: om1 leads, om2 follows, om3 learns")
    }

    @Test("what a follower has applied is what it says itself: the leader does not know it")
    func applied() {
        // As a leader says it: of others only what is in their logs.
        var leader = answer(1, applied: [50_000, 0, 0])
        for place in leader.members.indices { leader.members[place].lastIndex = 50_000 }
        let well = health([
            1: leader, 2: answer(2, applied: [0, 49_990, 0]),
            3: answer(3, applied: [0, 0, 50_000]),
        ])
        #expect(well.findings.isEmpty, "\(well.findings)")
        let behind = health([
            1: leader, 2: answer(2, applied: [0, 30_000, 0]),
            3: answer(3, applied: [0, 0, 50_000]),
        ])
        #expect(
            behind.findings.map(\.what) == ["om2 (host2:9862) is 20000 entries behind the leader"])
    }

    @Test("a member whose disk is full or hangs is named once, with what to do")
    func disks() {
        for (disk, word) in [
            (GroupDiskHealth.full, "full"), (.hangs, "hangs"), (.nearlyFull, "nearly full"),
            (.failed, "stopped"), (.short, "wanting"),
        ] {
            var sick = answer(2, applied: [0, 100, 0])
            sick.disk = disk
            sick.diskReason = "no room"
            let group = health([
                1: answer(1, applied: [50_000, 50_000, 50_000]), 2: sick,
                3: answer(3, applied: [0, 0, 50_000]),
            ])
            #expect(group.findings.count == 1, "\(group.findings)")
            #expect(group.findings.first?.severity == .danger)
            #expect(group.findings.first?.what.contains(word) == true)
            #expect(group.findings.first?.what.hasPrefix("om2 (host2:9862)") == true)
        }
    }

    @Test("a group of one is not summed up, but its disk is looked at, and is all there is")
    func ofOne() {
        var only = answer(1, count: 1)
        let well = GroupHealth(
            role: .om, views: [.init(name: "om1", address: "h:1", answer: .success(only))])
        #expect(well.summary == nil && well.findings.isEmpty)
        only.disk = .hangs
        let sick = GroupHealth(
            role: .om, views: [.init(name: "om1", address: "h:1", answer: .success(only))])
        #expect(sick.findings.map(\.severity) == [.outage])
        let silent = GroupHealth(
            role: .om,
            views: [
                .init(
                    name: "om1", address: "h:1",
                    answer: .failure(StoreError(.connection, "refused")))
            ])
        #expect(silent.findings.isEmpty, "the page says itself that the role does not answer")
    }

    @Test("who is no member, or of another cluster, is named")
    func strangers() {
        let group = health([
            1: answer(1, count: 2), 2: answer(2, count: 2), 3: answer(3, count: 2, term: 1),
        ])
        #expect(group.findings.map(\.what) == ["om3 (host3:9862) is no member of the group"])
        var other = answer(3, term: 1)
        other.cluster = "test"
        other.group.low = 9
        let mixed = health([1: answer(1), 2: answer(2), 3: other])
        #expect(mixed.findings.first?.what.contains("of cluster 'test'; this is 'prod'") == true)
    }

    @Test("a member that has stopped, or answers for another group, is not there")
    func alive() {
        var stopped = answer(2)
        stopped.disk = .failed
        stopped.diskReason = "its log is damaged"
        let lost = health([1: answer(1), 2: stopped])
        #expect(lost.findings.first?.severity == .outage)
        #expect(lost.findings.first?.what == "OM: 1 of 3 members are there, and 2 must be")
        #expect(lost.summary == "OM: om1 leads, om2 has stopped, om3 does not answer")
        let spare = health([1: answer(1), 2: stopped, 3: answer(3)])
        #expect(spare.findings.map(\.severity) == [.danger], "\(spare.findings)")
        #expect(spare.summary == "OM: om1 leads, om3 follows, om2 has stopped")

        var stranger = answer(3, term: 1)
        stranger.group.high = 7
        let mixed = health([1: answer(1), 3: stranger])
        #expect(mixed.findings.first?.what == "OM: 1 of 3 members are there, and 2 must be")
        #expect(
            mixed.summary == "OM: om1 leads, om3 takes no part, om2 does not answer")
    }

    @Test("disks that keep the majority from writing are an outage, others a danger")
    func disksOfMajority() {
        func group(
            _ second: GroupDiskHealth, _ third: GroupDiskHealth, learner: Int? = nil
        ) -> [StatusPage.Finding.Severity] {
            var (two, three) = (answer(2, learner: learner), answer(3, learner: learner))
            two.disk = second
            three.disk = third
            let found = health([1: answer(1, learner: learner), 2: two, 3: three])
            return found.findings.filter { $0.what.contains("disk") || $0.what.contains("stopped") }
                .map(\.severity)
        }
        #expect(group(.full, .hangs) == [.outage, .outage])
        #expect(group(.failed, .full) == [.outage, .outage])
        #expect(group(.well, .hangs) == [.danger])
        #expect(group(.nearlyFull, .hangs) == [.danger, .danger])
        // Two voters must both write; a learner need not.
        #expect(group(.hangs, .full, learner: 3) == [.outage, .danger])
        #expect(group(.well, .full, learner: 3) == [.danger])
        // With one silent the others have to write.
        var sick = answer(2)
        sick.disk = .hangs
        let found = health([1: answer(1), 2: sick]).findings
        #expect(found.contains { $0.severity == .outage && $0.what.contains("om2 (host2") })
    }

    @Test("a member that is seen under two addresses is one")
    func twoAddresses() {
        var sick = answer(2)
        sick.disk = .nearlyFull
        var views = health([1: answer(1), 2: sick, 3: answer(3)]).views
        views.append(.init(name: "om2", address: "10.0.0.2:9862", answer: .success(sick)))
        let twice = GroupHealth(role: .om, views: views)
        #expect(twice.findings.map(\.what).count == 1)
        // The settings have it where it is no more.
        let silent = Result<GroupStatusResponse, StoreError>.failure(
            StoreError(.connection, "refused"))
        views[3] = .init(name: "om2", address: "10.0.0.2:9862", answer: silent)
        let moved = GroupHealth(role: .om, views: views)
        #expect(moved.summary == "OM: om1 leads, om2 om3 follow")
        #expect(
            moved.findings.map(\.what).first
                == "om2 does not answer at 10.0.0.2:9862, but at host2:9862")
        #expect(moved.findings.map(\.severity) == [.danger, .danger])
        // Those that wait for their invitation answer nothing, and are not one.
        let waiting = health([1: answer(1, count: 1)])
        #expect(waiting.views.count == 3)
    }
}
