import Glibc
import Model
import Reactor
import Synchronization
import Wire

/// Serves a handler on a port; connections go round its reactors.
///
/// One listener hands them on: with one for each reactor the kernel chooses by a hash, and of a few
/// connections all may land on one core.
///
/// Whoever can reach the port can connect to it: connections are counted (of the server, of each
/// origin, of the process), those beyond the bounds are told so and closed, and those that do
/// nothing end (`ConnectionWatch`).
public final class RPCServer: Sendable {
    private let handler: any RPCHandler
    private let name: String
    private let limits: ServerLimits
    private let notice: @Sendable (String) -> Void
    private let listener: Listener
    /// The name for clients on this machine; nil where the address is not one of it.
    private let localName: String?
    private let reactors: [Reactor]

    private struct State {
        var connections: [ObjectIdentifier: ServerConnection] = [:]
        var origins: [PeerIdentity.Origin: Int] = [:]
        var isStopped = false
        /// For clients on this machine; nil until its name is free.
        var localListener: Listener?
        /// Connections are being looked at.
        var isWatching = false
        /// Told already, and not over since: connections were refused; none could be accepted.
        var saidFull = false
        var saidShort = false

        /// Whether something is to be told: the first time since `flag` was reset.
        mutating func mustSay(_ flag: WritableKeyPath<Self, Bool>) -> Bool {
            defer { self[keyPath: flag] = true }
            return !self[keyPath: flag]
        }
    }

    private let state = Mutex(State())
    /// Connections of all servers of this process.
    private static let connectionsOfProcess = Atomic<Int>(0)

    /// The port it listens on.
    public var port: Int { listener.port }

