/// How long calls take, over all datanodes that this process speaks to: by it one is told that is
/// late against the others. All times are nanoseconds. Pure.
///
/// The third quartile, not a high percentile, and not the node's own habit: a node that is stopped
/// for 500 ms of every 505 has a habit of 500 ms, and where one of nine is like that a ninth of all
/// answers are. As long as no more than a quarter of them are slow, it is the others' quartile.
struct Pace {
    enum Limits {
        /// Answers that are remembered.
        static let samples = 256
        /// Answers after which it is judged anew…
        static let judged = 32
        /// …and for the first time; before nothing is known.
        static let first = 8
    }

    private var calls = RecentCalls(capacity: Limits.samples)
    /// What three of four took at most, as judged last; nil while too little is known.
    private(set) var quartile: UInt64?

    /// A call was answered after `nanoseconds`.
    mutating func add(_ nanoseconds: UInt64) {
        calls.add(nanoseconds)
        guard calls.count % Limits.judged == 0 || calls.count == Limits.first else { return }
        quartile = calls.percentile(75)
    }
}

/// How long the last calls took, in nanoseconds. Pure.
struct RecentCalls {
    private let capacity: Int
    private var samples: [UInt64] = []
    /// Calls so far.
    private(set) var count = 0

    /// - Parameter capacity: calls that are remembered.
    init(capacity: Int) { self.capacity = capacity }

    mutating func add(_ nanoseconds: UInt64) {
        if samples.count < capacity {
            samples.append(nanoseconds)
        } else {
            samples[count % capacity] = nanoseconds
        }
        count += 1
    }

    /// What so many of a hundred took at most. O(n log n). Precondition: there is one.
    func percentile(_ percent: Int) -> UInt64 { samples.sorted()[samples.count * percent / 100] }
}

/// What writers may write again because a node is merely late: no more than a share of what they
/// write, so that where many are slow nobody makes it worse. Pure.
struct RewriteBudget {
    enum Limits {
        /// One of so many acknowledged bytes may be written again.
        static let share = 8
        /// What may be written again at once, in bytes; from the start on.
        static let burst = 256 << 20
    }

    /// Bytes that may be written again now.
    private(set) var bytes = Limits.burst

    /// A stripe of `count` bytes was acknowledged by all.
    mutating func acknowledged(_ count: Int) {
        bytes = min(Limits.burst, bytes + count / Limits.share)
    }

    /// Takes `count` bytes to be written again; false, with nothing taken, if there are not as many.
    mutating func take(_ count: Int) -> Bool {
        guard count <= bytes else { return false }
        bytes -= count
        return true
    }
}
