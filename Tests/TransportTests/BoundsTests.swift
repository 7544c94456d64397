import Bytes
import Eventually
import Glibc
import Model
import Reactor
import Synchronization
import Telemetry
import Testing
import Wire

@testable import Transport

/// Notes the order of requests; method 2 answers with 8 MiB, method 4 not before `isOpen`, whoever
/// cancels it.
private final class NotingHandler: RPCHandler {
    let order = Mutex<[UInt64]>([])
    let isOpen = Atomic<Bool>(false)
    let reserved = Atomic<Int>(0)
    let reactor: Reactor

    init(_ reactor: Reactor) { self.reactor = reactor }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        order.withLock { $0.append(request.traceID) }
        switch request.method {
        case 1: return RPCReply()
        case 2:
            let buffer = reactor.pool.allocate(8 << 20)
            return RPCReply(payload: Payload(buffer, 0..<8 << 20))
        case 4:
            let hold = try await request.reserveAnswer(30 << 20)
            reserved.add(1, ordering: .relaxed)
            await withTaskCancellationHandler {
                while !isOpen.load(ordering: .relaxed) { await Task.yield() }
            } onCancel: {
                hold?.abandon()
            }
            return RPCReply()
        default:
            try? await reactor.sleep(for: .seconds(60))
            throw StoreError(.cancelled, "cancelled")
        }
    }
}

private struct Rig {
    let reactors: [Reactor]
    let handler: NotingHandler
    let server: RPCServer

    init() throws {
        reactors = [try Reactor.start(), try Reactor.start()]
        handler = NotingHandler(reactors[1])
        server = try RPCServer(
            host: "127.0.0.1", port: 0, name: "server", reactors: [reactors[1]], handler: handler,
            limits: .patient)
        server.start()
    }

    /// A channel that has no connection yet.
    func channel(port: Int? = nil) -> RPCChannel {
        RPCChannel(
            .remote(host: "127.0.0.1", port: port ?? server.port), name: "client",
            on: reactors[0], mayShareMemory: false)
    }

    func stop() async {
        await server.stop()
        for reactor in reactors { reactor.stop() }
    }
}

/// A port where connections are neither accepted nor refused: its queue is full.
private struct SilentPort: ~Copyable {
    let port: Int
    private let descriptors: [Int32]

    init() {
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        func with<R>(_ body: (UnsafeMutablePointer<sockaddr>) -> R) -> R {
            withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body)
            }
        }
        var length = size
        _ = with { bind(listener, $0, size) }
        listen(listener, 0)
        _ = with { getsockname(listener, $0, &length) }
        port = Int(UInt16(bigEndian: address.sin_port))
        // One connection fills the queue; the others wait without being answered.
        descriptors =
            [listener]
            + (0..<4).map { _ in
                let client = socket(
                    AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0)
                _ = with { connect(client, $0, size) }
                return client
            }
        usleep(20_000)
    }

    deinit { for descriptor in descriptors { close(descriptor) } }
}

@Suite("Bounds of the transport")
struct BoundsTests {
    @Test("calls made before there is a connection arrive in order")
    func firstConnection() async throws {
        let rig = try Rig()
        for _ in 0..<20 {
            let channel = rig.channel()
            rig.handler.order.withLock { $0 = [] }
            await Task(executorPreference: rig.reactors[0]) {
                await withTaskGroup(of: Void.self) { group in
                    for index in 0..<100 {
                        group.addTask(executorPreference: rig.reactors[0]) {
                            _ = try? await channel.call(1, [], traceID: UInt64(index + 1))
                        }
                    }
                }
            }.value
            #expect(rig.handler.order.withLock { $0 } == (1...100).map(UInt64.init))
            await channel.close()
        }
        await rig.stop()
    }

    @Test("a call without bytes stays behind those that wait for credit")
    func order() async throws {
        let rig = try Rig()
        let channel = rig.channel()
        _ = try await channel.call(1, [])
        rig.handler.order.withLock { $0 = [] }
        let large = Payload(rig.reactors[0].pool.allocate(20 << 20), 0..<20 << 20)
        await Task(executorPreference: rig.reactors[0]) {
            await withTaskGroup(of: Void.self) { group in
                for index in 1...12 as ClosedRange<UInt64> {
                    group.addTask(executorPreference: rig.reactors[0]) {
                        _ = try? await channel.call(
                            1, [], payload: index % 4 == 0 ? nil : large, traceID: index)
                    }
                }
            }
        }.value
        #expect(rig.handler.order.withLock { $0 } == (1...12).map(UInt64.init))
        await channel.close()
        await rig.stop()
    }

    @Test("who waits for a connection that does not come about waits for its own deadline only")
    func silence() async throws {
        let rig = try Rig()
        let silent = SilentPort()
        let channel = rig.channel(port: silent.port)
        // Together, so that the second finds an attempt under way.
        let hasty = [100, 200].map { milliseconds in
            Task { try await channel.call(1, [], timeout: .milliseconds(milliseconds)) }
        }
        // Given up at once: on a slow machine the attempt itself may end before the hasty are through.
        let patient = Task { try await channel.call(1, []) }
        patient.cancel()
        for task in hasty {
            let error = await #expect(throws: StoreError.self) { try await task.value }
            #expect(error?.code == .deadlineExceeded)
        }
        let error = await #expect(throws: StoreError.self) { try await patient.value }
        #expect(error?.code == .cancelled)
        await rig.stop()
    }

