import Synchronization

/// What counts as slow among operations of one kind: longer than all but about 3 of 100 of the
/// recent ones. From any thread, without a lock.
///
/// A running quantile: a longer one moves the bound up by 1/16, a shorter one down by 1/512, so
/// that it stands still where 1 of 33 is longer. Ten times as slow as before is learned from 40
/// operations, ten times as quick from 1200.
public struct SlowBound: ~Copyable, Sendable {
    private let bound = Atomic<UInt64>(0)

    /// A bound that knows nothing yet: the first operation is slow.
    public init() {}

    /// The present bound in nanoseconds.
    public var nanoseconds: UInt64 { bound.load(ordering: .relaxed) }

    /// Whether one that took `nanoseconds` was slow; learns from it. Of two that learn at once the
    /// word of one may be lost.
    public func isSlow(_ nanoseconds: UInt64) -> Bool {
        let old = bound.load(ordering: .relaxed)
        guard nanoseconds > old else {
            bound.store(old - old >> 9, ordering: .relaxed)
            return false
        }
        bound.store(old == 0 ? nanoseconds : old + old >> 4 + 1, ordering: .relaxed)
        return true
    }
}
