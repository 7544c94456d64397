import DequeModule
import Model
import Reactor
import Synchronization
import Wire

/// Block groups taken from SCM ahead of their use, so that opening a key need not wait for it.
///
/// For each replication, and for what is excluded where keys are opened that are to avoid slow nodes,
/// some groups are kept; when fewer than half are left more are fetched in the background. Those who
/// avoid slow nodes can do with any group: where none is kept for them, one without these nodes is
/// taken of what is kept for all, and only then SCM is waited for, which is not long. A group is
/// handed out once, and never after `Limits.age`, since its nodes may have gone, nor once its container
/// is known to take no more. Groups that are dropped were never written: nothing has to be done about
/// them.
///
/// Thread-safe; its lock is held for a look at each group that is kept at most.
final class GroupLeases: Sendable {
    enum Limits {
        /// How old a group may be when it is handed out.
        static let age = Duration.seconds(60)
        /// Groups kept for each replication when keys are opened one after the other.
        static let leastKept = 8
        /// Groups kept for each replication at most.
        static let mostKept = 256
        /// Kinds of group that some are kept of; of more, the one not asked for longest goes.
        static let kinds = 16
        /// How long SCM is waited for by those who can do without what they ask for…
        static let patience = Duration.seconds(1)
        /// …and how long it is not waited for by them at all after it gave no answer.
        static let absence = Duration.seconds(5)
        /// Closed containers remembered, so that groups in them that are on their way are dropped.
        static let closed = 4096
    }

    /// A group, and the bytes of its message: put together once, when it is fetched.
    struct Leased: Sendable {
        var group: BlockGroup
        var encoded: [UInt8]

        init(_ group: BlockGroup) {
            self.group = group
            encoded = group.message.encoded
        }
    }

    private struct Lease {
        var leased: Leased
        var taken: MonotonicTime
    }

    /// What groups of one pool have in common.
    private struct Kind: Hashable {
        var replication: ReplicationConfig
        var excluding: ExcludeList

        /// How long they are waited for; nil: as long as SCM may take.
        var patience: Duration? { excluding.isEmpty ? nil : Limits.patience }
    }

    private typealias Refill = Task<Result<[Lease], StoreError>, Never>

    private struct Pool {
        /// Oldest first.
        var leases: Deque<Lease> = []
        var lastUse: MonotonicTime
        /// Groups to fetch at once: doubles when they are gone before they are old.
        var batch = Limits.leastKept
        var refill: Refill?
    }

    private struct State {
        var pools: [Kind: Pool] = [:]
        /// Why SCM did not answer when groups without slow nodes were asked for, and until when it is
        /// held to be away.
        var absence: (error: StoreError, until: MonotonicTime)?
        /// Counts invalidations: groups asked for before one are not kept.
        var generation = 0
        /// Containers that take no new blocks, the last `Limits.closed` of them.
        var closed: Set<ContainerID> = []
        var closedInOrder: Deque<ContainerID> = []

        /// SCM has answered `error`, or not at all, when groups without slow nodes were asked for; nil:
        /// with groups. That there are none, or that what is asked for cannot be, is an answer.
        mutating func note(_ error: StoreError?, at now: MonotonicTime) {
            switch error?.code {
            case .unavailable, .notReady, .deadlineExceeded, .connection, .notLeader:
                absence = error.map { ($0, now.advanced(by: Limits.absence)) }
            default: absence = nil
            }
        }

        /// Drops the groups that `isUnwanted` is true of.
        mutating func drop(_ isUnwanted: (BlockGroup) -> Bool) {
            for kind in pools.keys {
                pools[kind]!.leases.removeAll { isUnwanted($0.leased.group) }
            }
        }
    }

    private let blocks: any BlockAllocator  // called once for many groups
    private let reactor: Reactor
    private let state = Mutex(State())

    init(blocks: any BlockAllocator, reactor: Reactor) {
        self.blocks = blocks
        self.reactor = reactor
    }

    /// `count` groups of `replication`, none where `excluding` says. Suspends only where they have to
    /// be fetched; if something is excluded, for `Limits.patience` at a time, and not at all while SCM
    /// is away.
    func take(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList = .none
    ) async throws(StoreError) -> [Leased] {
        let kind = Kind(replication: replication, excluding: excluding)
        var groups: [Leased] = []
        var rounds = 0
        while true {
            guard let refill = takeKept(kind, count, into: &groups) else { return groups }
            if !excluding.isEmpty {
                let atHand = takeAtHand(
                    replication, count: count - groups.count, excluding: excluding)
                if !atHand.isEmpty { return groups + atHand }
                try checkAbsence()
            }
            if case .failure(let error) = await refill.value { throw error }
            rounds += 1
            // Others may have been quicker each time: then ask for these alone.
            if rounds == 3 {
                groups += try await ask(
                    replication, count: count - groups.count, excluding: excluding,
                    patience: kind.patience
                ).map(Leased.init)
            }
        }
    }

    /// `count` groups of SCM's for this caller alone. Who has `patience`, since there is a way without,
    /// does not wait while SCM is known to be away.
    func ask(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList, patience: Duration?
    ) async throws(StoreError) -> [BlockGroup] {
        if patience != nil { try checkAbsence() }
        do throws(StoreError) {
            let groups = try await blocks.allocate(
                replication, count: count, excluding: excluding, patience: patience)
            if patience != nil { state.withLock { $0.note(nil, at: reactor.now()) } }
            return groups
        } catch {
            let now = reactor.now()
            if patience != nil { state.withLock { $0.note(error, at: now) } }
            throw error
        }
    }

    private func checkAbsence() throws(StoreError) {
        if let absence = state.withLock({ $0.absence }), absence.until > reactor.now() {
            throw absence.error
        }
    }

