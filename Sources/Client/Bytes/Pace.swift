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

    private var samples: [UInt64] = []
    private var answers = 0
    /// What three of four took at most, as judged last; nil while too little is known.
    private(set) var quartile: UInt64?

    /// A call was answered after `nanoseconds`.
    mutating func add(_ nanoseconds: UInt64) {
        if samples.count < Limits.samples {
            samples.append(nanoseconds)
        } else {
            samples[answers % Limits.samples] = nanoseconds
        }
        answers += 1
        guard answers % Limits.judged == 0 || answers == Limits.first else { return }
        quartile = samples.sorted()[samples.count * 3 / 4]
    }
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
