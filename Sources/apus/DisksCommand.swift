import ArgumentParser
import Client
import Foundation
import Model
import Reactor
import Telemetry
import Wire

extension AdminCommand.Datanode {
    /// `apus admin datanode disks`
    struct Disks: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "How the disks of the datanodes do: latencies, queues, throughput, errors.",
            discussion: """
                Percentiles are of all I/O classes together, from the start of an operation to its \
                end. Without --watch they cover the time since each datanode started, and rates \
                are measured over one second; with it both are of the last second. A latency \
                marked * is more than twice the median of all disks shown. Disks that SCM finds \
                slow are told of before the table. Failed disks come first, then those with \
                damaged blocks or errors.
                """)
        @OptionGroup var cluster: ClusterOptions
        @Option(help: "Only this datanode: its identity or the beginning of it, or HOST:PORT.")
        var node: String?
        @Flag(help: "Look each second until interrupted.") var watch = false

        func run() async throws {
            let client = try await cluster.client()
            let isTerminal = isatty(STDOUT_FILENO) == 1
            var before = try await DiskSample.take(client, node: node)
            repeat {
                try await Task.sleep(for: .seconds(1))
                let now = try await DiskSample.take(client, node: node)
                let rows = DiskRow.rows(now, since: before, latenciesSince: watch)
                    .worstFirst(\.health)
                before = now
                if cluster.json {
                    try printJSON(rows)
                } else {
                    if watch && isTerminal { print("\u{1B}[H\u{1B}[2J", terminator: "") }
                    DiskRow.print(rows, unreachable: now.unreachable)
                }
                fflush(nil)
            } while watch
            guard node == nil || !before.nodes.isEmpty else {
                throw StoreError(.unavailable, "datanode \(node ?? "") does not answer")
            }
        }
    }
}

/// What all datanodes said of their disks at one time.
struct DiskSample: Sendable {
    var nodes: [(address: DatanodeAddress, response: DNDisksResponse)]
    /// Those that SCM finds slow, by node and path.
    var slow: [DatanodeID: [String: SlowDisk]] = [:]
    /// Those that did not answer, and why.
    var unreachable: [String]

    /// Asks the datanodes that SCM knows, all at the same time.
    static func take(_ client: ClusterClient, node: String?) async throws -> Self {
        var request = SCMStatusRequest()
        request.nodes = true
        var addresses: [DatanodeAddress] = []
        var slow: [DatanodeID: [String: SlowDisk]] = [:]
        for info in try await client.scm.status(request).nodes {
            guard let address = try DatanodeAddress(info.address) else { continue }
            if let node, !matches(address, node) { continue }
            addresses.append(address)
            for disk in info.slowDisks {
                slow[address.id, default: [:]][disk.path] = SlowDisk(disk)
            }
        }
        guard !addresses.isEmpty else {
            throw StoreError(
                .invalidArgument, node.map { "there is no datanode '\($0)'" } ?? "no datanodes")
        }
        var sample = Self(nodes: [], slow: slow, unreachable: [])
        await withTaskGroup(of: (DatanodeAddress, Result<DNDisksResponse, StoreError>).self) {
            for address in addresses {
                $0.addTask {
                    do throws(StoreError) {
                        return (address, .success(try await client.disks(of: address)))
                    } catch {
                        return (address, .failure(error))
                    }
                }
            }
            for await (address, result) in $0 {
                switch result {
                case .success(let response): sample.nodes.append((address, response))
                case .failure(let error):
                    sample.unreachable.append("\(address.host):\(address.port): \(error.message)")
                }
            }
        }
        sample.nodes.sort { one, other in
            (one.address.host, one.address.port) < (other.address.host, other.address.port)
        }
        sample.unreachable.sort()
        return sample
    }

    private static func matches(_ address: DatanodeAddress, _ text: String) -> Bool {
        address.id.description.hasPrefix(text.lowercased())
            || "\(address.host):\(address.port)" == text
    }
}

/// One disk of one datanode, as the command shows it. Times are nanoseconds.
struct DiskRow: Encodable {
    struct Latency: Encodable {
        var count, p50, p99, p999, maximum: UInt64

        init(_ values: LatencySnapshot) {
            count = values.count
            p50 = values.p50
            p99 = values.p99
            p999 = values.p999
            maximum = values.maximum
        }
    }

