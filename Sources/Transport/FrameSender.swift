import Bytes
import Reactor
import Synchronization
import Wire

/// Sends frames in order, several with one call to the kernel where they have gathered.
///
/// Frames may be added from anywhere; one task on the socket's reactor sends them. It lives until
/// the sender is closed and waits without cost while there is nothing to send.
final class FrameSender: Sendable {
    private struct State {
        var queue: [Frame] = []
        var isStarted = false
        var isClosed = false
        /// The sending task, while it waits for something to send.
        var idle: UnsafeContinuation<Void, Never>?
        /// Bytes added and not sent.
        var backlog = 0
        /// Sends that have ended.
        var sends: UInt64 = 0

        /// Takes the frames that go out together: in order, few enough and small enough for one
        /// send, and one at least.
        mutating func takeBatch() -> [Frame] {
            var count = 0
            var bytes = 0
            while count < min(queue.count, TransportLimits.framesPerSend) {
                bytes += queue[count].bytesToSend
                if count > 0, bytes > TransportLimits.bytesPerSend { break }
                count += 1
            }
            guard count < queue.count else {
                defer { queue = [] }
                return queue
            }
            let batch = Array(queue.prefix(count))
            queue.removeFirst(count)
            return batch
        }
        /// Who waits for the backlog to shrink, one at most.
        var room: UnsafeContinuation<Void, Never>?
    }

    private let socket: Socket
    private let reactor: Reactor
    // Held for a few instructions, and mostly from the one thread of the reactor.
    private let state = Mutex(State())

    init(_ socket: Socket) {
        self.socket = socket
        reactor = socket.reactor
    }

    /// Queues a frame. It leaves with what else has gathered when the reactor comes to it.
    func add(_ frame: Frame) {
        let (idle, mustStart) = state.withLock { state in
            guard !state.isClosed else { return (UnsafeContinuation<Void, Never>?.none, false) }
            state.queue.append(frame)
            state.backlog += frame.bytesToSend
            defer {
                state.isStarted = true
                state.idle = nil
            }
            return (state.idle, !state.isStarted)
        }
        idle?.resume()
        if mustStart { Task(executorPreference: reactor) { await self.drain() } }
    }

    /// Ends both directions of the socket; what is queued is not sent any more.
    func close() {
        stop()
        socket.shutdown()
    }

    /// Sends no more; what is queued is dropped.
    func stop() {
        let waiting = state.withLock { state in
            state.isClosed = true
            state.queue = []
            defer {
                state.idle = nil
                state.room = nil
            }
            return [state.idle, state.room]
        }
        for continuation in waiting { continuation?.resume() }
    }

    /// Whether more than `limit` bytes were added and are not sent: the other end does not take
    /// what it asked for.
    func isBehind(limit: Int) -> Bool { state.withLock { $0.backlog > limit && !$0.isClosed } }

    /// Bytes that were added and are not sent, and how many sends have ended: where the first is
    /// not 0 and the second stays, the other end takes nothing.
    var progress: (backlog: Int, sends: UInt64) { state.withLock { ($0.backlog, $0.sends) } }

    /// Waits until something was sent, or nothing will be any more. By one task at a time.
    func waitForProgress() async {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            let isDone = state.withLock { state in
                if state.isClosed || state.backlog == 0 { return true }
                state.room = continuation
                return false
            }
            if isDone { continuation.resume() }
        }
    }

    private func sent(_ bytes: Int) {
        let room = state.withLock { state in
            state.backlog -= bytes
            state.sends += 1
            defer { state.room = nil }
            return state.room
        }
        room?.resume()
    }

    private func drain() async {
        let vector = SendVector(capacity: TransportLimits.framesPerSend * 3)
        let headers = reactor.pool.allocate(TransportLimits.framesPerSend * FrameHeader.size)
        let bodies = reactor.pool.allocate(TransportLimits.stagingBytes)
        while true {
            let batch = state.withLock { state in state.isClosed ? nil : state.takeBatch() }
            guard let batch else { return }
            guard !batch.isEmpty else {
                await waitForFrames()
                continue
            }
            do throws(IOError) {
                try await send(batch, vector, headers, bodies)
                sent(batch.reduce(0) { $0 + $1.bytesToSend })
            } catch {
                // The receiving side of the connection sees the end too and tells the callers.
                close()
            }
        }
    }

    private func waitForFrames() async {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            let isReady = state.withLock { state in
                if state.isClosed || !state.queue.isEmpty { return true }
                state.idle = continuation
                return false
            }
            if isReady { continuation.resume() }
        }
    }

    private func send(
        _ batch: [Frame], _ vector: SendVector, _ headers: AlignedBuffer, _ common: AlignedBuffer
    ) async throws(IOError) {
        vector.removeAll()
        // Bodies are gathered into one buffer, since an array's bytes have no lasting address. Those
        // of several frames are less than `bytesPerSend`; that of one fits by the frame's limits.
        let bodyBytes = batch.reduce(0) { $0 + $1.body.count }
        let bodies = bodyBytes <= common.capacity ? common : reactor.pool.allocate(bodyBytes)
        var used = 0
        for (index, frame) in batch.enumerated() {
            let start = index * FrameHeader.size
            let head = headers.bytes(in: start..<start + FrameHeader.size)
            frame.header.write(to: head)
            vector.append(UnsafeRawBufferPointer(head))
            if !frame.body.isEmpty {
                let target = bodies.bytes(in: used..<used + frame.body.count)
                target.copyBytes(from: frame.body)
                vector.append(UnsafeRawBufferPointer(target))
                used += frame.body.count
            }
            if frame.header.payloadPlace == .inline {
                frame.payload?.withBytes { vector.append($0) }
            }
        }
        try await socket.send(vector)
        withExtendedLifetime((batch, bodies)) {}
    }
}
