import ArgumentParser
import Client
import Foundation
import Model
import Wire

extension AdminCommand {
    struct SafeMode: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "safemode",
            abstract: "Safe mode: SCM waits for datanodes and places no blocks.",
            subcommands: [Status.self, Exit.self])

        struct Status: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Whether SCM is in safe mode and why, and what it has heard of.")

            private struct Result: Encodable {
                var safeMode, reason: String
                var datanodes: [String: Int]
                var containers, containersUnreadable, containersDegraded: Int
            }

            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.nodes = true
                request.containers = true
                let status = try await cluster.client().scm.status(request)
                let containers = status.containers.filter { $0.state != .containerDeleted }
                    .map { ContainerHealth($0) }
                func nodes(_ state: SCMNodeState) -> Int {
                    status.nodes.count { $0.state == state }
                }
                let result = Result(
                    safeMode: status.isInSafeMode ? "on" : "off", reason: status.safeModeReason,
                    datanodes: [
                        "dead": nodes(.dead), "stale": nodes(.stale), "healthy": nodes(.healthy),
                    ],
                    containers: containers.count,
                    containersUnreadable: containers.count { $0.spare < 0 },
                    containersDegraded: containers.count { $0.spare >= 0 && !$0.isWhole })
                if cluster.json { return try printJSON(result) }
                print(
                    status.isInSafeMode
                        ? "safe mode is on: \(shown(status.safeModeReason))"
                        : "safe mode is off")
                print(
                    "datanodes: "
                        + counts([
                            (nodes(.dead), "dead"), (nodes(.stale), "stale"),
                            (nodes(.healthy), "healthy"),
                        ]))
                print(
                    "containers: "
                        + counts([
                            (result.containersUnreadable, "UNREADABLE"),
                            (result.containersDegraded, "with missing or corrupt replicas"),
                            (containers.count(where: \.isWhole), "whole"),
                        ]))
            }

            private func counts(_ parts: [(count: Int, what: String)]) -> String {
                let found = parts.filter { $0.count > 0 }.map { "\($0.count) \($0.what)" }
                return found.isEmpty ? "none" : found.joined(separator: ", ")
            }
        }

        struct Exit: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "End safe mode before its conditions are met.",
                discussion: """
                    Keys whose datanodes are not there cannot be read, and new blocks are placed \
                    on those that are.
                    """)
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                let client = try await cluster.client()
                let wasOn = try await client.scm.status(SCMStatusRequest()).isInSafeMode
                try await client.scm.exitSafeMode()
                if cluster.json {
                    return try printJSON(["safeMode": "off", "was": wasOn ? "on" : "off"])
                }
                print(wasOn ? "safe mode has ended" : "safe mode was off already")
            }
        }
    }
}
