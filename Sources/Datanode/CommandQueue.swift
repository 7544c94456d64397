import ContainerStore
import DequeModule
import Logging
import Model
import Reactor
import Synchronization
import Wire

/// SCM's commands, carried out beside the heartbeats that bring them.
///
/// Closing and removing containers, and deleting blocks, have workers of their own, so that a
/// container that takes long to close keeps no deletion waiting. A command that is waiting or being
/// carried out is not taken again, however often SCM sends it. Replicas are rebuilt by a `ReconstructionQueue`.
///
/// Commands have the term of the leader that gave them. Once another one gives commands, those that
/// still wait are dropped: it has them given again as far as they are still to be.
///
/// Thread-safe.
final class CommandQueue: Sendable {
    enum Limits {
        /// Deletions carried out at a time: each is of one container, and their records share
        /// the syncs of a volume.
        static let deletionsAtOnce = 8
        /// Containers closed or removed at a time.
        static let containersAtOnce = 4
        /// How long a container that could not be closed or removed is left alone.
        static let retryDelay = Duration.seconds(10)
    }

    /// What SCM is to be told.
    struct Outcome: Sendable {
        var done: [UInt64] = []
        var failed: [UInt64] = []
        /// Deletions whose replica is not here: nothing was deleted, and only SCM knows whether
        /// there ever was one.
        var absent: [UInt64] = []
        /// Replicas that were to be healed in place.
        var heals: [HealQueue.Ending] = []
        /// A container has changed: what is told of the replicas has to be put together anew.
        var hasChange = false

        var all: [UInt64] { done + failed + absent }
    }

    private enum ContainerWork: Hashable {
        case close(ContainerID)
        case remove(ContainerID)
        /// One replica of it; the token as in the message.
        case removeReplica(ContainerID, index: Int, token: UInt64)
    }

    private struct State {
        /// Of the leader whose commands are carried out.
        var term: UInt64 = 0
        var deletions: Deque<SCMDatanodeCommand> = []
        /// Numbers of deletions that wait, are carried out, or are not reported.
        var known: Set<UInt64> = []
        var deleting = 0
        var works: Deque<ContainerWork> = []
        var knownWorks: Set<ContainerWork> = []
        var working = 0
        var outcome = Outcome()
        var isStopped = false
        var idleWaiters: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())
    private let store: ContainerStore
    private let repairs: ReconstructionQueue
    private let reactor: Reactor
    private let logger: Logger

    init(store: ContainerStore, repairs: ReconstructionQueue, reactor: Reactor, logger: Logger) {
        self.store = store
        self.repairs = repairs
        self.reactor = reactor
        self.logger = logger
    }

    /// Whether SCM should hear at once: a container has changed, or there is nothing to do until
    /// SCM knows what was done.
    var isAwaited: Bool {
        repairs.hasChange || repairs.heals.isAwaited
            || state.withLock { state in
                state.outcome.hasChange
                    || (state.deletions.isEmpty && state.deleting == 0
                        && !(state.outcome.done.isEmpty && state.outcome.absent.isEmpty))
            }
    }

    /// Whether there may soon be more to tell than now: commands are carried out or wait, or
    /// something is to be told already.
    var isBusy: Bool {
        repairs.isBusy || repairs.hasChange || repairs.heals.isBusy
            || state.withLock { state in
                !state.deletions.isEmpty || state.deleting > 0 || !state.works.isEmpty
                    || state.working > 0 || state.outcome.hasChange || !state.outcome.all.isEmpty
            }
    }

    /// What has been done since this was asked last. To be asked before the replicas are, so that
    /// they are at least as new as what is taken here.
    func takeOutcome() -> Outcome {
        let hasRebuilt = repairs.takeChange()
        let heals = repairs.heals.takeEndings()
        return state.withLock { state in
            defer { state.outcome = Outcome() }
            for number in state.outcome.all { state.known.remove(number) }
            if hasRebuilt || !heals.isEmpty { state.outcome.hasChange = true }
            state.outcome.heals = heals
            return state.outcome
        }
    }

    /// Replicas that are being healed, or are to be.
    var healsUnderWay: [SCMHeartbeatRequest.HealResult] { repairs.heals.underWay }

    /// SCM could not be told of `outcome`.
    func putBack(_ outcome: Outcome) {
        repairs.heals.putBack(outcome.heals)
        state.withLock { state in
            state.outcome.done += outcome.done
            state.outcome.failed += outcome.failed
            state.outcome.absent += outcome.absent
            if outcome.hasChange { state.outcome.hasChange = true }
            state.known.formUnion(outcome.all)
        }
    }

