import Synchronization

/// The spans that a role keeps of the requests that are worth it. Memory is bounded: a new span
/// takes the place of the oldest.
///
/// A `TraceContext` gathers the spans of a request and asks `keeps` when it has ended; most
/// requests leave nothing. Thread-safe. The spans of a trace lie in one of several shards, each
/// behind its own lock, held for the copy of one request's spans. Recording allocates nothing once
/// a shard is full; before that the pages that its array reserved are touched one after the other.
public final class TraceRing: Sendable {
    public enum Limits {
        /// Spans that are kept: at 96 bytes a span 6 MiB.
        public static let spans = 64 << 10
        /// Locks; a power of two.
        public static let shards = 16
        /// Requests that `slowest` tells of at most.
        public static let slowest = 1000
        /// Requests kept in each tick of `tickBits`, however quick they were.
        public static let requestsPerTick = 32
        /// A tick is 2 to this power nanoseconds: 1.07 s.
        static let tickBits: UInt64 = 30
        /// One of so many requests is kept however quick it was, by its identity: the same ones in
        /// every role. A power of two.
        public static let sampled: UInt64 = 64
        /// What took so long is kept always, in nanoseconds.
        public static let slowNanoseconds: UInt64 = 100_000_000
        /// Spans of a request that are held back until it has ended; one with more is kept.
        public static let spansHeldBack = 128
    }

    private struct Shard {
        var spans: [TraceSpan] = []
        var next = 0
    }

    private let shards: [ShardBox]
    private let capacity: Int
    private let recorded = Counter()
    /// The tick, above, and how many requests were kept in it for being among its first.
    private let allowance = Atomic<UInt64>(0)

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

    // Fibonacci hashing: identities may be counted up.
    private static func hash(_ traceID: UInt64) -> UInt64 { traceID &* 0x9E37_79B9_7F4A_7C15 }

    private func shard(of traceID: UInt64) -> ShardBox {
        shards[Int(truncatingIfNeeded: Self.hash(traceID) >> 60)]
    }

    /// Whether the spans of a request are to be kept that took `nanoseconds` and ended at `end`, of
    /// the monotonic clock: because it took long by itself or for its kind (`isSlow`), was chosen
    /// by its identity, or was among the first of its tick.
    public func keeps(
        _ traceID: UInt64, nanoseconds: UInt64, endedAt end: UInt64, isSlow: Bool
    ) -> Bool {
        isSlow || nanoseconds >= Limits.slowNanoseconds || Self.isSampled(traceID)
            || isAmongFirst(at: end)
    }

    /// Whether every role keeps the request, whatever it took.
    static func isSampled(_ traceID: UInt64) -> Bool {
        // Not the bits that choose the shard.
        hash(traceID) >> 32 & (Limits.sampled - 1) == 0
    }

    private func isAmongFirst(at end: UInt64) -> Bool {
        let tick = (end >> Limits.tickBits) << 16
        let held = allowance.load(ordering: .relaxed)
        if held & ~0xFFFF != tick {
            // Of several that see the new tick at once one may go uncounted.
            allowance.store(tick | 1, ordering: .relaxed)
            return true
        }
        guard held & 0xFFFF < UInt64(Limits.requestsPerTick) else { return false }
        allowance.wrappingAdd(1, ordering: .relaxed)
        return true
    }

    /// Notes spans of one request. Their starts are of the monotonic clock.
    public func record(_ spans: [TraceSpan]) {
        guard let first = spans.first else { return }
        recorded.add(UInt64(spans.count))
        shard(of: first.traceID).shard.withLock { shard in
            for span in spans { add(span, to: &shard) }
        }
    }

    /// Notes a span. Its start is of the monotonic clock.
    public func record(_ span: TraceSpan) {
        recorded.add()
        shard(of: span.traceID).shard.withLock { shard in add(span, to: &shard) }
    }

    private func add(_ span: TraceSpan, to shard: inout Shard) {
        if shard.spans.count < capacity {
            if shard.spans.isEmpty { shard.spans.reserveCapacity(capacity) }
            shard.spans.append(span)
        } else {
            shard.spans[shard.next] = span
            shard.next = (shard.next + 1) % capacity
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
