import Client
import Model
import Synchronization

/// An object store in memory: what tests of gateways run on, and the reference that other stores
/// are compared with.
///
/// Follows the contract of `ObjectStore` in everything but durability: conditions are decided at
/// the commit, names are ordered by bytes, buckets belong to their creators. Any executor; every
/// call takes one lock for a short time.
public final class InMemoryObjectStore: ObjectStore {
    /// The bounds of the store.
    public struct Limits: Sendable {
        /// Bytes of every part but the last.
        public var smallestPart = 5 << 20
        /// Bytes that a reader hands out at once, as a cell would be.
        public var cell = 1 << 20
        public var buckets = 1000
        public init() {}
    }

    let state: Mutex<State>
    let limits: Limits
    private let clock: @Sendable () -> Timestamp
    private let fault = Mutex<(@Sendable (String) -> StoreError?)?>(nil)

    /// - Parameter clock: the time of day that keys get.
    public init(limits: Limits = Limits(), clock: @escaping @Sendable () -> Timestamp) {
        self.limits = limits
        self.clock = clock
        state = Mutex(State())
        state.withLock { state in
            let volume = BucketPath.s3Volume
            state.volumes[volume] = VolumeInfo(name: volume, owner: "", created: clock())
        }
    }

    /// From now on each call asks `fault` with its own name (`commit`, `read`, `list`, …), and
    /// fails with what it answers. Nil ends it.
    public func inject(_ fault: (@Sendable (String) -> StoreError?)?) {
        self.fault.withLock { $0 = fault }
    }

    /// Uploads in progress and writers neither committed nor aborted; 0 when nothing leaks.
    public var openWriters: Int { state.withLock { $0.openWriters } }

    /// Bytes held by keys and parts; what nothing refers to is not held.
    public var storedBytes: Int { state.withLock { $0.data.values.reduce(0) { $0 + $1.count } } }

    func enter(_ name: String) throws(StoreError) {
        let fault = fault.withLock { $0 }
        if let error = fault?(name) { throw error }
    }

    func now() -> Timestamp { clock() }

    // MARK: Users

    public func createUser(_ user: UserInfo) async throws(StoreError) {
        try enter("createUser")
        try state.withLock { state throws(StoreError) in
            guard state.users[user.name] == nil else {
                throw StoreError(.userExists, "user '\(user.name)' exists")
            }
            state.users[user.name] = user
        }
    }

    public func user(accessKeyID: String) async throws(StoreError) -> UserInfo? {
        try enter("user")
        return state.withLock { $0.users.values.first { $0.accessKeyID == accessKeyID } }
    }

    public func user(named name: String) async throws(StoreError) -> UserInfo? {
        try enter("user")
        return state.withLock { $0.users[name] }
    }

    public func users() async throws(StoreError) -> [UserInfo] {
        try enter("users")
        return state.withLock { $0.users.values.sorted { $0.name < $1.name } }
    }

    public func deleteUser(named name: String) async throws(StoreError) {
        try enter("deleteUser")
        try state.withLock { state throws(StoreError) in
            guard state.users.removeValue(forKey: name) != nil else {
                throw StoreError(.noSuchUser, "there is no user '\(name)'")
            }
        }
    }

    // MARK: Volumes

    public func createVolume(_ name: String, user: String) async throws(StoreError) {
        try enter("createVolume")
        let created = now()
        try state.withLock { state throws(StoreError) in
            guard state.volumes[name] == nil else {
                throw StoreError(.volumeExists, "volume '\(name)' exists")
            }
            state.volumes[name] = VolumeInfo(name: name, owner: user, created: created)
        }
    }

    public func volumes(user: String) async throws(StoreError) -> [VolumeInfo] {
        try enter("volumes")
        return state.withLock { $0.volumes.values.sorted { $0.name < $1.name } }
    }

    public func deleteVolume(_ name: String, user: String) async throws(StoreError) {
        try enter("deleteVolume")
        try state.withLock { state throws(StoreError) in
            guard state.volumes[name] != nil else {
                throw StoreError(.noSuchVolume, "there is no volume '\(name)'")
            }
            guard !state.buckets.keys.contains(where: { $0.volume == name }) else {
                throw StoreError(.volumeNotEmpty, "volume '\(name)' has buckets")
            }
            state.volumes[name] = nil
        }
    }

    // MARK: Buckets

