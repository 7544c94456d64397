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
            Foundation.exit(0)
        } catch {
            let code = exitCode(for: error)
            let text = fullMessage(for: error)
            guard !code.isSuccess else {
                print(text)
                Foundation.exit(0)
            }
            let isUsage = code == .validationFailure
            let line = isUsage || text.hasPrefix("Error") ? text : "apus: \(text)"
            if !line.isEmpty { FileHandle.standardError.write(Data((line + "\n").utf8)) }
            Foundation.exit(isUsage ? 2 : 1)
        }
    }
}
