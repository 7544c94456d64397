import ArgumentParser
import Client
import Foundation
import Model
import SCMCore
import Wire

extension AdminCommand {
    /// `apus admin status`
    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Whether the cluster is well, and what to do if it is not.",
            discussion: """
                What keeps bytes from being read or written comes first, then what would with the \
                next loss. Exits with 0 only if the cluster is well, so that it can be asked by a \
                monitor.
                """)
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            let runtime = try Runtime(name: "apus", memory: .datanodes, reactors: 1)
            let settings = try await cluster.settings()
            let client = try Roles.client(settings, runtime)
            let user = cluster.user
            var request = SCMStatusRequest()
            request.nodes = true
            request.containers = true
            async let names = Self.outcome { () async throws(StoreError) in
                do throws(StoreError) {
                    return try await client.volumes(user: user).count
                } catch {
                    // OM says so itself: a cluster is well before it has its first user.
                    guard error.code == .noSuchUser || error.code == .accessDenied else {
                        throw error
                    }
                    return 0
                }
            }
            let places = await Self.outcome { [request] () async throws(StoreError) in
                try await client.scm.status(request)
            }
            var groups: [GroupHealth] = []
            for role in [ClusterRole.om, .scm] {
                groups.append(try await GroupHealth.ask(role, settings, runtime))
            }
            let page = StatusPage(om: await names, scm: places, groups: groups)
            if cluster.json { try printJSON(page) } else { page.print() }
            guard page.isWell else { throw ExitCode.failure }
        }

        private static func outcome<T: Sendable>(
            _ body: @Sendable () async throws(StoreError) -> T
        ) async -> Result<T, StoreError> {
            do throws(StoreError) { return .success(try await body()) } catch {
                return .failure(error)
            }
        }
    }
}

/// What is said of a cluster on one page.
struct StatusPage: Encodable {
    /// Something that is not as it should be.
    struct Finding: Encodable, Comparable {
        enum Severity: String, Encodable, Comparable, CaseIterable {
            /// Bytes cannot be read, or nothing can be written.
            case outage
            /// All works, with less redundancy than was asked for, or not for long any more.
            case danger

            static func < (a: Self, b: Self) -> Bool {
                allCases.firstIndex(of: a)! < allCases.firstIndex(of: b)!
            }
        }

        var severity: Severity
        var what: String
        /// What to do about it.
        var advice: String

        static func < (a: Self, b: Self) -> Bool { a.severity < b.severity }
    }

    /// A volume with less of it free is told of.
    static let leastFreePart = 0.05

    var isWell: Bool
    var summary: [String]
    var findings: [Finding]

    /// - Parameter groups: of OM and SCM.
    init(
        om: Result<Int, StoreError>, scm: Result<SCMStatusResponse, StoreError>,
        groups: [GroupHealth] = []
    ) {
        var findings: [Finding] = groups.flatMap(\.findings)
        summary = groups.compactMap(\.summary)
        switch om {
        case .success: summary.append("OM answers")
        case .failure(let error):
            summary.append("OM does not answer")
            findings.append(
                Finding(
                    severity: .outage, what: "OM: \(error.message)",
                    advice: "start it (apus om); its log says why it ended"))
        }
        switch scm {
        case .success(let status):
            Self.look(at: status, &summary, &findings)
        case .failure(let error):
            summary.append("SCM does not answer")
            findings.append(
                Finding(
                    severity: .outage, what: "SCM: \(error.message)",
                    advice: "start it (apus scm); what is placed can be read meanwhile, new blocks "
                        + "cannot be placed"))
        }
        // Those of a kind stay in their order.
        self.findings =
            Finding.Severity.allCases.flatMap { kind in findings.filter { $0.severity == kind } }
        isWell = findings.isEmpty
    }