    public func createBucket(
        _ bucket: BucketPath, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) {
        try enter("createBucket")
        let created = now()
        let usual = try usualReplication()
        try state.withLock { state throws(StoreError) in
            guard state.volumes[bucket.volume] != nil else {
                throw StoreError(.noSuchVolume, "there is no volume '\(bucket.volume)'")
            }
            guard let owner = state.users[user] else {
                throw StoreError(.noSuchUser, "there is no user '\(user)'")
            }
            if let found = state.buckets[bucket] {
                throw found.info.owner == user
                    ? StoreError(.bucketOwnedByYou, "\(bucket) exists and is yours")
                    : StoreError(.bucketExists, "\(bucket) exists")
            }
            guard state.buckets.count < limits.buckets else {
                throw StoreError(.tooManyBuckets, "there are \(limits.buckets) buckets already")
            }
            state.buckets[bucket] = Bucket(
                info: BucketInfo(
                    volume: bucket.volume, name: bucket.bucket, owner: user,
                    ownerCanonicalID: owner.canonicalID, ownerDisplayName: owner.displayName,
                    created: created, replication: replication ?? usual))
        }
    }

    public func bucket(
        _ bucket: BucketPath, user: String
    ) async throws(StoreError) -> BucketInfo {
        try enter("bucket")
        return try state.withLock { state throws(StoreError) in
            try state.bucket(bucket, user).info
        }
    }

    public func buckets(volume: String, user: String) async throws(StoreError) -> [BucketInfo] {
        try enter("buckets")
        return state.withLock { state in
            let all = state.users[user]?.isAdministrator ?? false
            return state.buckets.values.map(\.info)
                .filter { $0.volume == volume && (all || $0.owner == user) }
                .sorted { Array($0.name.utf8).lexicographicallyPrecedes(Array($1.name.utf8)) }
        }
    }

    public func deleteBucket(_ bucket: BucketPath, user: String) async throws(StoreError) {
        try enter("deleteBucket")
        try state.withLock { state throws(StoreError) in
            let found = try state.bucket(bucket, user)
            guard found.order.isEmpty else {
                throw StoreError(.bucketNotEmpty, "\(bucket) is not empty")
            }
            for (id, upload) in found.uploads {
                state.forget(KeyPath(bucket: bucket, name: upload.info.key), id, keeping: [])
            }
            state.buckets[bucket] = nil
        }
    }

    // MARK: Keys

    public func list(
        _ bucket: BucketPath, _ query: ListQuery, user: String
    ) async throws(StoreError) -> ListPage {
        try enter("list")
        return try state.withLock { state throws(StoreError) in
            try state.bucket(bucket, user).list(query)
        }
    }

    public func key(
        _ key: KeyPath, _ selection: KeySelection, user: String
    ) async throws(StoreError) -> KeyInfo {
        try enter("key")
        return try state.withLock { state throws(StoreError) in
            guard let info = try state.bucket(key.bucket, user).keys[key.name] else {
                throw StoreError(.noSuchKey, "there is no key \(key)")
            }
            return info.selecting(selection)
        }
    }

    public func openWriter(
        _ key: KeyPath, length: Int?, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> InMemoryWriter {
        try enter("openWriter")
        let used = try state.withLock { state throws(StoreError) in
            let bucket = try state.bucket(key.bucket, user)
            state.openWriters += 1
            return replication ?? bucket.info.replication
        }
        return InMemoryWriter(store: self, target: .key(key, used), user: user)
    }

    public func openReader(_ info: KeyInfo) async throws(StoreError) -> InMemoryReader {
        try enter("openReader")
        let pieces = try state.withLock { state throws(StoreError) in
            var pieces: [[UInt8]] = []
            for group in info.blockGroups {
                guard let bytes = state.data[group.blockID.localID] else {
                    throw StoreError(.noSuchBlock, "block \(group.blockID) was deleted")
                }
                pieces.append(bytes)
            }
            return pieces
        }
        return InMemoryReader(
            store: self, pieces: pieces, start: info.groupsOffset, cell: limits.cell)
    }

    @discardableResult
    public func deleteKey(
        _ key: KeyPath, condition: WriteCondition, user: String
    ) async throws(StoreError) -> Bool {
        try enter("deleteKey")
        return try state.withLock { state throws(StoreError) in
            let former = try state.bucket(key.bucket, user).keys[key.name]
            try condition.check(former)
            state.replace(key, with: nil)
            return former != nil
        }
    }

    private func usualReplication() throws(StoreError) -> ReplicationConfig {
        do throws(ReplicationError) {
            return try ReplicationConfig("rs-3-2-1024k")
        } catch {
            throw StoreError(.internal, error.description)
        }
    }
}

extension WriteCondition {
    /// Throws unless the condition holds of `key`, as it now is.
    func check(_ key: KeyInfo?) throws(StoreError) {
        let holds =
            switch self {
            case .none: true
            case .ifAbsent: key == nil
            case .ifPresent: key != nil
            case .ifETag(let etag): key?.etag == etag
            case .ifGeneration(let generation): key?.generation == generation
            }
        if holds { return }
        // As S3 has it: there is nothing that could match.
        if key == nil { throw StoreError(.noSuchKey, "there is no such key to match") }
        throw StoreError(.preconditionFailed, "the condition does not hold")
    }
}
