import ArgumentParser
import Client
import Foundation
import Model
import SCMCore
import Wire

extension AdminCommand.Datanode {
    /// Names datanodes, as `apus admin datanode list` shows them.
    struct NodeNames: ParsableArguments {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Datanodes: IDs, or HOST:PORT, or HOST where there is one alone.")
        var datanodes: [String]

        /// Asks for it, and prints how these datanodes are then.
        func operate(
            _ state: SCMOperationalState, endsAt: UInt64 = 0, force: Bool = false
        ) async throws {
            let client = try await cluster.client()
            var question = SCMStatusRequest()
            question.nodes = true
            let known = try await client.scm.status(question).nodes
            var request = SCMOperateRequest()
            request.nodes = try datanodes.map { try Self.find($0, among: known).id }
            request.state = state
            request.endsAtMilliseconds = endsAt
            request.isForced = force
            let named = Set(request.nodes)
            let rows = try await client.scm.operate(request)
                .filter { named.contains($0.address.id) }.map { OperationRow($0) }
            if cluster.json { return try printJSON(rows) }
            for row in rows { print("datanode \(shown(row.address)) is \(row.state)") }
        }

        /// The datanode that `name` means.
        static func find(
            _ name: String, among known: [SCMNodeInfo]
        ) throws(StoreError) -> WireAddress {
            let addresses = known.map(\.address)
            let byID = addresses.filter { Identity128($0.id).description == name }
            let byPlace = addresses.filter { "\($0.host):\($0.port)" == name || $0.host == name }
            let found = byID.isEmpty ? byPlace : byID
            guard let first = found.first else {
                throw StoreError(
                    .invalidArgument,
                    "there is no datanode \(name); apus admin datanode list shows those that are "
                        + "known")
            }
            guard found.count == 1 else {
                let names = found.prefix(8).map { "\($0.host):\($0.port)" }
                throw StoreError(
                    .invalidArgument,
                    "\(name) has \(found.count) datanodes: say which one: "
                        + names.joined(separator: ", "))
            }
            return first
        }
    }

    struct Decommission: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take datanodes out of service for good.",
            discussion: """
                They get nothing new; what they have is copied to others, and can be read and \
                counts meanwhile. Once a datanode is decommissioned it can be switched off. \
                Refused where too few would be left for what is stored.
                """)
        @OptionGroup var nodes: NodeNames
        @Flag(help: "Begin although too few datanodes would be left.") var force = false

        func run() async throws { try await nodes.operate(.decommissioning, force: force) }
    }

    struct Maintenance: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let datanodes be away for a while, without their replicas being rebuilt.",
            discussion: """
                They get nothing new. A container that would have too few replicas in service \
                without them has some copied to others first; then they are in maintenance, and \
                can be switched off.
                """)
        @OptionGroup var nodes: NodeNames
        @Option(
            name: .customLong("for"),
            help:
                "How long: 90m, 2h, 3d. They are in service again then. Default: until recommission."
        )
        var duration: String?
        @Flag(help: "Begin although too few datanodes would be left.") var force = false

        func run() async throws {
            var end: UInt64 = 0
            if let duration {
                let now = UInt64(Date().timeIntervalSince1970 * 1000)
                end = now + (try Self.milliseconds(duration))
            }
            try await nodes.operate(.enteringMaintenance, endsAt: end, force: force)
        }

        /// `90m`, `2h`, `3d`; from a minute to a year.
        static func milliseconds(_ text: String) throws(StoreError) -> UInt64 {
            let units: [Character: UInt64] = ["m": 60_000, "h": 3_600_000, "d": 86_400_000]
            guard let unit = text.last.flatMap({ units[$0] }), let count = UInt64(text.dropLast()),
                case (let milliseconds, false) = count.multipliedReportingOverflow(by: unit),
                (60_000...366 * 86_400_000).contains(milliseconds)
            else {
                throw StoreError(
                    .invalidArgument,
                    "--for takes minutes, hours or days, from 1m to 366d, as 90m, 2h or 3d; not "
                        + "'\(text)'")
            }
            return milliseconds
        }
    }

    struct Recommission: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put datanodes into service again.",
            discussion: "What has been copied to others meanwhile stays there.")
        @OptionGroup var nodes: NodeNames

        func run() async throws { try await nodes.operate(.inService) }
    }

    struct Progress: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "How far datanodes and disks are that leave service.",
            discussion: """
                Exit code 1 while one of them has something left to copy. What is estimated \
                assumes that it goes on as it has gone so far.
                """)
        @OptionGroup var cluster: ClusterOptions

        private struct Report: Encodable {
            var datanodes: [OperationRow]
            var disks: [LeavingDiskRow]
        }

        func run() async throws {
            var request = SCMStatusRequest()
            request.nodes = true
            let nodes = try await cluster.client().scm.status(request).nodes
            let report = Report(
                datanodes: nodes.filter(\.hasOperation).map { OperationRow($0) },
                disks: nodes.flatMap { LeavingDiskRow.rows(of: $0) })
            if cluster.json {
                try printJSON(report)
            } else if report.datanodes.isEmpty && report.disks.isEmpty {
                print("all datanodes and disks are in service")
            }
            if !cluster.json, !report.datanodes.isEmpty {
                printTable(OperationRow.header, report.datanodes.map(\.columns))
            }
            if !cluster.json, !report.disks.isEmpty {
                printTable(LeavingDiskRow.header, report.disks.map(\.columns))
            }
            let isUnderWay =
                report.datanodes.contains(where: \.isUnderWay)
                || report.disks.contains(where: \.isUnderWay)
            if isUnderWay { throw ExitCode.failure }
        }
    }
}