    private static func look(
        at status: SCMStatusResponse, _ summary: inout [String], _ findings: inout [Finding]
    ) {
        summary.append(status.isInSafeMode ? "SCM is in safe mode" : "SCM answers")
        if status.isInSafeMode {
            findings.append(
                Finding(
                    severity: .outage,
                    what: "safe mode: no blocks are placed: \(status.safeModeReason)",
                    advice: "start the datanodes that are missing, or, if they will not come back, "
                        + "end it with apus admin safemode exit"))
        }
        for node in status.nodes.worstFirst({ NodeHealth($0) }) { look(at: node, &findings) }
        look(at: status.containers.filter { $0.state != .containerDeleted }, &summary, &findings)
        look(atPlaces: status, &findings)
        look(atRoom: status, &findings)
        let counts = [(SCMNodeState.dead, "dead"), (.stale, "stale"), (.healthy, "healthy")].map {
            state, name in (count: status.nodes.count { $0.state == state }, what: name)
        }
        let place = summary.lastIndex { $0.hasPrefix("SCM ") } ?? summary.count
        let away = status.nodes.filter { $0.state != .healthy && $0.mayBeAway }.count
        let expected = away > 0 ? " (\(away) decommissioned or in maintenance)" : ""
        summary.insert("datanodes: \(text(counts))\(expected)", at: place)
        let leaving = status.nodes.filter(\.hasOperation).map { OperationRow($0) }
            .filter(\.isUnderWay)
        if !leaving.isEmpty {
            summary.append("leaving service: \(leaving.map(\.address).joined(separator: ", "))")
        }
        let volumes = status.nodes.filter { $0.state == .healthy }.flatMap(\.volumes)
        let capacity = volumes.reduce(0) { $0 + $1.capacity }
        let available = volumes.reduce(0) { $0 + $1.available }
        summary.append(
            "space: \(formatBytes(Int(clamping: available))) of "
                + "\(formatBytes(Int(clamping: capacity))) are free")
    }

    private static func look(at node: SCMNodeInfo, _ findings: inout [Finding]) {
        let name = "\(node.address.host):\(node.address.port)"
        let silent = "\(node.millisecondsSinceHeartbeat / 1000) s"
        switch node.state {
        // It may be away.
        case .dead where node.mayBeAway, .stale where node.mayBeAway: break
        case .dead:
            findings.append(
                Finding(
                    severity: .danger, what: "datanode \(name) is dead: silent for \(silent)",
                    advice: "start it, or find out why its machine does not answer"))
        case .stale:
            findings.append(
                Finding(
                    severity: .danger, what: "datanode \(name) is stale: silent for \(silent)",
                    advice: "see whether it is overloaded, or the network to it"))
        case .healthy, .UNRECOGNIZED: break
        }
        if node.unknownReplicas > 0 {
            findings.append(
                Finding(
                    severity: .danger,
                    what:
                        "datanode \(name) has \(node.unknownReplicas) replicas of containers that "
                        + "SCM does not know",
                    advice: "they are left alone. Find out why: SCM's tables may be older than "
                        + "these (were they put back from a copy?), or the datanode's disks come "
                        + "from another cluster's"))
        }
        for volume in node.volumes where volume.isFailed {
            findings.append(
                Finding(
                    severity: .danger,
                    what: "datanode \(name): \(volume.path) is out: \(volume.reason)",
                    advice: "replace the disk, or start the datanode again once its cause is gone"))
        }
        for disk in node.slowDisks where disk.state != .observed {
            findings.append(
                Finding(
                    severity: .danger,
                    what: "datanode \(name): a disk is slow: \(SlowDisk(disk).text)",
                    advice: disk.state == .avoided
                        ? "nothing new is placed there until it is as the others; if it stays so, "
                            + "replace it"
                        : "too many are slow to avoid this one too: see what they share"))
        }
        for volume in node.volumes
        where !volume.isFailed && !volume.isLeaving && volume.capacity > 0 {
            let part = Double(volume.available) / Double(volume.capacity)
            guard part < leastFreePart else { continue }
            findings.append(
                Finding(
                    severity: .danger,
                    what: "datanode \(name): \(volume.path) is nearly full: "
                        + "\(formatBytes(Int(clamping: volume.available))) free",
                    advice: "add disks or datanodes, or delete what is not needed"))
        }
    }

    private static func look(
        at containers: [SCMContainerInfo], _ summary: inout [String], _ findings: inout [Finding]
    ) {
        let health = containers.map { (id: $0.id, health: ContainerHealth($0)) }
        let unreadable = health.filter { $0.health.spare < 0 }.map(\.id)
        let degraded = health.filter { $0.health.spare >= 0 && !$0.health.isWhole }.map(\.id)
        if !unreadable.isEmpty {
            findings.append(
                Finding(
                    severity: .outage,
                    what: "too few replicas are there to read \(list(unreadable))",
                    advice: "bring back the datanodes and disks that have the missing ones; "
                        + "apus admin container info ID names them"))
        }
        if !degraded.isEmpty {
            findings.append(
                Finding(
                    severity: .danger,
                    what: "replicas are missing or damaged of \(list(degraded)); all can be read",
                    advice:
                        "wait: those of closed containers are rebuilt elsewhere by themselves, a "
                        + "dead datanode's after scm.repair-after-ms (apus admin safety tells "
                        + "how far that is). Or bring back the datanodes and disks that have "
                        + "them"))
        }
        summary.append(
            "containers: "
                + text([
                    (unreadable.count, "UNREADABLE"), (degraded.count, "degraded"),
                    (health.count(where: \.health.isWhole), "whole"),
                ]))
    }

