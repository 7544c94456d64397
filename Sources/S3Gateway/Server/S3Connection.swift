import Client
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTPTypes

/// A connection of Hummingbird's server: its HTTP/1 pipeline, with the loop over requests our own.
///
/// The loop is our own for three things that a plain responder has no say in: `100 Continue` only
/// when the body is wanted, writing a body from a `@Sendable` closure, and when a connection is
/// closed after an error.
struct S3Connection<Store: ObjectStore>: ServerChildChannel {
    typealias Value = NIOAsyncChannel<HTTPRequestPart, HTTPResponsePart>

    private let pipeline: HTTP1Channel
    private let service: S3Service<Store>

    init(service: S3Service<Store>, idleSeconds: Int) {
        self.service = service
        // Only the pipeline of this is used; `handle` below takes the place of its responder.
        pipeline = HTTP1Channel(
            responder: { _, _, _ in preconditionFailure("the connection serves its requests") },
            configuration: .init(
                additionalChannelHandlers: [ReceiveBufferSizer()],
                idleTimeout: .seconds(Int64(idleSeconds))))
    }

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        pipeline.setup(channel: channel, logger: logger)
    }

    func handle(value: Value, logger: Logger) async {
        do {
            try await withTaskCancellationHandler {
                try await value.executeThenClose { inbound, outbound in
                    try await serve(inbound.makeAsyncIterator(), outbound)
                }
            } onCancel: {
                value.channel.close(mode: .input, promise: nil)
            }
        } catch {
            logger.trace("connection ended: \(error)")
        }
    }

    private func serve(
        _ iterator: Exchange.Inbound, _ outbound: Exchange.Outbound
    ) async throws {
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
                return
            }
            guard case .head(let head) = part else { return }
            let exchange = Exchange(head: head, inbound: iterator, outbound: outbound)
            guard await service.serve(exchange) else { return }
            iterator = exchange.remaining
        }
    }
}

/// Lets a connection read up to 256 KiB at once: fewer, larger pieces for big bodies.
private final class ReceiveBufferSizer: ChannelInboundHandler, RemovableChannelHandler, Sendable {
    typealias InboundIn = HTTPRequestPart

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        channel.setOption(
            ChannelOptions.recvAllocator,
            value: AdaptiveRecvByteBufferAllocator(
                minimum: 2048, initial: 16 << 10, maximum: 256 << 10)
        ).whenFailure { channel.pipeline.fireErrorCaught($0) }
    }
}
