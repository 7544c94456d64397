import Synchronization

/// The request that the present task works for, and what this role did for it so far.
///
/// Bound once where a request enters a role, and inherited by the tasks made for it. A task that
/// outlives the request (a connection that it opened, a batch that it began) keeps it, which is
/// why spans are noted where a request is known to be meant, not wherever there is I/O.
///
/// Spans are held back until the request has ended; `finish` gives them to the ring or drops them.
/// What is noted after that goes the same way. One that has taken long already, or has many spans,
/// is kept from that moment on. Thread-safe.
public final class TraceContext: Sendable {
    @TaskLocal public static var current: TraceContext?

    /// What becomes of spans.
    private enum Fate {
        case undecided
        case kept
        case dropped
    }

    private struct Notes {
        var spans: [TraceSpan] = []
        var fate = Fate.undecided
    }

    public let traceID: UInt64
    /// When this role began to work for it, of the monotonic clock in ns.
    public let startNanoseconds: UInt64
    private let ring: TraceRing
    private let notes = Mutex(Notes())

    /// Precondition: `traceID` is not 0, which stands for no trace.
    public init(traceID: UInt64, since start: UInt64, ring: TraceRing) {
        precondition(traceID != 0, "a trace has an identity")
        self.traceID = traceID
        startNanoseconds = start
        self.ring = ring
    }

    /// Notes a span that began at `start` and ended at `end`, of the monotonic clock in ns.
    public func record(
        _ kind: TraceSpan.Kind, _ operation: String, detail: String, from start: UInt64,
        to end: UInt64, outcome: UInt16 = 0, bytes: Int = 0, queued: Int = 0
    ) {
        notes.withLock { notes in
            guard notes.fate != .dropped else { return }
            let span = TraceSpan(
                traceID: traceID, kind: kind, operation: operation, detail: detail,
                startNanoseconds: start, durationNanoseconds: end &- min(end, start),
                parentNanoseconds: startNanoseconds, outcome: outcome,
                bytes: UInt64(clamping: bytes), queued: UInt32(clamping: queued))
            if notes.fate == .kept { return ring.record(span) }
            if notes.spans.isEmpty { notes.spans.reserveCapacity(4) }
            notes.spans.append(span)
            if notes.spans.count >= TraceRing.Limits.spansHeldBack
                || end &- min(end, startNanoseconds) >= TraceRing.Limits.slowNanoseconds
            {
                keep(&notes)
            }
        }
    }

    /// Ends the request at `end`, with the span that tells of all of it, and keeps or drops what
    /// was noted of it.
    ///
    /// - Parameter isSlow: it took long for its kind, or is to be kept for another reason.
    public func finish(
        _ kind: TraceSpan.Kind, _ operation: String, detail: @autoclosure () -> String,
        at end: UInt64, isSlow: Bool, outcome: UInt16 = 0, bytes: Int = 0
    ) {
        let nanoseconds = end &- min(end, startNanoseconds)
        notes.withLock { notes in
            if notes.fate == .undecided,
                !ring.keeps(traceID, nanoseconds: nanoseconds, endedAt: end, isSlow: isSlow)
            {
                notes.fate = .dropped
                notes.spans = []
                return
            }
            keep(&notes)
            ring.record(
                TraceSpan(
                    traceID: traceID, kind: kind, operation: operation, detail: detail(),
                    startNanoseconds: startNanoseconds, durationNanoseconds: nanoseconds,
                    outcome: outcome, bytes: UInt64(clamping: bytes)))
        }
    }

    private func keep(_ notes: inout Notes) {
        notes.fate = .kept
        ring.record(notes.spans)
        notes.spans = []
    }
}
