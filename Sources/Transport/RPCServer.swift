import Bytes
import Glibc
import Model
import Reactor
import Synchronization
import Wire

/// Serves a handler on a port; connections go round its reactors.
///
/// One listener hands them on: with one for each reactor the kernel chooses by a hash, and of a few
/// connections all may land on one core.
public final class RPCServer: Sendable {
    private let handler: any RPCHandler
    private let name: String
    private let listener: Listener
    /// For clients on this machine; nil where the address is not one of it, or the name is taken.
    private let localListener: Listener?
    private let reactors: [Reactor]
    private struct State {
        var connections: [ObjectIdentifier: ServerConnection] = [:]
        var isStopped = false
    }

    private let state = Mutex(State())

    /// The port it listens on.
    public var port: Int { listener.port }

    /// Binds `host:port` (0: any free port). `name` is what it calls itself to its clients.
    public init(
        host: String, port: Int, name: String, reactors: [Reactor], handler: any RPCHandler
    ) throws(StoreError) {
        precondition(!reactors.isEmpty, "a server needs a reactor")
        self.handler = handler
        self.name = name
        do throws(IOError) {
            listener = try Listener(host: host, port: port, on: reactors[0])
        } catch {
            throw StoreError(.io, "cannot serve on \(host):\(port): \(error)")
        }
        self.reactors = reactors
        // Without it clients of this machine come through the network, like all others.
        localListener = Socket.localName(host: host, port: listener.port).flatMap { name in
            try? Listener(localName: name, on: reactors[0])
        }
    }

    /// Begins to accept.
    public func start() {
        Task(executorPreference: listener.reactor) { await self.accept(self.listener) }
        if let localListener {
            Task(executorPreference: localListener.reactor) {
                await self.acceptLocal(localListener)
            }
        }
    }

    /// Stops accepting and ends all connections, those too that were being accepted.
    public func stop() async {
        listener.close()
        localListener?.close()
        let open = state.withLock { state in
            state.isStopped = true
            return Array(state.connections.values)
        }
        for connection in open { await connection.close() }
    }

    private func accept(_ listener: Listener) async {
        var turn = 0
        while let socket = await next(listener, for: reactors[turn % reactors.count]) {
            turn += 1
            serve(socket, nil)
        }
    }

    private func acceptLocal(_ listener: Listener) async {
        var turn = 0
        while let socket = await next(listener, for: reactors[turn % reactors.count]) {
            turn += 1
            Task(executorPreference: socket.reactor) {
                do throws(StoreError) {
                    self.serve(socket, try await SharedMemoryGreeting.receive(over: socket))
                } catch {
                    // Whoever it is gets no answer: it does not speak our protocol.
                    socket.close()
                }
            }
        }
    }

    /// The next connection, nil when no more come.
    private func next(_ listener: Listener, for reactor: Reactor) async -> Socket? {
        while true {
            do throws(IOError) {
                return try await listener.accept(for: reactor)
            } catch {
                // Closed for good; or out of descriptors and the like, which passes.
                let isClosed = [EBADF, EINVAL, ECANCELED].contains(error.code)
                guard !isClosed else { return nil }
                try? await listener.reactor.sleep(for: .milliseconds(100))
            }
        }
    }

    private func serve(_ socket: Socket, _ memory: SharedMap?) {
        let connection = ServerConnection(socket, name: name, handler: handler, memory: memory)
        let isStopped = state.withLock { state in
            if !state.isStopped { state.connections[ObjectIdentifier(connection)] = connection }
            return state.isStopped
        }
        guard !isStopped else { return socket.close() }
        Task(executorPreference: socket.reactor) { @concurrent in
            await connection.run()
            self.state.withLock { $0.connections[ObjectIdentifier(connection)] = nil }
        }
    }
}