    @Test("an attempt to connect ends when its time is over")
    func connecting() async throws {
        let reactor = try Reactor.start()
        let silent = SilentPort()
        let error = await #expect(throws: IOError.self) {
            _ = try await Socket.connect(
                host: "127.0.0.1", port: silent.port, timeout: .milliseconds(200), on: reactor)
        }
        #expect(error?.code == ETIMEDOUT)
        reactor.stop()
    }

    @Test("calls that wait for credit end at their deadline too")
    func waiting() async throws {
        let rig = try Rig()
        let channel = rig.channel()
        let large = Payload(rig.reactors[0].pool.allocate(30 << 20), 0..<30 << 20)
        let holder = Task { try await channel.call(3, [], payload: large) }
        try await eventually("the call arrives") { !rig.handler.order.withLock { $0.isEmpty } }
        let error = await #expect(throws: StoreError.self) {
            _ = try await channel.call(1, [], payload: large, timeout: .milliseconds(100))
        }
        #expect(error?.code == .deadlineExceeded)
        holder.cancel()
        // And what comes after them is sent.
        #expect(try await channel.call(1, [], payload: large).message == [])
        await channel.close()
        await rig.stop()
    }

    @Test("in one process too nobody waits beyond the deadline, or once cancelled")
    func localDeadline() async throws {
        let rig = try Rig()
        let channel = RPCChannel(.local(rig.handler), name: "here", on: rig.reactors[0])
        let late = await #expect(throws: StoreError.self) {
            _ = try await channel.call(4, [], timeout: .milliseconds(100))
        }
        #expect(late?.code == .deadlineExceeded)
        let waiting = Task { try await channel.call(4, [], timeout: .seconds(600)) }
        try await eventually("it is begun") { rig.handler.order.withLock { $0.count } == 2 }
        waiting.cancel()
        let cancelled = await #expect(throws: StoreError.self) { _ = try await waiting.value }
        #expect(cancelled?.code == .cancelled)
        rig.handler.isOpen.store(true, ordering: .relaxed)
        for _ in 1...100 { _ = try await channel.call(1, [], timeout: .seconds(600)) }
        _ = try await channel.call(4, [], timeout: .seconds(600))
        await rig.stop()
    }

    @Test("requests that cannot be ended stop no others once their callers have gone")
    func abandoned() async throws {
        let rig = try Rig()
        let channel = rig.channel()
        let half = Payload(rig.reactors[0].pool.allocate(15 << 20), 0..<15 << 20)
        for _ in 1...2 {
            let late = await #expect(throws: StoreError.self) {
                _ = try await channel.call(4, [], payload: half, timeout: .milliseconds(500))
            }
            #expect(late?.code == .deadlineExceeded)
        }
        try await eventually("both are there") { rig.handler.order.withLock { $0.count } == 2 }
        // Both the room for requests and that for answers would be used up.
        let large = Payload(rig.reactors[0].pool.allocate(30 << 20), 0..<30 << 20)
        _ = try await channel.call(1, [], payload: large, timeout: .seconds(60))
        let third = Task { try await channel.call(4, [], timeout: .seconds(600)) }
        try await eventually("it has its part") {
            rig.handler.reserved.load(ordering: .relaxed) == 3
        }
        rig.handler.isOpen.store(true, ordering: .relaxed)
        _ = try await third.value
        // What was abandoned and has ended by now counts no more, once and not twice.
        for _ in 1...3 { _ = try await channel.call(1, [], payload: large, timeout: .seconds(60)) }
        await channel.close()
        await rig.stop()
    }

    /// A connection that has said hello, and what it receives.
    private func connect(
        _ rig: Rig
    ) async throws -> (send: (Frame) async throws -> Void, receiver: ReceiverBox) {
        let socket = try await Socket.connect(
            host: "127.0.0.1", port: rig.server.port, on: rig.reactors[0])
        let sender = FrameSender(socket)
        sender.add(Frame(FrameHeader(kind: .hello), message: []))
        return ({ sender.add($0) }, ReceiverBox(FrameReceiver(socket)))
    }

    private func request(_ id: UInt64, method: UInt16) -> Frame {
        Frame(FrameHeader(kind: .request, requestID: id, method: method), message: [])
    }

    @Test("the identity of a request that is not answered cannot be used again")
    func repeated() async throws {
        let rig = try Rig()
        let (send, box) = try await connect(rig)
        try await send(request(7, method: 3))
        try await send(request(7, method: 3))
        var receiver = box.take()
        var text = ""
        while text.isEmpty {
            let frame = try await receiver.next()
            if frame.header.kind == .goodbye {
                text = String(decoding: frame.message, as: UTF8.self)
            }
        }
        #expect(text.contains("request 7 came again"))
        await rig.stop()
    }

    @Test("a client that does not take its answers is not answered further, until it does")
    func unread() async throws {
        let rig = try Rig()
        let (send, box) = try await connect(rig)
        // One after the other, as long as they are taken up.
        var sent: UInt64 = 0
        while sent < 40 {
            sent += 1
            try await send(request(sent, method: 2))
            var waits = 0
            while rig.handler.order.withLock({ $0.count }) < Int(sent), waits < 300 {
                waits += 1
                try await rig.reactors[0].sleep(for: .milliseconds(1))
            }
            if waits == 300 { break }
        }
        #expect(sent < 12, "32 MiB are four answers, and sockets hold some")
        var receiver = box.take()
        var answers: UInt64 = 0
        while answers < sent {
            let frame = try await receiver.next()
            if frame.header.kind == .response { answers += 1 }
        }
        #expect(rig.handler.order.withLock { $0.count } == Int(sent))
        await rig.stop()
    }
}
