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
            isBegun: isBegun)
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

    @Test("who is the only voter of its group has lost no majority, and is told to start")
    func alone() {
        #expect(RecoverAlone.isAlone(survey(["om1"])))
        #expect(!RecoverAlone.isAlone(survey(["om1"], isBegun: true)))
        #expect(!RecoverAlone.isAlone(survey(["om1", "om2"])))
    }
}
