import Synchronization

/// One thing that was done for a request: by whom, when, for how long, and how it ended.
public struct TraceSpan: Hashable, Sendable {
    /// What a span is of; also its place in the tree of a request.
    public enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        /// A request of a user, whole. Detail: the status and the user.
        case request = 0
        /// A call to another role, as its caller saw it. Detail: the address called.
        case call = 1
        /// A call, as the role saw it that was called. Detail: who called.
        case serve = 2
        /// Reads or writes of a disk, from being asked for to being done: queue and service.
        /// Detail: the disk.
        case disk = 3
        /// Waiting for others: for the sync that makes an append durable. Detail: the disk.
        case wait = 4
    }

    /// 64 bits that all spans of a request share; never 0.
    public var traceID: UInt64
    public var kind: Kind
    /// 0, or a `StoreError.Code`; for a request the status of HTTP.
    public var outcome: UInt16
    /// Operations that the disk had in flight and in its queue when this one came; else 0.
    public var queued: UInt32
    /// Of the monotonic clock in the ring, of Unix time once it was asked for.
    public var startNanoseconds: UInt64
    public var durationNanoseconds: UInt64
    /// The start of the request or service of the same role that it was done for, on the same
    /// clock; its own start where it is one.
    public var parentNanoseconds: UInt64
    /// Payload bytes, both directions together.
    public var bytes: UInt64
    public var operation: String
    public var detail: String

    /// A span with everything in it.
    public init(
        traceID: UInt64, kind: Kind, operation: String, detail: String, startNanoseconds: UInt64,
        durationNanoseconds: UInt64, parentNanoseconds: UInt64? = nil, outcome: UInt16 = 0,
        bytes: UInt64 = 0, queued: UInt32 = 0
    ) {
        self.traceID = traceID
        self.kind = kind
        self.outcome = outcome
        self.queued = queued
        self.startNanoseconds = startNanoseconds
        self.durationNanoseconds = durationNanoseconds
        self.parentNanoseconds = parentNanoseconds ?? startNanoseconds
        self.bytes = bytes
        self.operation = operation
        self.detail = detail
    }

    /// The same on another clock, which is `offset` before this one.
    func moved(by offset: UInt64) -> Self {
        var span = self
        span.startNanoseconds &+= offset
        span.parentNanoseconds &+= offset
        return span
    }

    /// When it ended, on the clock of its start.
    public var endNanoseconds: UInt64 { startNanoseconds &+ durationNanoseconds }
}

/// The spans that a role noted last. Memory is bounded: a new span takes the place of the oldest.
///
/// Thread-safe. The spans of a trace lie in one of several shards, each behind its own lock, held
/// for the copy of one span. Recording allocates nothing once a shard is full; before that the
/// pages that its array reserved are touched one after the other.
public final class TraceRing: Sendable {
    public enum Limits {
        /// Spans that are kept: at 96 bytes a span 6 MiB.
        public static let spans = 64 << 10
        /// Locks; a power of two.
        public static let shards = 16
        /// Requests that `slowest` tells of at most.
        public static let slowest = 1000
    }

    private struct Shard {
        var spans: [TraceSpan] = []
        var next = 0
    }

    private let shards: [ShardBox]
    private let capacity: Int
    private let recorded = Counter()

    private final class ShardBox: Sendable {
        let shard = Mutex(Shard())
    }

    /// A ring for `spans` spans, rounded up to a multiple of `Limits.shards`.
    public init(spans: Int = Limits.spans) {
        precondition(spans > 0, "a ring holds at least one span")
        capacity = (spans + Limits.shards - 1) / Limits.shards
        shards = (0..<Limits.shards).map { _ in ShardBox() }
    }

    /// Spans recorded since the ring was made, those included that are gone.
    public var count: UInt64 { recorded.value }

    private func shard(of traceID: UInt64) -> ShardBox {
        // Fibonacci hashing: identities may be counted up.
        shards[Int(truncatingIfNeeded: (traceID &* 0x9E37_79B9_7F4A_7C15) >> 60)]
    }

