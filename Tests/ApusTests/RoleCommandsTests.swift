import ArgumentParser
import Model
import Raft
import RaftLog
import Testing
import Wire

@testable import RaftDriver
@testable import apus

@Suite("Commands of members")
struct RoleCommandsTests {
    @Test(
        "a member is begun or recovered, not both",
        arguments: [
            ["--init", "--recover-alone"], ["--init", "--recover-alone", "--accept-loss"],
        ])
    func oneAtATime(flags: [String]) {
        #expect(throws: (any Error).self) { try OMCommand.parse(flags) }
        #expect(throws: (any Error).self) { try SCMCommandLine.parse(flags) }
    }

    private static let group = GroupID(high: 1, low: 2)

    private func survey(
        _ voters: [String], outgoing: [PeerID] = [], isBegun: Bool = false
    ) -> RecoverySurvey {
        let members = voters.enumerated().map { index, name in
            KnownMember(
                peer: .init(UInt64(index + 1)), name: name, address: "h:\(index)", part: .voter)
        }
        return RecoverySurvey(
            name: "om1", cluster: "prod", group: Self.group, peer: 1,
            configuration: ConfState(voters: members.map(\.peer), votersOutgoing: outgoing),
            lastTerm: 3, lastIndex: 9, commit: 8, members: members,
            isBegun: isBegun, isAlone: false)
    }

    @Test("who has lost a majority is told to compare members; who has begun, to end it")
    func advice() {
        let lost = RecoverAlone.advice(survey(["om1", "om2", "om3"]), "om")
        #expect(lost.contains("take the one with the greatest term"))
        #expect(lost.contains("Nothing was changed"))
        let begun = RecoverAlone.advice(survey(["om1", "om2", "om3"], isBegun: true), "om")
        #expect(!begun.contains("greatest"), "its numbers may be those of the new group already")
        #expect(begun.contains("apus om --recover-alone --accept-loss"))
        let text = RecoverAlone.text(survey(["om1"], isBegun: true), "/d")
        #expect(text.hasSuffix("\n  a recovery was begun here, and has not ended"))
    }

    private func view(
        _ peer: UInt64, group: GroupID = group, leader: UInt64 = 0, former: [GroupID] = []
    ) -> GroupStatusResponse {
        var view = GroupStatusResponse()
        view.group = group.message
        view.peer = peer
        view.leader = leader
        view.formerGroups = former.map(\.message)
        var member = GroupMember()
        member.peer = peer
        member.name = "om\(peer)"
        member.address = "h:\(peer)"
        view.members = [member]
        return view
    }

    @Test("who could go on as it is, or is led, or has gone on, is not let go on alone")
    func notAlone() {
        let three = survey(["om1", "om2", "om3"])
        func refusal(
            _ survey: RecoverySurvey, _ views: [GroupStatusResponse]
        ) -> String? {
            RecoverAlone.refusal(survey, views, "om")?.message
        }
        #expect(refusal(three, []) == nil)
        #expect(refusal(three, [view(2)])?.contains("om2 (h:2) would be one with om1") == true)
        #expect(refusal(three, [view(2)])?.contains("start om1: apus om") == true)
        // One of five more is not enough, unless it follows somebody.
        let five = survey(["om1", "om2", "om3", "om4", "om5"])
        #expect(refusal(five, [view(2)]) == nil)
        #expect(refusal(five, [view(2), view(3)]) != nil)
        #expect(refusal(five, [view(2, leader: 4)]) != nil)
        #expect(refusal(five, [view(2, leader: 1)]) == nil, "it still thinks that om1 leads")
        // Those that are being left have a say.
        let joint = survey(["om1"], outgoing: [1, 2, 3])
        #expect(refusal(joint, []) == nil)
        #expect(refusal(joint, [view(3)]) != nil)
        // Others do not count, nor does one that has stopped.
        #expect(refusal(three, [view(2, group: GroupID(high: 1, low: 3), leader: 2)]) == nil)
        var failed = view(2)
        failed.disk = .failed
        #expect(refusal(three, [failed]) == nil)
        let heir = view(9, group: GroupID(high: 7, low: 7), leader: 9, former: [Self.group])
        #expect(refusal(three, [heir])?.contains("has gone on without om1") == true)
        // Once begun it is a member no more.
        let begun = survey(["om1", "om2", "om3"], isBegun: true)
        #expect(refusal(begun, [view(2)]) == nil)
        #expect(refusal(begun, [view(2), view(3)])?.contains("has its majority back") == true)
    }

    // MARK: Who joins

    private func row(_ id: String, _ role: String, last: UInt64 = 7) -> MemberRow {
        MemberRow(
            id: id, role: role, address: "", term: 1, appliedIndex: 1, lastIndex: last,
            isReachable: true)
    }

    @Test("a snapshot of less than a MiB has its size told")
    func snapshotSizes() {
        var small = row("om2", "learner")
        small.snapshotBytes = 300 << 10
        small.snapshotBytesSent = 2 << 10
        #expect(small.snapshotProgress == "2.0 KiB of 300.0 KiB of a snapshot")
    }

    @Test("who is followed while it joins votes, learns, or was taken out meanwhile")
    func following() {
        let rows = [row("om1", "leader", last: 90), row("om2", "learner")]
        func look(
            _ member: inout JoiningMember, _ rows: [MemberRow], ofLeader: Bool = true,
            at applied: UInt64 = 50
        ) -> JoiningMember.State { member.look(at: rows, ofLeader: ofLeader, applied: applied) }
        var seen = JoiningMember(name: "om2")
        // A member that does not lead may not have heard of it, or not of what became of it.
        #expect(look(&seen, [rows[0]], ofLeader: false) == .unknown)
        #expect(look(&seen, [rows[0]]) == .unknown, "it is not there yet")
        #expect(look(&seen, rows) == .learns("entry 7 of 90"))
        #expect(look(&seen, [rows[0]], ofLeader: false) == .unknown)
        #expect(look(&seen, [], ofLeader: false) == .unknown)
        #expect(look(&seen, [rows[0]]) == .unknown, "who leads now has not applied as much")
        #expect(look(&seen, [rows[0]], at: 51) == .gone)
        #expect(look(&seen, [rows[0], row("om2", "follower")]) == .votes)
        // In the place of one of the same name, which is on its way out.
        let both = [rows[0], row("om2", "follower"), row("om2", "learner")]
        var next = JoiningMember(name: "om2")
        #expect(look(&next, both) == .learns("entry 7 of 90"))
        #expect(look(&next, both.reversed()) == .learns("entry 7 of 90"))
    }
}
