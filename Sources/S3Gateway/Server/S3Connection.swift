import Client
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTPTypes
import Reactor

/// A connection of Hummingbird's server: its HTTP/1 pipeline, with the loop over requests our own.
///
/// The loop is our own for three things that a plain responder has no say in: `100 Continue` only
/// when the body is wanted, writing a body from a `@Sendable` closure, and when a connection is
/// closed after an error.
struct S3Connection<Store: ObjectStore>: ServerChildChannel {
    typealias Value = NIOAsyncChannel<HTTPRequestPart, HTTPResponsePart>

    private let pipeline: HTTP1Channel
    private let service: S3Service<Store>
    private let reactors: EventLoopReactors?
    private let limits: S3Configuration.Limits
    private let open: OpenConnections

    init(
        service: S3Service<Store>, reactors: EventLoopReactors?, limits: S3Configuration.Limits
    ) {
        self.service = service
        self.reactors = reactors
        self.limits = limits
        open = OpenConnections(limit: limits.connections)
        // Only the pipeline of this is used; `handle` below takes the place of its responder.
        pipeline = HTTP1Channel(
            responder: { _, _, _ in preconditionFailure("the connection serves its requests") },
            configuration: .init(idleTimeout: .seconds(Int64(limits.idleSeconds))))
    }

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        channel.setOption(ChannelOptions.recvAllocator, value: Self.receiveBuffers)
            .flatMap { channel.setOption(ChannelOptions.allocator, value: LentBytes.allocator) }
            .flatMapThrowing {
                try channel.pipeline.syncOperations.addHandler(WrittenSignal(), position: .first)
            }
            .flatMap { pipeline.setup(channel: channel, logger: logger) }
            .flatMapThrowing { value in
                try ConnectionPersistence.add(to: channel)
                try Patience.add(
                    to: channel, head: .seconds(Int64(limits.headSeconds)),
                    stall: .seconds(Int64(limits.stallSeconds)))
                return value
            }
    }

    /// Up to 256 KiB are read at once: fewer, larger pieces of big bodies.
    private static var receiveBuffers: AdaptiveRecvByteBufferAllocator {
        AdaptiveRecvByteBufferAllocator(minimum: 2048, initial: 16 << 10, maximum: 256 << 10)
    }

    func handle(value: Value, logger: Logger) async {
        let (entry, becameFull) = open.enter(value.channel)
        if becameFull {
            let end = entry == nil ? "more are refused" : "idle ones give way to those that come"
            logger.warning("\(limits.connections) connections are open, all that are taken: \(end)")
        }
        guard let entry else { return await refuse(value, logger) }
        defer { open.leave(entry) }
        let loop = value.channel.eventLoop
        if let reactor = reactors?.reactor(of: loop) {
            await withTaskExecutorPreference(reactor) { await run(value, entry, logger) }
        } else {
            await withTaskExecutorPreference(EventLoopExecutor(loop)) {
                await run(value, entry, logger)
            }
        }
    }

    /// Answers a connection that is not served, without waiting for what it asks.
    private func refuse(_ value: Value, _ logger: Logger) async {
        do {
            try await value.executeThenClose { _, outbound in
                var head = ResponseHead(503, contentLength: 0)
                head.set("Connection", "close")
                head.set("Retry-After", "\(S3Error.retryAfterSeconds)")
                try await outbound.write(contentsOf: [.head(head.http), .end(nil)])
            }
        } catch {
            logger.trace("connection ended: \(error)")
        }
    }

    private func run(
        _ value: Value, _ entry: OpenConnections.Entry, _ logger: Logger
    ) async {
        do {
            try await withTaskCancellationHandler {
                try await value.executeThenClose { inbound, outbound in
                    let rest = try await serve(inbound.makeAsyncIterator(), outbound, entry)
                    try await part(from: value.channel, rest, outbound)
                }
            } onCancel: {
                value.channel.close(mode: .input, promise: nil)
            }
        } catch {
            logger.trace("connection ended: \(error)")
        }
    }

    /// Closes our side once everything is written, and waits for the client to close its own: a
    /// connection that is closed with bytes on their way may lose the end of the last response.
    private func part(
        from channel: any Channel, _ rest: Exchange.Inbound, _ outbound: Exchange.Outbound
    ) async throws {
        let timer = channel.eventLoop.scheduleTask(in: Self.lingering) {
            channel.close(promise: nil)
        }
        defer { timer.cancel() }
        // Closing our side closes all if the client's is closed already, written or not.
        try await channel.triggerUserOutboundEvent(WrittenSignal.AllWritten())
        outbound.finish()
        var rest = rest
        while try await rest.next() != nil {}
        try await channel.closeFuture.get()
    }

    /// How long a client may take to read the end and to notice it.
    private static var lingering: TimeAmount { .seconds(30) }

    /// Serves requests until the connection is to end; what is left of its inbound side.
    private func serve(
        _ iterator: Exchange.Inbound, _ outbound: Exchange.Outbound,
        _ entry: OpenConnections.Entry
    ) async throws -> Exchange.Inbound {
        var iterator = iterator
        while true {
            let part: HTTPRequestPart?
            do {
                part = try await iterator.next()
            } catch {
                // Not HTTP, or a connection that broke between requests; the answer may not arrive.
                var head = ResponseHead(400, contentLength: 0)
                head.set("Connection", "close")
                try await outbound.write(contentsOf: [.head(head.http), .end(nil)])
                return iterator
            }
            guard case .head(let head) = part else { return iterator }
            let exchange = Exchange(head: head, inbound: iterator, outbound: outbound)
            open.begin(entry)
            let isReusable = await service.serve(exchange)
            open.end(entry)
            iterator = exchange.remaining
            guard isReusable else { return iterator }
        }
    }
}

/// Answers `AllWritten` once everything that was written before it is with the kernel.
///
/// The first of its pipeline, so it sees bytes: an empty write behind the others is done when
/// they are.
private final class WrittenSignal: ChannelOutboundHandler, Sendable {
    typealias OutboundIn = ByteBuffer

    struct AllWritten: Sendable {}

    func triggerUserOutboundEvent(
        context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?
    ) {
        guard event is AllWritten else {
            context.triggerUserOutboundEvent(event, promise: promise)
            return
        }
        context.writeAndFlush(NIOAny(ByteBuffer()), promise: promise)
    }
}
