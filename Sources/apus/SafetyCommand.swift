import ArgumentParser
import Client
import Foundation
import Model
import Wire

extension AdminCommand {
    /// `apus admin safety`
    struct Safety: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "How safe what is stored is: what is missing, and what is being rebuilt.",
            discussion: """
                For each replication: how many replicas may be lost now before bytes are, and how \
                many of its block groups are below full redundancy. Exit code 1 if any is, or if \
                SCM does not know yet.
                """)
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            let report = SafetyReport(try await cluster.client().scm.safety())
            if cluster.json {
                try printJSON(report)
            } else {
                print(report.summary)
                if !report.replications.isEmpty {
                    printTable(SafetyReport.header, report.replications.map(\.columns))
                }
            }
            if report.degradedBlocks > 0 || !report.isKnown { throw ExitCode.failure }
        }
    }
}

/// What SCM says of how safe the cluster is, as it is printed.
struct SafetyReport: Encodable {
    struct Row: Encodable {
        var replication: String
        var containers, degradedContainers, unreadableContainers: UInt64
        var degradedBlocks, missingReplicas: UInt64
        /// Replicas that may be lost of the container that is worst off; below 0: unreadable.
        var spareNow: Int
        /// Of a container that lacks none.
        var sparePromised: Int
        var repairs, waiting: UInt64

        var columns: [String] {
            [
                replication, "\(spareNow) of \(sparePromised)",
                unreadableContainers > 0
                    ? "\(degradedContainers) (\(unreadableContainers) UNREADABLE)"
                    : "\(degradedContainers)",
                "\(containers)", "\(degradedBlocks)", "\(missingReplicas)", "\(repairs)",
                "\(waiting)",
            ]
        }
    }

    /// Block groups below full redundancy.
    var degradedBlocks: UInt64
    /// False: SCM has not heard enough yet, and there may be more.
    var isKnown: Bool
    var isInSafeMode: Bool
    /// Since the SCM that leads began to.
    var repairsEnded, repairsGivenUp: UInt64
    /// The worst first.
    var replications: [Row]

    init(_ response: SCMSafetyResponse) {
        degradedBlocks = response.degradedBlocks
        isInSafeMode = response.isInSafeMode
        isKnown = !response.isInSafeMode && response.unknownContainers == 0
        repairsEnded = response.repairsEnded
        repairsGivenUp = response.repairsGivenUp
        replications = response.rows.map { row in
            Row(
                replication: (try? ReplicationConfig(row.replication))?.description ?? "?",
                containers: row.containers, degradedContainers: row.degradedContainers,
                unreadableContainers: row.unreadableContainers,
                degradedBlocks: row.degradedBlocks, missingReplicas: row.missingReplicas,
                spareNow: Int(row.leastRedundancy), sparePromised: Int(row.fullRedundancy),
                repairs: row.repairs, waiting: row.waiting)
        }.sorted { ($0.spareNow, $0.replication) < ($1.spareNow, $1.replication) }
    }

    static let header = [
        "replication", "spare", "degraded containers", "containers", "degraded blocks",
        "missing replicas", "rebuilt now", "waiting",
    ]

    var summary: String {
        if isInSafeMode { return "SCM is in safe mode and has not heard enough yet" }
        guard isKnown else { return "SCM has not looked at everything yet: there may be more" }
        let unreadable = replications.reduce(0) { $0 + $1.unreadableContainers }
        if unreadable > 0 { return "bytes in \(unreadable) containers cannot be read now" }
        guard degradedBlocks > 0 || replications.contains(where: { $0.missingReplicas > 0 }) else {
            return "all is at full redundancy"
        }
        let repairs = replications.reduce(0) { $0 + $1.repairs }
        let waiting = replications.reduce(0) { $0 + $1.waiting }
        return "\(degradedBlocks) block groups are below full redundancy; \(repairs) replicas are "
            + "being rebuilt, \(waiting) containers wait"
    }
}
