import Logging
import Model
import NIOCore
import NIOHTTP1
import NIOPosix
import Telemetry

/// What a role tells of itself, over HTTP/1.1: `GET /metrics` for Prometheus, `GET /health`, and
/// `GET /trace?id=HEX` or `GET /trace?slowest=N` as JSON.
///
/// Nobody is asked who they are: whoever reaches the address sees it all, names of users and
/// addresses of nodes among it. It belongs on loopback or on a network of operators.
public final class MetricsServer: Sendable {
    public enum Limits {
        /// Connections that are open at once; more are closed as they come.
        public static let connections = 64
        /// A connection without a request is closed after so long.
        public static let idleTime = TimeAmount.seconds(120)
    }

    private let channel: any Channel
    private let host: String

    /// Where the metrics are, as a scraper is told.
    public var url: String { "http://\(host):\(port)/metrics" }
    /// The port it listens on.
    public var port: Int { channel.localAddress?.port ?? 0 }

    private init(_ channel: any Channel, host: String) {
        self.channel = channel
        self.host = host
    }

    /// Begins to serve on `address`, `HOST:PORT` (port 0: a free one).
    ///
    /// Throws `invalidArgument` if that is no address, `io` if it cannot be listened on.
    public static func start(
        _ address: String, _ telemetry: RoleTelemetry, logger: Logger
    ) async throws(StoreError) -> MetricsServer {
        guard let colon = address.lastIndex(of: ":"),
            let port = Int(address[address.index(after: colon)...]), (0...65535).contains(port),
            colon > address.startIndex
        else {
            throw StoreError(
                .invalidArgument, "metrics are served on HOST:PORT, not on '\(address)'")
        }
        let host = String(address[..<colon])
        let open = Gauge()
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                guard open.value < Limits.connections else { return channel.close() }
                open.add(1)
                channel.closeFuture.whenComplete { _ in open.add(-1) }
                return channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.configureHTTPServerPipeline()
                    try pipeline.addHandler(IdleStateHandler(readTimeout: Limits.idleTime))
                    try pipeline.addHandler(MetricsHandler(telemetry, logger))
                }
            }
        do {
            let channel = try await bootstrap.bind(host: host, port: port).get()
            return MetricsServer(channel, host: host)
        } catch {
            throw StoreError(.io, "cannot serve metrics on \(address): \(error)")
        }
    }

    /// Stops listening. Requests under way are answered.
    public func stop() async {
        // Closed already: then there is nothing to stop.
        _ = try? await channel.close()
    }
}

/// Answers the requests of one connection, on its event loop; pages are made on another thread,
/// since a gateway's requests share the loop.
private final class MetricsHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart

    private let telemetry: RoleTelemetry
    private let logger: Logger
    private var head: HTTPRequestHead?

    init(_ telemetry: RoleTelemetry, _ logger: Logger) {
        self.telemetry = telemetry
        self.logger = logger
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard let head else { return }
            self.head = nil
            answer(head, on: context.channel)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        logger.debug("metrics: \(error)")
        context.close(promise: nil)
    }

    private func answer(_ head: HTTPRequestHead, on channel: any Channel) {
        let telemetry = telemetry
        Task {
            let page = TelemetryPage(method: head.method.rawValue, uri: head.uri, telemetry)
            var headers = HTTPHeaders()
            headers.add(name: "Content-Type", value: page.contentType)
            headers.add(name: "Content-Length", value: String(page.body.utf8.count))
            if !head.isKeepAlive { headers.add(name: "Connection", value: "close") }
            let response = HTTPResponseHead(
                version: .http1_1, status: .init(statusCode: page.status), headers: headers)
            channel.write(HTTPServerResponsePart.head(response), promise: nil)
            if head.method != .HEAD {
                let body = ByteBuffer(string: page.body)
                channel.write(HTTPServerResponsePart.body(.byteBuffer(body)), promise: nil)
            }
            let ended = channel.writeAndFlush(HTTPServerResponsePart.end(nil))
            if !head.isKeepAlive { ended.whenComplete { _ in channel.close(promise: nil) } }
        }
    }
}
