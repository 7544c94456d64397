import Bytes
import Model
import Reactor
import Synchronization
import Telemetry
import Wire

/// Where a channel leads: over a socket, or straight to a handler in the same process.
public enum RPCTarget: Sendable {
    case remote(host: String, port: Int)
    case local(any RPCHandler)
}

/// Calls to one role, connected when first needed and again after a loss.
///
/// A lost connection fails the calls in flight with `connection`: whether they were carried out
/// is then not known, and it is the caller who knows whether to ask again.
public actor RPCChannel {
    private let target: RPCTarget
    private let name: String
    private let reactor: Reactor
    private let mayShareMemory: Bool
    /// Where it leads, in traces.
    public nonisolated let address: String
    private var connection: RPCConnection?
    private var isOpening = false
    /// Callers that wait for the connection, the first first.
    private var waiting: [Waiting] = []
    private var lastID: UInt64 = 0
    /// Callers that have been handed the connection and have not begun their call: whoever comes
    /// after them stays behind them.
    private var arriving = 0
    private var lastFailure: (at: MonotonicTime, error: StoreError)?

    private struct Waiting {
        var id: UInt64
        var continuation: UnsafeContinuation<Result<RPCConnection, StoreError>, Never>
        /// It counts among `arriving` once it has the connection.
        var arrives: Bool
        /// Ends the wait at the call's deadline.
        var alarm: Task<Void, Never>?
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    /// A channel whose connection lives on `reactor`. `name` is what it calls itself.
    /// - Parameters:
    ///   - mayShareMemory: to a server of this machine, pass payloads in shared memory.
    ///   - address: where it leads, for traces; of a remote target known without it.
    public init(
        _ target: RPCTarget, name: String, on reactor: Reactor, mayShareMemory: Bool = true,
        address: String = ""
    ) {
        self.target = target
        self.name = name
        self.reactor = reactor
        self.mayShareMemory = mayShareMemory
        if case .remote(let host, let port) = target {
            self.address = HostPort(host: host, port: port).description
        } else {
            self.address = address
        }
    }

    /// Calls `method` and waits for the answer.
    /// - Parameters:
    ///   - expecting: payload bytes the answer may bring; they count against the credit, and
    ///     are made room for in memory that the server shares.
    ///   - timeout: after it the call fails with `deadlineExceeded`.
    ///   - context: for whom it is, which the role is told, and until when at most; it is noted for
    ///     the request that this names, else for the one that the task works for.
    ///   - traceID: 0: that of this request.
    ///   - call: of a change: its identity, the same for each attempt. A program of before is not
    ///     told of it.
    /// - Throws: what the handler threw; `connection` when the role cannot be reached.
    public nonisolated func call(
        _ method: UInt16, _ message: [UInt8], payload: Payload? = nil, expecting: Int = 0,
        timeout: Duration? = nil, context: IOContext = .client, token: [UInt8] = [],
        traceID: UInt64 = 0, call: CallID? = nil
    ) async throws(StoreError) -> RPCReply {
        var request = RPCRequest(
            method: method, message: message, payload: payload, token: token, traceID: traceID,
            call: call)
        request.context = context
        return try await perform(request, expecting: expecting, timeout: timeout)
    }

    /// Sends a request that nobody waits for (`RPCHandler.take`), where that needs no waiting either:
    /// false, and nothing is sent, if there is no connection yet or any more, if the server answers
    /// all it takes, and outside of the channel's reactor. Whether it arrives is not known; that a
    /// call is answered which was made after it says that it did.
    public nonisolated func post(_ method: UInt16, _ message: [UInt8]) -> Bool {
        if case .local(let handler) = target {
            do throws(StoreError) {
                try handler.authorize(method: method, token: [], peer: .sameProcess)
            } catch {
                // As over a connection: dropped.
                return true
            }
            var request = RPCRequest(method: method, message: message)
            request.caller = name
            handler.take(request)
            return true
        }
        guard reactor.isCurrent, message.count <= FrameHeader.Limits.messageBytes,
            let connection = inPlace(with: (), { (channel, _) in channel.usableConnection })
        else { return false }
        return connection.inPlace(with: (method, message)) { $0.post($1.0, $1.1) }
    }

    /// Makes the call that `request` describes.
    nonisolated func perform(
        _ described: RPCRequest, expecting: Int = 0, timeout: Duration?
    ) async throws(StoreError) -> RPCReply {
        let context = described.context
        let trace = context.trace ?? TraceContext.current
        // One reading for the deadline, for what is left of it when the frame is made, and for the
        // span.
        let now = timeout == nil && trace == nil ? nil : reactor.now()
        var deadline = timeout.flatMap { now?.advanced(by: $0) }
        if let until = context.deadline { deadline = min(deadline ?? until, until) }
        var request = described
        request.context = IOContext(context.ioClass, until: deadline)
        if request.traceID == 0 { request.traceID = trace?.traceID ?? 0 }
        request.takenUp = now
        guard let trace, let start = now?.nanoseconds else {
            return try await send(request, expecting: expecting)
        }
        do throws(StoreError) {
            let reply = try await send(request, expecting: expecting)
            note(request, trace, since: start, reply: reply, outcome: 0)
            return reply
        } catch {
            note(request, trace, since: start, reply: nil, outcome: error.code.rawValue)
            throw error
        }
    }

    private nonisolated func send(
        _ request: RPCRequest, expecting: Int
    ) async throws(StoreError) -> RPCReply {
        try request.checkSize()
        if case .local(let handler) = target {
            return try await callLocal(handler, request)
        }
        for _ in 0..<TransportLimits.callsNotTaken {
            let end: RPCConnection.CallEnd
            // Without leaving the task's executor, as nearly always.
            if reactor.isCurrent,
                let connection = inPlace(with: (), { (channel, _) in channel.usableConnection })
            {
                end = await connection.call(request, expecting: expecting)
            } else {
                end = try await connectAndCall(request, expecting: expecting)
            }
            switch end {
            case .answered(let reply): return reply
            case .failed(let error): throw error
            case .notTaken: continue
            }
        }
        throw StoreError(
            .connection,
            "\(address) ended \(TransportLimits.callsNotTaken) connections before it took the call")
    }

    private nonisolated func connectAndCall(
        _ request: RPCRequest, expecting: Int
    ) async throws(StoreError) -> RPCConnection.CallEnd {
        let isHere = reactor.isCurrent
        let connection = try await connected(until: request.context.deadline, arrives: isHere)
        // Back on the reactor the call begins before anything else does.
        if isHere {
            if reactor.isCurrent { inPlace { $0.arrived() } } else { await arrived() }
        }
        return await connection.call(request, expecting: expecting)
    }

    private nonisolated func note(
        _ request: RPCRequest, _ trace: TraceContext, since start: UInt64, reply: RPCReply?,
        outcome: UInt16
    ) {
        trace.record(
            .call, MethodNames.name(of: request.method), detail: address, from: start,
            to: reactor.now().nanoseconds, outcome: outcome,
            bytes: (request.payload?.count ?? 0) + (reply?.payload?.count ?? 0))
    }

    private nonisolated func callLocal(
        _ handler: any RPCHandler, _ request: RPCRequest
    ) async throws(StoreError) -> RPCReply {
        try handler.authorize(method: request.method, token: request.token, peer: .sameProcess)
        var prepared = request
        prepared.caller = name
        let target = handler.prepare(&prepared)
        guard let deadline = prepared.context.deadline else {
            return try await withTaskExecutorPreference(reactor) { [prepared] in
                await Self.serve(prepared, handler, by: target)
            }.get()
        }
        return try await LocalCall.outcome(
            of: { [prepared] in await Self.serve(prepared, handler, by: target) },
            until: deadline, at: address, on: reactor
        ).get()
    }

    private static func serve(
        _ request: RPCRequest, _ handler: any RPCHandler, by target: any RPCHandler
    ) async -> Result<RPCReply, StoreError> {
        do throws(StoreError) {
            var reply = try await target.handle(request)
            // As over a connection, so that a role does not depend on where its callers are.
            try reply.checkSize(method: request.method)
            handler.conclude(request, .answered(bytes: reply.bytes))
            // It is the caller's from here on.
            reply.hold = nil
            return .success(reply)
        } catch {
            handler.conclude(request, .failed(error.code))
            return .failure(error)
        }
    }

    /// The connection, if it is there, has not failed, and nobody is on the way to it. Both live on
    /// the channel's reactor.
    private var usableConnection: RPCConnection? {
        guard arriving == 0, waiting.isEmpty else { return nil }
        return openConnection
    }

    private var openConnection: RPCConnection? {
        guard let connection,
            connection.inPlace(with: (), { (connection, _) in connection.isOpen })
        else { return nil }
        return connection
    }

    private func arrived() { arriving -= 1 }

    /// The connection, opened if it is not there. Callers get it in the order in which they came,
    /// and wait no longer than for their `deadline` or until they are cancelled.
    /// - Parameter arrives: the caller tells by `arrived` when it is about to begin its call.
    private func connected(
        until deadline: MonotonicTime?, arrives: Bool
    ) async throws(StoreError) -> RPCConnection {
        if waiting.isEmpty, let connection = openConnection {
            if arrives { arriving += 1 }
            return connection
        }
        if !isOpening, let lastFailure,
            lastFailure.at.advanced(by: TransportLimits.reconnectDelay) > reactor.now()
        {
            throw lastFailure.error
        }
        lastID += 1
        let id = lastID
        let result = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                wait(
                    Waiting(id: id, continuation: continuation, arrives: arrives),
                    until: deadline)
            }
        } onCancel: {
            Task(executorPreference: reactor) {
                await self.giveUp(id, StoreError(.cancelled, "the call was cancelled"))
            }
        }
        return try result.get()
    }

    private func wait(_ caller: Waiting, until deadline: MonotonicTime?) {
        var caller = caller
        if let deadline {
            let late = StoreError(.deadlineExceeded, "\(address) was not connected to in time")
            caller.alarm = Task(executorPreference: reactor) { [reactor, id = caller.id] in
                // Cancelled: the caller waits no more.
                guard (try? await reactor.sleep(until: deadline)) != nil else { return }
                await self.giveUp(id, late)
            }
        }
        waiting.append(caller)
        guard !isOpening else { return }
        isOpening = true
        Task(executorPreference: reactor) { await self.open() }
    }

    private func giveUp(_ id: UInt64, _ error: StoreError) {
        guard let place = waiting.firstIndex(where: { $0.id == id }) else { return }
        let caller = waiting.remove(at: place)
        caller.alarm?.cancel()
        caller.continuation.resume(returning: .failure(error))
    }

    private func open() async {
        guard case .remote(let host, let port) = target else {
            preconditionFailure("a local channel has no connection")
        }
        let result: Result<RPCConnection, StoreError>
        do throws(StoreError) {
            let opened = try await RPCConnection.open(
                host: host, port: port, name: name, on: reactor, mayShare: mayShareMemory)
            connection = opened
            result = .success(opened)
        } catch {
            connection = nil
            lastFailure = (reactor.now(), error)
            result = .failure(error)
        }
        isOpening = false
        let callers = waiting
        waiting = []
        for caller in callers {
            caller.alarm?.cancel()
            if caller.arrives, case .success = result { arriving += 1 }
            caller.continuation.resume(returning: result)
        }
    }

    /// Whether callers wait for the connection.
    var isWaitedFor: Bool { !waiting.isEmpty }

    /// Ends the connection, if there is one, and the wait for one that is being opened: a host that is
    /// cut off answers neither calls nor attempts to connect.
    public func close() async {
        let error = StoreError(.connection, "the channel to \(address) was closed")
        let callers = waiting
        waiting = []
        for caller in callers {
            caller.alarm?.cancel()
            caller.continuation.resume(returning: .failure(error))
        }
        await connection?.fail(.failed(error))
        connection = nil
    }
}

