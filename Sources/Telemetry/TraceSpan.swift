/// One thing that was done for a request: by whom, when, for how long, and how it ended.
public struct TraceSpan: Hashable, Sendable {
    /// What a span is of; also its place in the tree of a request.
    public enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        /// A request of a user, whole. Detail: the status and the user.
        case request = 0
        /// A call to another role, as its caller saw it. Detail: the address called.
        case call = 1
        /// A call, as the role saw it that was called. Detail: who called.
        case serve = 2
        /// Reads or writes of a disk, from being asked for to being done: queue and service.
        /// Detail: the disk.
        case disk = 3
        /// Waiting for others: for the sync that makes an append durable. Detail: the disk.
        case wait = 4
    }

    /// 64 bits that all spans of a request share; never 0.
    public var traceID: UInt64
    public var kind: Kind
    /// 0, or a `StoreError.Code`; for a request the status of HTTP.
    public var outcome: UInt16
    /// Operations that the disk had in flight and in its queue when this one came; else 0.
    public var queued: UInt32
    /// Of the monotonic clock in the ring, of Unix time once it was asked for.
    public var startNanoseconds: UInt64
    public var durationNanoseconds: UInt64
    /// The start of the request or service of the same role that it was done for, on the same
    /// clock; its own start where it is one.
    public var parentNanoseconds: UInt64
    /// Payload bytes, both directions together.
    public var bytes: UInt64
    public var operation: String
    public var detail: String

    /// A span with everything in it.
    public init(
        traceID: UInt64, kind: Kind, operation: String, detail: String, startNanoseconds: UInt64,
        durationNanoseconds: UInt64, parentNanoseconds: UInt64? = nil, outcome: UInt16 = 0,
        bytes: UInt64 = 0, queued: UInt32 = 0
    ) {
        self.traceID = traceID
        self.kind = kind
        self.outcome = outcome
        self.queued = queued
        self.startNanoseconds = startNanoseconds
        self.durationNanoseconds = durationNanoseconds
        self.parentNanoseconds = parentNanoseconds ?? startNanoseconds
        self.bytes = bytes
        self.operation = operation
        self.detail = detail
    }

    /// What fills a place where no span is.
    static var nothing: TraceSpan {
        TraceSpan(
            traceID: 0, kind: .request, operation: "", detail: "", startNanoseconds: 0,
            durationNanoseconds: 0)
    }

    /// The same on another clock, which is `offset` before this one.
    func moved(by offset: UInt64) -> Self {
        var span = self
        span.startNanoseconds &+= offset
        span.parentNanoseconds &+= offset
        return span
    }

    /// When it ended, on the clock of its start.
    public var endNanoseconds: UInt64 { startNanoseconds &+ durationNanoseconds }
}
