import Synchronization

/// Tells a change of leadership to somebody who comes later than the member: what happened before
/// is told then.
public final class LeadershipHook: Sendable {
    private struct State {
        var last: Leadership?
        var body: (@Sendable (Leadership) -> Void)?
    }

    private let state = Mutex(State())

    public init() {}

    /// `RaftMemberOptions.leadershipChanged`.
    public func call(_ leadership: Leadership) {
        let body = state.withLock { state in
            state.last = leadership
            return state.body
        }
        body?(leadership)
    }

    public func set(_ body: @Sendable @escaping (Leadership) -> Void) {
        let last = state.withLock { state in
            state.body = body
            return state.last
        }
        if let last { body(last) }
    }
}
