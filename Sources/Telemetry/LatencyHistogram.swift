import Synchronization

/// Where the buckets of a latency histogram lie: log-linear, as in HdrHistogram (Gil Tene), 64
/// equal steps in each octave of nanoseconds from 1.024 us to 137 s.
///
/// A bucket is at most 1/64 of its lower end wide; told by its middle, a value is off by less than
/// 0.8 %. Shorter and longer values count in the first and last bucket.
@usableFromInline
enum LatencyBuckets {
    static let stepBits = 6
    static let stepCount = 1 << stepBits
    static let lowestExponent = 10
    static let highestExponent = 36
    static let count = 1728

    /// The bucket of a latency in nanoseconds. A few instructions, no branches to mispredict.
    @inlinable
    @inline(__always)
    static func index(of nanoseconds: UInt64) -> Int {
        let value = min(max(nanoseconds, 1 << 10), (1 << 37) - 1)
        let exponent = 63 - value.leadingZeroBitCount
        return (exponent &- 10) << 6 | Int(truncatingIfNeeded: value &>> (exponent &- 6)) & 63
    }

    /// The lowest value of bucket `index`, in nanoseconds.
    static func lowerBound(of index: Int) -> UInt64 {
        precondition((0...count).contains(index), "there are \(count) buckets, not \(index)")
        let exponent = lowestExponent + index >> stepBits
        return UInt64(stepCount + index & (stepCount - 1)) << UInt64(exponent - stepBits)
    }

    /// The value that stands for all in bucket `index`, in nanoseconds.
    static func middle(of index: Int) -> UInt64 {
        (lowerBound(of: index) + lowerBound(of: index + 1)) / 2
    }
}

/// How long operations took. Recording is lock-free from any thread, allocates nothing, and costs
/// two or three uncontended atomic additions; memory is fixed at 14 KiB.
///
/// Buckets of its own, and not those of the package HdrHistogram: its `record` is `mutating` and so
/// wants a lock on every operation, and its counts cannot be filled from atomic ones but value by
/// value.
public final class LatencyHistogram: Sendable {
    // First, beside the object's head: one line of the cache less than behind the buckets.
    @usableFromInline let total = Atomic<UInt64>(0)
    @usableFromInline let longest = Atomic<UInt64>(0)
    @usableFromInline let counts: InlineArray<1728, Atomic<UInt64>>

    /// A histogram without values.
    public init() {
        counts = InlineArray { _ in Atomic(0) }
    }

    /// Counts an operation that took `nanoseconds`.
    @inlinable
    public func record(nanoseconds: UInt64) {
        counts[LatencyBuckets.index(of: nanoseconds)].wrappingAdd(1, ordering: .relaxed)
        total.wrappingAdd(nanoseconds, ordering: .relaxed)
        if nanoseconds > longest.load(ordering: .relaxed) {
            longest.max(nanoseconds, ordering: .relaxed)
        }
    }

    /// Counts an operation that took `duration`; one that ended before it began counts as 0.
    public func record(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        record(nanoseconds: UInt64(max(0, seconds * 1_000_000_000 + attoseconds / 1_000_000_000)))
    }

    /// What has been recorded so far. Values recorded meanwhile may be in it in part: the count
    /// may miss a value that the sum has, or the other way round.
    public func snapshot() -> LatencySnapshot {
        var copy = [UInt64](repeating: 0, count: LatencyBuckets.count)
        for index in copy.indices { copy[index] = counts[index].load(ordering: .relaxed) }
        return LatencySnapshot(
            counts: copy, sum: total.load(ordering: .relaxed),
            maximum: longest.load(ordering: .relaxed))
    }
}

/// The values of a latency histogram at one moment. All times are nanoseconds.
public struct LatencySnapshot: Hashable, Sendable {
    private(set) var counts: [UInt64]
    /// How many values.
    public private(set) var count: UInt64
    /// Their exact sum.
    public private(set) var sum: UInt64
    /// The longest, exact. After `since(_:)` the end of the highest bucket in use.
    public private(set) var maximum: UInt64

