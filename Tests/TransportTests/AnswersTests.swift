import Bytes
import Eventually
import Glibc
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

/// Answers as large as asked for: the message says the bytes of message, payload and error text. What
/// it was asked by whom it notes; method 9 is refused to everybody.
private final class SizeHandler: RPCHandler {
    struct Seen: Sendable {
        var peers: [PeerIdentity] = []
        var callers: [String] = []
        var handled: [UInt16] = []
        var budgets: [AnswerBudget] = []
    }

    let seen = Mutex(Seen())
    let reactor: Reactor
    /// Requests of method 2 that are answered together.
    let together: Int

    init(_ reactor: Reactor, together: Int = 0) {
        self.reactor = reactor
        self.together = together
    }

    static func message(_ message: Int, payload: Int = 0, error: Int = 0) -> [UInt8] {
        withUnsafeBytes(of: (UInt32(message), UInt32(payload), UInt32(error))) { Array($0) }
    }

    func authorize(
        method: UInt16, token: [UInt8], peer: PeerIdentity
    ) throws(StoreError) {
        seen.withLock { $0.peers.append(peer) }
        guard method != 9 || token == [1] else {
            throw StoreError(.accessDenied, "method 9 wants a token")
        }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        seen.withLock { seen in
            seen.handled.append(request.method)
            seen.callers.append(request.caller)
            if let answers = request.answers { seen.budgets.append(answers) }
        }
        let sizes = request.message.withUnsafeBytes { bytes in
            (0..<3).map { Int(bytes.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self)) }
        }
        if request.method == 2 {
            while seen.withLock({ $0.handled.count }) < together { await Task.yield() }
        }
        if sizes[2] > 0 { throw StoreError(.noSuchKey, String(repeating: "x", count: sizes[2])) }
        let hold = try await request.reserveAnswer(sizes[1])
        let payload = sizes[1] == 0 ? nil : Payload(reactor.pool.allocate(sizes[1]), 0..<sizes[1])
        var reply = RPCReply([UInt8](repeating: 5, count: sizes[0]), payload: payload)
        reply.hold = hold
        return reply
    }
}

private enum Place: CaseIterable { case network, sharedMemory, process }

private struct Rig {
    let reactors: [Reactor]
    let server: RPCServer
    let handler: SizeHandler
    let channel: RPCChannel

    init(_ place: Place = .network, together: Int = 0) throws {
        let sharing = place == .sharedMemory
        reactors = [
            try Reactor.start(.init(pool: BufferPool(arenaBytes: 64 << 20, isShareable: sharing))),
            try Reactor.start(),
        ]
        handler = SizeHandler(reactors[1], together: together)
        server = try RPCServer(
            host: "127.0.0.1", port: 0, name: "server", reactors: [reactors[1]], handler: handler,
            limits: .patient)
        server.start()
        channel = RPCChannel(
            place == .process ? .local(handler) : .remote(host: "127.0.0.1", port: server.port),
            name: "client", on: reactors[0], mayShareMemory: sharing)
    }

    func stop() async {
        await channel.close()
        await server.stop()
        for reactor in reactors { reactor.stop() }
    }

    /// A connection of which nothing is received but by the returned receiver.
    func connect() async throws -> (FrameSender, ReceiverBox) {
        let socket = try await Socket.connect(
            host: "127.0.0.1", port: server.port, on: reactors[0])
        let sender = FrameSender(socket)
        sender.add(Frame(FrameHeader(kind: .hello), message: Array("honest".utf8)))
        return (sender, ReceiverBox(FrameReceiver(socket)))
    }
}

private let frameLimit = FrameHeader.Limits.messageBytes

@Suite("Answers and requests of any size")
struct AnswersTests {
    @Test("as many large answers as are ready at once arrive, whatever they are together")
    func manyLarge() async throws {
        // Together twice what the largest buffer holds.
        let rig = try Rig(together: 32)
        let (sender, box) = try await rig.connect()
        for id in 1...32 as ClosedRange<UInt64> {
            sender.add(
                Frame(
                    FrameHeader(kind: .request, requestID: id, method: 2),
                    message: SizeHandler.message(4 << 20)))
        }
        var receiver = box.take()
        var answers = 0
        while answers < 32 {
            let frame = try await receiver.next()
            guard frame.header.kind == .response else { continue }
            #expect(frame.header.status == 0)
            #expect(frame.message.count == 4 << 20)
            answers += 1
        }
        #expect(try await rig.channel.call(1, SizeHandler.message(3)).message.count == 3)
        await rig.stop()
    }

