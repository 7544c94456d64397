import ContainerStore
import DequeModule
import Logging
import Model
import Reactor
import Synchronization
import Transport

/// SCM's orders to rebuild replicas, some carried out at a time.
///
/// SCM sends each order with every heartbeat until the replica is reported as closed. One that waits
/// takes what the newer says of the sources; one that is being carried out is left alone; one that has
/// failed is taken again after `Options.retryDelay`. A greater token for the same container ends what
/// was ordered before, a smaller one is not taken.
///
/// Thread-safe.
final class ReconstructionQueue: Sendable {
    /// Settings of a datanode's repairs.
    struct Options: Sendable {
        /// Replicas rebuilt at a time.
        var atOnce = 2
        /// Bytes of one of them on their way from the sources to the disk.
        var bytesInFlight = 32 << 20
        /// How long a replica that could not be rebuilt is left alone.
        var retryDelay = Duration.seconds(10)
    }

    enum Limits {
        /// Orders that wait: what comes beyond is not taken, and sent again by SCM.
        static let waiting = 4096
    }

    private struct Running {
        var token: UInt64
        var task: Task<Void, Never>
    }

    private struct State {
        var waiting: [ContainerID: ReconstructionOrder] = [:]
        /// The containers of `waiting`, in the order in which they came.
        var turns: Deque<ContainerID> = []
        var running: [ContainerID: Running] = [:]
        /// What has failed, and until when it is left alone.
        var resting: [ContainerID: (token: UInt64, until: MonotonicTime)] = [:]
        var hasChange = false
        var isStopped = false
    }

    /// Orders to heal what is damaged in place.
    let heals: HealQueue
    private let state = Mutex(State())
    private let store: ContainerStore
    private let channels: ChannelPool
    private let reactor: Reactor
    private let options: Options
    private let logger: Logger

    init(
        store: ContainerStore, channels: ChannelPool, reactor: Reactor, options: Options,
        logger: Logger
    ) {
        precondition(options.atOnce > 0 && options.bytesInFlight > 0, "repairs need room")
        self.store = store
        self.channels = channels
        self.reactor = reactor
        self.options = options
        self.logger = logger
        heals = HealQueue(store: store, channels: channels, reactor: reactor, logger: logger)
    }

    /// Whether replicas are being rebuilt, or are to be.
    var isBusy: Bool { state.withLock { !$0.running.isEmpty || !$0.waiting.isEmpty } }

    /// Whether a replica was finished that nobody has been told of.
    var hasChange: Bool { state.withLock { $0.hasChange } }

    /// The same, and takes it as told.
    func takeChange() -> Bool {
        state.withLock { state in
            defer { state.hasChange = false }
            return state.hasChange
        }
    }

    /// Takes an order of the leader's.
    func add(_ order: ReconstructionOrder) {
        let now = reactor.now()
        let ended = state.withLock { state -> Task<Void, Never>? in
            let id = order.container
            let before = state.running[id]
            if let before, before.token >= order.token { return nil }
            if let resting = state.resting[id],
                resting.token > order.token || (resting.token == order.token && resting.until > now)
            {
                return nil
            }
            if let waiting = state.waiting[id] {
                if waiting.token <= order.token { state.waiting[id] = order }
                return nil
            }
            guard state.waiting.count < Limits.waiting, !state.isStopped else { return nil }
            state.resting[id] = nil
            state.waiting[id] = order
            state.turns.append(id)
            start(&state)
            return before?.task
        }
        ended?.cancel()
    }

    /// Forgets the orders that wait: their leader leads no more.
    func forgetWaiting() {
        state.withLock { state in
            state.waiting = [:]
            state.turns = []
        }
    }

    /// Ends what was ordered for `container` by `token`, and returns when nothing of it is under way.
    func end(_ container: ContainerID, token: UInt64) async {
        let task = state.withLock { state in
            if state.waiting[container]?.token == token {
                state.waiting[container] = nil
                state.turns.removeAll { $0 == container }
            }
            let running = state.running[container]
            return running?.token == token ? running?.task : nil
        }
        task?.cancel()
        await task?.value
    }

    /// Ends everything; returns when nothing is under way.
    func stop() async {
        let tasks = state.withLock { state in
            state.isStopped = true
            state.waiting = [:]
            state.turns = []
            return state.running.values.map(\.task)
        }
        for task in tasks { task.cancel() }
        for task in tasks { await task.value }
    }

    /// Starts what may be begun now: not what waits for an earlier order of its container to end.
    private func start(_ state: inout State) {
        guard !state.isStopped else { return }
        var later: Deque<ContainerID> = []
        while state.running.count < options.atOnce, let id = state.turns.popFirst() {
            guard state.running[id] == nil else {
                later.append(id)
                continue
            }
            guard let order = state.waiting.removeValue(forKey: id) else { continue }
            state.running[id] = Running(
                token: order.token,
                task: Task(executorPreference: reactor) { await self.carryOut(order) })
        }
        for id in later.reversed() { state.turns.prepend(id) }
    }

    private func carryOut(_ order: ReconstructionOrder) async {
        logger.info("rebuilding \(order.name) from \(order.sources.map(\.index))")
        let begin = reactor.now()
        var failure: StoreError?
        var wasRebuilt = false
        do throws(StoreError) {
            let summary = try await Reconstruction(
                order, store: store, channels: channels, on: reactor,
                bytesInFlight: options.bytesInFlight
            ).run()
            wasRebuilt = summary.wasRebuilt
            let milliseconds = max(
                (reactor.now().nanoseconds - begin.nanoseconds) / 1_000_000, 1)
            let text =
                "\(order.name) is whole: \(summary.bytes) bytes of \(summary.blocks) blocks from "
                + "\(summary.bytesRead) in \(milliseconds) ms; \(summary.resumed) were there, "
                + "\(summary.dropped) are no key's"
            logger.info("\(text)")
        } catch { failure = error }
        if let failure, failure.code != .cancelled {
            logger.warning("\(order.name) could not be rebuilt, it is tried again: \(failure)")
        }
        let now = reactor.now()
        state.withLock { state in
            state.running[order.container] = nil
            if failure != nil {
                state.resting[order.container] = (
                    order.token, now.advanced(by: options.retryDelay)
                )
            }
            if wasRebuilt { state.hasChange = true }
            // Those that nobody has asked for since are not kept.
            state.resting = state.resting.filter {
                $0.value.until.advanced(by: options.retryDelay) > now
            }
            start(&state)
        }
    }
}
