import ArgumentParser
import Foundation
import Testing

@testable import apus

/// Everything that can be typed has help.
@Suite("Help")
struct HelpTests {
    /// As `--experimental-dump-help` has it.
    private struct Dump: Decodable {
        struct Name: Decodable {
            var name: String
        }
        struct Argument: Decodable {
            var kind: String
            var valueName: String?
            var preferredName: Name?
            var abstract: String?
        }
        struct Command: Decodable {
            var commandName: String
            var abstract: String?
            var arguments: [Argument]?
            var subcommands: [Command]?
        }
        var command: Command
    }

    private static func root() throws -> Dump.Command {
        do {
            _ = try Apus.parseAsRoot(["--experimental-dump-help"])
        } catch {
            let text = Apus.fullMessage(for: error)
            return try JSONDecoder().decode(Dump.self, from: Data(text.utf8)).command
        }
        throw CancellationError()
    }

    private static func walk(
        _ command: Dump.Command, _ path: [String], _ body: ([String], Dump.Command) -> Void
    ) {
        // The one that every command has of itself.
        guard command.commandName != "help" else { return }
        let path = path + [command.commandName]
        body(path, command)
        for child in command.subcommands ?? [] { walk(child, path, body) }
    }

    @Test("every command says what it does")
    func commands() throws {
        var count = 0
        Self.walk(try Self.root(), []) { path, command in
            count += 1
            let abstract = command.abstract ?? ""
            #expect(!abstract.isEmpty, "\(path.joined(separator: " ")) has no abstract")
            #expect(
                abstract.hasSuffix("."),
                "\(path.joined(separator: " ")): '\(abstract)' is no sentence")
        }
        #expect(count > 40, "the tree of commands was not walked: \(count)")
    }

    @Test("every argument, option and flag says what it is for")
    func arguments() throws {
        var count = 0
        Self.walk(try Self.root(), []) { path, command in
            for argument in command.arguments ?? [] {
                count += 1
                let name = argument.preferredName?.name ?? argument.valueName ?? "?"
                #expect(
                    argument.abstract?.isEmpty == false,
                    "\(path.joined(separator: " ")): \(name) has no help")
            }
        }
        #expect(count > 150, "the tree of commands was not walked: \(count)")
    }

    @Test("every setting says what it is for, and is there once")
    func settings() {
        for setting in Setting.all { #expect(!setting.help.isEmpty, "\(setting.key) has no help") }
        #expect(Set(Setting.all.map(\.key)).count == Setting.all.count)
    }

    @Test(
        "wrong usage is told from failure",
        arguments: [
            ["key", "nonsense"], ["key", "list", "/v/b", "--limit", "0"],
            ["key", "list", "/v/b/p", "--prefix", "q"], ["up", "--datanodes", "0"],
            ["up", "--s3", "9878"], ["up", "--replication", "rs-6"],
            ["bucket", "create", "/v/b", "--replication", "rs-6"], ["admin", "trace", "xyz"],
        ])
    func usage(arguments: [String]) {
        #expect {
            _ = try Apus.parseAsRoot(arguments)
        } throws: { error in
            Apus.exitCode(for: error) == .validationFailure
        }
    }
}