    /// Notes a span. Its start is of the monotonic clock.
    public func record(_ span: TraceSpan) {
        recorded.add()
        shard(of: span.traceID).shard.withLock { shard in
            if shard.spans.count < capacity {
                if shard.spans.isEmpty { shard.spans.reserveCapacity(capacity) }
                shard.spans.append(span)
            } else {
                shard.spans[shard.next] = span
                shard.next = (shard.next + 1) % capacity
            }
        }
    }

    /// The spans of one trace, by start. Empty if it was never seen or fell out of the ring.
    ///
    /// - Parameter offset: added to each start; Unix time minus the monotonic clock, in ns.
    public func spans(of traceID: UInt64, clockOffset offset: UInt64) -> [TraceSpan] {
        shard(of: traceID).shard.withLock { $0.spans.filter { $0.traceID == traceID } }
            .map { $0.moved(by: offset) }
            .sorted {
                ($0.startNanoseconds, $0.kind.rawValue) < ($1.startNanoseconds, $1.kind.rawValue)
            }
    }

    /// The `limit` requests that took longest of those still in the ring, the slowest first.
    /// Linear in the size of the ring.
    public func slowest(_ limit: Int, clockOffset offset: UInt64) -> [TraceSpan] {
        var found: [TraceSpan] = []
        for box in shards {
            found += box.shard.withLock { $0.spans.filter { $0.kind == .request } }
        }
        found.sort { $0.durationNanoseconds > $1.durationNanoseconds }
        return found.prefix(min(limit, Limits.slowest)).map { $0.moved(by: offset) }
    }
}

/// The request that the present task works for, and where this role notes what it does for it.
///
/// Bound once where a request enters a role, and inherited by the tasks made for it. A task that
/// outlives the request (a connection that it opened, a batch that it began) keeps it, which is
/// why spans are noted where a request is known to be meant, not wherever there is I/O.
public struct TraceContext: Sendable {
    @TaskLocal public static var current: TraceContext?

    public let traceID: UInt64
    /// When this role began to work for it, of the monotonic clock in ns.
    public let startNanoseconds: UInt64
    let ring: TraceRing

    /// Precondition: `traceID` is not 0, which stands for no trace.
    public init(traceID: UInt64, since start: UInt64, ring: TraceRing) {
        precondition(traceID != 0, "a trace has an identity")
        self.traceID = traceID
        startNanoseconds = start
        self.ring = ring
    }

    /// Notes a span that began at `start` and ended at `end`, of the monotonic clock in ns.
    public func record(
        _ kind: TraceSpan.Kind, _ operation: String, detail: String, from start: UInt64,
        to end: UInt64, outcome: UInt16 = 0, bytes: Int = 0, queued: Int = 0
    ) {
        ring.record(
            TraceSpan(
                traceID: traceID, kind: kind, operation: operation, detail: detail,
                startNanoseconds: start, durationNanoseconds: end &- min(end, start),
                parentNanoseconds: startNanoseconds, outcome: outcome,
                bytes: UInt64(clamping: bytes), queued: UInt32(clamping: queued)))
    }
}

/// What a role tells of itself: its metrics, and the spans of the requests it took part in.
public final class RoleTelemetry: Sendable {
    /// `om`, `scm`, `datanode` or `s3gateway`.
    public let role: String
    /// Which of its kind: the name that people know it by, such as `dn3`.
    public let name: String
    public let metrics: MetricsRegistry
    public let traces: TraceRing

    /// For the role `role` called `name`. Every metric has both as labels.
    public init(role: String, name: String, spans: Int = TraceRing.Limits.spans) {
        self.role = role
        self.name = name
        metrics = MetricsRegistry(labels: ["role": role, "node": name])
        let traces = TraceRing(spans: spans)
        self.traces = traces
        metrics.collect { page in
            page.counter(
                "apus_trace_spans_total", "Spans noted for requests that were followed.",
                Double(traces.count))
        }
    }
}
