import Bytes
import Eventually
import Foundation
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

/// Method 1 echoes, 2 fails, 3 sleeps until cancelled, 4 answers with a payload of the size asked
/// for, 5 tells the order in which requests arrived, 6 how its context did.
private final class EchoHandler: RPCHandler {
    let sleeping = Mutex(0)
    let cancelled = Mutex(0)
    let order = Mutex<[UInt64]>([])
    let reactor: Reactor

    init(_ reactor: Reactor) { self.reactor = reactor }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        switch request.method {
        case 1: return RPCReply(request.message, payload: request.payload)
        case 2: throw StoreError(.noSuchKey, "no key named \(request.message.count)")
        case 3:
            sleeping.withLock { $0 += 1 }
            do {
                try await reactor.sleep(for: .seconds(60))
            } catch {
                cancelled.withLock { $0 += 1 }
            }
            throw StoreError(.cancelled, "cancelled")
        case 4:
            let count = Int(request.message[0]) << 16
            let buffer = reactor.pool.allocate(count)
            for index in 0..<count { buffer.bytes[index] = UInt8(truncatingIfNeeded: index >> 8) }
            return RPCReply([], payload: Payload(buffer, 0..<count))
        case 6:
            let left = request.context.deadline.map { reactor.now().duration(to: $0) }
            return RPCReply([
                request.context.ioClass.rawValue,
                left.map { UInt8(clamping: $0.components.seconds + 1) } ?? 255,
            ])
        default:
            order.withLock { $0.append(request.traceID) }
            return RPCReply()
        }
    }
}

private struct Rig {
    let reactors: [Reactor]
    let server: RPCServer
    let handler: EchoHandler
    let channel: RPCChannel

    /// - Parameter sharing: over a local socket, with payloads in shared memory.
    init(_ backend: Reactor.Options.Backend, sharing: Bool = false) throws {
        reactors = [
            try Reactor.start(
                .init(
                    backend: backend, pool: BufferPool(arenaBytes: 64 << 20, isShareable: sharing))),
            try Reactor.start(.init(backend: backend)),
        ]
        handler = EchoHandler(reactors[1])
        server = try RPCServer(
            host: "127.0.0.1", port: 0, name: "server", reactors: [reactors[1]], handler: handler,
            limits: .patient)
        server.start()
        channel = RPCChannel(
            .remote(host: "127.0.0.1", port: server.port), name: "client", on: reactors[0],
            mayShareMemory: sharing)
    }

    func stop() async {
        await channel.close()
        await server.stop()
        for reactor in reactors { reactor.stop() }
    }
}

private let backends: [Bool] = [true, false]
private let places: [Bool] = [false, true]

private func backend(_ uring: Bool) -> Reactor.Options.Backend { uring ? .uring : .poll }

@Suite("Transport")
struct TransportTests {
    @Test(
        "for whom a call is arrives with it, and when its caller stops waiting: the earlier of two",
        arguments: [true, false])
    func context(local: Bool) async throws {
        let rig = try Rig(.automatic)
        let here = RPCChannel(.local(rig.handler), name: "here", on: rig.reactors[1])
        let channel = local ? here : rig.channel
        for ioClass in IOClass.allCases {
            let soon = rig.reactors[1].now().advanced(by: .seconds(90))
            for (until, timeout, most) in [
                (nil, nil, 255), (soon, nil, 90), (nil, Duration.seconds(80), 80),
                (soon, .seconds(200), 90), (soon, .seconds(60), 60),
            ] {
                let reply = try await channel.call(
                    6, [], timeout: timeout, context: IOContext(ioClass, until: until))
                #expect(reply.message[0] == ioClass.rawValue)
                // What is left, rounded up; on a busy machine less.
                #expect(Int(reply.message[1]) <= most && reply.message[1] > 0)
                #expect(most != 255 || reply.message[1] == 255)
            }
        }
        await rig.stop()
    }