/// The server's end of one connection. Isolated to its reactor.
actor ServerConnection {
    private let reactor: Reactor
    private let socket: Socket
    private let sender: FrameSender
    private let handler: any RPCHandler
    private let name: String
    /// What the client shares; nil for a client over the network.
    private let memory: SharedMap?
    private var running: [UInt64: Task<Void, Never>] = [:]
    /// Payload bytes of requests that are not answered.
    private var payloadBytes = 0
    /// No answer is sent any more: requests that end now were cancelled for it, which is not what
    /// their callers asked for.
    private var isEnding = false
    private var resume: UnsafeContinuation<Void, Never>?
    /// Who waits for the last handler to end.
    private var quiet: [UnsafeContinuation<Void, Never>] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(_ socket: Socket, name: String, handler: any RPCHandler, memory: SharedMap?) {
        reactor = socket.reactor
        self.socket = socket
        self.name = name
        self.handler = handler
        self.memory = memory
        sender = FrameSender(socket)
    }

    func close() async {
        isEnding = true
        for task in running.values { task.cancel() }
        await untilQuiet()
        sender.close()
    }

    /// Waits until no handler uses the client's memory any more: the end of the connection tells
    /// the client that it may use it for something else.
    private func untilQuiet() async {
        guard memory != nil, !running.isEmpty else { return }
        // Looked at once more where the continuation is kept, as in `waitForRoom`.
        await withUnsafeContinuation { continuation in
            if running.isEmpty { continuation.resume() } else { quiet.append(continuation) }
        }
    }

    /// Serves until the connection ends. To be called in a task on the reactor that is not isolated
    /// to the connection: receiving would have to leave it and come back for each frame.
    nonisolated func run() async {
        var receiver = FrameReceiver(socket)
        var peer = PeerIdentity(name: "", address: socket.peer)
        do throws(StreamError) {
            let hello = try await receiver.next()
            guard hello.header.kind == .hello else {
                throw .frame(.unexpected(hello.header.kind))
            }
            peer.name = String(decoding: hello.message, as: UTF8.self)
            sender.add(
                Frame(
                    FrameHeader(kind: .hello, credit: TransportLimits.credit),
                    message: Array(name.utf8)))
            while true {
                let frame = try await receiver.next()
                switch frame.header.kind {
                case .request: try await take(frame, from: peer)
                case .cancel: inPlace { $0.running[frame.header.requestID]?.cancel() }
                case .hello, .response, .goodbye:
                    throw .frame(.unexpected(frame.header.kind))
                }
            }
        } catch {
            await end(error)
        }
    }

    private func end(_ error: StreamError) async {
        isEnding = true
        for task in running.values { task.cancel() }
        if case .frame(let error) = error {
            // The other end is told what was wrong before the connection goes.
            let header = FrameHeader(kind: .goodbye, status: error.storeError.code.rawValue)
            sender.add(Frame(header, message: Array(error.storeError.message.utf8)))
            try? await reactor.sleep(for: .milliseconds(50))
        }
        await untilQuiet()
        sender.close()
    }

    private nonisolated func take(
        _ frame: Frame, from peer: PeerIdentity
    ) async throws(StreamError) {
        let shared = try sharedBuffer(frame.header)
        let bytes = frame.header.payloadPlace == .landing ? 0 : frame.header.payloadBytes
        // Not reading on is the back-pressure: the peer's socket fills. A peer that keeps to its
        // credit never waits.
        if !inPlace(with: bytes, { $0.hasRoom(for: $1) }) { await waitForRoom(for: bytes) }
        while sender.isBehind(limit: TransportLimits.unsentBytes) {
            await sender.waitForProgress()
        }
        let id = frame.header.requestID
        guard !inPlace(with: id, { $0.running[$1] != nil }) else { throw .frame(.repeated(id)) }
        inPlace(with: (frame, peer, shared, bytes)) {
            $0.begin($1.0, from: $1.1, $1.2, bytes: $1.3)
        }
    }

    private func hasRoom(for bytes: Int) -> Bool {
        running.count < TransportLimits.requestsPerConnection
            && (payloadBytes == 0 || payloadBytes + bytes <= TransportLimits.credit)
    }

    private func waitForRoom(for bytes: Int) async {
        // Looked at once more where the continuation is kept: the call may leave the actor for a
        // moment, in which the last request that is waited for can end.
        while !hasRoom(for: bytes) {
            await withUnsafeContinuation { continuation in
                if hasRoom(for: bytes) { continuation.resume() } else { resume = continuation }
            }
        }
    }

    private func begin(
        _ frame: Frame, from peer: PeerIdentity, _ shared: AlignedBuffer?, bytes: Int
    ) {
        payloadBytes += bytes
        let header = frame.header
        var request = RPCRequest(
            method: header.method, message: frame.message, payload: frame.payload,
            token: frame.token, peer: peer, traceID: header.traceID)
        switch header.payloadPlace {
        case .inline: break
        case .shared: request.payload = shared.map { Payload($0, 0..<$0.capacity) }
        case .landing: request.landing = shared
        }
        if header.deadlineMilliseconds > 0 {
            let now = reactor.turnTime()
            request.takenUp = now
            request.deadline = now.advanced(
                by: .milliseconds(Int(header.deadlineMilliseconds)))
        }
        let target = handler.prepare(&request)
        let id = header.requestID
        running[id] = Task(executorPreference: reactor) {
            @concurrent [request, handler, target, memory, reactor] in
            let response: Frame
            do throws(StoreError) {
                let reply = try await target.handle(request)
                handler.conclude(
                    request,
                    .answered(bytes: reply.message.count + (reply.payload?.count ?? 0)))
                var head = FrameHeader(kind: .response, requestID: id, traceID: header.traceID)
                if let payload = reply.payload, let offset = memory?.offset(of: payload) {
                    head.payloadPlace = .shared
                    head.sharedOffset = offset
                }
                response = Frame(head, message: reply.message, payload: reply.payload)
            } catch {
                handler.conclude(request, .failed(error.code))
                let header = FrameHeader(
                    kind: .response, requestID: id, status: error.code.rawValue,
                    traceID: header.traceID)
                response = Frame(header, message: Array(error.message.utf8))
            }
            // A handler that was left on another thread comes back by a job.
            if reactor.isCurrent {
                self.inPlace(with: (id, response, bytes)) {
                    $0.finish($1.0, $1.1, payload: $1.2)
                }
            } else {
                await self.finish(id, response, payload: bytes)
            }
        }
    }

    /// The memory that a request names.
    private nonisolated func sharedBuffer(
        _ header: FrameHeader
    ) throws(StreamError) -> AlignedBuffer? {
        do throws(FrameError) {
            guard let range = try header.sharedRange(of: memory), let memory else { return nil }
            return AlignedBuffer(range, of: memory)
        } catch {
            throw .frame(error)
        }
    }

    private func finish(_ id: UInt64, _ response: Frame, payload bytes: Int) {
        running[id] = nil
        payloadBytes -= bytes
        if let waiting = resume {
            resume = nil
            waiting.resume()
        }
        if !isEnding { sender.add(response) }
        if running.isEmpty, !quiet.isEmpty {
            let waiting = quiet
            quiet = []
            for continuation in waiting { continuation.resume() }
        }
    }
}
