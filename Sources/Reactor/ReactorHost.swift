import Bytes
import Glibc
import HeapModule
import Synchronization

/// A thread that somebody else's event loop owns, which a reactor can live on: then what that loop
/// receives and what the reactor does for it need no change of thread.
///
/// Everything that is handed over runs on that one thread, one at a time.
public protocol ReactorHost: Sendable {
    /// Has `body` run soon. From any thread; wakes the loop where that is needed.
    func run(_ body: @escaping @Sendable () -> Void)
    /// Has `body` run after `nanoseconds`. On the thread.
    func run(after nanoseconds: UInt64, _ body: @escaping @Sendable () -> Void)
    /// Has `body` run whenever the eventfd `descriptor` was written to, and reads it: from now on,
    /// as long as the process lives. The descriptor is the host's from now on.
    func watch(_ descriptor: Int32, _ body: @escaping @Sendable () -> Void) async throws
}

extension Reactor {
    /// Starts a reactor on the thread of `host`, over io_uring; it lives as long as the process.
    ///
    /// Tasks that prefer it run on that thread; so do its operations' completions, which the ring
    /// tells the host's loop through an eventfd.
    ///
    /// - Throws: where the kernel refuses a ring, or the host cannot watch it. Then reactors with
    ///   threads of their own do the same work.
    public static func start(
        on host: any ReactorHost, options: Options = Options()
    ) async throws(IOError) -> Reactor {
        let reactor = Reactor(options: options, host: host)
        let failure: IOError? = await withUnsafeContinuation { continuation in
            host.run {
                do throws(IOError) {
                    try reactor.beginHosted()
                    continuation.resume(returning: nil)
                } catch {
                    continuation.resume(returning: error)
                }
            }
        }
        if let failure { throw failure }
        let watched = fcntl(
            reactor.wakeDescriptor.load(ordering: .relaxed), F_DUPFD_CLOEXEC, 0)
        guard watched >= 0 else {
            throw IOError(code: errno, operation: "dup", path: "eventfd")
        }
        do {
            try await host.watch(watched) { reactor.hostedTurns() }
        } catch {
            throw IOError(code: EINVAL, operation: "watching the ring", path: "\(error)")
        }
        // What came before anybody watched.
        host.run { reactor.hostedTurns() }
        return reactor
    }

    /// On the host's thread, which alone may use the ring.
    private func beginHosted() throws(IOError) {
        let backend = try UringBackend.make(
            pool: options.registersArena ? pool : nil, isHosted: true)
        thread.store(UInt(pthread_self()), ordering: .relaxed)
        wakeDescriptor.store(backend.wakeDescriptor, ordering: .releasing)
        chosenBackend.withLock { $0 = "io_uring" }
        hostedRing = HostedRing(backend)
    }

    /// Has turns run soon, unless they run or are about to.
    func wantTurn() {
        guard !isTurning, !isTurnWanted else { return }
        isTurnWanted = true
        host?.run { self.hostedTurns() }
    }

    /// Turns until there is nothing to do, or others of the loop should have theirs.
    private func hostedTurns() {
        isTurnWanted = false
        guard let ring = hostedRing, !isTurning else { return }
        isTurning = true
        local.clock.reset()
        // What it completes itself need not wake it.
        _ = ring.backend.tellCompletions(false)
        var left = HostedLimits.turns
        var end = TurnEnd.worked
        while end == .worked, left > 0 {
            end = turn(&ring.backend, waits: false)
            left -= 1
            if end == .idle, ring.backend.tellCompletions(true) { end = .worked }
        }
        isTurning = false
        switch end {
        case .worked:
            _ = ring.backend.tellCompletions(true)
            wantTurn()
        case .idle: setAlarm()
        case .stopped: endHosted()
        }
    }

    /// Has the host come back for the next timer, if it would come too late otherwise.
    private func setAlarm() {
        guard let host, let next = local.timers.min?.deadline else { return }
        // Those asked for stay, also behind a nearer one: asked for again after each of these they
        // would pile up at the host.
        if let first = hostedAlarms.min(), first <= next { return }
        hostedAlarms.append(next)
        let now = now()
        host.run(after: next > now ? next.nanoseconds - now.nanoseconds : 0) {
            self.hostedAlarms.removeAll { $0 == next }
            self.hostedTurns()
        }
    }

    private func endHosted() {
        wakeDescriptor.store(-1, ordering: .releasing)
        local.disks = []
        hostedRing = nil
        thread.store(0, ordering: .relaxed)
        stopped.open()
    }

    private enum HostedLimits {
        /// Turns before the loop looks at what else it has to do.
        static let turns = 16
    }
}

/// The ring of a reactor on a host's thread.
final class HostedRing {
    var backend: UringBackend

    init(_ backend: consuming UringBackend) { self.backend = backend }
}
