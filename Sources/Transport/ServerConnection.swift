import Bytes
import Model
import Reactor
import Synchronization
import Wire

/// The server's end of one connection. Isolated to its reactor.
actor ServerConnection {
    private let reactor: Reactor
    private let socket: Socket
    private let sender: FrameSender
    private let handler: any RPCHandler
    private let name: String
    /// Who the connection proves to be at the other end.
    private let peer: PeerIdentity
    /// Whether the client begins by sharing its memory.
    private let sharesMemory: Bool
    /// What its answers may take of the process's budget.
    private let answers = AnswerBudget(
        bytes: TransportLimits.answerBytesPerConnection, within: .process)
    /// What the client shares; nil for a client over the network, and before it did.
    private var memory: SharedMap?
    private var watch: ConnectionWatch
    private var hasHello = false
    /// Requests begun.
    private var begun: UInt64 = 0
    private var running: [UInt64: Running] = [:]
    /// Bytes of requests that are not answered: messages, tokens and payloads.
    private var receivedBytes = 0
    /// Of them, those whose callers have gone: they take no room from others.
    private var abandonedBytes = 0
    /// No answer is sent any more: requests that end now were cancelled for it, which is not what
    /// their callers asked for.
    private var isEnding = false
    private var resume: UnsafeContinuation<Void, Never>?
    /// Who waits for the last handler to end.
    private var quiet: [UnsafeContinuation<Void, Never>] = []

    /// A request that is not answered.
    private struct Running {
        var task: Task<Void, Never>
        var bytes: Int
        var isAbandoned = false
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        _ socket: Socket, peer: PeerIdentity, name: String, handler: any RPCHandler,
        sharesMemory: Bool, limits: ServerLimits
    ) {
        reactor = socket.reactor
        self.socket = socket
        self.peer = peer
        self.name = name
        self.handler = handler
        self.sharesMemory = sharesMemory
        watch = ConnectionWatch(limits)
        sender = FrameSender(socket)
    }

    func close() async {
        isEnding = true
        for request in running.values { request.task.cancel() }
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
        do throws(StoreError) {
            let memory = sharesMemory ? try await SharedMemoryGreeting.receive(over: socket) : nil
            inPlace(with: memory) { $0.memory = $1 }
            var receiver = FrameReceiver(socket)
            do throws(StreamError) {
                let caller = try await receiveHello(&receiver)
                while true { try await serveNext(&receiver, caller: caller, memory) }
            } catch {
                await end(error)
            }
        } catch {
            // Whoever it is gets no answer: it does not speak our protocol.
            sender.close()
        }
    }

    /// What the client calls itself.
    private nonisolated func receiveHello(
        _ receiver: inout FrameReceiver
    ) async throws(StreamError) -> String {
        let hello = try await receiver.nextWithoutPayload(limit: TransportLimits.helloBytes)
        guard hello.header.kind == .hello, hello.header.inlinePayloadBytes == 0 else {
            throw .frame(.unexpected(hello.header.kind))
        }
        inPlace { $0.hasHello = true }
        sender.add(
            Frame(
                FrameHeader(
                    kind: .hello, method: FrameHeader.Feature.all,
                    credit: TransportLimits.credit),
                message: Array(name.utf8)))
        return String(decoding: hello.message, as: UTF8.self)
    }

    private nonisolated func serveNext(
        _ receiver: inout FrameReceiver, caller: String, _ memory: SharedMap?
    ) async throws(StreamError) {
        var frame = try await receiver.nextWithoutPayload()
        let call = frame.takeCall()
        let payloadBytes = frame.header.inlinePayloadBytes
        switch frame.header.kind {
        case .request where frame.header.flags & FrameHeader.Flag.post != 0:
            take(frame, caller: caller)
        case .request:
            let token = frame.token
            do throws(StoreError) {
                try handler.authorize(method: frame.header.method, token: token, peer: peer)
            } catch {
                try await receiver.discardPayload(payloadBytes)
                return await refuse(frame.header, error)
            }
            let shared = try sharedBuffer(frame.header, memory)
            let bytes = try await makeRoom(for: frame.header)
            var request = RPCRequest(
                method: frame.header.method, message: frame.message, token: token, peer: peer,
                traceID: frame.header.traceID, call: call)
            request.caller = caller
            request.isForAnyMember = frame.header.flags & FrameHeader.Flag.anyMember != 0
            switch frame.header.payloadPlace {
            case .inline:
                if payloadBytes > 0 {
                    request.payload = try await receiver.receivePayload(payloadBytes)
                }
            case .shared: request.payload = shared.map { Payload($0, 0..<$0.capacity) }
            case .landing: request.landing = shared
            }
            inPlace(with: (frame.header, request, bytes)) { $0.begin($1.0, $1.1, bytes: $1.2) }
        case .cancel where payloadBytes == 0:
            inPlace(with: frame.header.requestID) { $0.abandon($1) }
        case .cancel, .hello, .response, .goodbye:
            throw .frame(.unexpected(frame.header.kind))
        }
    }

    /// Hands on what nobody waits for; what this peer may not send is dropped, as is what comes when
    /// nothing is taken up any more.
    private nonisolated func take(_ frame: Frame, caller: String) {
        let (method, token) = (frame.header.method, frame.token)
        do throws(StoreError) {
            try handler.authorize(method: method, token: token, peer: peer)
        } catch {
            return
        }
        let isTaken = inPlace { connection in
            if !connection.isEnding { connection.begun += 1 }
            return !connection.isEnding
        }
        guard isTaken else { return }
        var request = RPCRequest(
            method: method, message: frame.message, token: token, peer: peer,
            traceID: frame.header.traceID)
        request.caller = caller
        handler.take(request)
    }

    // MARK: Ends

    /// Ends a connection that is not served at all, and tells the client why.
    func refuse(_ error: StoreError) async {
        sayGoodbye(error)
        // It fits into the empty socket. What the client has sent and nobody reads turns the end
        // into a reset, before which the client still reads what had arrived.
        await sender.waitForProgress()
        sender.close()
        socket.close()
    }

    /// Looks, every `ServerLimits.interval`, whether the connection still has a purpose.
    func look() {
        let (backlog, sends) = sender.progress
        let sight = ConnectionWatch.Sight(
            hasHello: hasHello, isEnding: isEnding, begun: begun, running: running.count,
            backlog: backlog, sends: sends)
        switch watch.look(sight) {
        case .stays: break
        case .isSilent:
            isEnding = true
            sayGoodbye(StoreError(.deadlineExceeded, "no hello came in time"))
        case .isIdle:
            // What the client sends from now on is not taken up, and it learns so: it may call
            // again on another connection without doing anything twice.
            isEnding = true
            sender.add(Frame(FrameHeader(kind: .goodbye), message: []))
        case .isStalled:
            isEnding = true
            for request in running.values { request.task.cancel() }
        case .isOver: if running.isEmpty { sender.close() }
        }
    }

    private func sayGoodbye(_ error: StoreError) {
        let header = FrameHeader(kind: .goodbye, status: error.code.rawValue)
        sender.add(Frame(header, message: error.frameText))
    }

    private func end(_ error: StreamError) async {
        isEnding = true
        for request in running.values { request.task.cancel() }
        if case .frame(let error) = error {
            // The other end is told what was wrong before the connection goes.
            sayGoodbye(error.storeError)
            // As soon as that has left, which takes longer where the machine is busy.
            for _ in 0..<TransportLimits.goodbyeLooks where sender.progress.backlog > 0 {
                try? await reactor.sleep(for: TransportLimits.goodbyePause)
            }
            try? await reactor.sleep(for: TransportLimits.goodbyePause)
        }
        await untilQuiet()
        sender.close()
    }

    // MARK: Room

    /// Waits until there is room for one more request and for its payload, which is not received
    /// before: not reading on is the back-pressure, the peer's socket fills. A peer that keeps to
    /// its credit never waits. Returns the bytes that the request counts.
    private nonisolated func makeRoom(
        for header: FrameHeader
    ) async throws(StreamError) -> Int {
        let bytes =
            header.bodyBytes + (header.payloadPlace == .landing ? 0 : header.payloadBytes)
        if !inPlace(with: bytes, { $0.hasRoom(for: $1) }) { await waitForRoom(for: bytes) }
        while sender.isBehind(limit: TransportLimits.unsentBytes) {
            await sender.waitForProgress()
        }
        let id = header.requestID
        guard !inPlace(with: id, { $0.running[$1] != nil }) else { throw .frame(.repeated(id)) }
        return bytes
    }

    private func hasRoom(for bytes: Int) -> Bool {
        let present = receivedBytes - abandonedBytes
        return running.count < TransportLimits.requestsPerConnection
            && (present == 0 || present + bytes <= TransportLimits.receivedBytes)
    }

    /// The caller of a request has gone. What cannot be ended, since the kernel has it for a disk that
    /// hangs, stops nobody else on the connection: its bytes no longer count, up to as many as may
    /// be there beside them.
    private func abandon(_ id: UInt64) {
        guard let request = running[id], !request.isAbandoned else { return }
        request.task.cancel()
        guard abandonedBytes + request.bytes <= TransportLimits.receivedBytes else { return }
        running[id]!.isAbandoned = true
        abandonedBytes += request.bytes
        roomIsFree()
    }

    private func roomIsFree() {
        guard let waiting = resume else { return }
        resume = nil
        waiting.resume()
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

    // MARK: Requests

    private func begin(_ header: FrameHeader, _ received: RPCRequest, bytes: Int) {
        // Too late: the client has been told that nothing more is taken up.
        guard !isEnding else { return }
        begun += 1
        receivedBytes += bytes
        var request = received
        request.answers = answers
        // A class that this program does not know is none that somebody waits for.
        request.context.ioClass = IOClass(rawValue: header.ioClass) ?? .background
        if header.deadlineMilliseconds > 0 {
            let now = reactor.turnTime()
            request.takenUp = now
            request.context.deadline = now.advanced(
                by: .milliseconds(Int(header.deadlineMilliseconds)))
        }
        let target = handler.prepare(&request)
        let id = header.requestID
        let task = Task(executorPreference: reactor) {
            @concurrent [request, handler, target, memory, reactor] in
            let response: Frame
            do throws(StoreError) {
                let reply = try await target.handle(request)
                try reply.checkSize(method: request.method)
                handler.conclude(request, .answered(bytes: reply.bytes))
                response = Self.frame(reply, to: id, request, memory)
            } catch {
                handler.conclude(request, .failed(error.code))
                response = Self.frame(error, to: id, traceID: request.traceID)
            }
            // A handler that was left on another thread comes back by a job.
            if reactor.isCurrent {
                self.inPlace(with: (id, response)) { $0.finish($1.0, $1.1) }
            } else {
                await self.finish(id, response)
            }
        }
        running[id] = Running(task: task, bytes: bytes)
    }

    private static func frame(
        _ reply: RPCReply, to id: UInt64, _ request: RPCRequest, _ memory: SharedMap?
    ) -> Frame {
        var header = FrameHeader(kind: .response, requestID: id, traceID: request.traceID)
        if let payload = reply.payload, let offset = memory?.offset(of: payload) {
            header.payloadPlace = .shared
            header.sharedOffset = offset
        }
        var frame = Frame(header, message: reply.message, payload: reply.payload)
        frame.hold = reply.hold
        return frame
    }

    private static func frame(_ error: StoreError, to id: UInt64, traceID: UInt64) -> Frame {
        let header = FrameHeader(
            kind: .response, requestID: id, status: error.code.rawValue, traceID: traceID)
        return Frame(header, token: error.frameHint, message: error.frameText)
    }

    /// Answers a request that was not begun, once the client takes its answers.
    private nonisolated func refuse(_ header: FrameHeader, _ error: StoreError) async {
        while sender.isBehind(limit: TransportLimits.unsentBytes) {
            await sender.waitForProgress()
        }
        sender.add(Self.frame(error, to: header.requestID, traceID: header.traceID))
    }

    /// The memory that a request names.
    private nonisolated func sharedBuffer(
        _ header: FrameHeader, _ memory: SharedMap?
    ) throws(StreamError) -> AlignedBuffer? {
        do throws(FrameError) {
            guard let range = try header.sharedRange(of: memory), let memory else { return nil }
            return AlignedBuffer(range, of: memory)
        } catch {
            throw .frame(error)
        }
    }

    private func finish(_ id: UInt64, _ response: Frame) {
        guard let request = running.removeValue(forKey: id) else {
            preconditionFailure("a request ends once")
        }
        receivedBytes -= request.bytes
        if request.isAbandoned { abandonedBytes -= request.bytes }
        roomIsFree()
        if !isEnding { sender.add(response) }
        if running.isEmpty, !quiet.isEmpty {
            let waiting = quiet
            quiet = []
            for continuation in waiting { continuation.resume() }
        }
    }
}
