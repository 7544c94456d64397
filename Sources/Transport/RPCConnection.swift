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
        var continuation: CheckedContinuation<Result<RPCReply, StoreError>, Never>
        var bytes: Int
        var deadline: MonotonicTime?
    }

    private struct Waiting {
        var continuation: CheckedContinuation<Void, Never>
        var bytes: Int
    }

    private let reactor: Reactor
    private let socket: Socket
    private let sender: FrameSender
    private var pending: [UInt64: Pending] = [:]
    private var waiting: [Waiting] = []
    private var nextID: UInt64 = 1
    private var inFlight = 0
    private var credit: Int
    private var isWatching = false
    /// Why no more calls are taken.
    private(set) var failure: StoreError?

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    private init(_ socket: Socket, sender: FrameSender, credit: Int) {
        reactor = socket.reactor
        self.socket = socket
        self.sender = sender
        self.credit = credit
    }

    /// Connects, exchanges hellos and starts receiving.
    static func open(
        host: String, port: Int, name: String, on reactor: Reactor
    ) async throws(StoreError) -> RPCConnection {
        let socket: Socket
        do throws(IOError) {
            socket = try await Socket.connect(host: host, port: port, on: reactor)
        } catch {
            throw StoreError(.connection, error.description)
        }
        // A peer that accepts and says nothing must not hold the caller for ever.
        let guardTask = Task(executorPreference: reactor) {
            try await reactor.sleep(for: TransportLimits.connectTimeout)
            socket.shutdown()
        }
        defer { guardTask.cancel() }
        let sender = FrameSender(socket)
        await sender.add(Frame(FrameHeader(kind: .hello), message: Array(name.utf8)))
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
        let connection = RPCConnection(socket, sender: sender, credit: hello.header.credit)
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
        while true {
            do throws(StreamError) {
                let frame = try await receiver.next()
                switch frame.header.kind {
                case .response: finish(frame)
                case .goodbye: return fail(Self.goodbye(frame)!)
                case .hello, .request, .cancel:
                    return fail(FrameError.unexpected(frame.header.kind).storeError)
                }
            } catch {
                return fail(error.storeError)
            }
        }
    }

    private func finish(_ frame: Frame) {
        guard let call = pending.removeValue(forKey: frame.header.requestID) else { return }
        release(call.bytes)
        guard frame.header.status != 0 else {
            let reply = RPCReply(frame.message, payload: frame.payload)
            return call.continuation.resume(returning: .success(reply))
        }
        let code = StoreError.Code(rawValue: frame.header.status) ?? .internal
        let text = String(decoding: frame.message, as: UTF8.self)
        call.continuation.resume(returning: .failure(StoreError(code, text)))
    }

    /// Ends the connection; every call in flight fails with `error`.
    func fail(_ error: StoreError) {
        guard failure == nil else { return }
        failure = error
        let calls = pending
        pending = [:]
        for call in calls.values { call.continuation.resume(returning: .failure(error)) }
        for entry in waiting { entry.continuation.resume() }
        waiting = []
        socket.shutdown()
        Task(executorPreference: reactor) { await self.sender.close() }
    }

    func call(
        _ request: RPCRequest, expecting: Int
    ) async throws(StoreError) -> RPCReply {
        let bytes = (request.payload?.count ?? 0) + expecting
        await acquire(bytes)
        if let failure { throw failure }
        let id = nextID
        nextID += 1
        var header = FrameHeader(kind: .request, requestID: id, method: request.method)
        header.traceID = request.traceID
        if let deadline = request.deadline {
            let left = reactor.now().duration(to: deadline).components
            let milliseconds = left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000
            header.deadlineMilliseconds = UInt32(clamping: max(1, milliseconds))
        }
        let frame = Frame(
            header, token: request.token, message: request.message, payload: request.payload)
        let result: Result<RPCReply, StoreError> = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                // Cancelled before: the handler below may have run, and found nothing to end.
                if Task.isCancelled {
                    release(bytes)
                    return continuation.resume(
                        returning: .failure(StoreError(.cancelled, "the call was cancelled")))
                }
                pending[id] = Pending(
                    continuation: continuation, bytes: bytes, deadline: request.deadline)
                Task(executorPreference: reactor) { await self.sender.add(frame) }
                if request.deadline != nil { watchDeadlines() }
            }
        } onCancel: {
            Task(executorPreference: reactor) { await self.cancel(id) }
        }
        return try result.get()
    }

    private func cancel(_ id: UInt64) {
        abandon(id, StoreError(.cancelled, "the call was cancelled"))
    }

    private func abandon(_ id: UInt64, _ error: StoreError) {
        guard let call = pending.removeValue(forKey: id) else { return }
        release(call.bytes)
        call.continuation.resume(returning: .failure(error))
        let frame = Frame(FrameHeader(kind: .cancel, requestID: id), message: [])
        Task(executorPreference: reactor) { await self.sender.add(frame) }
    }

    // MARK: Credit

    private func acquire(_ bytes: Int) async {
        guard bytes > 0, failure == nil else { return }
        if waiting.isEmpty, inFlight == 0 || inFlight + bytes <= credit {
            inFlight += bytes
            return
        }
        await withCheckedContinuation { continuation in
            waiting.append(Waiting(continuation: continuation, bytes: bytes))
        }
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