    var datanode, address, disk: String
    var read, write, sync: Latency
    var inFlight, queued: UInt64
    /// Of the last interval.
    var readBytesPerSecond, writtenBytesPerSecond: Double
    var operationsPerSecond: Double
    /// Since the datanode's start.
    var errors, refused: UInt64
    var capacity, available: UInt64
    var isFailed: Bool
    var reason: String
    var scrub: String
    var scrubDamaged: UInt64
    /// Until the round of scrubbing ends, at the rate that it has had so far; nil: none is under way.
    var scrubSecondsLeft: UInt64?
    /// If SCM finds it slow.
    var slow: SlowDisk?

    /// The disks of `sample`, with rates since `earlier`.
    static func rows(
        _ sample: DiskSample, since earlier: DiskSample, latenciesSince: Bool
    ) -> [DiskRow] {
        sample.nodes.flatMap { node in
            let old = earlier.nodes.first { $0.address.id == node.address.id }?.response
            // One that was started anew meanwhile counts from its start.
            let isSame = old.map { $0.nanoseconds < node.response.nanoseconds } ?? false
            return node.response.disks.map { disk in
                let before = isSame ? old?.disks.first { $0.volume.path == disk.volume.path } : nil
                let seconds =
                    Double(node.response.nanoseconds &- (old?.nanoseconds ?? 0)) / 1e9
                var row = DiskRow(
                    node.address, disk, since: before, seconds: seconds,
                    latenciesSince: latenciesSince)
                row.slow = sample.slow[node.address.id]?[disk.volume.path]
                return row
            }
        }
    }

    private init(
        _ node: DatanodeAddress, _ disk: DNDiskState, since before: DNDiskState?, seconds: Double,
        latenciesSince: Bool
    ) {
        datanode = node.id.description
        address = "\(node.host):\(node.port)"
        self.disk = disk.volume.path
        func latency(_ part: (DNDiskClass) -> DNLatencies) -> Latency {
            let now = Self.merged(disk, part)
            guard latenciesSince, let before else { return Latency(now) }
            let old = Self.merged(before, part)
            // Fewer than before: the datanode was started anew.
            return Latency(old.count <= now.count ? now.since(old) : now)
        }
        read = latency(\.reads)
        write = latency(\.writes)
        sync = latency(\.syncs)
        func sum(_ disk: DNDiskState?, _ part: (DNDiskClass) -> UInt64) -> UInt64 {
            disk?.classes.reduce(0) { $0 + part($1) } ?? 0
        }
        func rate(_ part: (DNDiskClass) -> UInt64) -> Double {
            guard let before, seconds > 0 else { return 0 }
            let (now, old) = (sum(disk, part), sum(before, part))
            return now >= old ? Double(now - old) / seconds : 0
        }
        inFlight = sum(disk, \.inFlight)
        queued = sum(disk, \.queued)
        readBytesPerSecond = rate(\.bytesRead)
        writtenBytesPerSecond = rate(\.bytesWritten)
        operationsPerSecond = rate { measures in
            [measures.reads, measures.writes, measures.syncs].reduce(0) {
                $0 + $1.counts.reduce(0, +)
            }
        }
        errors = sum(disk, \.errors)
        refused = sum(disk, \.refused)
        capacity = disk.volume.capacity
        available = disk.volume.available
        isFailed = disk.volume.isFailed
        reason = disk.volume.reason
        scrub = Self.scrub(disk)
        scrubDamaged = disk.scrub.damaged
        scrubSecondsLeft = Self.secondsLeft(disk)
    }

    private static func secondsLeft(_ disk: DNDiskState) -> UInt64? {
        let scrub = disk.scrub
        guard disk.hasScrub, scrub.activity == "reading", scrub.bytesPerSecond > 0 else {
            return nil
        }
        return (scrub.bytesTotal - min(scrub.bytesDone, scrub.bytesTotal)) / scrub.bytesPerSecond
    }

    /// A time in two digits at most: 40s, 12m, 7h, 3d.
    private static func short(seconds: UInt64) -> String {
        for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] as [(String, UInt64)]
        where seconds >= 2 * length {
            return "\(seconds / length)\(unit)"
        }
        return "\(seconds)s"
    }

    private static func merged(
        _ disk: DNDiskState, _ part: (DNDiskClass) -> DNLatencies
    ) -> LatencySnapshot {
        disk.classes.reduce(into: LatencySnapshot()) { all, measures in
            let message = part(measures)
            let buckets = zip(message.buckets, message.counts).map { (Int($0), $1) }
            // A bucket that is not ours came from another version: its values are left out.
            if let values = LatencySnapshot(
                buckets: buckets, sum: message.sum, maximum: message.maximum)
            {
                all.merge(values)
            }
        }
    }

    private static func scrub(_ disk: DNDiskState) -> String {
        guard disk.hasScrub else { return "off" }
        let scrub = disk.scrub
        let damaged = scrub.damaged > 0 ? " \(scrub.damaged) bad" : ""
        guard scrub.activity != "idle" else { return "idle" + damaged }
        let percent = scrub.bytesTotal == 0 ? 100 : scrub.bytesDone * 100 / scrub.bytesTotal
        let left = secondsLeft(disk).map { " " + short(seconds: $0) } ?? ""
        return (scrub.activity == "paused" ? "paused " : "") + "\(percent)%" + left + damaged
    }
}

