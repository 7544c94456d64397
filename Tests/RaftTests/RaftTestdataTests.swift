import Testing

@testable import Raft

/// The data-driven cases of etcd's core (`APUS_RAFT_TESTDATA` says where they are).
@Suite(
    "RaftTestdata", .enabled(if: ReferenceData.isPresent, "the reference data is not here"))
struct RaftTestdataTests {
    @Test("committed index and vote result of every quorum equal the reference")
    func quorum() throws {
        var checks = 0
        for file in try ReferenceData.files("quorum") {
            for check in file.cases {
                let answer = QuorumCommands(check).answer(check)
                #expect(answer == check.expected, "\(file.name):\(check.line)")
                checks += 1
            }
        }
        print("quorum: \(checks) checks")
        #expect(checks > 0)
    }

    @Test("every change of members equals the reference")
    func confchange() throws {
        var checks = 0
        for file in try ReferenceData.files("confchange") {
            var commands = ConfChangeCommands()
            for check in file.cases {
                let answer = commands.answer(check)
                #expect(answer == check.expected, "\(file.name):\(check.line)")
                checks += 1
            }
        }
        print("confchange: \(checks) checks")
        #expect(checks > 0)
    }

    @Test("every interaction of members equals the reference, log lines left out")
    func interaction() throws {
        var checks = 0
        for file in try ReferenceData.files("interaction") {
            var group = ReferenceInteraction()
            for check in file.cases {
                let answer = group.answer(check)
                #expect(
                    Self.lines(answer) == Self.lines(check.expected),
                    "\(file.name):\(check.line)")
                checks += 1
            }
        }
        print("interaction: \(checks) checks")
        #expect(checks > 0)
    }

    /// The lines of an answer without those that the original logged; `ok` if none is left.
    private static func lines(_ text: String) -> [Substring] {
        let levels = ["DEBUG ", "INFO ", "WARN ", "ERROR "]
        let kept = text.split(separator: "\n").filter { line in
            let start = line.drop { $0 == " " }
            return !levels.contains { start.hasPrefix($0) }
        }
        return kept.isEmpty ? ["ok"] : kept
    }
}
