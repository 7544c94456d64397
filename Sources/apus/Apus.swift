import ArgumentParser
import Foundation

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
            BenchCommand.self, DebugCommand.self,
        ])

    /// Exit 0 done, 1 failed, 2 wrong usage; errors go to standard error.
    static func main() async {
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            if var asyncCommand = command as? any AsyncParsableCommand {
                try await asyncCommand.run()
            } else {
                try command.run()
            }
            // What was printed may not have been written: the disk is full, or nobody reads it.
            try StandardOutput.flush()
            Foundation.exit(0)
        } catch {
            Foundation.exit(tell(error))
        }
    }

    /// Tells why it ends, if that is an error, and returns the exit code.
    private static func tell(_ error: any Error) -> Int32 {
        if error is QuietFailure { return 1 }
        let code = exitCode(for: error)
        let text = fullMessage(for: error)
        guard !code.isSuccess else {
            print(text)
            return 0
        }
        fflush(nil)
        let isUsage = code == .validationFailure
        guard !text.isEmpty else { return isUsage ? 2 : 1 }
        if isUsage || text.hasPrefix("Error") {
            // Several lines: the error, and how the command is used.
            let lines = Escaping.errorIsTerminal ? Escaping.escapedLines(text) : text
            FileHandle.standardError.write(Data((lines + "\n").utf8))
        } else {
            note(text)
        }
        return isUsage ? 2 : 1
    }
}
