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
                    print(report.basis)
                }
            }
            if report.degradedBlocks.value != 0 || !report.isKnown { throw ExitCode.failure }
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
        /// Until one of the containers is likely to be lost, from how they are now.
        var yearsToLoss: Double

        var columns: [String] {
            [
                replication, "\(spareNow) of \(sparePromised)",
                unreadableContainers > 0
                    ? "\(degradedContainers) (\(unreadableContainers) UNREADABLE)"
                    : "\(degradedContainers)",
                "\(containers)", "\(degradedBlocks)", "\(missingReplicas)", "\(repairs)",
                "\(waiting)", SafetyReport.years(yearsToLoss),
            ]
        }
    }

    /// Block groups below full redundancy; null: none are known of, and not enough is.
    var degradedBlocks: OrNull<UInt64>
    /// False: SCM has not heard enough yet, and there may be more.
    var isKnown: Bool
    var isInSafeMode: Bool
    /// Since the SCM that leads began to.
    var repairsEnded, repairsGivenUp: UInt64
    /// Bytes of replicas that are made in a second while any is; assumed where it is not measured.
    var rebuildBytesPerSecond: Double
    var isRebuildRateMeasured: Bool
    /// From the loss of a disk of middling fullness until it has been rebuilt.
    var diskRepairSeconds: Double
    /// What `yearsToLoss` assumes.
    var diskFailuresPerYear: Double
    /// The worst first.
    var replications: [Row]

    init(_ response: SCMSafetyResponse) {
        isInSafeMode = response.isInSafeMode
        isKnown =
            !response.isInSafeMode && response.unknownContainers == 0
            && response.unheardReplicas == 0
        degradedBlocks = OrNull(
            isKnown || response.degradedBlocks > 0 ? response.degradedBlocks : nil)
        repairsEnded = response.repairsEnded
        repairsGivenUp = response.repairsGivenUp
        rebuildBytesPerSecond = response.rebuildBytesPerSecond
        isRebuildRateMeasured = response.isRebuildRateMeasured
        diskRepairSeconds = response.diskRepairSeconds
        diskFailuresPerYear = response.diskFailuresPerYear
        replications = response.rows.map { row in
            Row(
                replication: (try? ReplicationConfig(row.replication))?.description ?? "?",
                containers: row.containers, degradedContainers: row.degradedContainers,
                unreadableContainers: row.unreadableContainers,
                degradedBlocks: row.degradedBlocks, missingReplicas: row.missingReplicas,
                spareNow: Int(row.leastRedundancy), sparePromised: Int(row.fullRedundancy),
                repairs: row.repairs, waiting: row.waiting,
                // JSON has no infinity.
                yearsToLoss: min(row.yearsToLoss, 1e15))
        }.sorted { ($0.spareNow, $0.replication) < ($1.spareNow, $1.replication) }
    }

    static let header = [
        "replication", "spare", "degraded containers", "containers", "degraded blocks",
        "missing replicas", "rebuilt now", "waiting", "years to loss",
    ]

    /// `3.1e9`: two digits are more than such a model knows.
    static func years(_ years: Double) -> String {
        years >= 1e15
            ? "> 1e15"
            : years < 1000
                ? String(format: "%.2g", years)
                : String(format: "%.1e", years)
    }

    /// What the years stand on.
    var basis: String {
        let rate = formatBytes(Int(min(rebuildBytesPerSecond, 1e15)))
        let minutes = String(format: "%.0f", diskRepairSeconds / 60)
        let percent = String(format: "%.0f", diskFailuresPerYear * 100)
        return "a lost disk is rebuilt within \(minutes) min at \(rate)/s "
            + (isRebuildRateMeasured ? "(measured)" : "(assumed: nothing was rebuilt so far)")
            + "; years to loss: \(percent) % of disks fail in a year, each by itself"
    }

    var summary: String {
        if isInSafeMode { return "SCM is in safe mode and has not heard enough yet" }
        guard isKnown else { return "SCM has not heard of everything yet: there may be more" }
        let unreadable = replications.reduce(0) { $0 + $1.unreadableContainers }
        if unreadable > 0 { return "bytes in \(unreadable) containers cannot be read now" }
        let degradedBlocks = degradedBlocks.value ?? 0
        guard degradedBlocks > 0 || replications.contains(where: { $0.missingReplicas > 0 }) else {
            return "all is at full redundancy"
        }
        let repairs = replications.reduce(0) { $0 + $1.repairs }
        let waiting = replications.reduce(0) { $0 + $1.waiting }
        return "\(degradedBlocks) block groups are below full redundancy; \(repairs) replicas are "
            + "being rebuilt, \(waiting) containers wait"
    }
}
