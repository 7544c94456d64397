import Model
import Raft
import Synchronization

/// Resumed with nil once the call is durable, or with why it is not.
typealias LogWaiter = UnsafeContinuation<StoreError?, Never>

/// A group's call, on its way to the writer.
struct LogRequest {
    enum Work {
        case append(entries: [Entry], hardState: HardState?)
        case install(SnapshotMetadata, entries: [Entry], hardState: HardState?)
        case anchor(AnchorChange)
        case move([MovedEntry])
        case remove
        /// A batch without records: only its header is wanted.
        case note
    }

    enum AnchorChange {
        case create(GroupAnchor)
        case compact(LogIndex, ConfState?)
        case members(ConfState, LogIndex)
        /// Out of this segment, unless it has gone from there.
        case move(from: UInt32)
    }

    /// nil for `note` alone.
    var group: GroupLog?
    var work: Work
    /// Entries that are durable already, of a call that takes several batches.
    var done = 0
    /// Bytes of entries' data.
    var bytes: Int
    var waiter: LogWaiter

    /// Whether it makes room, so that it may use what is reserved.
    var makesRoom: Bool {
        switch work {
        case .append, .install, .anchor(.create), .anchor(.members): false
        case .anchor(.compact), .anchor(.move), .move, .remove, .note: true
        }
    }
}

/// An entry of an old segment that is to be written again.
struct MovedEntry {
    var entry: Entry
    var old: LogPosition
}

/// What waits for the writer.
struct WriteQueue {
    var waiting: [LogRequest] = []
    /// Calls that have not returned, and the bytes of their entries.
    var count = 0
    var bytes = 0
    /// The writer, while it has nothing to do.
    var idle: UnsafeContinuation<Void, Never>?
    /// Why nothing more is taken.
    var refusal: StoreError?
    var isClosing = false
}

extension SharedLog {
    /// Hands `work` to the writer and waits until it is durable.
    nonisolated(nonsending) func submit(
        _ work: LogRequest.Work, of group: GroupLog?, bytes: Int = 0
    ) async throws(StoreError) {
        let error = await withUnsafeContinuation { (waiter: LogWaiter) in
            let request = LogRequest(group: group, work: work, bytes: bytes, waiter: waiter)
            let (refusal, writer) = queue.withLock { queue in
                Self.enqueue(request, &queue)
            }
            if let refusal { waiter.resume(returning: refusal) }
            writer?.resume()
        }
        if let error { throw error }
    }

    private static func enqueue(
        _ request: LogRequest, _ queue: inout WriteQueue
    ) -> (StoreError?, UnsafeContinuation<Void, Never>?) {
        if let refusal = queue.refusal { return (refusal, nil) }
        guard queue.count < Limits.waitingCalls,
            queue.bytes + request.bytes <= Limits.waitingBytes || queue.bytes == 0
        else {
            return (
                StoreError(
                    .overloaded,
                    "\(queue.count) calls with \(queue.bytes) bytes wait for the log "
                        + "already: try again later"),
                nil
            )
        }
        queue.waiting.append(request)
        queue.count += 1
        queue.bytes += request.bytes
        defer { queue.idle = nil }
        return (nil, queue.idle)
    }

    /// Moves what waits into `pending`; suspends until there is anything, false when the log
    /// closes and nothing is left.
    func takeWaiting() async -> Bool {
        while true {
            let (taken, isClosing) = queue.withLock { queue -> ([LogRequest], Bool) in
                guard !queue.waiting.isEmpty else { return ([], queue.isClosing) }
                var taken: [LogRequest] = []
                taken.reserveCapacity(16)
                swap(&taken, &queue.waiting)
                return (taken, queue.isClosing)
            }
            pending.append(contentsOf: taken)
            if !pending.isEmpty { return true }
            if isClosing { return false }
            await withUnsafeContinuation { (writer: UnsafeContinuation<Void, Never>) in
                let mustGoOn = queue.withLock { queue in
                    if queue.waiting.isEmpty && !queue.isClosing {
                        queue.idle = writer
                        return false
                    }
                    return true
                }
                if mustGoOn { writer.resume() }
            }
        }
    }
}
