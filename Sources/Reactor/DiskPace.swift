/// How much of its share a background class takes while clients work, learned from how long the
/// clients' operations take: pure, with the time told.
///
/// For each kind of client operation (read or write, size, how many clients' operations were in
/// flight) a *bound* is kept that about one of eight exceeds while nothing of other classes is in
/// flight. In windows of some operations it is counted how many exceed theirs. Many more than that
/// halve the part, not many more add to it. So it does not matter who makes the disk slow: the
/// classes of this disk, another process on the same device, or want of processor time. How clients
/// slow each other is not held against anybody, as bounds are kept by how many there are.
///
/// A bound falls as fast as quicker operations show, and rises slowly, quickest while the part is at
/// its least and nobody can be slow for its sake: a load that stays for minutes is what the disk is
/// like from then on. (The idea of a base delay is
/// LEDBAT's, RFC 6817; that of windows blk-wbt's and blk-iolatency's.)
struct DiskPace {
    enum Limits {
        /// The part is at least this: everything goes on.
        static let leastPart = 1.0 / 8
        /// What a window without complaint adds to the part.
        static let step = 1.0 / 16
        /// Operations of a window, unless it gets old before, and how long it is at the least.
        static let windowOperations = 64
        static let windowNanoseconds: UInt64 = 10_000_000
        /// So long after it began a window ends that has so many operations: of few clients too it
        /// is told whether they suffer.
        static let windowAge: UInt64 = 2_000_000_000
        static let leastOperations = 16
        /// One that has not filled by then is begun anew.
        static let windowEnd: UInt64 = 20_000_000_000
        /// Above the first share of a window's operations beyond their bound, by an eighth of it,
        /// the part is halved, below the second it grows.
        static let manySlow = 0.22
        static let fewSlow = 0.16
        /// Undisturbed operations after which a bound is looked at, and the share of them that may
        /// exceed it without its being moved.
        static let boundOperations = 64
        static let boundSlow = 0.06...0.16
        /// A bound falls by 1/64 at a time, and rises by so much a second at most: at the least part
        /// and above it.
        static let boundShift: UInt64 = 6
        static let risePerSecond = (atLeast: 0.01, above: 0.003)
        /// Operations before a bound is set at all, at three times their mean.
        static let firstOperations = 16
    }

    /// What is known of one kind of client operation.
    private struct Kind {
        var bound: UInt64 = 0
        var sum: UInt64 = 0
        var count = 0
        var slow = 0
        /// When it was looked at last.
        var seenAt: UInt64 = 0
    }

    /// An operation of a client that has ended.
    struct Operation {
        var nanoseconds: UInt64
        var length: Int
        var isWrite: Bool
        /// Clients' operations in flight when it was started, itself included.
        var depth: Int
        /// Nothing of other classes was in flight meanwhile.
        var isUndisturbed: Bool
    }

    /// Of the share, `Limits.leastPart`…1.
    private(set) var part = Limits.leastPart
    private var kinds: InlineArray<40, Kind> = InlineArray { _ in Kind() }
    private var windowBegan: UInt64 = 0
    private var windowCount = 0
    private var windowSlow = 0
    /// Another class had something in flight in this window.
    private var isShared = false

    /// Learns from a client's operation that ended at `now`.
    mutating func note(_ operation: Operation, now: UInt64) {
        let index = Self.kind(operation)
        if operation.isUndisturbed {
            learn(operation.nanoseconds, index, now: now)
        } else {
            isShared = true
        }
        guard kinds[index].bound > 0 else { return }
        if windowCount == 0 || now &- windowBegan > Limits.windowEnd { beginWindow(now) }
        windowCount += 1
        // The eighth: where all take equally long, the bound lies right at that.
        let bound = kinds[index].bound
        if operation.nanoseconds > bound + bound >> 3 { windowSlow += 1 }
        let age = now &- windowBegan
        if windowCount >= Limits.windowOperations
            ? age >= Limits.windowNanoseconds
            : windowCount >= Limits.leastOperations && age >= Limits.windowAge
        {
            endWindow(now)
        }
    }

    /// Five sizes, four depths, reads and writes.
    private static func kind(_ operation: Operation) -> Int {
        let size =
            switch operation.length {
            case ...(8 << 10): 0
            case ...(32 << 10): 1
            case ...(128 << 10): 2
            case ...(512 << 10): 3
            default: 4
            }
        let depth =
            switch operation.depth {
            case ...1: 0
            case ...3: 1
            case ...7: 2
            default: 3
            }
        return ((operation.isWrite ? 5 : 0) + size) * 4 + depth
    }

    private mutating func beginWindow(_ now: UInt64) {
        windowBegan = now
        windowCount = 0
        windowSlow = 0
        isShared = false
    }

    private mutating func endWindow(_ now: UInt64) {
        let share = Double(windowSlow) / Double(windowCount)
        // Without other classes there is nothing to learn about them.
        if isShared {
            if share > Limits.manySlow {
                part = max(Limits.leastPart, part / 2)
            } else if share < Limits.fewSlow {
                part = min(1, part + Limits.step)
            }
        }
        beginWindow(now)
    }

    private mutating func learn(_ nanoseconds: UInt64, _ index: Int, now: UInt64) {
        kinds[index].count += 1
        guard kinds[index].bound > 0 else {
            kinds[index].sum += nanoseconds
            if kinds[index].count == Limits.firstOperations {
                let mean = kinds[index].sum / UInt64(Limits.firstOperations)
                kinds[index] = Kind(bound: max(1, mean * 3), seenAt: now)
            }
            return
        }
        if nanoseconds > kinds[index].bound { kinds[index].slow += 1 }
        guard kinds[index].count >= Limits.boundOperations else { return }
        let share = Double(kinds[index].slow) / Double(kinds[index].count)
        let bound = kinds[index].bound
        let seconds = Double(now &- kinds[index].seenAt) / 1e9
        if share < Limits.boundSlow.lowerBound {
            kinds[index].bound = max(1, bound - bound >> Limits.boundShift)
        } else if share > Limits.boundSlow.upperBound {
            let rise = Limits.risePerSecond
            let rate = part > Limits.leastPart ? rise.above : rise.atLeast
            let nanoseconds = UInt64(Double(bound) * rate * min(seconds, 10))
            kinds[index].bound = bound + nanoseconds
            kinds[index].count = 0
            kinds[index].slow = 0
            // Less than a nanosecond is kept for the next time.
            if nanoseconds == 0 { return }
        }
        kinds[index].count = 0
        kinds[index].slow = 0
        kinds[index].seenAt = now
    }
}