    /// Binds `host:port` (0: any free port). `name` is what it calls itself to its clients.
    /// - Parameter notice: told, once each time, that connections are refused or cannot be accepted.
    public init(
        host: String, port: Int, name: String, reactors: [Reactor], handler: any RPCHandler,
        limits: ServerLimits = ServerLimits(),
        notice: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(StoreError) {
        precondition(!reactors.isEmpty, "a server needs a reactor")
        self.handler = handler
        self.name = name
        self.limits = limits
        self.notice = notice
        do throws(IOError) {
            listener = try Listener(host: host, port: port, on: reactors[0])
        } catch {
            throw StoreError(.io, "cannot serve on \(host):\(port): \(error)")
        }
        self.reactors = reactors
        localName = Socket.localName(host: host, port: listener.port)
        _ = listenLocally()
    }

    /// Takes the name for clients of this machine; without it they come through the network, like all
    /// others. False while somebody has it: who had the port before may still be about to end.
    private func listenLocally() -> Bool {
        guard let localName else { return true }
        do throws(IOError) {
            let listener = try Listener(localName: localName, on: reactors[0])
            let isWanted = state.withLock { state in
                if !state.isStopped { state.localListener = listener }
                return !state.isStopped
            }
            if !isWanted { listener.close() }
            return true
        } catch {
            return error.code != EADDRINUSE
        }
    }

    /// Begins to accept.
    public func start() {
        Task(executorPreference: listener.reactor) {
            await self.accept(self.listener, shares: false)
        }
        guard localName != nil else { return }
        Task(executorPreference: listener.reactor) { await self.acceptLocally() }
    }

    private func acceptLocally() async {
        var pause = TransportLimits.acceptPause
        while state.withLock({ $0.localListener == nil && !$0.isStopped }) {
            guard !listenLocally() else { break }
            do throws(CancellationError) { try await listener.reactor.sleep(for: pause) } catch {
                return
            }
            pause = min(pause * 2, TransportLimits.namePause)
        }
        guard let listener = state.withLock({ $0.localListener }) else { return }
        await accept(listener, shares: true)
    }

    /// Stops accepting and ends all connections, those too that were being accepted.
    public func stop() async {
        let (open, localListener) = state.withLock { state in
            state.isStopped = true
            return (Array(state.connections.values), state.localListener)
        }
        // The name first: whoever is given the port next finds it free, or does so soon.
        localListener?.close()
        listener.close()
        for connection in open { await connection.close() }
    }

    /// Connections that are open.
    var connectionCount: Int { state.withLock { $0.connections.count } }

    // MARK: Accepting

    private func accept(_ listener: Listener, shares: Bool) async {
        var turn = 0
        while let socket = await next(listener, for: reactors[turn % reactors.count]) {
            turn += 1
            serve(socket, sharesMemory: shares)
        }
    }

    /// The next connection, nil when no more come.
    private func next(_ listener: Listener, for reactor: Reactor) async -> Socket? {
        while true {
            do throws(IOError) {
                let socket = try await listener.accept(for: reactor)
                state.withLock { $0.saidShort = false }
                return socket
            } catch {
                let isClosed = [EBADF, EINVAL, ECANCELED].contains(error.code)
                guard !isClosed else { return nil }
                // Out of descriptors or memory, which passes: the connection stays in the queue.
                if state.withLock({ $0.mustSay(\.saidShort) }) {
                    notice("no connection can be accepted: \(error)")
                }
                do throws(CancellationError) {
                    try await listener.reactor.sleep(for: TransportLimits.acceptPause)
                } catch { return nil }
            }
        }
    }

    private func serve(_ socket: Socket, sharesMemory: Bool) {
        let peer = PeerIdentity(of: socket)
        let connection = ServerConnection(
            socket, peer: peer, name: name, handler: handler, sharesMemory: sharesMemory,
            limits: limits)
        switch admit(connection, peer) {
        case .stopped: socket.close()
        case .full(let error, let mustSay):
            if mustSay { notice(error.message) }
            Task(executorPreference: socket.reactor) { await connection.refuse(error) }
        case .admitted(let mustWatch):
            if mustWatch { watch() }
            Task(executorPreference: socket.reactor) { @concurrent in
                await connection.run()
                self.forget(connection, peer)
            }
        }
    }

    private enum Admission {
        case admitted(mustWatch: Bool)
        case full(StoreError, mustSay: Bool)
        case stopped
    }

    private func admit(_ connection: ServerConnection, _ peer: PeerIdentity) -> Admission {
        state.withLock { state in
            if state.isStopped { return .stopped }
            if let error = refusal(state, peer) {
                return .full(error, mustSay: state.mustSay(\.saidFull))
            }
            Self.connectionsOfProcess.add(1, ordering: .relaxed)
            state.connections[ObjectIdentifier(connection)] = connection
            state.origins[peer.origin, default: 0] += 1
            defer { state.isWatching = true }
            return .admitted(mustWatch: !state.isWatching)
        }
    }

    /// Why one more connection of `peer` is not taken; nil if it is.
    private func refusal(_ state: State, _ peer: PeerIdentity) -> StoreError? {
        func full(_ limit: Int, _ whose: String) -> StoreError {
            StoreError(
                .overloaded, "\(name) has \(limit) connections \(whose), the most that it takes")
        }
        if state.connections.count >= limits.connections { return full(limits.connections, "open") }
        if state.origins[peer.origin, default: 0] >= limits.connectionsPerOrigin {
            return full(limits.connectionsPerOrigin, "from \(peer)")
        }
        let all = Self.connectionsOfProcess.load(ordering: .relaxed)
        guard all < limits.connectionsOfProcess else {
            return full(limits.connectionsOfProcess, "with the other roles of its process")
        }
        return nil
    }

    private func forget(_ connection: ServerConnection, _ peer: PeerIdentity) {
        Self.connectionsOfProcess.subtract(1, ordering: .relaxed)
        state.withLock { state in
            state.connections[ObjectIdentifier(connection)] = nil
            let left = state.origins[peer.origin, default: 1] - 1
            state.origins[peer.origin] = left > 0 ? left : nil
            if state.connections.count < limits.connections / 2 { state.saidFull = false }
        }
    }

    // MARK: Watching

    /// Looks at the connections in steps, as long as there are some.
    private func watch() {
        Task(executorPreference: listener.reactor) { await self.watchConnections() }
    }

    private func watchConnections() async {
        repeat {
            do throws(CancellationError) {
                try await listener.reactor.sleep(for: limits.interval)
            } catch { preconditionFailure("nobody cancels this task") }
        } while await look()
    }

    /// Looks at the connections once. Returns whether there are any.
    func look() async -> Bool {
        let open = state.withLock { state in
            if state.connections.isEmpty { state.isWatching = false }
            return Array(state.connections.values)
        }
        for connection in open { await connection.look() }
        return !open.isEmpty
    }
}
