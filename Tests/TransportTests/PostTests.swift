import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

/// Notes in which order calls and posts came; refuses method 9 to everybody.
private final class NotingHandler: RPCHandler {
    let seen = Mutex<[String]>([])

    func authorize(
        method: UInt16, token: [UInt8], peer: PeerIdentity
    ) throws(StoreError) {
        if method == 9 { throw StoreError(.accessDenied, "method 9 is for nobody") }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        seen.withLock { $0.append("call \(request.message)") }
        return RPCReply(request.message)
    }

    func take(_ post: RPCRequest) {
        seen.withLock { $0.append("post \(post.method) \(post.message.count) \(post.caller)") }
    }
}

@Suite("Requests that nobody waits for", .serialized, .timeLimit(.minutes(10)))
struct PostTests {
    /// On the channel's reactor, where posts are made.
    private func post(
        _ channel: RPCChannel, on reactor: Reactor, _ method: UInt16, _ message: [UInt8]
    ) async -> Bool {
        await Task(executorPreference: reactor) { @concurrent in
            channel.post(method, message)
        }.value
    }

    private func withChannel(
        to handler: some RPCHandler, _ body: (Reactor, RPCChannel, RPCServer) async throws -> Void
    ) async throws {
        try await withServer(handler) { reactor, server in
            let channel = RPCChannel(
                .remote(host: "127.0.0.1", port: server.port), name: "client", on: reactor)
            try await body(reactor, channel, server)
            await channel.close()
        }
    }

    @Test("posts arrive in their place among calls, and are not answered")
    func order() async throws {
        let handler = NotingHandler()
        try await withChannel(to: handler) { reactor, channel, _ in
            _ = try await channel.call(1, [1])
            #expect(await post(channel, on: reactor, 3, [1, 2]))
            #expect(await post(channel, on: reactor, 4, [UInt8](repeating: 7, count: 100_000)))
            _ = try await channel.call(1, [2])
            #expect(await post(channel, on: reactor, 3, []))
            _ = try await channel.call(1, [3])
            #expect(
                handler.seen.withLock { $0 } == [
                    "call [1]", "post 3 2 client", "post 4 100000 client", "call [2]",
                    "post 3 0 client", "call [3]",
                ])
        }
    }

    @Test("nothing is posted without a connection, or by other threads than the reactor's")
    func noConnection() async throws {
        let handler = NotingHandler()
        try await withChannel(to: handler) { reactor, channel, _ in
            #expect(await !post(channel, on: reactor, 3, [1]))
            _ = try await channel.call(1, [1])
            #expect(!channel.post(3, [1]))
            #expect(await post(channel, on: reactor, 3, [1]))
            await channel.close()
            #expect(await !post(channel, on: reactor, 3, [1]))
        }
    }

    @Test("what its sender may not do is dropped, and the connection goes on")
    func refused() async throws {
        let handler = NotingHandler()
        try await withChannel(to: handler) { reactor, channel, _ in
            _ = try await channel.call(1, [1])
            #expect(await post(channel, on: reactor, 9, [1]))
            _ = try await channel.call(1, [2])
            #expect(handler.seen.withLock { $0 } == ["call [1]", "call [2]"])
        }
    }

    @Test("within a process a post is taken at once")
    func local() async throws {
        let handler = NotingHandler()
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let channel = RPCChannel(.local(handler), name: "client", on: reactor)
        #expect(channel.post(3, [1]) && channel.post(9, [1]))
        #expect(handler.seen.withLock { $0 } == ["post 3 1 client"])
    }

    @Test("a server of before is sent none")
    func oldServer() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let listener = try Listener(host: "127.0.0.1", port: 0, on: reactor)
        async let served: Void = {
            let socket = try await listener.accept(for: reactor)
            let sender = FrameSender(socket)
            var receiver = FrameReceiver(socket)
            _ = try await receiver.next()
            sender.add(
                Frame(
                    FrameHeader(
                        kind: .hello, method: FrameHeader.Feature.calls, credit: 1 << 20),
                    message: Array("old".utf8)))
            let frame = try await receiver.next()
            sender.add(
                Frame(
                    FrameHeader(kind: .response, requestID: frame.header.requestID),
                    message: frame.body))
            await sender.waitForProgress()
        }()
        let channel = RPCChannel(
            .remote(host: "127.0.0.1", port: listener.port), name: "client", on: reactor)
        #expect(try await channel.call(1, [1]).message == [1])
        #expect(await !post(channel, on: reactor, 3, [1]))
        try await served
        await channel.close()
    }

    @Test("a post with a payload is no frame")
    func payload() throws {
        var bytes = [UInt8](repeating: 0, count: FrameHeader.size)
        func parse(_ header: FrameHeader) throws -> FrameHeader {
            bytes.withUnsafeMutableBytes { header.write(to: $0) }
            return try bytes.withUnsafeBytes { try FrameHeader(parsing: $0) }
        }
        var header = FrameHeader(kind: .request, method: 3, flags: FrameHeader.Flag.post)
        #expect(try parse(header) == header)
        header.payloadBytes = 4096
        #expect(throws: FrameError.length("payload of a post", 4096, limit: 0)) {
            try parse(header)
        }
    }
}