extension DiskRow {
    /// How a disk is; worse is less.
    struct Health: Comparable {
        var isFailed: Bool
        var damaged, errors: UInt64

        static func < (a: Self, b: Self) -> Bool {
            (a.isFailed ? 1 : 0, a.damaged, a.errors) > (b.isFailed ? 1 : 0, b.damaged, b.errors)
        }
    }

    var health: Health { Health(isFailed: isFailed, damaged: scrubDamaged, errors: errors) }

    /// Prints the disks, a line each, of at most 100 columns while numbers are not absurd.
    static func print(_ rows: [DiskRow], unreachable: [String]) {
        let header = [
            "DATANODE", "DISK", "READ", "WRITE", "SYNC", "Q", "IO/S", "IN/S", "OUT/S", "ERR",
            "FREE", "SCRUB",
        ]
        for line in unreachable { Swift.print(shown("no answer from \(line)")) }
        for row in rows where row.isFailed {
            Swift.print(shown("\(row.disk) is out: \(row.reason)"))
        }
        for row in rows {
            guard let slow = row.slow else { continue }
            Swift.print(shown("\(slow.state): \(row.address) \(slow.text)"))
        }
        let lines = [header] + columns(rows).map { $0.map(shown) }
        let widths = header.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
        for line in lines {
            let cells = line.enumerated().map { column, text in
                let space = String(repeating: " ", count: widths[column] - text.count)
                return column < 2 ? text + space : space + text
            }
            Swift.print(cells.joined(separator: " "))
        }
        Swift.print(
            "READ WRITE SYNC: p50/p99/p99.9 in ms, * far above the others; Q: in flight+waiting")
    }

    private static func columns(_ rows: [DiskRow]) -> [[String]] {
        func median(_ part: (DiskRow) -> Latency) -> UInt64 {
            let values = rows.map(part).filter { $0.count > 0 }.map(\.p99).sorted()
            return values.isEmpty ? 0 : values[(values.count - 1) / 2]
        }
        let medians = (median(\.read), median(\.write), median(\.sync))
        return rows.map { row in
            [
                String(row.datanode.prefix(8)), short(row.disk),
                text(row.read, usual: medians.0), text(row.write, usual: medians.1),
                text(row.sync, usual: medians.2),
                row.queued == 0 ? "\(row.inFlight)" : "\(row.inFlight)+\(row.queued)",
                count(row.operationsPerSecond), bytes(row.writtenBytesPerSecond),
                bytes(row.readBytesPerSecond), "\(row.errors)",
                row.isFailed ? "out" : bytes(Double(row.available)), row.scrub,
            ]
        }
    }

    /// The last two parts of a path, their last 12 characters.
    private static func short(_ path: String) -> String {
        String(path.split(separator: "/").suffix(2).joined(separator: "/").suffix(12))
    }

    /// Percentiles in milliseconds, marked if the 99th is more than twice the usual one.
    private static func text(_ latency: Latency, usual: UInt64) -> String {
        guard latency.count > 0 else { return "-" }
        let mark = latency.p99 > usual * 2 && usual > 0 ? "*" : ""
        return [latency.p50, latency.p99, latency.p999].map(milliseconds).joined(separator: "/")
            + mark
    }

    private static func milliseconds(_ nanoseconds: UInt64) -> String {
        let value = Double(nanoseconds) / 1e6
        if value < 0.995 { return String(String(format: "%.2f", value).dropFirst()) }
        if value >= 10_000 { return String(format: "%.0fs", value / 1000) }
        return String(format: value < 10 ? "%.1f" : "%.0f", value)
    }

    private static func count(_ value: Double) -> String {
        value < 9_999.5 ? String(format: "%.0f", value) : String(format: "%.0fk", value / 1000)
    }

    /// Bytes in at most five characters: 1.5G.
    private static func bytes(_ value: Double) -> String {
        var value = value
        for unit in ["", "K", "M", "G", "T"] {
            if value < 1000 {
                let format = unit.isEmpty || value >= 10 ? "%.0f%@" : "%.1f%@"
                return String(format: format, value, unit)
            }
            value /= 1024
        }
        return String(format: "%.0fP", value)
    }
}
