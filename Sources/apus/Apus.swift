import ArgumentParser
import Foundation
import Model
import Reactor

/// The one program: every role, and the commands that talk to a cluster.
@main
struct Apus: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apus",
        abstract: "An object store on erasure-coded containers, with Apache Ozone's architecture.",
        version: "0.1.0",
        subcommands: [
            Up.self, OMCommand.self, SCMCommandLine.self, DatanodeCommand.self,
            S3GatewayCommand.self, VolumeCommand.self, BucketCommand.self, KeyCommand.self,
            UserCommand.self, AdminCommand.self, DiskCommand.self, ConfigCommand.self,
            InitCommand.self,
            BenchCommand.self, DebugCommand.self,
        ])

    /// Exit 0 done, 1 failed, 2 wrong usage; errors go to standard error.
    static func main() async {
        signal(SIGPIPE, SIG_IGN)
        // Before anything asks how many there may be.
        Descriptors.raiseLimit()
        // Whose usage is told if its arguments turn out to be wrong while it runs.
        var running: any ParsableCommand.Type = Self.self
        do {
            var command = try parseAsRoot()
            running = type(of: command)
            if var asyncCommand = command as? any AsyncParsableCommand {
                try await asyncCommand.run()
            } else {
                try command.run()
            }
            // What was printed may not have been written: the disk is full, or nobody reads it.
            try StandardOutput.flush()
            Foundation.exit(0)
        } catch {
            Foundation.exit(tell(error, of: running))
        }
    }

    /// Tells why it ends, if that is an error, and returns the exit code.
    private static func tell(_ error: any Error, of command: any ParsableCommand.Type) -> Int32 {
        if error is QuietFailure { return 1 }
        if let error = error as? StoreError {
            fflush(nil)
            note("\(error)" + (error.code == .connection ? "; is the cluster running?" : ""))
            return 1
        }
        let code = command.exitCode(for: error)
        let text = command.fullMessage(for: error)
        guard !code.isSuccess else {
            print(text)
            return 0
        }
        fflush(nil)
        let isUsage = code == .validationFailure
        guard !text.isEmpty else { return isUsage ? 2 : 1 }
        if isUsage {
            // Several lines: the error, and how the command is used.
            let lines = Escaping.errorIsTerminal ? Escaping.escapedLines(text) : text
            FileHandle.standardError.write(Data((lines + "\n").utf8))
        } else {
            note(text.hasPrefix("Error: ") ? String(text.dropFirst("Error: ".count)) : text)
        }
        return isUsage ? 2 : 1
    }
}