    /// Moves groups that are here into `groups` until these are `count`; if there are too few,
    /// the task that fetches more.
    private func takeKept(
        _ kind: Kind, _ count: Int, into groups: inout [Leased]
    ) -> Refill? {
        guard groups.count < count else { return nil }
        let now = reactor.now()
        let (taken, refill) = state.withLock { [wanted = count - groups.count] state in
            // Out of the dictionary while it is changed: a copy would cost a look at each lease.
            var pool = state.pools.removeValue(forKey: kind) ?? makePool(&state, at: now)
            defer { state.pools[kind] = pool }
            pool.lastUse = now
            while let oldest = pool.leases.first, oldest.taken.duration(to: now) > Limits.age {
                pool.leases.removeFirst()
            }
            var taken: [Leased] = []
            while taken.count < wanted, let lease = pool.leases.popFirst() {
                taken.append(lease.leased)
            }
            if taken.count == wanted {
                if pool.leases.count < pool.batch / 2, pool.refill == nil {
                    startRefill(&pool, kind, state.generation)
                }
                return (taken, Refill?.none)
            }
            // All are gone: more than expected are being opened.
            pool.batch = min(pool.batch * 2, Limits.mostKept)
            if pool.refill == nil { startRefill(&pool, kind, state.generation) }
            return (taken, pool.refill)
        }
        groups += taken
        return refill
    }

    /// Of the groups that are kept for all, `count` that `excluding` does not contain; none where there
    /// are fewer, which are for those who take any. O(groups kept).
    func takeAtHand(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList
    ) -> [Leased] {
        let now = reactor.now()
        let kind = Kind(replication: replication, excluding: .none)
        return state.withLock { state in
            guard var pool = state.pools.removeValue(forKey: kind) else { return [] }
            defer { state.pools[kind] = pool }
            pool.lastUse = now
            let wanted = pool.leases.indices.lazy.filter {
                pool.leases[$0].taken.duration(to: now) <= Limits.age
                    && !excluding.contains(pool.leases[$0].leased.group)
            }.prefix(count)
            let places = Array(wanted)
            guard places.count == count else { return [] }
            let taken = places.map { pool.leases[$0].leased }
            for place in places.reversed() { pool.leases.remove(at: place) }
            if pool.leases.count < pool.batch / 2, pool.refill == nil {
                startRefill(&pool, kind, state.generation)
            }
            return taken
        }
    }

    /// Makes sure that a group of `replication` can be had, without taking it.
    func peek(_ replication: ReplicationConfig) async throws(StoreError) {
        let now = reactor.now()
        let kind = Kind(replication: replication, excluding: .none)
        let refill = state.withLock { state in
            var pool = state.pools[kind] ?? makePool(&state, at: now)
            pool.lastUse = now
            if pool.leases.isEmpty, pool.refill == nil {
                startRefill(&pool, kind, state.generation)
            }
            state.pools[kind] = pool
            return pool.leases.isEmpty ? pool.refill : nil
        }
        if case .failure(let error)? = await refill?.value { throw error }
    }

    /// Forgets the groups that `unwanted` excludes; all of them if it is nil.
    func invalidate(_ unwanted: ExcludeList?) {
        state.withLock { state in
            state.drop { unwanted?.contains($0) ?? true }
            // What is on its way may have been chosen before the nodes went. Of containers too,
            // but those that are closed are known by name.
            guard unwanted?.nodes.isEmpty != true else { return }
            state.generation += 1
            for kind in state.pools.keys { state.pools[kind]?.refill = nil }
        }
    }

    /// Hands out no more groups of `containers`: they take no new blocks.
    func close(_ containers: [ContainerID]) {
        guard !containers.isEmpty else { return }
        state.withLock { state in
            for container in containers where state.closed.insert(container).inserted {
                state.closedInOrder.append(container)
                if state.closedInOrder.count > Limits.closed {
                    state.closed.remove(state.closedInOrder.removeFirst())
                }
            }
            let closed = state.closed
            state.drop { closed.contains($0.blockID.containerID) }
        }
    }

    private func makePool(_ state: inout State, at now: MonotonicTime) -> Pool {
        if state.pools.count >= Limits.kinds,
            let oldest = state.pools.min(by: { $0.value.lastUse < $1.value.lastUse })
        {
            state.pools[oldest.key] = nil
        }
        return Pool(lastUse: now)
    }

    private func startRefill(_ pool: inout Pool, _ kind: Kind, _ generation: Int) {
        let (blocks, reactor, count) = (blocks, reactor, pool.batch)
        pool.refill = Task(executorPreference: reactor) {
            let result: Result<[Lease], StoreError>
            do throws(StoreError) {
                let groups = try await blocks.allocate(
                    kind.replication, count: count, excluding: kind.excluding,
                    patience: kind.patience)
                let now = reactor.now()
                result = .success(groups.map { Lease(leased: Leased($0), taken: now) })
            } catch {
                result = .failure(error)
            }
            self.finishRefill(kind, result, started: generation)
            return result
        }
    }

    private func finishRefill(
        _ kind: Kind, _ result: Result<[Lease], StoreError>, started: Int
    ) {
        let now = reactor.now()
        state.withLock { state in
            if !kind.excluding.isEmpty {
                let error: StoreError? = if case .failure(let error) = result { error } else { nil }
                state.note(error, at: now)
            }
            // A refill that an invalidation overtook has been forgotten, and its groups are too.
            guard started == state.generation else { return }
            state.pools[kind]?.refill = nil
            guard case .success(let leases) = result else { return }
            state.pools[kind]?.leases += leases.filter {
                !state.closed.contains($0.leased.group.blockID.containerID)
            }
        }
    }
}