    /// Whether there are datanodes enough for what is written.
    private static func look(
        atPlaces status: SCMStatusResponse, _ findings: inout [Finding]
    ) {
        let healthy = status.nodes.count { $0.state == .healthy && !$0.hasOperation }
        let written = written(status)
        if healthy == 0 {
            findings.append(
                Finding(
                    severity: .outage, what: "no datanode is healthy and in service",
                    advice: "start the datanodes; their logs say why they ended"))
        }
        for replication in written.sorted(by: { $0.width > $1.width })
        where (1..<replication.width).contains(healthy) {
            findings.append(
                Finding(
                    severity: healthy > replication.minimumReplicas ? .danger : .outage,
                    what:
                        "\(healthy) datanodes are healthy and in service, and \(replication) wants "
                        + "\(replication.width)",
                    advice: "new blocks have fewer replicas, or cannot be placed; start or add "
                        + "datanodes"))
        }
    }

    /// What is written: what was is what will be.
    private static func written(_ status: SCMStatusResponse) -> Set<ReplicationConfig> {
        Set(
            status.containers.filter { $0.state != .containerDeleted }
                .compactMap { try? ReplicationConfig($0.replication) })
    }

    /// Whether datanodes have room for new blocks, as SCM sees it.
    private static func look(
        atRoom status: SCMStatusResponse, _ findings: inout [Finding]
    ) {
        let least = UInt64(SCMState.Options().minimumFreeBytes)
        let disks = status.nodes.filter { $0.state == .healthy && !$0.hasOperation }
            .map { $0.volumes.filter { !$0.isFailed && !$0.isLeaving } }
        let full = disks.count { !$0.isEmpty && $0.allSatisfy { $0.available < least } }
        guard full > 0 else { return }
        let room = disks.count { $0.contains { $0.available >= least } }
        let wanted = written(status).map { min($0.minimumReplicas + 1, $0.width) }.max() ?? 1
        let what =
            "\(full) of \(disks.count) datanodes have less than \(formatBytes(Int(least))) free on "
            + "each of their disks"
        findings.append(
            room < wanted
                ? Finding(
                    severity: .outage, what: "the cluster is full, nothing can be written: \(what)",
                    advice: "add disks or datanodes, or delete what is not needed: what is deleted "
                        + "gives its space back after om.deletion-delay-ms")
                : Finding(
                    severity: .danger, what: "\(what): nothing new is placed there",
                    advice: "add disks or datanodes, or have them evened out: apus admin balance"))
    }

    /// `container 7`, `12 containers: 1, 2, 3, 4, 5…`.
    private static func list(_ ids: [UInt64]) -> String {
        guard ids.count > 1 else { return "container \(ids[0])" }
        let first = ids.sorted().prefix(5).map(String.init).joined(separator: ", ")
        return "\(ids.count) containers: \(first)\(ids.count > 5 ? "…" : "")"
    }

    private static func text(_ parts: [(count: Int, what: String)]) -> String {
        let found = parts.filter { $0.count > 0 }.map { "\($0.count) \($0.what)" }
        return found.isEmpty ? "none" : found.joined(separator: ", ")
    }

    func print() {
        Swift.print(
            isWell
                ? "the cluster is well"
                : "the cluster is NOT well: \(findings.count) "
                    + (findings.count == 1 ? "thing to look at" : "things to look at"))
        for line in summary { Swift.print("  " + shown(line)) }
        for (number, finding) in findings.enumerated() {
            let kind = finding.severity == .outage ? "OUTAGE" : "danger"
            Swift.print("\n\(number + 1). \(kind): \(shown(finding.what))")
            Swift.print("   do: \(shown(finding.advice))")
        }
    }
}

extension SCMNodeInfo {
    /// Whether it is decommissioned or in maintenance: that it is silent is no news.
    fileprivate var mayBeAway: Bool {
        hasOperation && [.decommissioned, .inMaintenance].contains(operation.operation.state)
    }
}