    /// Takes a command of the leader of `term`, as `SCMGroup` has found it to be.
    func add(_ command: SCMDatanodeCommand, of term: UInt64) {
        let isOtherTerm = state.withLock { state in
            let isOther = term != state.term
            if isOther { forgetWaiting(&state) }
            state.term = term
            switch command.command {
            case .closeContainer(let id): add(.close(ContainerID(id)), &state)
            case .deleteContainer(let id): add(.remove(ContainerID(id)), &state)
            case .deleteBlocks:
                if state.known.insert(command.number).inserted {
                    state.deletions.append(command)
                }
            case .removeReplica(let order):
                add(
                    .removeReplica(
                        ContainerID(order.container), index: Int(order.replicaIndex),
                        token: order.token), &state)
            case .reconstruct, .heal, .registerAgain, nil: break
            }
            start(&state)
            return isOther
        }
        if isOtherTerm {
            repairs.forgetWaiting()
            repairs.heals.forgetWaiting()
        }
        if case .reconstruct(let order) = command.command { add(order) }
        if case .heal(let order) = command.command { add(order) }
    }

    private func add(_ order: SCMDatanodeCommand.Heal) {
        do throws(StoreError) {
            repairs.heals.add(try HealOrder(order))
        } catch {
            logger.warning("an order of SCM's to heal a replica cannot be carried out: \(error)")
        }
    }

    private func add(_ order: SCMDatanodeCommand.Reconstruct) {
        do throws(StoreError) {
            repairs.add(try ReconstructionOrder(order))
        } catch {
            logger.warning("an order of SCM's to rebuild a replica cannot be carried out: \(error)")
        }
    }

    private func forgetWaiting(_ state: inout State) {
        for command in state.deletions { state.known.remove(command.number) }
        for work in state.works { state.knownWorks.remove(work) }
        state.deletions = []
        state.works = []
    }

    private func add(_ work: ContainerWork, _ state: inout State) {
        if state.knownWorks.insert(work).inserted { state.works.append(work) }
    }

    /// Starts what may be carried out now.
    private func start(_ state: inout State) {
        guard !state.isStopped else { return }
        while state.deleting < Limits.deletionsAtOnce, let command = state.deletions.popFirst() {
            state.deleting += 1
            Task(executorPreference: reactor) { await self.delete(command) }
        }
        while state.working < Limits.containersAtOnce, let work = state.works.popFirst() {
            state.working += 1
            Task(executorPreference: reactor) { await self.carryOut(work) }
        }
    }

    private func delete(_ command: SCMDatanodeCommand) async {
        var failure: StoreError?
        var isAbsent = false
        do throws(StoreError) {
            let absent = try await store.deleteBlocks(
                command.deleteBlocks.blocks.map { BlockID($0) })
            isAbsent = !absent.isEmpty
        } catch { failure = error }
        if let failure {
            logger.warning("a deletion of SCM's failed and is tried again: \(failure)")
        }
        end { state in
            state.deleting -= 1
            if failure != nil {
                state.outcome.failed.append(command.number)
            } else if isAbsent {
                state.outcome.absent.append(command.number)
            } else {
                state.outcome.done.append(command.number)
            }
        }
    }

    private func carryOut(_ work: ContainerWork) async {
        var hasChange = true
        do throws(StoreError) {
            switch work {
            case .close(let id): try await store.retireContainer(id)
            case .remove(let id): try await store.deleteEmptyContainer(id)
            case .removeReplica(let id, let index, let token):
                if token != 0 { await repairs.end(id, token: token) }
                hasChange = try await store.removeReplica(id, replicaIndex: index, token: token)
            }
        } catch {
            // SCM asks again as long as the replica is reported as it is.
            logger.warning("a command of SCM's failed: \(error)")
            end { $0.working -= 1 }
            do throws(CancellationError) { try await reactor.sleep(for: Limits.retryDelay) } catch {
                preconditionFailure("nobody cancels this task")
            }
            state.withLock { _ = $0.knownWorks.remove(work) }
            return
        }
        end { state in
            state.working -= 1
            state.knownWorks.remove(work)
            if hasChange { state.outcome.hasChange = true }
        }
    }

    private func end(_ change: (inout State) -> Void) {
        let waiters = state.withLock { state -> [CheckedContinuation<Void, Never>] in
            change(&state)
            start(&state)
            guard state.isStopped, state.deleting == 0, state.working == 0 else { return [] }
            defer { state.idleWaiters = [] }
            return state.idleWaiters
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Carries out nothing more; returns when nothing is being carried out.
    func stop() async {
        await repairs.heals.stop()
        await repairs.stop()
        await withCheckedContinuation { (waiter: CheckedContinuation<Void, Never>) in
            let isIdle = state.withLock { state in
                state.isStopped = true
                let isIdle = state.deleting == 0 && state.working == 0
                if !isIdle { state.idleWaiters.append(waiter) }
                return isIdle
            }
            if isIdle { waiter.resume() }
        }
    }
}
