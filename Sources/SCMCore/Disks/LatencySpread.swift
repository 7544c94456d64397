/// How latencies of many disks spread, one value of each: the median in constant time, as values
/// come and go. A value is known to a quarter of an octave, which is enough to compare by factors.
struct LatencySpread: Sendable {
    private static let steps = 4
    private var counts = [Int](repeating: 0, count: 64 * LatencySpread.steps)
    /// Values that are there.
    private(set) var count = 0

    private static func index(of nanoseconds: UInt64) -> Int {
        let value = max(nanoseconds, 4)
        let exponent = 63 - value.leadingZeroBitCount
        return exponent * steps + Int(truncatingIfNeeded: value >> UInt64(exponent - 2)) & 3
    }

    private static func middle(of index: Int) -> UInt64 {
        let (exponent, step) = (UInt64(index / steps), UInt64(index % steps))
        let lower = (4 + step) << (exponent - 2)
        return lower + (UInt64(1) << (exponent - 2)) / 2
    }

    mutating func add(_ nanoseconds: UInt64) {
        counts[Self.index(of: nanoseconds)] += 1
        count += 1
    }

    /// Precondition: the value was added.
    mutating func remove(_ nanoseconds: UInt64) {
        let index = Self.index(of: nanoseconds)
        precondition(counts[index] > 0, "a latency is taken away that was never there")
        counts[index] -= 1
        count -= 1
    }

    /// The value that half of them do not exceed, in nanoseconds; nil without values.
    var median: UInt64? {
        guard count > 0 else { return nil }
        var seen = 0
        for index in counts.indices {
            seen += counts[index]
            if seen * 2 >= count { return Self.middle(of: index) }
        }
        return nil
    }
}
