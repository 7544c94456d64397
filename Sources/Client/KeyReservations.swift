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
/// Thread-safe.
final class KeyReservations: Sendable {
    enum Limits {
        /// Bytes of the longest key that takes one.
        static let length = 1 << 20
        static let age = Duration.seconds(10)
        /// Keys opened one by one within `age` before any are reserved.
        static let patience = 4
        static let leastBatch = 8
        static let mostBatch = 64
        /// Pairs of bucket and user that reservations are kept for; when there are more all are
        /// forgotten.
        static let pools = 1024
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
    }

    private let pools = Mutex<[Owner: Pool]>([:])
    private let reserve: @Sendable (BucketPath, Int, String) async throws(StoreError) -> [Reserved]

    /// - Parameter reserve: has the Ozone Manager open so many keys of a bucket for a user.
    init(
        _ reserve:
            @escaping @Sendable (BucketPath, Int, String) async throws(StoreError)
            -> [Reserved]
    ) {
        self.reserve = reserve
    }

    /// A reserved key for `key`, a key of `length` bytes. Nil, and the key is to be opened, if none
    /// is at hand; if it pays, some are then reserved on `reactor` meanwhile.
    func take(
        for key: KeyPath, length: Int, user: String, on reactor: Reactor
    ) -> OpenKey? {
        guard length > 0, length <= Limits.length else { return nil }
        let owner = Owner(bucket: key.bucket, user: user)
        let now = reactor.now()
        let (found, wanted) = pools.withLock { pools in
            if pools.count >= Limits.pools, pools[owner] == nil { pools = [:] }
            return Self.take(from: &pools[owner, default: Pool()], at: now)
        }
        if let wanted { refill(owner, wanted, on: reactor) }
        return found.map { OpenKey($0, key: key, user: user) }
    }

    /// What is at hand, and how many to reserve now.
    private static func take(
        from pool: inout Pool, at now: MonotonicTime
    ) -> (Reserved?, wanted: Int?) {
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
            found != nil || pool.misses >= Limits.patience
        else { return (found?.key, nil) }
        pool.isRefilling = true
        return (found?.key, pool.batch)
    }

    private func refill(_ owner: Owner, _ count: Int, on reactor: Reactor) {
        Task(executorPreference: reactor) {
            let keys: [Reserved]
            do throws(StoreError) {
                keys = try await self.reserve(owner.bucket, count, owner.user)
            } catch {
                // Whoever opens a key is told what is wrong.
                keys = []
            }
            let now = reactor.now()
            self.pools.withLock { pools in
                pools[owner]?.isRefilling = false
                pools[owner]?.reserved.append(contentsOf: keys.map { ($0, now) })
                if keys.isEmpty { pools[owner]?.misses = 0 }
            }
        }
    }

    /// Forgets what has a place on `node`, which was found not to answer.
    func forget(_ node: DatanodeID) {
        pools.withLock { pools in
            for owner in pools.keys {
                pools[owner]?.reserved.removeAll { entry in
                    entry.key.group.nodes.contains { $0?.id == node }
                }
            }
        }
    }
}

extension OpenKey {
    init(_ reserved: KeyReservations.Reserved, key: KeyPath, user: String) {
        id = reserved.id
        self.key = key
        part = nil
        self.user = user
        replication = reserved.group.replication
        groups = [reserved.group]
    }
}
