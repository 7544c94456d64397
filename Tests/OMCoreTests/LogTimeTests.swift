import Model
import Testing
import Wire

@testable import OMCore

@Suite("Time in the log")
struct LogTimeTests {
    private let machine = OMStateMachine()

    private func command(
        _ index: UInt64, logTime: Int64, version: UInt32 = OMFormat.command,
        _ body: OMCommand.OneOf_Body
    ) -> (OMCommand, UInt64) {
        var command = OMCommand()
        command.version = version
        command.time = 5_000
        command.logTime = logTime
        command.body = body
        return (command, index)
    }

    private func user(_ name: String) -> OMCommand.OneOf_Body {
        var user = OMUser()
        user.name = name
        user.accessKeyID = "key-\(name)"
        user.secretAccessKey = "secret"
        return .createUser(user)
    }

    @Test("it never goes back, whatever a leader's clock says, and is kept in the tables")
    func monotone() {
        let tables = InMemoryTables()
        #expect(OMReads(tables).logTime == nil)
        for (number, (proposed, kept)) in [
            (1_000, 1_000), (3_000, 3_000), (2_000, 3_000), (3_001, 3_001), (-7, 5_000),
        ].enumerated() as EnumeratedSequence<[(Int64, Int64)]> {
            let (next, index) = command(
                UInt64(number + 1), logTime: proposed, user("u\(number)"))
            #expect(machine.apply(next, at: index, in: tables) == .done)
            #expect(OMReads(tables).logTime == kept)
        }
    }

    @Test("a command that is refused, or of before the log had a clock, does not move it")
    func unmoved() {
        let tables = InMemoryTables()
        var (next, index) = command(1, logTime: 1_000, user("ann"))
        _ = machine.apply(next, at: index, in: tables)
        (next, index) = command(2, logTime: 2_000, user("ann"))
        guard case .refused = machine.apply(next, at: index, in: tables) else {
            Issue.record("the same user twice")
            return
        }
        (next, index) = command(3, logTime: 0, version: 1, user("bob"))
        #expect(machine.apply(next, at: index, in: tables) == .done)
        #expect(OMReads(tables).logTime == 1_000)
    }

    @Test("a snapshot in the place of the tables empties what is kept of users")
    func reset() async {
        await confirmation { isEmptied in
            OMStateMachine { isEmptied() }.reset(from: InMemoryTables())
        }
    }
}
