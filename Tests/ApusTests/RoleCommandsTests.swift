import ArgumentParser
import Model
import Raft
import Testing

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

    private func survey(_ voters: [String], isBegun: Bool = false) -> RecoverySurvey {
        let members = voters.enumerated().map { index, name in
            KnownMember(
                peer: .init(UInt64(index + 1)), name: name, address: "h:\(index)", part: .voter)
        }
        return RecoverySurvey(
            name: "om1", cluster: "prod", lastTerm: 3, lastIndex: 9, commit: 8, members: members,
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
