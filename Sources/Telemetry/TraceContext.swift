import Synchronization

/// The request that the present task works for, and what this role did for it so far.
///
/// Where a request makes calls to other roles it is bound to the task (`current`), and inherited by
/// the tasks made for it; elsewhere it is handed on, which costs less. A task that
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
        /// The first of them. Most requests have no more: then nothing is allocated for them.
        var spans = InlineArray<2, TraceSpan> { _ in .nothing }
        var more: [TraceSpan] = []
        var count = 0
        var fate = Fate.undecided

        @inline(__always)
        mutating func hold(_ span: consuming TraceSpan) {
            if count < spans.count { spans[count] = span } else { more.append(span) }
            count += 1
        }

        mutating func forget() {
            more = []
            count = 0
        }
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

    /// Runs `body` with this as what its task works for.
    public nonisolated(nonsending) func follow<T, E: Error>(
        _ body: nonisolated(nonsending) () async throws(E) -> T
    ) async throws(E) -> T {
        let result: Result<T, E> = await Self.$current.withValue(self) {
            do throws(E) { return .success(try await body()) } catch { return .failure(error) }
        }
        return try result.get()
    }

    /// Notes a span that began at `start` and ended at `end`, of the monotonic clock in ns.
    public func record(
        _ kind: TraceSpan.Kind, _ operation: consuming String, detail: consuming String,
        from start: UInt64, to end: UInt64, outcome: UInt16 = 0, bytes: Int = 0, queued: Int = 0
    ) {
        let span = TraceSpan(
            traceID: traceID, kind: kind, operation: operation, detail: detail,
            startNanoseconds: start, durationNanoseconds: end &- min(end, start),
            parentNanoseconds: startNanoseconds, outcome: outcome,
            bytes: UInt64(clamping: bytes), queued: UInt32(clamping: queued))
        notes.withLock { notes in
            guard notes.fate != .dropped else { return }
            if notes.fate == .kept { return ring.record(span) }
            notes.hold(span)
            if notes.count >= TraceRing.Limits.spansHeldBack
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
                notes.forget()
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
        for index in 0..<min(notes.count, notes.spans.count) { ring.record(notes.spans[index]) }
        ring.record(notes.more)
        notes.forget()
    }
}
