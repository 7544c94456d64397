import Bytes
import Eventually
import Glibc
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

private struct PlainHandler: RPCHandler {
    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        RPCReply(request.message, payload: request.payload)
    }
}

private struct Rig {
    let reactors: [Reactor]
    let server: RPCServer
    let notices = Notices()
    let faults = FaultInjector(seed: 1)

    init(
        faulty: Bool = false, port: Int = 0, _ change: (inout ServerLimits) -> Void
    ) throws {
        reactors = [
            try Reactor.start(.init(pool: BufferPool(arenaBytes: 8 << 20, isShareable: true))),
            try Reactor.start(.init(backend: faulty ? .faulty(faults) : .automatic)),
        ]
        // Of this process, which other tests have connections in as well.
        var limits = ServerLimits(descriptors: 1 << 20)
        change(&limits)
        server = try RPCServer(
            host: "127.0.0.1", port: port, name: "server", reactors: [reactors[1]],
            handler: PlainHandler(), limits: limits, notice: { [notices] in notices.note($0) })
    }

    func channel(sharing: Bool = false) -> RPCChannel {
        RPCChannel(
            .remote(host: "127.0.0.1", port: server.port), name: "client", on: reactors[0],
            mayShareMemory: sharing)
    }

    func until(_ holds: () -> Bool) async throws {
        try await eventually("what the server does with its connections", holds)
    }

    func stop() async {
        await server.stop()
        for reactor in reactors { reactor.stop() }
    }
}

private final class Notices: Sendable {
    private let list = Mutex<[String]>([])
    var all: [String] { list.withLock { $0 } }
    func note(_ text: String) { list.withLock { $0.append(text) } }
}

private let places = [false, true]

