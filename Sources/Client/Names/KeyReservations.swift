import Model
import Reactor
import Synchronization

/// Keys opened in advance, for writers of many short keys.
///
/// A short key costs the Ozone Manager two changes and its writer two waits: one to open it and
/// one to commit it. When short keys of one bucket follow quickly on one another, some are opened
/// ahead of their names in one change, and each is then only committed. A reservation is bound to
/// bucket and user, and is used within `Limits.age` or not at all, since the nodes of its block
/// may have gone; what is not used the Ozone Manager expires like any other open key.
///
/// Where a node fails, the Ozone Manager may go on placing blocks on it for some seconds. So what
/// has a place on one is dropped, and its owner gets no new ones for `Limits.caution`: otherwise
/// each failed write would drop a batch and fetch the next.
///
/// Thread-safe.
final class KeyReservations: Sendable {
    enum Limits {
        /// Bytes of the longest key that takes one.
        static let length = 1 << 20
        /// From when it was asked for.
        static let age = Duration.seconds(10)
        /// How long none are reserved after one was dropped because of a failed node, and how
        /// long a node that failed is in none that come in.
        static let caution = ClientLimits.avoidance
        /// Keys opened one by one within `age` before any are reserved.
        static let patience = 4
        static let leastBatch = 8
        /// Reservations of an owner at most.
        static let mostBatch = 64
        /// Pairs of bucket and user that reservations are kept for; of more, keys are opened one
        /// by one until others have not been used for `age`.
        static let pools = 1024
        /// How often it is looked for those at most.
        static let sweepInterval = Duration.seconds(1)
    }

    private struct Owner: Hashable {
        var bucket: BucketPath
        var user: String
    }

    /// A reserved key: everything of an open key but its name.
    struct Reserved: Sendable {
        var id: UInt64
        var group: BlockGroup
    }

    private struct Pool {
        var reserved: [(key: Reserved, since: MonotonicTime)] = []
        var batch = Limits.leastBatch
        var isRefilling = false
        /// Keys that found no reservation, since `missesSince`.
        var misses = 0
        var missesSince = MonotonicTime(nanoseconds: 0)
        var lastUse = MonotonicTime(nanoseconds: 0)
        /// Before, none are reserved.
        var pausedUntil = MonotonicTime(nanoseconds: 0)

        /// Some had to be dropped because a node failed.
        mutating func startOver(at now: MonotonicTime) {
            batch = Limits.leastBatch
            misses = 0
            missesSince = now
            pausedUntil = now.advanced(by: Limits.caution)
        }
    }

    private struct State {
        var pools: [Owner: Pool] = [:]
        /// Nodes that failed within `Limits.age`, and when they did last.
        var failed: [DatanodeID: MonotonicTime] = [:]
        var lastSweep = MonotonicTime(nanoseconds: 0)

        /// Whether there is a pool for `owner`, or room for one.
        mutating func hasRoom(for owner: Owner, at now: MonotonicTime) -> Bool {
            guard pools.count >= Limits.pools, pools[owner] == nil else { return true }
            guard lastSweep.duration(to: now) >= Limits.sweepInterval else { return false }
            lastSweep = now
            pools = pools.filter {
                $0.value.isRefilling || $0.value.lastUse.duration(to: now) <= Limits.age
            }
            return pools.count < Limits.pools
        }
    }

    private let state = Mutex(State())
    private let reserve:
        @Sendable (BucketPath, Int, String, Set<DatanodeID>) async throws(StoreError) -> [Reserved]
    private let clock: @Sendable () -> MonotonicTime

    /// - Parameters:
    ///   - clock: the present time.
    ///   - reserve: has the Ozone Manager open so many keys of a bucket for a user, not on some
    ///     nodes if there is a way without.
    init(
        clock: @escaping @Sendable () -> MonotonicTime = { .now() },
        _ reserve:
            @escaping @Sendable (BucketPath, Int, String, Set<DatanodeID>) async throws(StoreError)
            -> [Reserved]
    ) {
        self.clock = clock
        self.reserve = reserve
    }

