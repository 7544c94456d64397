import Reactor
import Telemetry

/// A stretch of a request's time in the store, on its way to being noted: what it asks of a disk,
/// or how long it waits for others. Made only where a request is followed.
struct DiskStretch {
    private let context: TraceContext
    private let start: UInt64
    private let queued: Int

    /// Begins now; nil if nobody follows the request.
    init?(of context: TraceContext?, on disk: Disk) {
        guard let context else { return nil }
        self.context = context
        start = MonotonicTime.now().nanoseconds
        queued = disk.load
    }

    private init(_ context: TraceContext, since start: UInt64) {
        self.context = context
        self.start = start
        queued = 0
    }

    /// Notes it as ended now. Returns one that begins in this moment, of what is waited for next.
    ///
    /// - Parameter outcome: 0, or the number of a `StoreError.Code`.
    @discardableResult
    func end(
        _ kind: TraceSpan.Kind, _ operation: String, on disk: Disk, bytes: Int = 0,
        outcome: UInt16 = 0
    ) -> DiskStretch {
        let now = disk.reactor.turnTime().nanoseconds
        context.record(
            kind, operation, detail: disk.name, from: start, to: now, outcome: outcome,
            bytes: bytes, queued: queued)
        return DiskStretch(context, since: now)
    }
}
