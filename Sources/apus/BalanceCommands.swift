import ArgumentParser
import Client
import Foundation
import Model
import Wire

extension AdminCommand {
    /// `apus admin balance`
    struct Balance: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Move replicas from full datanodes to emptier ones.",
            subcommands: [Start.self, Stop.self, Status.self])

        struct Start: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Begin to move replicas, until all datanodes are about as full.",
                discussion: """
                    Only replicas of closed containers that are whole are moved, after all that is \
                    missing, as background work of the disks. It ends by itself.
                    """)
            @OptionGroup var cluster: ClusterOptions
            @Option(help: "Percent points that a datanode may be fuller or emptier than the mean.")
            var threshold: UInt32 = 10
            @Option(help: "MiB of replicas that are begun to be moved in a second.")
            var rate: UInt64 = 100

            func run() async throws {
                guard (1...1 << 20).contains(rate) else {
                    throw StoreError(
                        .invalidArgument, "--rate takes MiB a second, 1 to 1048576, not \(rate)")
                }
                var request = SCMBalanceRequest()
                request.action = .start
                request.thresholdPercent = threshold
                request.bytesPerSecond = rate << 20
                try Balance.print(
                    try await cluster.client().scm.balance(request), json: cluster.json)
            }
        }

        struct Stop: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "End it; what is being moved stays where it is.")
            @OptionGroup var cluster: ClusterOptions

            func run() async throws {
                var request = SCMBalanceRequest()
                request.action = .stop
                try Balance.print(
                    try await cluster.client().scm.balance(request), json: cluster.json)
            }
        }

        struct Status: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "How full the datanodes are, and whether replicas are being moved.")
            @OptionGroup var cluster: ClusterOptions

            func run() async throws {
                try Balance.print(
                    try await cluster.client().scm.balance(SCMBalanceRequest()),
                    json: cluster.json)
            }
        }

        private struct Row: Encodable {
            var isRunning: Bool
            var thresholdPercent: UInt32
            var bytesPerSecond: UInt64
            var averagePercent, mostPercent, leastPercent: Double
            var datanodes, datanodesOutside: UInt32
            var movesUnderWay, bytesLeft, bytesMoved: UInt64

            init(_ found: SCMBalanceResponse) {
                isRunning = found.balance.isRunning
                thresholdPercent = found.balance.thresholdPercent
                bytesPerSecond = found.balance.bytesPerSecond
                averagePercent = Double(found.averageFullness) / 100
                mostPercent = Double(found.mostFullness) / 100
                leastPercent = Double(found.leastFullness) / 100
                datanodes = found.datanodes
                datanodesOutside = found.datanodesOutside
                movesUnderWay = found.movesUnderWay
                bytesLeft = found.bytesLeft
                bytesMoved = found.bytesMoved
            }
        }

        private static func print(_ found: SCMBalanceResponse, json isJSON: Bool) throws {
            let row = Row(found)
            if isJSON { return try printJSON(row) }
            func percent(_ value: Double) -> String { String(format: "%.1f %%", value) }
            printFields([
                ("balancing", row.isRunning ? "running" : "not running"),
                (
                    "threshold",
                    row.isRunning
                        ? "\(row.thresholdPercent) %, at most "
                            + "\(formatBytes(Int(clamping: row.bytesPerSecond)))/s" : nil
                ),
                (
                    "datanodes",
                    "\(percent(row.averagePercent)) full, the fullest \(percent(row.mostPercent)), "
                        + "the emptiest \(percent(row.leastPercent))"
                ),
                (
                    "outside",
                    row.isRunning ? "\(row.datanodesOutside) of \(row.datanodes) datanodes" : nil
                ),
                ("moving", "\(row.movesUnderWay) replicas"),
                ("left", row.isRunning ? formatBytes(Int(clamping: row.bytesLeft)) : nil),
                ("moved", formatBytes(Int(clamping: row.bytesMoved))),
            ])
        }
    }
}