    @Test("requests and payloads of all sizes come back", arguments: backends, places)
    func echo(uring: Bool, sharing: Bool) async throws {
        let rig = try Rig(backend(uring), sharing: sharing)
        for size in [0, 1, 63, 4096, 20_000, 70_000, 1 << 20, 5_000_001] {
            let message = (0..<(size % 100_000)).map { UInt8(truncatingIfNeeded: $0) }
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 >> 3) }
            let payload = size == 0 ? nil : Payload(copying: bytes, pool: .process)
            let reply = try await rig.channel.call(1, message, payload: payload)
            #expect(reply.message.count == message.count)
            let isEqual = reply.message == message
            #expect(isEqual)
            #expect(reply.payload?.count ?? 0 == size)
            let matches = reply.payload?.withBytes { $0.elementsEqual(bytes) } ?? true
            #expect(matches)
        }
        await rig.stop()
    }

    @Test("many calls share a connection and arrive in order", arguments: backends, places)
    func multiplexing(uring: Bool, sharing: Bool) async throws {
        let rig = try Rig(backend(uring), sharing: sharing)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<500 {
                group.addTask {
                    let message = Array("call \(index)".utf8)
                    let payload = Payload(
                        copying: [UInt8](repeating: UInt8(index % 256), count: 100_000),
                        pool: .process)
                    let reply = try await rig.channel.call(1, message, payload: payload)
                    #expect(reply.message == message)
                    #expect(reply.payload?.withBytes { $0[77_777] } == UInt8(index % 256))
                }
            }
            try await group.waitForAll()
        }
        let calls = Task(executorPreference: rig.reactors[0]) {
            await withTaskGroup(of: Void.self) { group in
                for index in 0..<300 {
                    group.addTask(executorPreference: rig.reactors[0]) {
                        _ = try? await rig.channel.call(5, [], traceID: UInt64(index))
                    }
                }
            }
        }
        await calls.value
        #expect(rig.handler.order.withLock { $0 } == (0..<300).map(UInt64.init))
        await rig.stop()
    }

    @Test("a failure arrives with its code and text", arguments: backends)
    func failures(uring: Bool) async throws {
        let rig = try Rig(backend(uring))
        await #expect(throws: StoreError(.noSuchKey, "no key named 3")) {
            try await rig.channel.call(2, [1, 2, 3])
        }
        await rig.stop()
    }

    @Test("a deadline ends the call and cancels the handler", arguments: backends, places)
    func deadlines(uring: Bool, sharing: Bool) async throws {
        let rig = try Rig(backend(uring), sharing: sharing)
        // Connected before: the deadline is to pass while the handler is at work.
        _ = try await rig.channel.call(1, [])
        let error = await #expect(throws: StoreError.self) {
            try await rig.channel.call(3, [], timeout: .milliseconds(150))
        }
        #expect(error?.code == .deadlineExceeded)
        try await eventually("it is cancelled") { rig.handler.cancelled.withLock { $0 } > 0 }
        #expect(rig.handler.cancelled.withLock { $0 } == 1)
        #expect(try await rig.channel.call(1, [9]).message == [9])
        await rig.stop()
    }

    @Test("cancelling the caller cancels the handler", arguments: backends)
    func cancellation(uring: Bool) async throws {
        let rig = try Rig(backend(uring))
        // Connected and in the handler before it is cancelled.
        _ = try await rig.channel.call(1, [])
        let early = Task { try await rig.channel.call(3, []) }
        early.cancel()
        await #expect(throws: StoreError.self) { try await early.value }
        let before = rig.handler.sleeping.withLock { $0 }
        let call = Task { try await rig.channel.call(3, [7]) }
        // Not before it is there, however long the machine takes.
        try await eventually("the call arrives") { rig.handler.sleeping.withLock { $0 } > before }
        call.cancel()
        let error = await #expect(throws: StoreError.self) { try await call.value }
        #expect(error == StoreError(.cancelled, "the call was cancelled"))
        try await eventually("it is cancelled") { rig.handler.cancelled.withLock { $0 } > 0 }
        await rig.stop()
    }

    @Test("payloads beyond the credit wait and still all arrive")
    func credit() async throws {
        let rig = try Rig(.automatic)
        try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<60 {
                group.addTask {
                    try await rig.channel.call(4, [64], expecting: 4 << 20).payload?.count ?? 0
                }
            }
            for try await count in group { #expect(count == 4 << 20) }
        }
        await rig.stop()
    }

    @Test(
        "a lost server fails the calls in flight; the channel connects again to a new one",
        arguments: places)
    func reconnect(sharing: Bool) async throws {
        let rig = try Rig(.automatic, sharing: sharing)
        let call = Task { try await rig.channel.call(3, []) }
        try await eventually("the call arrives") { rig.handler.sleeping.withLock { $0 } > 0 }
        let port = rig.server.port
        await rig.server.stop()
        let error = await #expect(throws: StoreError.self) { try await call.value }
        #expect(error?.code == .connection)
        let refused = await #expect(throws: StoreError.self) { try await rig.channel.call(1, []) }
        #expect(refused?.code == .connection)
        let again = try RPCServer(
            host: "127.0.0.1", port: port, name: "server", reactors: [rig.reactors[1]],
            handler: rig.handler)
        again.start()
        try await Task.sleep(for: .milliseconds(300))
        #expect(try await rig.channel.call(1, [4]).message == [4])
        await again.stop()
        await rig.stop()
    }

    @Test(
        "a server that stops serves nobody, who is just being accepted neither", arguments: places)
    func stopping(sharing: Bool) async throws {
        for _ in 0..<20 {
            let rig = try Rig(.automatic, sharing: sharing)
            let calls = (0..<4).map { index in
                Task {
                    // Some before the server stops, some meanwhile.
                    for _ in 0..<index { await Task.yield() }
                    let channel = RPCChannel(
                        .remote(host: "127.0.0.1", port: rig.server.port), name: "client",
                        on: rig.reactors[0], mayShareMemory: sharing)
                    defer { Task { await channel.close() } }
                    return try await channel.call(3, []).message
                }
            }
            await rig.server.stop()
            for call in calls {
                // Not after the minute that the handler would take.
                let error = await #expect(throws: StoreError.self) { try await call.value }
                #expect(error?.code == .connection || error?.code == .cancelled)
            }
            await rig.stop()
        }
    }

    @Test("the same calls work in one process without a socket")
    func local() async throws {
        let reactor = try Reactor.start()
        let channel = RPCChannel(.local(EchoHandler(reactor)), name: "here", on: reactor)
        #expect(try await channel.call(1, [1, 2]).message == [1, 2])
        await #expect(throws: StoreError.self) { try await channel.call(2, []) }
        reactor.stop()
    }

    @Test("another version, noise and lying lengths are answered by name, and the server goes on")
    func badFrames() async throws {
        let rig = try Rig(.automatic)
        var other = [UInt8](repeating: 0, count: FrameHeader.size)
        other.withUnsafeMutableBytes { FrameHeader(kind: .hello).write(to: $0) }
        let hello = other
        other[4] = 7
        var huge = [UInt8](repeating: 0, count: FrameHeader.size)
        huge.withUnsafeMutableBytes {
            FrameHeader(kind: .request, payloadBytes: 1 << 30).write(to: $0)
        }
        var wrongBody = [UInt8](repeating: 0, count: FrameHeader.size)
        wrongBody.withUnsafeMutableBytes {
            FrameHeader(kind: .request, messageBytes: 4, bodyChecksum: 1).write(to: $0)
        }
        let cases: [([UInt8], String)] = [
            (other, "version 7"),
            (Array("GET / HTTP/1.1\r\n".utf8) + other, "not the native protocol"),
            (hello + huge, "over the limit"), (hello + wrongBody + [1, 2, 3, 4], "checksum"),
        ]
        for (bytes, text) in cases {
            let answer = try await exchange(bytes, port: rig.server.port, on: rig.reactors[0])
            #expect(answer.contains(text), "\(answer)")
        }
        #expect(try await rig.channel.call(1, [5]).message == [5])
        await rig.stop()
    }

    /// Sends `bytes` as they are; returns the text of the goodbye that comes back.
    private func exchange(
        _ bytes: [UInt8], port: Int, on reactor: Reactor
    ) async throws -> String {
        let socket = try await Socket.connect(host: "127.0.0.1", port: port, on: reactor)
        let payload = Payload(copying: bytes, pool: .process)
        let vector = SendVector()
        payload.withBytes { vector.append($0) }
        try await socket.send(vector)
        withExtendedLifetime(payload) {}
        let box = ReceiverBox(FrameReceiver(socket))
        var receiver = box.take()
        while true {
            let frame = try await receiver.next()
            if frame.header.kind == .goodbye {
                return String(decoding: frame.message, as: UTF8.self)
            }
        }
    }
}