/// The channels of a process to the roles it talks to, made when first asked for.
public final class ChannelPool: Sendable {
    private struct Key: Hashable {
        var host: String
        var port: Int
        var reactor: ObjectIdentifier
    }

    private let name: String
    private let channels = Mutex<[Key: RPCChannel]>([:])
    private let local = Mutex<[String: any RPCHandler]>([:])

    public init(name: String) { self.name = name }

    /// Calls to `host:port` go to `handler` in this process from now on, without a socket.
    public func register(_ handler: any RPCHandler, host: String, port: Int) {
        local.withLock { $0["\(host):\(port)"] = handler }
    }

    /// The channel to `host:port` whose connection lives on `reactor`.
    public func channel(host: String, port: Int, on reactor: Reactor) -> RPCChannel {
        let key = Key(host: host, port: port, reactor: ObjectIdentifier(reactor))
        return channels.withLock { channels in
            if let channel = channels[key] { return channel }
            let handler = local.withLock { $0["\(host):\(port)"] }
            let target = handler.map { RPCTarget.local($0) } ?? .remote(host: host, port: port)
            let channel = RPCChannel(
                target, name: name, on: reactor, address: "\(host):\(port)")
            channels[key] = channel
            return channel
        }
    }

    public func channel(to node: DatanodeAddress, on reactor: Reactor) -> RPCChannel {
        channel(host: node.host, port: node.port, on: reactor)
    }
}