    /// No values.
    public init() {
        counts = []
        count = 0
        sum = 0
        maximum = 0
    }

    init(counts: [UInt64], sum: UInt64, maximum: UInt64) {
        precondition(counts.count == LatencyBuckets.count, "a snapshot has every bucket")
        self.counts = counts
        count = counts.reduce(0, +)
        self.sum = sum
        self.maximum = maximum
    }

    /// Values by bucket, as `buckets` gave them, of the same or another process of this version;
    /// nil if a bucket is not one of the histogram's.
    public init?(buckets: [(index: Int, count: UInt64)], sum: UInt64, maximum: UInt64) {
        var counts = [UInt64](repeating: 0, count: LatencyBuckets.count)
        for (index, count) in buckets {
            guard counts.indices.contains(index) else { return nil }
            counts[index] = count
        }
        self.init(counts: counts, sum: sum, maximum: maximum)
    }

    /// The buckets in use, with the number of values in each.
    public var buckets: [(index: Int, count: UInt64)] {
        counts.indices.compactMap { counts[$0] > 0 ? ($0, counts[$0]) : nil }
    }

    /// The mean, 0 without values.
    public var mean: Double { count == 0 ? 0 : Double(sum) / Double(count) }
    /// The median.
    public var p50: UInt64 { value(atPercentile: 50) }
    /// 99 of 100 took at most so long.
    public var p99: UInt64 { value(atPercentile: 99) }
    /// 999 of 1000 took at most so long.
    public var p999: UInt64 { value(atPercentile: 99.9) }

    /// The value that `percentile` of 100 values do not exceed, off by less than 0.8 %; 0 without
    /// values. Linear in the number of buckets.
    public func value(atPercentile percentile: Double) -> UInt64 {
        precondition((0...100).contains(percentile), "percentiles are 0 to 100")
        guard count > 0 else { return 0 }
        let rank = max(1, UInt64((Double(count) * percentile / 100).rounded(.up)))
        var seen: UInt64 = 0
        for index in counts.indices {
            seen += counts[index]
            if seen >= rank { return min(LatencyBuckets.middle(of: index), maximum) }
        }
        return maximum
    }

    /// Upper ends of the buckets in use, with the number of values up to each: what a Prometheus
    /// histogram is made from.
    public var cumulative: [(upperBound: UInt64, count: UInt64)] {
        var seen: UInt64 = 0
        var result: [(upperBound: UInt64, count: UInt64)] = []
        for index in counts.indices where counts[index] > 0 {
            seen += counts[index]
            result.append((LatencyBuckets.lowerBound(of: index + 1), seen))
        }
        return result
    }

    /// Adds the values of `other`, as if all had been recorded into one histogram.
    public mutating func merge(_ other: Self) {
        guard other.count > 0 else { return }
        if counts.isEmpty {
            self = other
            return
        }
        for index in counts.indices { counts[index] += other.counts[index] }
        count += other.count
        sum += other.sum
        maximum = max(maximum, other.maximum)
    }

    /// The values recorded after `earlier`, an earlier snapshot of the same histogram.
    public func since(_ earlier: Self) -> Self {
        guard earlier.count > 0, count > 0 else { return self }
        var result = self
        for index in counts.indices {
            precondition(
                counts[index] >= earlier.counts[index],
                "only an earlier snapshot of the same histogram can be taken away")
            result.counts[index] -= earlier.counts[index]
        }
        result.count = result.counts.reduce(0, +)
        result.sum = sum &- earlier.sum
        let highest = result.counts.lastIndex { $0 > 0 }
        result.maximum = highest.map { min(maximum, LatencyBuckets.lowerBound(of: $0 + 1)) } ?? 0
        return result
    }
}
