import Bytes
import Glibc
import Model
import Reactor
import Synchronization
import Wire

/// The client's end of one connection: many calls at once, answered in any order.
///
/// Isolated to its reactor. Payload bytes in flight (sent with requests, or expected with
/// answers) are bounded by the server's credit; calls beyond it wait their turn, in order.
actor RPCConnection {
    /// How a call on this connection ended.
    enum CallEnd {
        case answered(RPCReply)
        case failed(StoreError)
        /// The server has ended the connection, which was idle to it, and not taken the call up: it
        /// may be made on another one.
        case notTaken
    }

    private struct Pending {
        var continuation: UnsafeContinuation<CallEnd, Never>
        var bytes: Int
        var deadline: MonotonicTime?
        /// The payload or the landing area, where the server uses it in place.
        var shared: Payload?
    }

    /// A call on its way to the server: of those that wait for credit too.
    private struct Call {
        var id: UInt64
        var request: RPCRequest
        var expecting: Int
        var continuation: UnsafeContinuation<CallEnd, Never>

        var bytes: Int { (request.payload?.count ?? 0) + expecting }
    }

    private let reactor: Reactor
    private let socket: Socket
    private let sender: FrameSender
    /// Whether the server has this process's arena mapped.
    private let sharesMemory: Bool
    /// Whether the server takes the identities of calls.
    private let takesIdentities: Bool
    private let knowsAnyMember: Bool
    /// Whether the server takes requests that it is not to answer.
    private let takesPosts: Bool
    private var pending: [UInt64: Pending] = [:]
    /// Memory of calls that nobody waits for any more, until the server is done with it.
    private var orphans: [UInt64: Payload] = [:]
    private var waiting: [Call] = []
    private nonisolated let lastID = Atomic<UInt64>(0)
    private var inFlight = 0
    private var credit: Int
    private var isWatching = false
    /// Why no more calls are taken: what becomes of those that come.
    private var failure: CallEnd?
    /// Calls are taken.
    var isOpen: Bool { failure == nil }

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    private init(_ socket: Socket, sender: FrameSender, hello: FrameHeader, sharesMemory: Bool) {
        reactor = socket.reactor
        credit = hello.credit
        takesIdentities = hello.method & FrameHeader.Feature.calls != 0
        knowsAnyMember = hello.method & FrameHeader.Feature.anyMember != 0
        takesPosts = hello.method & FrameHeader.Feature.posts != 0
        self.socket = socket
        self.sender = sender
        self.sharesMemory = sharesMemory
    }

    /// A socket to `host:port`, and whether the server shares this process's memory: it does if it
    /// is on this machine and runs as the same user.
    private static func connect(
        host: String, port: Int, on reactor: Reactor, mayShare: Bool
    ) async throws(StoreError) -> (Socket, isShared: Bool) {
        do throws(IOError) {
            if mayShare, reactor.pool.arenaDescriptor >= 0,
                let name = await Socket.localName(host: host, port: port, on: reactor),
                let socket = await connectLocally(name, on: reactor)
            {
                return (socket, true)
            }
            let socket = try await Socket.connect(
                host: host, port: port, timeout: TransportLimits.connectTimeout, on: reactor)
            return (socket, false)
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
                // It has ended the connection already, and its goodbye says why: through the network
                // it would be asked for what it has refused.
                if error.code == EPIPE || error.code == ECONNRESET { return socket }
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
            socket, sender: sender, hello: hello.header, sharesMemory: isShared)
        await connection.start(consume receiver)
        return connection
    }

    /// What a goodbye says; nil for another frame.
    private static func goodbye(_ frame: Frame) -> StoreError? {
        guard frame.header.kind == .goodbye else { return nil }
        if frame.header.status == 0 {
            return StoreError(.connection, "the other end has ended the connection")
        }
        return StoreError(
            StoreError.Code(rawValue: frame.header.status) ?? .connection,
            String(decoding: frame.message, as: UTF8.self))
    }

    private func start(_ receiver: consuming FrameReceiver) {
        let box = ReceiverBox(receiver)
        Task(executorPreference: reactor) { @concurrent in await self.receiveAll(box) }
    }

    /// In a task on the reactor that is not isolated to the connection: receiving would have to
    /// leave it and come back for each frame.
    private nonisolated func receiveAll(_ box: ReceiverBox) async {
        var receiver = box.take()
        let end = await receiveFrames(&receiver)
        inPlace { $0.fail(end) }
        guard sharesMemory else { return }
        // Until the server has ended its side it may still use the memory of calls in flight.
        let scratch = reactor.pool.allocate(1)
        do throws(IOError) {
            while try await socket.receive(into: scratch, 0..<scratch.capacity, all: false) > 0 {}
        } catch {
            // Reset by the server: its side is gone as well.
        }
        inPlace { $0.orphans = [:] }
        socket.close()
    }

    /// Why no more frames come.
    private nonisolated func receiveFrames(
        _ receiver: inout FrameReceiver
    ) async -> CallEnd {
        while true {
            do throws(StreamError) {
                let frame = try await receiver.next()
                switch frame.header.kind {
                case .response: inPlace(with: frame) { $0.finish($1) }
                case .goodbye where frame.header.status == 0: return .notTaken
                case .goodbye, .hello, .request, .cancel:
                    return .failed(
                        Self.goodbye(frame) ?? FrameError.unexpected(frame.header.kind).storeError)
                }
            } catch {
                return .failed(error.storeError)
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
            return call.continuation.resume(returning: .answered(reply))
        }
        let code = StoreError.Code(rawValue: frame.header.status) ?? .internal
        let text = String(decoding: frame.message, as: UTF8.self)
        let leader = frame.token.isEmpty ? nil : String(decoding: frame.token, as: UTF8.self)
        call.continuation.resume(returning: .failed(StoreError(code, text, leader: leader)))
    }

    /// The answer's payload that lies in the landing area of `call`, if it does.
    private func landed(_ header: FrameHeader, _ call: Pending) -> Payload? {
        guard header.payloadPlace == .shared, let shared = call.shared,
            reactor.pool.arenaOffset(of: shared) == header.sharedOffset,
            header.payloadBytes <= shared.count
        else { return nil }
        return shared.slice(0..<header.payloadBytes)
    }

    /// Ends the connection; every call in flight ends with `end`, in the order of their making.
    func fail(_ end: CallEnd) {
        guard failure == nil else { return }
        failure = end
        let calls = pending.sorted { $0.key < $1.key }
        pending = [:]
        for (id, call) in calls {
            if let shared = call.shared { orphans[id] = shared }
            call.continuation.resume(returning: end)
        }
        let refused = waiting
        waiting = []
        for call in refused { call.continuation.resume(returning: end) }
        if sharesMemory {
            // The receiving task waits for the server's end.
            socket.shutdownSending()
            sender.stop()
        } else {
            sender.close()
        }
    }

    /// Calls and waits for the answer. From a task on the connection's reactor nothing changes
    /// its executor on the way.
    ///
    /// Precondition: frames can carry the request (`RPCRequest.checkSize`).
    nonisolated func call(_ request: RPCRequest, expecting: Int) async -> CallEnd {
        let id = lastID.wrappingAdd(1, ordering: .relaxed).newValue
        return await withTaskCancellationHandler {
            await withUnsafeContinuation { (continuation: UnsafeContinuation<CallEnd, Never>) in
                // Cancelled before: the handler below may have run, and found nothing to end.
                if Task.isCancelled {
                    return continuation.resume(
                        returning: .failed(StoreError(.cancelled, "the call was cancelled")))
                }
                let call = Call(
                    id: id, request: request, expecting: expecting, continuation: continuation)
                if reactor.isCurrent { return inPlace(with: call) { $0.begin($1) } }
                Task(executorPreference: reactor) { await self.begin(call) }
                // Cancelled since: the handler may have been quicker than the call.
                if Task.isCancelled {
                    Task(executorPreference: reactor) { await self.cancel(id) }
                }
            }
        } onCancel: {
            Task(executorPreference: reactor) { await self.cancel(id) }
        }
    }

    /// Sends a request that nobody waits for, behind those that were begun. false, and nothing is
    /// sent, if the connection has failed, if calls wait for credit, or if the server answers all it
    /// takes.
    func post(_ method: UInt16, _ message: [UInt8]) -> Bool {
        guard failure == nil, takesPosts, waiting.isEmpty else { return false }
        let header = FrameHeader(kind: .request, method: method, flags: FrameHeader.Flag.post)
        sender.add(Frame(header, message: message))
        return true
    }

    /// Sends the call, or has it wait for credit.
    private func begin(_ call: Call) {
        if let failure { return call.continuation.resume(returning: failure) }
        let bytes = call.bytes
        // Calls without bytes keep their place too: they may be about what waits.
        guard waiting.isEmpty, bytes == 0 || inFlight == 0 || inFlight + bytes <= credit else {
            waiting.append(call)
            if call.request.context.deadline != nil { watchDeadlines() }
            return
        }
        inFlight += bytes
        send(call, at: call.request.takenUp)
    }

    /// - Parameter now: a reading of the clock just taken; nil: there is none.
    private func send(_ call: Call, at now: MonotonicTime?) {
        let request = call.request
        var header = FrameHeader(kind: .request, requestID: call.id, method: request.method)
        header.traceID = request.traceID
        header.ioClass = request.context.ioClass.rawValue
        if request.isForAnyMember, knowsAnyMember { header.flags |= FrameHeader.Flag.anyMember }
        if let deadline = request.context.deadline {
            let now = (now ?? reactor.now()).nanoseconds
            let left = deadline.nanoseconds - min(now, deadline.nanoseconds)
            header.deadlineMilliseconds = UInt32(clamping: max(1, left / 1_000_000))
        }
        let shared = share(request.payload, expecting: call.expecting, &header)
        pending[call.id] = Pending(
            continuation: call.continuation, bytes: call.bytes, deadline: request.context.deadline,
            shared: shared)
        // A server of before would take it for what it is not.
        let identity = takesIdentities ? request.call : nil
        if identity == nil { request.identity?.lane?.noteUnmarked() }
        sender.add(
            Frame(
                header, token: request.token, message: request.message, payload: request.payload,
                call: identity))
        if request.context.deadline != nil { watchDeadlines() }
    }

    /// Notes in `header` where the payload lies, or where the answer's may go, in memory that the
    /// server shares; that memory, nil if there is none.
    private func share(
        _ payload: Payload?, expecting: Int, _ header: inout FrameHeader
    ) -> Payload? {
        guard sharesMemory else { return nil }
        var shared = payload
        // An answer that no frame can name has no place to land; the server tells so.
        if payload == nil, expecting > 0, expecting <= FrameHeader.Limits.payloadBytes {
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
        let error = StoreError(.cancelled, "the call was cancelled")
        guard let place = waiting.firstIndex(where: { $0.id == id }) else {
            return abandon(id, error)
        }
        waiting.remove(at: place).continuation.resume(returning: .failed(error))
    }

    private func abandon(_ id: UInt64, _ error: StoreError) {
        guard let call = pending.removeValue(forKey: id) else { return }
        release(call.bytes)
        if let shared = call.shared { orphans[id] = shared }
        call.continuation.resume(returning: .failed(error))
        sender.add(Frame(FrameHeader(kind: .cancel, requestID: id), message: []))
    }

    // MARK: Credit

    private func release(_ bytes: Int) {
        inFlight -= bytes
        while let first = waiting.first,
            first.bytes == 0 || inFlight == 0 || inFlight + first.bytes <= credit
        {
            waiting.removeFirst()
            inFlight += first.bytes
            send(first, at: nil)
        }
    }

    // MARK: Deadlines

    private func watchDeadlines() {
        guard !isWatching else { return }
        isWatching = true
        Task(executorPreference: reactor) { await self.watch() }
    }

    private func watch() async {
        while pending.values.contains(where: { $0.deadline != nil })
            || waiting.contains(where: { $0.request.context.deadline != nil })
        {
            do {
                try await reactor.sleep(for: TransportLimits.deadlineTick)
            } catch {
                break
            }
            let now = reactor.now()
            let late = pending.filter { $0.value.deadline.map { $0 <= now } ?? false }
            let error = StoreError(.deadlineExceeded, "\(socket.peer) did not answer in time")
            for id in late.keys { abandon(id, error) }
            let unsent = waiting.filter { $0.request.context.deadline.map { $0 <= now } ?? false }
            guard !unsent.isEmpty else { continue }
            let ids = Set(unsent.map(\.id))
            waiting.removeAll { ids.contains($0.id) }
            for call in unsent { call.continuation.resume(returning: .failed(error)) }
            // What stood behind them may fit.
            release(0)
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