    @Test(
        "an answer that no frame can carry is an error to its caller, and to nobody else",
        arguments: Place.allCases)
    private func tooLarge(place: Place) async throws {
        let rig = try Rig(place)
        for message in [
            SizeHandler.message(frameLimit + 1), SizeHandler.message(100 << 20),
            SizeHandler.message(0, payload: FrameHeader.Limits.payloadBytes + 1),
        ] {
            let error = await #expect(throws: StoreError.self) {
                try await rig.channel.call(1, message)
            }
            #expect(error?.code == .invalidArgument)
            #expect(error?.message.contains("ask for less") ?? false)
        }
        // The largest that can be.
        let largest = try await rig.channel.call(
            1, SizeHandler.message(frameLimit, payload: FrameHeader.Limits.payloadBytes),
            expecting: 100 << 20)
        #expect(largest.message.count == frameLimit)
        #expect(largest.payload?.count == FrameHeader.Limits.payloadBytes)
        await rig.stop()
    }

    @Test("the text of an error is cut where it is longer than a text should be")
    func longError() async throws {
        let rig = try Rig()
        let error = await #expect(throws: StoreError.self) {
            try await rig.channel.call(1, SizeHandler.message(0, error: 40 << 20))
        }
        #expect(error?.code == .noSuchKey)
        #expect(error?.message.count == TransportLimits.errorBytes)
        await rig.stop()
    }

    @Test(
        "a request that no frame can carry is refused where it is made", arguments: Place.allCases)
    private func requests(place: Place) async throws {
        let rig = try Rig(place)
        let limits = FrameHeader.Limits.self
        let payload = Payload(BufferPool.process.allocate(64 << 20), 0..<limits.payloadBytes + 1)
        let calls: [() async throws -> RPCReply] = [
            { try await rig.channel.call(1, [UInt8](repeating: 0, count: frameLimit + 1)) },
            { try await rig.channel.call(1, SizeHandler.message(0), payload: payload) },
            {
                try await rig.channel.call(
                    1, SizeHandler.message(0),
                    token: [UInt8](repeating: 0, count: limits.tokenBytes + 1))
            },
        ]
        for call in calls {
            let error = await #expect(throws: StoreError.self) { _ = try await call() }
            #expect(error?.code == .invalidArgument)
        }
        #expect(rig.handler.seen.withLock { $0.handled.isEmpty })
        #expect(try await rig.channel.call(1, SizeHandler.message(2)).message.count == 2)
        await rig.stop()
    }

    @Test("messages of requests count towards what a connection has in flight")
    func largeRequests() async throws {
        let rig = try Rig(together: 100)
        let (sender, _) = try await rig.connect()
        let message = SizeHandler.message(1) + [UInt8](repeating: 0, count: 16 << 20)
        // None is answered before 100 have come, which are not taken.
        for id in 1...100 as ClosedRange<UInt64> {
            sender.add(
                Frame(FrameHeader(kind: .request, requestID: id, method: 2), message: message))
        }
        try await eventually("two requests are handled") {
            rig.handler.seen.withLock { $0.handled.count } >= 2
        }
        try await rig.reactors[0].sleep(for: .milliseconds(100))
        #expect(rig.handler.seen.withLock { $0.handled.count } == 2)
        sender.close()
        rig.handler.seen.withLock { $0.handled += [UInt16](repeating: 0, count: 100) }
        await rig.stop()
    }

    @Test("an answer holds its part of the budget until it has been sent")
    func budget() async throws {
        // None reserves before all are begun: what is answered first keeps others from that.
        let rig = try Rig(together: 8)
        let (sender, box) = try await rig.connect()
        let bytes = 24 << 20
        for id in 1...8 as ClosedRange<UInt64> {
            sender.add(
                Frame(
                    FrameHeader(kind: .request, requestID: id, method: 2),
                    message: SizeHandler.message(0, payload: bytes)))
        }
        func budget() -> AnswerBudget? { rig.handler.seen.withLock { $0.budgets.first } }
        // Two have room; the others wait as long as nothing is received.
        try await eventually("six answers wait") { budget()?.load.waiting ?? 0 >= 6 }
        #expect(budget()?.load.taken == 2 * bytes)
        var receiver = box.take()
        var answers = 0
        while answers < 8 {
            let frame = try await receiver.next()
            guard frame.header.kind == .response else { continue }
            #expect(frame.payload?.count == bytes)
            answers += 1
        }
        try await eventually("all is given back") { budget()?.load.taken == 0 }
        await rig.stop()
    }

    @Test(
        "what is not permitted is not received and not done, and the connection lives on",
        arguments: Place.allCases)
    private func authorization(place: Place) async throws {
        let rig = try Rig(place)
        let payload = Payload(BufferPool.process.allocate(5_000_001), 0..<5_000_001)
        for payload in [nil, payload] {
            let error = await #expect(throws: StoreError.self) {
                try await rig.channel.call(9, SizeHandler.message(0), payload: payload)
            }
            #expect(error == StoreError(.accessDenied, "method 9 wants a token"))
        }
        #expect(rig.handler.seen.withLock { $0.handled.isEmpty })
        let reply = try await rig.channel.call(
            9, SizeHandler.message(4), payload: payload, token: [1])
        #expect(reply.message.count == 4)
        #expect(rig.handler.seen.withLock { $0.handled } == [9])
        await rig.stop()
    }

    @Test(
        "a peer is who the connection proves it to be, not what it calls itself",
        arguments: Place.allCases)
    private func peers(place: Place) async throws {
        let rig = try Rig(place)
        _ = try await rig.channel.call(1, SizeHandler.message(0))
        let seen = rig.handler.seen.withLock { $0 }
        #expect(seen.callers == ["client"])
        let peer = try #require(seen.peers.first)
        switch (place, peer) {
        case (.network, .address(let address)): #expect(address.hasPrefix("127.0.0.1:"))
        case (.sharedMemory, .process(let number, let user)):
            #expect(number == getpid())
            #expect(user == geteuid())
        case (.process, .sameProcess): break
        default: Issue.record("over \(place) the peer is \(peer)")
        }
        await rig.stop()
    }
}
