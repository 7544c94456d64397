/// The time that decides: how old an open key or an upload is, and how long a discarded block was
/// held. The leader puts it into each command.
///
/// It follows the wall clock, but never goes back, and moves at between half and twice the pace of
/// a clock that nobody sets. So whatever is done to the wall clock, nothing expires in less than
/// half its age, nor later than twice it, as long as there is a leader. It goes on from the latest
/// that is logged: while there is none it stands still, and catches up afterwards.
///
/// Pure; times are milliseconds since 1970, uptimes nanoseconds.
public struct LogClock: Sendable {
    /// What it showed, and at what uptime; nil before `begin`.
    private var shown: (time: Int64, uptime: UInt64)?

    public init() {}

    /// Starts it.
    ///
    /// - Parameter logged: the latest time in the log; nil if there is none yet, and the wall
    ///   clock is all there is to go by.
    public mutating func begin(logged: Int64?, wall: Int64, uptime: UInt64) {
        guard shown == nil else { return }
        shown = (logged ?? wall, uptime)
    }

    /// The log is at `logged` already, by another leader's clock.
    public mutating func observe(logged: Int64) {
        guard let last = shown, logged > last.time else { return }
        shown = (logged, last.uptime)
    }

    /// The time now; nil before `begin`.
    public mutating func read(wall: Int64, uptime: UInt64) -> Int64? {
        guard let last = shown else { return nil }
        // Rounded down, with the rest kept for the next time; in pairs, for there are halves.
        let passed = Int64((uptime - min(uptime, last.uptime)) / 2_000_000) * 2
        guard passed > 0 else { return last.time }
        let time = min(max(wall, last.time + passed / 2), last.time + 2 * passed)
        shown = (time, last.uptime + UInt64(passed) * 1_000_000)
        return time
    }
}
