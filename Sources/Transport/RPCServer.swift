import Bytes
import Glibc
import Model
import Reactor
import Synchronization
import Wire

/// Serves a handler on a port, with one listener per reactor.
public final class RPCServer: Sendable {
    private let handler: any RPCHandler
    private let name: String
    private let listeners: [Listener]
    private let connections = Mutex<[ObjectIdentifier: ServerConnection]>([:])

    /// The port it listens on.
    public var port: Int { listeners[0].port }

    /// Binds `host:port` (0: any free port). `name` is what it calls itself to its clients.
    public init(
        host: String, port: Int, name: String, reactors: [Reactor], handler: any RPCHandler
    ) throws(StoreError) {
        precondition(!reactors.isEmpty, "a server needs a reactor")
        self.handler = handler
        self.name = name
        var listeners: [Listener] = []
        do throws(IOError) {
            for reactor in reactors {
                listeners.append(
                    try Listener(
                        host: host, port: listeners.first?.port ?? port, on: reactor,
                        sharesPort: reactors.count > 1))
            }
        } catch {
            throw StoreError(.io, "cannot serve on \(host):\(port): \(error)")
        }
        self.listeners = listeners
    }

    /// Begins to accept.
    public func start() {
        for listener in listeners {
            Task(executorPreference: listener.reactor) { await self.accept(listener) }
        }
    }

    /// Stops accepting and ends all connections.
    public func stop() async {
        for listener in listeners { listener.close() }
        for connection in connections.withLock({ Array($0.values) }) { await connection.close() }
    }

    private func accept(_ listener: Listener) async {
        while true {
            do throws(IOError) {
                let socket = try await listener.accept()
                let connection = ServerConnection(socket, name: name, handler: handler)
                connections.withLock { $0[ObjectIdentifier(connection)] = connection }
                Task(executorPreference: listener.reactor) {
                    await connection.run()
                    _ = self.connections.withLock {
                        $0.removeValue(forKey: ObjectIdentifier(connection))
                    }
                }
            } catch {
                // Closed for good; or out of descriptors and the like, which passes.
                let isClosed = [EBADF, EINVAL, ECANCELED].contains(error.code)
                guard !isClosed else { return }
                try? await listener.reactor.sleep(for: .milliseconds(100))
            }
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
    private var running: [UInt64: Task<Void, Never>] = [:]
    /// Payload bytes of requests that are not answered.
    private var payloadBytes = 0
    private var resume: CheckedContinuation<Void, Never>?

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(_ socket: Socket, name: String, handler: any RPCHandler) {
        reactor = socket.reactor
        self.socket = socket
        self.name = name
        self.handler = handler
        sender = FrameSender(socket)
    }

    func close() async {
        for task in running.values { task.cancel() }
        await sender.close()
    }

    /// Serves until the connection ends.
    func run() async {
        var receiver = FrameReceiver(socket)
        var peer = PeerIdentity(name: "", address: socket.peer)
        do throws(StreamError) {
            let hello = try await receiver.next()
            guard hello.header.kind == .hello else {
                throw .frame(.unexpected(hello.header.kind))
            }
            peer.name = String(decoding: hello.message, as: UTF8.self)
            await sender.add(
                Frame(
                    FrameHeader(kind: .hello, credit: TransportLimits.credit),
                    message: Array(name.utf8)))
            while true {
                let frame = try await receiver.next()
                switch frame.header.kind {
                case .request: await begin(frame, from: peer)
                case .cancel: running[frame.header.requestID]?.cancel()
                case .hello, .response, .goodbye:
                    throw .frame(.unexpected(frame.header.kind))
                }
            }
        } catch {
            await end(error)
        }
    }

    private func end(_ error: StreamError) async {
        for task in running.values { task.cancel() }
        if case .frame(let error) = error {
            // The other end is told what was wrong before the connection goes.
            let header = FrameHeader(kind: .goodbye, status: error.storeError.code.rawValue)
            await sender.add(Frame(header, message: Array(error.storeError.message.utf8)))
            try? await reactor.sleep(for: .milliseconds(50))
        }
        await sender.close()
    }

    private func begin(_ frame: Frame, from peer: PeerIdentity) async {
        let bytes = frame.payload?.count ?? 0
        while running.count >= TransportLimits.requestsPerConnection
            || (payloadBytes > 0 && payloadBytes + bytes > TransportLimits.credit)
        {
            // Not reading on is the back-pressure: the peer's socket fills. A peer that keeps to
            // its credit never comes here.
            await withCheckedContinuation { resume = $0 }
        }
        payloadBytes += bytes
        let header = frame.header
        var request = RPCRequest(
            method: header.method, message: frame.message, payload: frame.payload,
            token: frame.token, peer: peer, traceID: header.traceID)
        if header.deadlineMilliseconds > 0 {
            request.deadline = reactor.now().advanced(
                by: .milliseconds(Int(header.deadlineMilliseconds)))
        }
        let id = header.requestID
        running[id] = Task(executorPreference: reactor) { [request, handler] in
            let response: Frame
            do throws(StoreError) {
                let reply = try await handler.handle(request)
                response = Frame(
                    FrameHeader(kind: .response, requestID: id, traceID: header.traceID),
                    message: reply.message, payload: reply.payload)
            } catch {
                let header = FrameHeader(
                    kind: .response, requestID: id, status: error.code.rawValue,
                    traceID: header.traceID)
                response = Frame(header, message: Array(error.message.utf8))
            }
            await self.finish(id, response, payload: bytes)
        }
    }

    private func finish(_ id: UInt64, _ response: Frame, payload bytes: Int) async {
        running[id] = nil
        payloadBytes -= bytes
        if let waiting = resume {
            resume = nil
            waiting.resume()
        }
        await sender.add(response)
    }
}
