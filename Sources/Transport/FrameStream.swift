import Bytes
import Checksum
import Model
import Reactor
import Synchronization
import Wire

/// A frame with its body, as it was received or is to be sent.
struct Frame: Sendable {
    var header: FrameHeader
    /// Token and message, one behind the other.
    var body: [UInt8]
    var payload: Payload?

    init(header: FrameHeader, body: [UInt8], payload: Payload? = nil) {
        self.header = header
        self.body = body
        self.payload = payload
    }

    /// A frame of `message` without token, its header's lengths and checksum filled in.
    init(_ header: FrameHeader, token: [UInt8] = [], message: [UInt8], payload: Payload? = nil) {
        self.header = header
        body = token.isEmpty ? message : token + message
        self.payload = payload
        self.header.tokenBytes = token.count
        self.header.messageBytes = message.count
        // A landing area has its size already.
        if header.payloadPlace != .landing { self.header.payloadBytes = payload?.count ?? 0 }
        self.header.bodyChecksum = CRC32C.of(body)
    }

    var message: [UInt8] {
        header.tokenBytes == 0 ? body : Array(body[header.tokenBytes...])
    }
    var token: [UInt8] { Array(body[..<header.tokenBytes]) }

    /// Bytes that go over the socket, the head's left out.
    var bytesToSend: Int {
        body.count + (header.payloadPlace == .inline ? payload?.count ?? 0 : 0)
    }
}

/// Why a stream of frames ended.
enum StreamError: Error, Sendable {
    case io(IOError)
    case frame(FrameError)
    case closedByPeer

    var storeError: StoreError {
        switch self {
        case .io(let error): StoreError(.connection, error.description)
        case .frame(let error): error.storeError
        case .closedByPeer: StoreError(.connection, "the other end closed the connection")
        }
    }
}

/// Receives frames from a socket: heads and messages through a small staging buffer, payloads
/// straight into an aligned buffer of their own. One task at a time, on the socket's reactor.
struct FrameReceiver: ~Copyable {
    private let socket: Socket
    private let pool: BufferPool
    private let staging: AlignedBuffer
    /// Received and not taken yet.
    private var range = 0..<0

    init(_ socket: Socket) {
        self.socket = socket
        pool = socket.reactor.pool
        staging = pool.allocate(TransportLimits.stagingBytes)
    }

    /// The next frame. Throws `closedByPeer` at an end between frames and within one alike.
    mutating func next() async throws(StreamError) -> Frame {
        try await fill(FrameHeader.size)
        let header: FrameHeader
        do throws(FrameError) {
            header = try FrameHeader(
                parsing: UnsafeRawBufferPointer(staging.bytes(in: range)))
        } catch {
            throw .frame(error)
        }
        take(FrameHeader.size)
        let body = try await receiveBody(header.bodyBytes)
        guard CRC32C.of(body) == header.bodyChecksum else { throw .frame(.bodyChecksum) }
        guard header.inlinePayloadBytes > 0 else { return Frame(header: header, body: body) }
        let payload = try await receivePayload(header.inlinePayloadBytes)
        return Frame(header: header, body: body, payload: payload)
    }

    private mutating func take(_ count: Int) {
        range = range.lowerBound + count..<range.upperBound
    }

    /// Receives until at least `count` bytes are staged.
    private mutating func fill(_ count: Int) async throws(StreamError) {
        guard range.count < count else { return }
        if range.lowerBound + count > staging.capacity {
            staging.base.copyMemory(from: staging.base + range.lowerBound, byteCount: range.count)
            range = 0..<range.count
        }
        if range.isEmpty { range = 0..<0 }
        while range.count < count {
            let received = try await receive(into: staging, range.upperBound..<staging.capacity)
            range = range.lowerBound..<range.upperBound + received
        }
    }

    private func receive(
        into buffer: AlignedBuffer, _ target: Range<Int>, all: Bool = false
    ) async throws(StreamError) -> Int {
        do throws(IOError) {
            let count = try await socket.receive(into: buffer, target, all: all)
            if count > 0, !all || count == target.count { return count }
        } catch {
            throw .io(error)
        }
        throw .closedByPeer
    }

    private mutating func receiveBody(_ count: Int) async throws(StreamError) -> [UInt8] {
        guard count > 0 else { return [] }
        if count <= TransportLimits.stagingBytes {
            try await fill(count)
            let start = range.lowerBound
            defer { take(count) }
            return Array(staging.bytes(in: start..<start + count))
        }
        let buffer = try await receiveLarge(count)
        return Array(buffer.bytes(in: 0..<count))
    }

    private mutating func receivePayload(_ count: Int) async throws(StreamError) -> Payload {
        Payload(try await receiveLarge(count), 0..<count)
    }

    private mutating func receiveLarge(_ count: Int) async throws(StreamError) -> AlignedBuffer {
        let buffer = pool.allocate(count)
        let staged = min(count, range.count)
        buffer.base.copyMemory(from: staging.base + range.lowerBound, byteCount: staged)
        take(staged)
        if staged < count { _ = try await receive(into: buffer, staged..<count, all: true) }
        return buffer
    }
}

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
            let batch = state.withLock { state -> [Frame]? in
                if state.isClosed { return nil }
                guard state.queue.count > TransportLimits.framesPerSend else {
                    defer { state.queue = [] }
                    return state.queue
                }
                let batch = Array(state.queue.prefix(TransportLimits.framesPerSend))
                state.queue.removeFirst(batch.count)
                return batch
            }
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
        // Bodies are gathered into one buffer, since an array's bytes have no lasting address.
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
