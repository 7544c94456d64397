import Glibc

/// How fast a copy of all tables is written, sent or taken over, so that what it brings to a disk
/// leaves the syncs of the log beside it their time.
///
/// A disk that is given gigabytes at once answers nobody until it has them: a sync waits for what
/// others have written before it, whosever it is. So such work goes in steps, each synced before
/// the next, so that never more than a step waits anywhere; and after a step it rests, for as long
/// as keeps it below `bytesPerSecond`, and for `Limits.rest` times what the step took. The latter
/// gives way where others want the same disk or processor: their work makes steps take longer.
public struct BulkPace: Sendable, Equatable {
    /// Bounds of the work.
    public enum Limits {
        /// Bytes, about, that are written between two syncs.
        public static let stepBytes = 1 << 20
        /// How long it rests after a step at the least, in times of what the step took.
        public static let rest = 2
        /// How long it rests for that at the most: a disk that hung need not be left alone as long
        /// again.
        public static let longestRest = Duration.seconds(1)
        /// The least rate, in bytes a second.
        public static let leastRate = 1 << 20
        /// The rate where none is set, in bytes a second.
        public static let usualRate = 32 << 20
    }

    /// At most so many bytes a second; 0: as fast as it goes, without any rest.
    public var bytesPerSecond: Int

    /// Precondition: `bytesPerSecond` is 0 or at least `Limits.leastRate`.
    public init(bytesPerSecond: Int = Limits.usualRate) {
        precondition(
            bytesPerSecond == 0 || bytesPerSecond >= Limits.leastRate,
            "a rate is 0 or at least \(Limits.leastRate) bytes a second")
        self.bytesPerSecond = bytesPerSecond
    }

    /// As fast as it goes.
    public static let unbounded = BulkPace(bytesPerSecond: 0)

    /// How long to rest after a step of `bytes` that took `time`.
    public func rest(after bytes: Int, took time: Duration) -> Duration {
        guard bytesPerSecond > 0 else { return .zero }
        let due = Duration.seconds(Double(bytes) / Double(bytesPerSecond))
        return max(due - time, min(time * Limits.rest, Limits.longestRest))
    }
}

/// The steps of one piece of such work, in the thread that does it, which rests in between.
struct BulkSteps {
    private let pace: BulkPace
    private var bytes = 0
    private var began = ContinuousClock.now

    init(_ pace: BulkPace) { self.pace = pace }

    /// Bytes were written. Once they are a step, calls `settle`, which has them synced, and rests,
    /// unless it `hurries`.
    mutating func wrote(_ count: Int, hurries: Bool, settle: () throws -> Void) rethrows {
        bytes += count
        guard bytes >= BulkPace.Limits.stepBytes else { return }
        try settle()
        let rest = hurries ? .zero : pace.rest(after: bytes, took: began.duration(to: .now))
        if rest > .zero { usleep(UInt32(rest / .microseconds(1))) }
        bytes = 0
        began = .now
    }
}
