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
        let mixed = health([1: answer(1), 2: answer(2), 3: other])
        #expect(mixed.findings.first?.what.contains("of cluster 'test'; this is 'prod'") == true)
    }
}
