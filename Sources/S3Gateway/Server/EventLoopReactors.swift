import NIOCore
import NIOPosix
import Reactor

/// The reactors of a gateway, on the threads of NIO's event loops: what a request needs of the
/// store is sent and answered where its bytes arrive, without a change of thread.
public struct EventLoopReactors: Sendable {
    /// One for each event loop that gateways serve on.
    public let group: ReactorGroup
    private let reactors: [ObjectIdentifier: Reactor]

    /// Starts them, on all event loops or none. Throws where the kernel refuses io_uring.
    public static func start() async throws -> EventLoopReactors {
        var group: [Reactor] = []
        var reactors: [ObjectIdentifier: Reactor] = [:]
        for loop in MultiThreadedEventLoopGroup.singleton.makeIterator() {
            let reactor: Reactor
            do {
                reactor = try await Reactor.start(on: EventLoopHost(loop))
            } catch {
                for started in group { started.stop() }
                throw error
            }
            group.append(reactor)
            reactors[ObjectIdentifier(loop)] = reactor
        }
        return EventLoopReactors(group: ReactorGroup(group), reactors: reactors)
    }

    private init(group: ReactorGroup, reactors: [ObjectIdentifier: Reactor]) {
        self.group = group
        self.reactors = reactors
    }

    /// The reactor on the thread of `loop`; nil for a loop of another group.
    func reactor(of loop: any EventLoop) -> Reactor? { reactors[ObjectIdentifier(loop)] }
}

/// An event loop of NIO as the home of a reactor.
private struct EventLoopHost: ReactorHost {
    private let loop: any EventLoop  // entered once for many jobs

    init(_ loop: any EventLoop) { self.loop = loop }

    func run(_ body: @escaping @Sendable () -> Void) { loop.execute(body) }

    func run(after nanoseconds: UInt64, _ body: @escaping @Sendable () -> Void) {
        loop.scheduleTask(in: .nanoseconds(Int64(clamping: nanoseconds)), body)
    }

    func watch(
        _ descriptor: Int32, _ body: @escaping @Sendable () -> Void
    ) async throws {
        _ = try await NIOPipeBootstrap(group: loop)
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 16))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Signal(body))
                }
            }
            .takingOwnershipOfDescriptor(input: descriptor).get()
    }
}

/// Tells that an eventfd was written to.
private final class Signal: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    private let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) { self.body = body }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { body() }
}
