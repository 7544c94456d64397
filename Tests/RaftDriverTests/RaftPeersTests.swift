import Eventually
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Testing
import Transport

@testable import RaftDriver

/// Counts what comes, by how it came.
private final class CountingService: RPCHandler {
    struct Counts {
        var calls = 0
        var posts = 0
        /// The indexes of all messages, in the order in which they came.
        var indexes: [LogIndex] = []
    }
    let counts = Mutex(Counts())
    let answers = Gate()

    private func note(_ message: [UInt8], _ change: (inout Counts) -> Void) {
        guard let (_, messages) = try? RaftCodec.decode(message) else { return }
        counts.withLock { counts in
            change(&counts)
            counts.indexes += messages.map(\.index)
        }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        note(request.message) { $0.calls += 1 }
        await answers.pass()
        return RPCReply()
    }

    func take(_ post: RPCRequest) { note(post.message) { $0.posts += 1 } }
}

@Suite("The other members, by calls and posts", .serialized, .timeLimit(.minutes(1)))
struct RaftPeersTests {
    private let group = GroupID(high: 1, low: 2)

    private func with(
        _ body: (RaftPeers, CountingService, Reactor, RPCServer) async throws -> Void
    ) async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let service = CountingService()
        let server = try RPCServer(
            host: "127.0.0.1", port: 0, name: "member 2", reactors: [reactor], handler: service)
        server.start()
        let peers = RaftPeers(group: group, on: reactor)
        peers.set(
            2,
            RPCChannel(
                .remote(host: "127.0.0.1", port: server.port), name: "member 1", on: reactor))
        try await body(peers, service, reactor, server)
        service.answers.open()
        await server.stop()
    }

    /// As a member sends: on the reactor.
    private func send(
        _ indexes: ClosedRange<LogIndex>, bytes: Int = 0, _ peers: RaftPeers, on reactor: Reactor
    ) async {
        await Task(executorPreference: reactor) { @concurrent in
            for index in indexes {
                var message = Message(.append, to: 2, from: 1, term: 1, index: index)
                message.entries = [Entry(data: [UInt8](repeating: 1, count: bytes))]
                peers.send([message])
            }
        }.value
    }

    @Test("the first messages go by a call, those behind its answer are posted, none is lost")
    func posted() async throws {
        try await with { peers, service, reactor, _ in
            await send(1...1, peers, on: reactor)
            try await eventually("the first message arrives") {
                service.counts.withLock { $0.indexes.count } == 1
            }
            try await eventually("messages are posted") {
                await send(2...2, peers, on: reactor)
                return service.counts.withLock { $0.posts } > 0
            }
            let before = service.counts.withLock { $0 }
            await send(10...109, peers, on: reactor)
            try await eventually("all arrive") {
                service.counts.withLock { $0.indexes.last } == 109
            }
            let counts = service.counts.withLock { $0 }
            // Once in a while one call, with what gathered before it left.
            #expect(counts.posts > before.posts || counts.calls == before.calls + 1)
            #expect(counts.calls <= before.calls + 2)
            #expect(Array(counts.indexes.suffix(100)) == Array(10...109))
        }
    }

    @Test("what waits for a connection goes with as few calls as it can, in order")
    func connecting() async throws {
        try await with { peers, service, reactor, _ in
            await send(1...50, peers, on: reactor)
            try await eventually("all arrive") { service.counts.withLock { $0.indexes.last } == 50 }
            let counts = service.counts.withLock { $0 }
            #expect(counts.indexes == Array(1...50))
            #expect(counts.posts + counts.calls <= 3)
        }
    }

    @Test("while a call is not answered messages are posted, up to so many bytes")
    func bounded() async throws {
        try await with { peers, service, reactor, _ in
            service.answers.shut()
            await send(1...1, peers, on: reactor)
            try await eventually("the call arrives") { service.counts.withLock { $0.calls } == 1 }
            let most = UInt64(RaftPeers.Limits.postedBytes >> 20)
            await send(1001...1000 + 2 * most, bytes: 1 << 20, peers, on: reactor)
            try await eventually("as many are posted as may be") {
                service.counts.withLock { $0.posts } >= most - 1
            }
            service.answers.open()
            try await eventually("the rest arrives") {
                service.counts.withLock { $0.indexes.last } == 1000 + 2 * most
            }
            let counts = service.counts.withLock { $0 }
            // What was too much to be posted came with calls, behind.
            #expect(counts.posts <= most && counts.calls > 1)
            #expect(counts.indexes.dropFirst() == ArraySlice(1001...1000 + 2 * most))
        }
    }
}