/// How far a datanode is that leaves service, as it is printed.
struct OperationRow: Encodable {
    var id, address, state: String
    var containersLeft, containersOpen, replicasUnderWay: UInt64
    var bytesLeft, bytesMoved: UInt64
    /// Until all is copied; nil: not known yet, or done.
    var secondsLeft: UInt64?
    /// When maintenance ends by itself, in seconds since 1970; nil: when it is said.
    var endsAt: UInt64?
    /// Whether something has to be copied yet.
    var isUnderWay: Bool

    init(_ node: SCMNodeInfo) {
        let progress = node.operation
        id = Identity128(node.address.id).description
        address = "\(node.address.host):\(node.address.port)"
        state = progress.operation.state.text
        containersLeft = progress.containersLeft
        containersOpen = progress.open
        replicasUnderWay = progress.underWay
        bytesLeft = progress.bytesLeft
        bytesMoved = progress.bytesMoved
        isUnderWay = [.decommissioning, .enteringMaintenance].contains(progress.operation.state)
        if progress.operation.endsAtMilliseconds > 0 {
            endsAt = progress.operation.endsAtMilliseconds / 1000
        }
        // From the first fiftieth on: before that the rate says little.
        if isUnderWay, bytesLeft > 0, bytesMoved > 0, bytesMoved >= bytesLeft / 49,
            progress.millisecondsCounted > 0
        {
            let rate = Double(bytesMoved) / Double(progress.millisecondsCounted)
            secondsLeft = UInt64(min(Double(bytesLeft) / rate / 1000, 1e15).rounded(.up))
        }
    }

    static let header = [
        "datanode", "state", "containers left", "bytes left", "copied", "copied now", "done in",
    ]

    var columns: [String] {
        [
            address, state,
            containersOpen > 0
                ? "\(containersLeft), \(containersOpen) of them open" : "\(containersLeft)",
            formatBytes(Int(clamping: bytesLeft)), formatBytes(Int(clamping: bytesMoved)),
            "\(replicasUnderWay)", end,
        ]
    }

    private var end: String {
        if let endsAt, !isUnderWay { return "back \(Self.time(endsAt))" }
        guard isUnderWay else { return "-" }
        return secondsLeft.map { Self.duration($0) } ?? "not known yet"
    }

    static func duration(_ seconds: UInt64) -> String {
        switch seconds {
        case ..<120: "\(seconds) s"
        case ..<7200: "\(seconds / 60) min"
        case ..<172_800: "\(seconds / 3600) h"
        default: "\(seconds / 86_400) days"
        }
    }

    private static func time(_ seconds: UInt64) -> String {
        Date(timeIntervalSince1970: Double(seconds)).formatted(.iso8601)
    }
}
