import Bytes
import Eventually
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

/// Method 1 writes a pattern into the landing area and says whether there was one; 2 keeps the
/// caller waiting until it is let go, deaf to cancellation, then writes into the landing area;
/// 3 says what it sees of the payload once it is let go.
private final class LandingHandler: RPCHandler {
    private let gate = Mutex<(isOpen: Bool, waiting: [UnsafeContinuation<Void, Never>])>(
        (false, []))
    let entered = Atomic<Int>(0)

    func letGo() {
        let waiting = gate.withLock { gate in
            gate.isOpen = true
            defer { gate.waiting = [] }
            return gate.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    private func wait() async {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            let isOpen = gate.withLock { gate in
                if !gate.isOpen { gate.waiting.append(continuation) }
                return gate.isOpen
            }
            if isOpen { continuation.resume() }
        }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        entered.add(1, ordering: .relaxed)
        if request.method != 1 { await wait() }
        if request.method == 3 {
            let sum = request.payload?.withBytes { $0.reduce(0) { ($0 + Int($1)) % 251 } } ?? -1
            return RPCReply([UInt8(sum)])
        }
        guard let landing = request.landing else { return RPCReply([0]) }
        let count = Int(request.message[0]) << 12
        for index in 0..<count { landing.bytes[index] = request.message[1] }
        return RPCReply([1], payload: Payload(landing, 0..<count))
    }
}

@Suite("Shared memory")
struct SharedMemoryTests {
    private struct Rig {
        let pool: BufferPool
        let client: Reactor
        let serving: Reactor
        let handler = LandingHandler()
        let server: RPCServer
        let channel: RPCChannel

        init() throws {
            pool = BufferPool(arenaBytes: 8 << 20, isShareable: true)
            client = try Reactor.start(.init(pool: pool))
            serving = try Reactor.start()
            server = try RPCServer(
                host: "127.0.0.1", port: 0, name: "server", reactors: [serving], handler: handler,
                limits: .patient)
            server.start()
            channel = RPCChannel(
                .remote(host: "127.0.0.1", port: server.port), name: "client", on: client)
        }

        func stop() async {
            handler.letGo()
            await channel.close()
            await server.stop()
            client.stop()
            serving.stop()
        }

        func untilEntered(_ count: Int) async throws {
            try await eventually("\(count) calls are there") {
                handler.entered.load(ordering: .relaxed) >= count
            }
        }
    }

    @Test("an answer lands in the client's own memory")
    func landing() async throws {
        let rig = try Rig()
        for value: UInt8 in 1...20 {
            let reply = try await rig.channel.call(1, [16, value], expecting: 65_536)
            #expect(reply.message == [1])
            let payload = try #require(reply.payload)
            #expect(payload.count == 65_536)
            #expect(rig.pool.arenaOffset(of: payload) != nil)
            #expect(payload.withBytes { $0.allSatisfy { $0 == value } })
        }
        await rig.stop()
    }

    @Test("what finds no room in the arena goes through the socket")
    func beyondTheArena() async throws {
        let rig = try Rig()
        let hoard = (0..<8).map { _ in rig.pool.allocate(1 << 20) }
        let reply = try await rig.channel.call(1, [16, 9], expecting: 65_536)
        #expect(reply.message == [0])
        withExtendedLifetime(hoard) {}
        await rig.stop()
    }

    @Test("memory of a call that nobody waits for stays until its handler has ended")
    func abandoned() async throws {
        let rig = try Rig()
        let call = Task { try await rig.channel.call(2, [16, 7], expecting: 65_536) }
        try await rig.untilEntered(1)
        call.cancel()
        await #expect(throws: StoreError.self) { try await call.value }
        // As many buffers of the size as the arena has: the one in the handler's hands must not be
        // among them.
        let others = (0..<127).map { _ in rig.pool.allocate(65_536) }
        for buffer in others {
            buffer.bytes.initializeMemory(as: UInt8.self, repeating: 1)
        }
        rig.handler.letGo()
        // Its answer comes before this one's.
        _ = try await rig.channel.call(1, [1, 3], expecting: 4096)
        for buffer in others { #expect(buffer.bytes.allSatisfy { $0 == 1 }) }
        await rig.stop()
    }

    @Test("memory of calls on a closed channel stays until the server has ended its side")
    func closed() async throws {
        let rig = try Rig()
        let call = Task { try await rig.channel.call(2, [16, 7], expecting: 65_536) }
        try await rig.untilEntered(1)
        await rig.channel.close()
        let error = await #expect(throws: StoreError.self) { try await call.value }
        #expect(error?.code == .connection)
        let others = (0..<127).map { _ in rig.pool.allocate(65_536) }
        for buffer in others {
            buffer.bytes.initializeMemory(as: UInt8.self, repeating: 1)
        }
        rig.handler.letGo()
        try await Task.sleep(for: .milliseconds(200))
        for buffer in others { #expect(buffer.bytes.allSatisfy { $0 == 1 }) }
        await rig.stop()
    }

    @Test("a payload that its caller gave up is still read whole")
    func payloadStays() async throws {
        let rig = try Rig()
        let first = Payload(copying: [UInt8](repeating: 5, count: 50_000), pool: rig.pool)
        let call = Task { [channel = rig.channel] in try await channel.call(3, [], payload: first) }
        try await rig.untilEntered(1)
        rig.handler.letGo()
        #expect(try await call.value.message == [UInt8(250_000 % 251)])
        await rig.stop()
    }

    @Test("a frame that names memory outside of the arena ends the connection, not the server")
    func outside() throws {
        var header = FrameHeader(
            kind: .request, payloadBytes: 8192, payloadPlace: .shared, sharedOffset: 8 << 20)
        #expect(throws: FrameError.self) { try header.sharedRange(of: nil) }
        let pool = BufferPool(arenaBytes: 8 << 20, isShareable: true)
        let map = try SharedMap(descriptor: pool.arenaDescriptor, limit: 1 << 30)
        #expect(throws: FrameError.self) { try header.sharedRange(of: map) }
        header.sharedOffset = 4096 + 1
        #expect(throws: FrameError.self) { try header.sharedRange(of: map) }
        header.sharedOffset = (8 << 20) - 8192
        #expect(try header.sharedRange(of: map) == header.sharedOffset..<8 << 20)
        #expect(throws: SharedMap.Failure.self) {
            try SharedMap(descriptor: pool.arenaDescriptor, limit: 1 << 20)
        }
    }
}
