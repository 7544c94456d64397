import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

/// Notes the identities that come; fails the first calls as it is told to.
private final class NotingHandler: RPCHandler {
    let calls = Mutex<[CallID?]>([])
    let messages = Mutex<[[UInt8]]>([])
    let failures: Mutex<[StoreError]>

    init(failures: [StoreError] = []) { self.failures = Mutex(failures) }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        calls.withLock { $0.append(request.call) }
        messages.withLock { $0.append(request.message) }
        let failure = failures.withLock { $0.isEmpty ? nil : $0.removeFirst() }
        if let failure { throw failure }
        return RPCReply(request.message)
    }
}

/// A server as programs of before were: its hello says nothing of identities.
private struct OldServer {
    let listener: Listener
    let reactor: Reactor

    /// Serves one connection: answers `count` requests, then ends the connection upon the next.
    /// Returns the headers and bodies of all requests.
    func serve(_ count: Int) async throws -> [(FrameHeader, [UInt8])] {
        let socket = try await listener.accept(for: reactor)
        let sender = FrameSender(socket)
        var receiver = FrameReceiver(socket)
        _ = try await receiver.next()
        sender.add(
            Frame(FrameHeader(kind: .hello, credit: 1 << 20), message: Array("old".utf8)))
        var seen: [(FrameHeader, [UInt8])] = []
        for number in 0...count {
            let frame = try await receiver.next()
            seen.append((frame.header, frame.body))
            guard number < count else { break }
            let id = frame.header.requestID
            sender.add(Frame(FrameHeader(kind: .response, requestID: id), message: frame.body))
        }
        sender.close()
        return seen
    }
}

@Suite("Identities of calls on their way", .serialized, .timeLimit(.minutes(10)))
struct IdentityTests {
    private let id = CallID(
        client: Identity128(high: 1, low: 2), sequence: 3, answeredBelow: 2, isRepeat: true)

    @Test("an identity arrives with its request, which is as it was without")
    func arrives() async throws {
        let handler = NotingHandler()
        try await withServer(handler) { reactor, server in
            let channel = RPCChannel(
                .remote(host: "127.0.0.1", port: server.port), name: "client", on: reactor)
            let messages: [[UInt8]] = [[], [1, 2, 3], [UInt8](repeating: 9, count: 100_000)]
            for message in messages {
                let first = try await channel.call(1, message, call: id)
                let second = try await channel.call(1, message, token: [4, 4], call: id)
                let third = try await channel.call(1, message)
                for reply in [first, second, third] { #expect(reply.message == message) }
            }
            #expect(handler.calls.withLock { $0 } == [id, id, nil, id, id, nil, id, id, nil])
            await channel.close()
        }
    }

    @Test("an identity arrives within a process as well")
    func local() async throws {
        let handler = NotingHandler()
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let channel = RPCChannel(.local(handler), name: "client", on: reactor)
        _ = try await channel.call(1, [1], call: id)
        _ = try await channel.call(1, [1], timeout: .seconds(10), call: id)
        #expect(handler.calls.withLock { $0 } == [id, id])
    }

    @Test("a request that is too large with its identity is refused before it is sent")
    func tooLarge() async throws {
        let handler = NotingHandler()
        try await withServer(handler) { reactor, server in
            let channel = RPCChannel(
                .remote(host: "127.0.0.1", port: server.port), name: "client", on: reactor)
            let message = [UInt8](
                repeating: 0, count: FrameHeader.Limits.messageBytes - CallID.encodedSize + 1)
            let error = await #expect(throws: StoreError.self) {
                try await channel.call(1, message, call: id)
            }
            #expect(error?.code == .invalidArgument)
            #expect(handler.calls.withLock { $0.isEmpty })
            await channel.close()
        }
    }

    @Test(
        "a server of before is told nothing of it, and a change whose answer is lost is not repeated"
    )
    func oldServer() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let old = OldServer(
            listener: try Listener(host: "127.0.0.1", port: 0, on: reactor), reactor: reactor)
        async let served = old.serve(2)
        let port = old.listener.port
        let channel = try LeaderChannel(
            ["127.0.0.1:\(port)"], channels: ChannelPool(name: "client"), on: reactor)
        for number in 1...2 as ClosedRange<UInt8> {
            let reply = try await channel.call(
                1, [number], timeout: .seconds(20), repetition: .identified)
            #expect(reply.message == [number])
        }
        let error = await #expect(throws: StoreError.self) {
            try await channel.call(1, [3], timeout: .seconds(20), repetition: .identified)
        }
        #expect(error?.code == .connection)
        let seen = try await served
        #expect(seen.map(\.1) == [[1], [2], [3]])
        #expect(seen.allSatisfy { $0.0.flags == 0 && $0.0.ioClass == 0 })
    }

    @Test(
        "each attempt of a change bears the same identity, and says so once it may have been made")
    func attempts() async throws {
        let lost = StoreError(.connection, "leadership was lost")
        let handler = NotingHandler(
            failures: [StoreError(.notLeader, "another leads"), lost, lost])
        try await withServer(handler) { reactor, server in
            let channel = try LeaderChannel(
                ["127.0.0.1:\(server.port)"], channels: ChannelPool(name: "client"), on: reactor)
            let reply = try await channel.call(
                1, [7], timeout: .seconds(20), repetition: .identified)
            #expect(reply.message == [7])
            let calls = handler.calls.withLock { $0.compactMap { $0 } }
            #expect(calls.count == 4 && Set(calls.map(\.sequence)) == [1])
            #expect(Set(calls.map(\.client)).count == 1)
            #expect(calls.map(\.isRepeat) == [false, false, true, true])
            // The next change is another, and all before it are done with.
            _ = try await channel.call(1, [8], timeout: .seconds(20), repetition: .identified)
            let next = handler.calls.withLock { $0.last }
            #expect(next??.client == calls[0].client && next??.sequence == 2)
            #expect(next??.answeredBelow == 2 && next??.isRepeat == false)
            // Others bear none.
            _ = try await channel.call(1, [9], timeout: .seconds(20), repetition: .harmless)
            #expect(handler.calls.withLock { $0.last } == .some(nil))
        }
    }

    @Test("changes that are under way at once are of different clients; few are drawn")
    func lanes() async throws {
        let handler = NotingHandler()
        try await withServer(handler) { reactor, server in
            let channel = try LeaderChannel(
                ["127.0.0.1:\(server.port)"], channels: ChannelPool(name: "client"), on: reactor)
            for _ in 0..<5 {
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for _ in 0..<20 {
                        group.addTask {
                            _ = try await channel.call(
                                1, [7], timeout: .seconds(20), repetition: .identified)
                        }
                    }
                    try await group.waitForAll()
                }
            }
            let calls = handler.calls.withLock { $0.compactMap { $0 } }
            #expect(calls.count == 100 && Set(calls).count == 100)
            #expect(Set(calls.map(\.client)).count <= 20)
            for (client, own) in Dictionary(grouping: calls, by: \.client) {
                #expect(own.map(\.sequence).sorted() == (1...own.count).map { UInt64($0) })
                #expect(own.allSatisfy { $0.answeredBelow == $0.sequence }, "\(client)")
            }
        }
    }
}
