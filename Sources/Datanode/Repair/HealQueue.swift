import ContainerStore
import DequeModule
import Logging
import Model
import Reactor
import Synchronization
import Transport
import Wire

/// SCM's orders to heal damaged replicas in place, one carried out at a time.
///
/// They do not wait for replicas that are being rebuilt, of which each takes minutes: somebody has just
/// met what is damaged. What they take of the disk is held back by its class, `repair`.
///
/// SCM sends each order with every heartbeat until it has heard how it ended, which is told until it
/// was heard. Thread-safe.
final class HealQueue: Sendable {
    enum Limits {
        /// Orders that wait: what comes beyond is not taken, and sent again by SCM.
        static let waiting = 64
    }

    /// How an order ended.
    struct Ending: Hashable, Sendable {
        var container: ContainerID
        var index: Int
        /// Bytes written anew.
        var bytes: Int
        /// nil: the replica is whole.
        var failure: String?

        var message: SCMHeartbeatRequest.HealResult {
            var message = SCMHeartbeatRequest.HealResult()
            message.container = container.rawValue
            message.replicaIndex = UInt32(index)
            message.bytes = UInt64(bytes)
            message.outcome = failure == nil ? .healed : .failed
            message.reason = failure ?? ""
            return message
        }
    }

    private struct State {
        var waiting: Deque<HealOrder> = []
        var running: HealOrder?
        var task: Task<Void, Never>?
        /// Not told yet.
        var endings: [Ending] = []
        var isStopped = false
    }

    private let state = Mutex(State())
    private let store: ContainerStore
    private let channels: ChannelPool
    private let reactor: Reactor
    private let logger: Logger

    init(
        store: ContainerStore, channels: ChannelPool, reactor: Reactor, logger: Logger
    ) {
        self.store = store
        self.channels = channels
        self.reactor = reactor
        self.logger = logger
    }

    var isBusy: Bool {
        state.withLock { $0.running != nil || !$0.waiting.isEmpty || !$0.endings.isEmpty }
    }

    /// Whether something has ended that SCM was not told of.
    var isAwaited: Bool { state.withLock { !$0.endings.isEmpty } }

    /// Takes an order of the leader's, unless it is known, or its end has not been told yet.
    func add(_ order: HealOrder) {
        state.withLock { state in
            let isKnown =
                state.running?.container == order.container
                || state.waiting.contains { $0.container == order.container }
                || state.endings.contains { $0.container == order.container }
            guard !isKnown, state.waiting.count < Limits.waiting, !state.isStopped else { return }
            state.waiting.append(order)
            start(&state)
        }
    }

    /// What has ended since this was asked last.
    func takeEndings() -> [Ending] {
        state.withLock { state in
            defer { state.endings = [] }
            return state.endings
        }
    }

    /// SCM could not be told of `endings`.
    func putBack(_ endings: [Ending]) { state.withLock { $0.endings += endings } }

    /// What waits or is carried out.
    var underWay: [SCMHeartbeatRequest.HealResult] {
        state.withLock { state in
            (state.running.map { [$0] } ?? []) + state.waiting
        }.map { order in
            var message = SCMHeartbeatRequest.HealResult()
            message.container = order.container.rawValue
            message.replicaIndex = UInt32(order.index)
            message.outcome = .underWay
            return message
        }
    }

    /// Forgets the orders that wait: their leader leads no more.
    func forgetWaiting() { state.withLock { $0.waiting = [] } }

    /// Ends everything; returns when nothing is under way.
    func stop() async {
        let task = state.withLock { state in
            state.isStopped = true
            state.waiting = []
            return state.task
        }
        task?.cancel()
        await task?.value
    }

    private func start(_ state: inout State) {
        guard state.running == nil, !state.isStopped, let order = state.waiting.popFirst() else {
            return
        }
        state.running = order
        state.task = Task(executorPreference: reactor) { await self.carryOut(order) }
    }

    private func carryOut(_ order: HealOrder) async {
        logger.info("healing \(order.name) from \(order.sources.map(\.index))")
        let begin = reactor.now()
        var ending = Ending(container: order.container, index: order.index, bytes: 0)
        var isToBeTold = true
        do throws(StoreError) {
            let summary = try await Healing(
                order, store: store, channels: channels, on: reactor
            ).run()
            ending.bytes = summary.healedBytes
            let milliseconds = (reactor.now().nanoseconds - begin.nanoseconds) / 1_000_000
            let text =
                "\(order.name) is whole: \(summary.verifiedBytes) bytes verified, "
                + "\(summary.healedBytes) of them written anew, in \(milliseconds) ms"
            logger.info("\(text)")
        } catch {
            ending.failure = error.message
            // What passes is no failure: SCM sends the order again, and waits.
            isToBeTold = !error.isPassing
            if error.code != .cancelled {
                logger.warning("\(order.name) could not be healed: \(error)")
            }
        }
        let hasEnded = isToBeTold && !Task.isCancelled
        state.withLock { state in
            state.running = nil
            if hasEnded { state.endings.append(ending) }
            start(&state)
        }
    }
}