@Suite("Connections of a server")
struct ConnectionsTests {
    @Test("beyond the bound are told so, and served again once others are gone", arguments: places)
    func bound(sharing: Bool) async throws {
        let rig = try Rig { $0.connections = 2 }
        rig.server.start()
        let channels = (0..<3).map { _ in rig.channel(sharing: sharing) }
        for channel in channels.prefix(2) {
            #expect(try await channel.call(1, [1]).message == [1])
        }
        for _ in 0..<2 {
            let error = await #expect(throws: StoreError.self) {
                try await channels[2].call(1, [1])
            }
            #expect(error?.code == .overloaded)
            #expect(error?.message.contains("server has 2 connections open") ?? false)
            // Not remembered as the last failure.
            try await rig.reactors[0].sleep(for: TransportLimits.reconnectDelay)
        }
        #expect(rig.notices.all.count == 1, "told once: \(rig.notices.all)")
        await channels[0].close()
        try await rig.until { rig.server.connectionCount == 1 }
        #expect(try await channels[2].call(1, [2]).message == [2])
        #expect(try await channels[1].call(1, [3]).message == [3])
        await rig.stop()
    }

    @Test("of one origin are bounded too", arguments: places)
    func origins(sharing: Bool) async throws {
        let rig = try Rig { $0.connectionsPerOrigin = 1 }
        rig.server.start()
        let (first, second) = (rig.channel(sharing: sharing), rig.channel(sharing: sharing))
        _ = try await first.call(1, [])
        let error = await #expect(throws: StoreError.self) { try await second.call(1, []) }
        #expect(error?.code == .overloaded)
        // Another origin: the network and this process are two.
        let other = rig.channel(sharing: !sharing)
        #expect(try await other.call(1, [7]).message == [7])
        await rig.stop()
    }

    @Test("that are refused before the client has said anything are not tried by another way")
    func refusedEarly() async throws {
        let rig = try Rig { $0.connectionsPerOrigin = 1 }
        rig.server.start()
        let first = rig.channel(sharing: true)
        _ = try await first.call(1, [])
        // The client's thread is late between what it does: the server has ended the connection
        // before a byte of the client has come.
        let isOver = Atomic(false)
        let reactor = rig.reactors[0]
        let late = Task(executorPreference: reactor) {
            while !isOver.load(ordering: .relaxed) {
                usleep(5000)
                try await reactor.sleep(for: .microseconds(10))
            }
        }
        for _ in 0..<10 {
            let second = rig.channel(sharing: true)
            let error = await #expect(throws: StoreError.self) { try await second.call(1, []) }
            #expect(error?.code == .overloaded, "\(error.map { "\($0)" } ?? "served")")
        }
        isOver.store(true, ordering: .relaxed)
        try await late.value
        await rig.stop()
    }

    @Test("share memory as soon as the name of the server is free")
    func nameTaken() async throws {
        // Whoever had the port before is not quite gone.
        let reactor = try Reactor.start()
        let old = try Listener(host: "127.0.0.1", port: 0, on: reactor)
        let name = try #require(Socket.localName(host: "127.0.0.1", port: old.port))
        let holder = try Listener(localName: name, on: reactor)
        old.close()
        var rig: Rig?
        try await eventually("the port is free") {
            rig = try? Rig(port: old.port) { $0.connectionsPerOrigin = 1 }
            return rig != nil
        }
        let served = try #require(rig)
        served.server.start()
        // Through the network: one of this machine's address, and no more.
        let network = served.channel()
        #expect(try await network.call(1, [1]).message == [1])
        holder.close()
        try await eventually("another comes by the name") {
            let local = served.channel(sharing: true)
            return (try? await local.call(1, [2]).message) == [2]
        }
        await served.stop()
        reactor.stop()
    }

    @Test("that say no hello are ended, with or without shared memory", arguments: places)
    func silent(sharing: Bool) async throws {
        let rig = try Rig {
            $0.helloTimeout = .milliseconds(20)
            $0.interval = .milliseconds(10)
        }
        rig.server.start()
        let socket: Socket
        if sharing {
            let name = try #require(Socket.localName(host: "127.0.0.1", port: rig.server.port))
            socket = try await Socket.connect(localName: name, on: rig.reactors[0])
        } else {
            socket = try await Socket.connect(
                host: "127.0.0.1", port: rig.server.port, on: rig.reactors[0])
        }
        // Ends by itself; what is said before is a goodbye.
        let box = ReceiverBox(FrameReceiver(socket))
        var receiver = box.take()
        let goodbye = try await receiver.next()
        #expect(goodbye.header.kind == .goodbye)
        #expect(goodbye.header.status == StoreError.Code.deadlineExceeded.rawValue)
        try await rig.until { rig.server.connectionCount == 0 }
        await rig.stop()
    }

    @Test("that are idle end, and no call fails for it, whenever it is made", arguments: places)
    func idle(sharing: Bool) async throws {
        // Looked at by the test alone: idle after two steps without a request.
        let rig = try Rig {
            $0.helloTimeout = .seconds(3600 * 1000)
            $0.idleTimeout = .seconds(3600)
            $0.interval = .seconds(3600)
        }
        rig.server.start()
        let channel = rig.channel(sharing: sharing)
        let payload = Payload(copying: [UInt8](repeating: 3, count: 70_000), pool: .process)
        #expect(try await channel.call(1, [9]).message == [9])
        while rig.server.connectionCount > 0 { _ = await rig.server.look() }
        // Calls that meet the end of the connection on its way, or find it gone.
        for index in 0..<300 {
            async let reply = channel.call(
                1, [UInt8(index % 256)], payload: payload, expecting: 70_000)
            for _ in 0..<(index % 5) {
                _ = await rig.server.look()
                await Task.yield()
            }
            #expect(try await reply.message == [UInt8(index % 256)])
            #expect(try await reply.payload?.withBytes { $0[69_999] } == 3)
            for _ in 0..<(index % 4) { _ = await rig.server.look() }
        }
        await rig.stop()
    }

    @Test("are accepted again once descriptors are there, and waited for meanwhile without haste")
    func descriptors() async throws {
        let rig = try Rig(faulty: true) { _ in }
        rig.faults.set(acceptError: EMFILE)
        let start = MonotonicTime.now()
        rig.server.start()
        let channel = rig.channel()
        let call = Task { try await channel.call(1, [4]) }
        try await rig.until { rig.faults.refusedAccepts >= 4 }
        // Two listeners, each after a pause.
        let pauses = start.duration(to: .now()) / TransportLimits.acceptPause
        #expect(Double(rig.faults.refusedAccepts) <= 2 * (pauses + 1))
        rig.faults.set(acceptError: nil)
        #expect(try await call.value.message == [4])
        #expect(rig.notices.all.count <= 2, "told once for each listener: \(rig.notices.all)")
        await rig.stop()
    }

    @Test("take a hello of some length only, and nothing with it")
    func hello() async throws {
        let rig = try Rig { _ in }
        rig.server.start()
        let large = [UInt8](repeating: 65, count: TransportLimits.helloBytes + 1)
        let payload = Payload(copying: [1, 2, 3], pool: .process)
        for hello in [
            Frame(FrameHeader(kind: .hello), message: large),
            Frame(FrameHeader(kind: .hello), message: [], payload: payload),
        ] {
            let socket = try await Socket.connect(
                host: "127.0.0.1", port: rig.server.port, on: rig.reactors[0])
            let sender = FrameSender(socket)
            sender.add(hello)
            let box = ReceiverBox(FrameReceiver(socket))
            var receiver = box.take()
            #expect(try await receiver.next().header.kind == .goodbye)
        }
        #expect(try await rig.channel().call(1, [1]).message == [1])
        await rig.stop()
    }
}
