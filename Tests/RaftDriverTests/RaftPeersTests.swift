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
    /// Calls wait here before they are taken.
    let calls = Gate()

    private func note(_ message: [UInt8], _ change: (inout Counts) -> Void) {
        guard let (_, messages) = try? RaftCodec.decode(message) else { return }
        counts.withLock { counts in
            change(&counts)
            counts.indexes += messages.map(\.index)
        }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        await calls.pass()
        note(request.message) { $0.calls += 1 }
        await answers.pass()
        return RPCReply()
    }

    func take(_ post: RPCRequest) { note(post.message) { $0.posts += 1 } }
}

@Suite("The other members, by calls and posts", .serialized, .timeLimit(.minutes(10)))
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

    @Test("what is posted is not taken before what came with a call")
    func inOrder() async throws {
        try await with { peers, service, reactor, _ in
            service.calls.shut()
            await send(1...1, peers, on: reactor)
            // As long as nothing of it is taken nothing may come behind; it is not known when the
            // connection is made, so for a while.
            for index in 2...40 as ClosedRange<LogIndex> {
                await send(index...index, peers, on: reactor)
                try await reactor.sleep(for: .milliseconds(5))
            }
            #expect(service.counts.withLock { $0.indexes }.isEmpty)
            service.calls.open()
            try await eventually("all arrive") { service.counts.withLock { $0.indexes.last } == 40 }
            #expect(service.counts.withLock { $0.indexes } == Array(1...40))
            // On a connection that is there a call carries nothing.
            try await eventually("messages are posted") {
                await send(50...50, peers, on: reactor)
                return service.counts.withLock { $0.posts } > 0
            }
            service.calls.shut()
            try await reactor.sleep(for: RaftPeers.Limits.callInterval * 1.5)
            let before = service.counts.withLock { $0.calls }
            await send(60...60, peers, on: reactor)
            try await eventually("it is posted") {
                service.counts.withLock { $0.indexes.last } == 60
            }
            service.calls.open()
            try await eventually("a call comes behind") {
                service.counts.withLock { $0.calls } > before
            }
            #expect(service.counts.withLock { $0.indexes.last } == 60)
        }
    }

    @Test("while a call is not answered messages are posted, up to so many bytes")
    func bounded() async throws {
        try await with { peers, service, reactor, _ in
            try await eventually("messages are posted") {
                await send(1...1, peers, on: reactor)
                return service.counts.withLock { $0.posts } > 0
            }
            service.answers.shut()
            try await reactor.sleep(for: RaftPeers.Limits.callInterval * 1.5)
            let before = service.counts.withLock { $0 }
            await send(2...2, peers, on: reactor)
            try await eventually("a call arrives") {
                service.counts.withLock { $0.calls } > before.calls
            }
            let most = UInt64(RaftPeers.Limits.postedBytes >> 20)
            await send(1001...1000 + 2 * most, bytes: 1 << 20, peers, on: reactor)
            try await eventually("as many are posted as may be") {
                service.counts.withLock { $0.posts } >= before.posts + Int(most) - 1
            }
            service.answers.open()
            try await eventually("the rest arrives") {
                service.counts.withLock { $0.indexes.last } == 1000 + 2 * most
            }
            let counts = service.counts.withLock { $0 }
            // What was too much to be posted came with calls, behind.
            #expect(counts.calls > before.calls + 1)
            let sent = ArraySlice(1001...1000 + 2 * most)
            #expect(counts.indexes.suffix(sent.count) == sent)
        }
    }
}