    /// A reserved key for `key`, a key of `length` bytes. Nil, and the key is to be opened, if none
    /// is at hand; if it pays, some are then reserved on `reactor` meanwhile.
    /// - Parameter slow: nodes that are to have none of it, if there is a way without.
    func take(
        for key: KeyPath, length: Int, user: String, avoiding slow: Set<DatanodeID> = [],
        on reactor: Reactor
    ) -> OpenKey? {
        guard length > 0, length <= Limits.length else { return nil }
        let owner = Owner(bucket: key.bucket, user: user)
        let now = clock()
        let (found, wanted) = state.withLock { state -> (Reserved?, wanted: Int?) in
            guard state.hasRoom(for: owner, at: now) else { return (nil, nil) }
            return Self.take(from: &state.pools[owner, default: Pool()], at: now)
        }
        if let wanted { refill(owner, wanted, avoiding: slow, on: reactor) }
        return found.map { OpenKey($0, key: key, user: user) }
    }

    /// What is at hand, and how many to reserve now.
    private static func take(
        from pool: inout Pool, at now: MonotonicTime
    ) -> (Reserved?, wanted: Int?) {
        pool.lastUse = now
        while let oldest = pool.reserved.first, oldest.since.duration(to: now) > Limits.age {
            pool.reserved.removeFirst()
            // They come more slowly than thought.
            pool.batch = Limits.leastBatch
        }
        let found = pool.reserved.isEmpty ? nil : pool.reserved.removeFirst()
        if found == nil {
            if pool.missesSince.duration(to: now) > Limits.age {
                pool.misses = 0
                pool.missesSince = now
            }
            pool.misses += 1
            // All are gone before others have come.
            if pool.isRefilling { pool.batch = min(pool.batch * 2, Limits.mostBatch) }
        }
        guard !pool.isRefilling, pool.reserved.count < pool.batch / 2,
            found != nil || pool.misses >= Limits.patience, now >= pool.pausedUntil
        else { return (found?.key, nil) }
        pool.isRefilling = true
        return (found?.key, pool.batch - pool.reserved.count)
    }

    private func refill(
        _ owner: Owner, _ count: Int, avoiding slow: Set<DatanodeID>, on reactor: Reactor
    ) {
        Task(executorPreference: reactor) {
            let asked = self.clock()
            let keys: [Reserved]
            do throws(StoreError) {
                keys = try await self.reserve(owner.bucket, count, owner.user, slow)
            } catch {
                // Whoever opens a key is told what is wrong.
                keys = []
            }
            self.refilled(owner, keys, asked: asked, at: self.clock())
        }
    }

    /// Keeps `keys`, which were asked for at `asked`, but for those on nodes that have failed since
    /// or shortly before.
    private func refilled(
        _ owner: Owner, _ keys: [Reserved], asked: MonotonicTime, at now: MonotonicTime
    ) {
        state.withLock { state in
            guard var pool = state.pools.removeValue(forKey: owner) else { return }
            pool.isRefilling = false
            if keys.isEmpty { pool.misses = 0 }
            let suspects = state.failed.filter {
                $0.value >= asked || $0.value.duration(to: now) < Limits.caution
            }
            var isDropped = false
            for key in keys {
                if key.isOnAny({ suspects[$0] != nil }) {
                    isDropped = true
                } else {
                    pool.reserved.append((key, asked))
                }
            }
            if isDropped { pool.startOver(at: now) }
            state.pools[owner] = pool
        }
    }

    /// Forgets what is to be written to `container`, which takes no blocks any more.
    func forget(_ container: ContainerID) {
        state.withLock { state in
            for owner in state.pools.keys {
                state.pools[owner]!.reserved.removeAll {
                    $0.key.group.blockID.containerID == container
                }
            }
        }
    }

    /// Forgets what has a place on `node`, which was found not to answer at `now`.
    func forget(_ node: DatanodeID, at now: MonotonicTime) {
        state.withLock { state in
            state.failed = state.failed.filter { $0.value.duration(to: now) <= Limits.age }
            state.failed[node] = now
            for owner in state.pools.keys {
                let before = state.pools[owner]?.reserved.count
                state.pools[owner]?.reserved.removeAll { $0.key.isOnAny { $0 == node } }
                guard state.pools[owner]?.reserved.count != before else { continue }
                state.pools[owner]?.startOver(at: now)
            }
        }
    }
}

extension KeyReservations.Reserved {
    /// Whether its block has a place on one of the nodes that `isMeant` is true of.
    fileprivate func isOnAny(_ isMeant: (DatanodeID) -> Bool) -> Bool {
        group.nodes.contains { node in node.map { isMeant($0.id) } ?? false }
    }
}

extension OpenKey {
    init(_ reserved: KeyReservations.Reserved, key: KeyPath, user: String) {
        self.init(
            id: reserved.id, key: key, part: nil, user: user,
            replication: reserved.group.replication, groups: [reserved.group])
    }
}
