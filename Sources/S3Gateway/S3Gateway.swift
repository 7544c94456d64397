import Client
import FoundationEssentials
import HummingbirdCore
import Logging
import Model
import NIOCore
import NIOPosix
import ServiceLifecycle
import Synchronization
import Telemetry

/// The S3 protocol onto an `ObjectStore`, over HTTP/1.1.
///
///     let gateway = S3Gateway(store: store, configuration: S3Configuration(port: 0), logger: logger)
///     async let serving: Void = gateway.run()
///     let port = try await gateway.boundPort()
///
/// Requests run on the threads of NIO's event loops; with `EventLoopReactors`, which the store
/// should then work on as well, all that they wait for does too.
public struct S3Gateway<Store: ObjectStore>: Sendable {
    private let service: S3Service<Store>
    private let configuration: S3Configuration
    private let logger: Logger
    private let reactors: EventLoopReactors?
    private let listening = Listening()

    /// - Parameters:
    ///   - reactors: those that the store works on; nil: it does not work on event loops.
    ///   - telemetry: where requests are counted and noted; nil: nowhere.
    ///   - clock: the time of day; for tests of skewed clocks.
    public init(
        store: Store, configuration: S3Configuration, logger: Logger,
        reactors: EventLoopReactors? = nil, telemetry: RoleTelemetry? = nil,
        clock: @escaping @Sendable () -> Timestamp = {
            Timestamp(milliseconds: Int64(Date().timeIntervalSince1970 * 1000))
        }
    ) {
        self.configuration = configuration
        self.logger = logger
        self.reactors = reactors
        service = S3Service(
            store: store, configuration: configuration, clock: clock, logger: logger,
            telemetry: telemetry)
    }

    /// Listens and serves until the task is cancelled; then refuses new connections, lets requests
    /// under way end within `Limits.shutdownSeconds`, and returns. Throws if it cannot listen. To be called once.
    public func run() async throws {
        let connection = S3Connection(
            service: service, reactors: reactors, limits: configuration.limits)
        let server = connection.server(
            configuration: ServerConfiguration(
                address: .hostname(configuration.host, port: configuration.port), backlog: 1024),
            onServerRunning: { [listening] channel in
                listening.resolve(.success(channel.localAddress?.port ?? 0))
            },
            eventLoopGroup: MultiThreadedEventLoopGroup.singleton, logger: logger)
        var shutdown = ServiceGroupConfiguration(
            services: [.init(service: server)], logger: logger)
        shutdown.maximumGracefulShutdownDuration = .seconds(configuration.limits.shutdownSeconds)
        let group = ServiceGroup(configuration: shutdown)
        do {
            // Cancellation becomes a graceful shutdown.
            try await withTaskCancellationHandler {
                try await Task { try await group.run() }.value
            } onCancel: {
                Task { await group.triggerGracefulShutdown() }
            }
        } catch {
            listening.resolve(.failure(error))
            throw error
        }
        listening.resolve(.failure(CancellationError()))
    }

    /// The port it listens on, once it does. Throws what `run` throws if it never does.
    public func boundPort() async throws -> Int { try await listening.port() }
}

/// The port, waited for until it is known.
private final class Listening: Sendable {
    private struct State {
        var result: Result<Int, any Error>?
        var waiters: [CheckedContinuation<Int, any Error>] = []
    }
    private let state = Mutex(State())

    func resolve(_ result: Result<Int, any Error>) {
        let waiters = state.withLock { state in
            guard state.result == nil else { return [CheckedContinuation<Int, any Error>]() }
            state.result = result
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume(with: result) }
    }

    func port() async throws -> Int {
        try await withCheckedThrowingContinuation { continuation in
            let result = state.withLock { state in
                if state.result == nil { state.waiters.append(continuation) }
                return state.result
            }
            if let result { continuation.resume(with: result) }
        }
    }
}
