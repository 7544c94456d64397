import Reactor
import Telemetry

/// What operations of one kind took of those that ended lately. Nanoseconds.
public struct RecentLatency: Hashable, Sendable {
    public var count: UInt64 = 0
    public var p50: UInt64 = 0
    public var p99: UInt64 = 0

    public init() {}

    init(_ values: LatencySnapshot) {
        count = values.count
        p50 = values.p50
        p99 = values.p99
    }
}

/// How a disk has done clients' work in the last seconds.
public struct RecentDisk: Hashable, Sendable {
    public var reads = RecentLatency()
    public var writes = RecentLatency()
    public var syncs = RecentLatency()
    /// For how long no operation has ended though some are in flight; zero otherwise.
    public var standstill = Duration.zero

    public init() {}
}

/// Tells what is recent from what was measured since the start: what has come since a mark, and a
/// new mark every `Limits.step`. Reaches back one to two steps. Pure.
struct RecentLatencies {
    enum Limits {
        /// SCM waits for longer than two of them before it avoids a disk: docs/internals/slow-disks.md.
        static let step = Duration.milliseconds(2500)
    }

    private struct Mark {
        var time: MonotonicTime
        var values: DiskLatencies
    }

    /// Two at most, oldest first.
    private var marks: [Mark] = []

    /// What is recent at `now`, at which all since the start is `values`.
    mutating func recent(_ values: DiskLatencies, at now: MonotonicTime) -> RecentDisk {
        if marks.last.map({ $0.time.advanced(by: Limits.step) <= now }) ?? true {
            marks.append(Mark(time: now, values: values))
            if marks.count > 2 { marks.removeFirst() }
        }
        var recent = RecentDisk()
        guard let mark = marks.first?.values else { return recent }
        recent.reads = RecentLatency(values.reads.since(mark.reads))
        recent.writes = RecentLatency(values.writes.since(mark.writes))
        recent.syncs = RecentLatency(values.synchronizations.since(mark.synchronizations))
        return recent
    }
}
