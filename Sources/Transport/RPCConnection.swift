import Bytes
import Model
import Reactor
import Synchronization
import Wire

/// The client's end of one connection: many calls at once, answered in any order.
///
/// Isolated to its reactor. Payload bytes in flight (sent with requests, or expected with
/// answers) are bounded by the server's credit; calls beyond it wait their turn, in order.
actor RPCConnection {
    private struct Pending {
        var continuation: UnsafeContinuation<Result<RPCReply, StoreError>, Never>
        var bytes: Int
        var deadline: MonotonicTime?
        /// The payload or the landing area, where the server uses it in place.
        var shared: Payload?
    }

    private struct Waiting {
        var continuation: UnsafeContinuation<Void, Never>
        var bytes: Int
    }

    private let reactor: Reactor
    private let socket: Socket
    private let sender: FrameSender
    /// Whether the server has this process's arena mapped.
    private let sharesMemory: Bool
    private var pending: [UInt64: Pending] = [:]
    /// Memory of calls that nobody waits for any more, until the server is done with it.
    private var orphans: [UInt64: Payload] = [:]
    private var waiting: [Waiting] = []
    private var nextID: UInt64 = 1
    private var inFlight = 0
    private var credit: Int
    private var isWatching = false
    /// Why no more calls are taken.
    private(set) var failure: StoreError?

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    private init(_ socket: Socket, sender: FrameSender, credit: Int, sharesMemory: Bool) {
        reactor = socket.reactor
        self.socket = socket
        self.sender = sender
        self.credit = credit
        self.sharesMemory = sharesMemory
    }

    /// A socket to `host:port`, and whether the server shares this process's memory: it does if it
    /// is on this machine and runs as the same user.
    private static func connect(
        host: String, port: Int, on reactor: Reactor, mayShare: Bool
    ) async throws(StoreError) -> (Socket, isShared: Bool) {
        do throws(IOError) {
            if mayShare, reactor.pool.arenaDescriptor >= 0,
                let name = Socket.localName(host: host, port: port),
                let socket = await connectLocally(name, on: reactor)
            {
                return (socket, true)
            }
            return (try await Socket.connect(host: host, port: port, on: reactor), false)
        } catch {
            throw StoreError(.connection, error.description)
        }
    }

    /// nil if nobody of this user listens under `name`.
    private static func connectLocally(_ name: String, on reactor: Reactor) async -> Socket? {
        do throws(IOError) {
            let socket = try await Socket.connect(localName: name, on: reactor)
            do throws(IOError) {
                try await SharedMemoryGreeting.send(over: socket)
                return socket
            } catch {
                socket.close()
                return nil
            }
        } catch {
            return nil
        }
    }

    /// Connects, exchanges hellos and starts receiving.
    static func open(
        host: String, port: Int, name: String, on reactor: Reactor, mayShare: Bool
    ) async throws(StoreError) -> RPCConnection {
        let (socket, isShared) = try await connect(
            host: host, port: port, on: reactor, mayShare: mayShare)
        // A peer that accepts and says nothing must not hold the caller for ever.
        let guardTask = Task(executorPreference: reactor) {
            try await reactor.sleep(for: TransportLimits.connectTimeout)
            socket.shutdown()
        }
        defer { guardTask.cancel() }
        let sender = FrameSender(socket)
        sender.add(Frame(FrameHeader(kind: .hello), message: Array(name.utf8)))
        var receiver = FrameReceiver(socket)
        let hello: Frame
        do throws(StreamError) {
            hello = try await receiver.next()
        } catch {
            socket.shutdown()
            throw StoreError(
                error.storeError.code, "\(host):\(port): \(error.storeError.message)")
        }
        guard hello.header.kind == .hello else {
            socket.shutdown()
            throw Self.goodbye(hello) ?? FrameError.unexpected(hello.header.kind).storeError
        }
        let connection = RPCConnection(
            socket, sender: sender, credit: hello.header.credit, sharesMemory: isShared)
        await connection.start(consume receiver)
        return connection
    }

    private static func goodbye(_ frame: Frame) -> StoreError? {
        guard frame.header.kind == .goodbye else { return nil }
        return StoreError(
            StoreError.Code(rawValue: frame.header.status) ?? .connection,
            String(decoding: frame.message, as: UTF8.self))
    }

    private func start(_ receiver: consuming FrameReceiver) {
        let box = ReceiverBox(receiver)
        Task(executorPreference: reactor) { await self.receiveAll(box) }
    }

    private func receiveAll(_ box: ReceiverBox) async {
        var receiver = box.take()
        fail(await receiveFrames(&receiver))
        guard sharesMemory else { return }
        // Until the server has ended its side it may still use the memory of calls in flight.
        let scratch = reactor.pool.allocate(1)
        do throws(IOError) {
            while try await socket.receive(into: scratch, 0..<scratch.capacity, all: false) > 0 {}
        } catch {
            // Reset by the server: its side is gone as well.
        }
        orphans = [:]
        socket.close()
    }

    /// Why no more frames come.
    private func receiveFrames(_ receiver: inout FrameReceiver) async -> StoreError {
        while true {
            do throws(StreamError) {
                let frame = try await receiver.next()
                switch frame.header.kind {
                case .response: finish(frame)
                case .goodbye: return Self.goodbye(frame)!
                case .hello, .request, .cancel:
                    return FrameError.unexpected(frame.header.kind).storeError
                }
            } catch {
                return error.storeError
            }
        }
    }

    private func finish(_ frame: Frame) {
        guard let call = pending.removeValue(forKey: frame.header.requestID) else {
            orphans[frame.header.requestID] = nil
            return
        }
        release(call.bytes)
        guard frame.header.status != 0 else {
            let reply = RPCReply(
                frame.message, payload: frame.payload ?? landed(frame.header, call))
            return call.continuation.resume(returning: .success(reply))
        }
        let code = StoreError.Code(rawValue: frame.header.status) ?? .internal
        let text = String(decoding: frame.message, as: UTF8.self)
        call.continuation.resume(returning: .failure(StoreError(code, text)))
    }

    /// The answer's payload that lies in the landing area of `call`, if it does.
    private func landed(_ header: FrameHeader, _ call: Pending) -> Payload? {
        guard header.payloadPlace == .shared, let shared = call.shared,
            reactor.pool.arenaOffset(of: shared) == header.sharedOffset,
            header.payloadBytes <= shared.count
        else { return nil }
        return shared.slice(0..<header.payloadBytes)
    }

    /// Ends the connection; every call in flight fails with `error`.
    func fail(_ error: StoreError) {
        guard failure == nil else { return }
        failure = error
        let calls = pending
        pending = [:]
        for (id, call) in calls {
            if let shared = call.shared { orphans[id] = shared }
            call.continuation.resume(returning: .failure(error))
        }
        for entry in waiting { entry.continuation.resume() }
        waiting = []
        if sharesMemory {
            // The receiving task waits for the server's end.
            socket.shutdownSending()
            sender.stop()
        } else {
            sender.close()
        }
    }

    func call(
        _ request: RPCRequest, expecting: Int
    ) async throws(StoreError) -> RPCReply {
        let bytes = (request.payload?.count ?? 0) + expecting
        let hasWaited = await acquire(bytes)
        if let failure { throw failure }
        let id = nextID
        nextID += 1
        var header = FrameHeader(kind: .request, requestID: id, method: request.method)
        header.traceID = request.traceID
        if let deadline = request.deadline {
            let now = (hasWaited ? nil : request.takenUp) ?? reactor.now()
            let left = now.duration(to: deadline).components
            let milliseconds = left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000
            header.deadlineMilliseconds = UInt32(clamping: max(1, milliseconds))
        }
        let shared = share(request.payload, expecting: expecting, &header)
        let frame = Frame(
            header, token: request.token, message: request.message, payload: request.payload)
        let result: Result<RPCReply, StoreError> = await withTaskCancellationHandler {
            await withUnsafeContinuation {
                (continuation: UnsafeContinuation<Result<RPCReply, StoreError>, Never>) in
                // Cancelled before: the handler below may have run, and found nothing to end.
                if Task.isCancelled {
                    release(bytes)
                    return continuation.resume(
                        returning: .failure(StoreError(.cancelled, "the call was cancelled")))
                }
                pending[id] = Pending(
                    continuation: continuation, bytes: bytes, deadline: request.deadline,
                    shared: shared)
                sender.add(frame)
                if request.deadline != nil { watchDeadlines() }
            }
        } onCancel: {
            Task(executorPreference: reactor) { await self.cancel(id) }
        }
        return try result.get()
    }

    /// Notes in `header` where the payload lies, or where the answer's may go, in memory that the
    /// server shares; that memory, nil if there is none.
    private func share(
        _ payload: Payload?, expecting: Int, _ header: inout FrameHeader
    ) -> Payload? {
        guard sharesMemory else { return nil }
        var shared = payload
        if payload == nil, expecting > 0 {
            let landing = reactor.pool.allocate(expecting)
            shared = Payload(landing, 0..<landing.capacity)
        }
        guard let shared, shared.count > 0,
            let offset = reactor.pool.arenaOffset(of: shared),
            offset % AlignedBuffer.alignment == 0
        else { return nil }
        header.payloadPlace = payload == nil ? .landing : .shared
        header.sharedOffset = offset
        header.payloadBytes = shared.count
        return shared
    }

    private func cancel(_ id: UInt64) {
        abandon(id, StoreError(.cancelled, "the call was cancelled"))
    }

    private func abandon(_ id: UInt64, _ error: StoreError) {
        guard let call = pending.removeValue(forKey: id) else { return }
        release(call.bytes)
        if let shared = call.shared { orphans[id] = shared }
        call.continuation.resume(returning: .failure(error))
        sender.add(Frame(FrameHeader(kind: .cancel, requestID: id), message: []))
    }

    // MARK: Credit

    /// Takes `bytes` of the credit. Whether it had to wait for them.
    private func acquire(_ bytes: Int) async -> Bool {
        guard bytes > 0, failure == nil else { return false }
        if waiting.isEmpty, inFlight == 0 || inFlight + bytes <= credit {
            inFlight += bytes
            return false
        }
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            waiting.append(Waiting(continuation: continuation, bytes: bytes))
        }
        return true
    }

    private func release(_ bytes: Int) {
        inFlight -= bytes
        while let first = waiting.first, inFlight == 0 || inFlight + first.bytes <= credit {
            waiting.removeFirst()
            inFlight += first.bytes
            first.continuation.resume()
        }
    }

    // MARK: Deadlines

    private func watchDeadlines() {
        guard !isWatching else { return }
        isWatching = true
        Task(executorPreference: reactor) { await self.watch() }
    }

    private func watch() async {
        while pending.values.contains(where: { $0.deadline != nil }) {
            do {
                try await reactor.sleep(for: TransportLimits.deadlineTick)
            } catch {
                break
            }
            let now = reactor.now()
            let late = pending.filter { $0.value.deadline.map { $0 <= now } ?? false }
            for id in late.keys {
                abandon(
                    id, StoreError(.deadlineExceeded, "\(socket.peer) did not answer in time"))
            }
        }
        isWatching = false
    }
}

/// Carries a receiver, which cannot be copied, into the task that uses it.
final class ReceiverBox: Sendable {
    private let content: Mutex<FrameReceiver?>

    init(_ receiver: consuming sending FrameReceiver) { content = Mutex(consume receiver) }

    /// The receiver. Precondition: nobody took it before.
    func take() -> FrameReceiver {
        guard let receiver = content.withLock({ $0.take() }) else {
            preconditionFailure("a receiver is taken once")
        }
        return receiver
    }
}
