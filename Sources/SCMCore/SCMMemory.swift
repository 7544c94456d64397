import Model
import Synchronization

/// SCM's state in memory, beside the tables of one member.
///
/// It is changed in two ways: by what the log says, which `SCMStateMachine` brings on every member in
/// the order of the log, and by what is asked and heard here. Both come on the group's reactor,
/// except `reset(from:)`, which runs where tables are read: so it is behind a lock. Nobody waits
/// for anything with the lock, and nothing is called with it that might take it again.
///
/// Thread-safe.
public final class SCMMemory: Sendable {
    private let state: Mutex<SCMState>
    private let clock: @Sendable () -> UInt64

    /// An empty state; the group that it belongs to fills it when it is opened.
    ///
    /// - Parameters:
    ///   - run: tells this run of SCM from others.
    ///   - clock: nanoseconds of a monotonic clock, whose present time is when this member begins
    ///     to listen to datanodes.
    public init(
        options: SCMState.Options, run: UInt64, clock: @escaping @Sendable () -> UInt64
    ) {
        self.clock = clock
        state = Mutex(SCMState(options: options, run: run, at: clock()))
    }

    /// Runs `body` with the state and the present time; at once, while nobody else does.
    public func withState<R: Sendable, E>(
        _ body: (inout SCMState, _ now: UInt64) throws(E) -> R
    ) throws(E) -> R {
        let now = clock()
        return try state.withLock { state throws(E) in try body(&state, now) }
    }

    /// What a command did that was applied to the tables.
    func take(_ answer: SCMAnswer) {
        guard !answer.rows.isEmpty else { return }
        withState { state, now in
            for row in answer.rows { state.take(row, at: now) }
        }
    }

    /// The tables have been opened, or others have taken their place.
    func reset(from tables: some MetadataReader) throws(StoreError) {
        let (options, run) = withState { state, _ in (state.options, state.run) }
        let fresh = try SCMState(options: options, reading: tables, run: run, at: clock())
        withState { state, now in state.replaceTables(by: fresh, at: now) }
    }
}
