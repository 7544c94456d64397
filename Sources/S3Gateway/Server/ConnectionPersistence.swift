import DequeModule
import NIOCore
import NIOHTTP1

/// Sees to it that a connection lasts as long as its client and its version of HTTP say
/// (RFC 9112, 9.3).
///
/// What is behind it in the pipeline knows no versions: a request of HTTP/1.0 that does not ask for
/// more gets `Connection: close`, as one of HTTP/1.1 would have it. On the way back, the client is
/// told what becomes of the connection where it does not go without saying.
final class ConnectionPersistence: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias InboundOut = HTTPServerRequestPart
    typealias OutboundIn = HTTPServerResponsePart
    typealias OutboundOut = HTTPServerResponsePart

    /// What the responses to come say in `Connection`, one for each request that has begun.
    private var options: Deque<String?> = []

    /// Adds one between the parser of HTTP/1 and what makes heads without versions of its heads.
    /// On the channel's event loop.
    static func add(to channel: any Channel) throws {
        let pipeline = channel.pipeline.syncOperations
        let parser = try pipeline.handler(type: ByteToMessageHandler<HTTPRequestDecoder>.self)
        try pipeline.addHandler(ConnectionPersistence(), position: .after(parser))
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard case .head(var head) = unwrapInboundIn(data) else {
            context.fireChannelRead(data)
            return
        }
        let isOld = head.version.major == 1 && head.version.minor == 0
        if head.isKeepAlive {
            options.append(isOld ? "keep-alive" : nil)
            context.fireChannelRead(data)
            return
        }
        options.append("close")
        let isSaid = head.headers[canonicalForm: "connection"].contains {
            $0.lowercased() == "close"
        }
        if !isSaid { head.headers.add(name: "Connection", value: "close") }
        context.fireChannelRead(wrapInboundOut(.head(head)))
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        // `100 Continue` comes before the response proper.
        guard case .head(var head) = unwrapOutboundIn(data), head.status.code >= 200,
            let option = options.popFirst() ?? nil, !head.headers.contains(name: "connection")
        else {
            context.write(data, promise: promise)
            return
        }
        head.headers.add(name: "Connection", value: option)
        context.write(wrapOutboundOut(.head(head)), promise: promise)
    }
}
