import Reactor
import Synchronization

/// The time by which a group forgets what it has answered, in milliseconds. The leader puts it into
/// entries.
///
/// It moves with a clock that nobody sets, and goes on from the latest time in the log; while none
/// of the group's processes runs it stands still. Thread-safe.
public final class SessionClock: Sendable {
    private struct State {
        /// The latest that was learned, and when.
        var time: UInt64 = 0
        var learned: MonotonicTime
    }

    private let now: @Sendable () -> MonotonicTime
    private let state: Mutex<State>

    public init(now: @escaping @Sendable () -> MonotonicTime) {
        self.now = now
        state = Mutex(State(learned: now()))
    }

    /// The time now.
    public func read() -> UInt64 {
        let now = now().nanoseconds
        return state.withLock { state in
            state.time + (now - min(now, state.learned.nanoseconds)) / 1_000_000
        }
    }

    /// The log is at `time`, by another leader's clock or this one's.
    func observe(_ time: UInt64) {
        let isFar = state.withLock { time >= $0.time + Sessions.tick }
        guard isFar else { return }
        let current = read()
        guard time > current else { return }
        let now = now()
        state.withLock { state in
            guard time > state.time else { return }
            state = State(time: time, learned: now)
        }
    }
}
