import ErasureCode
import Model
import Reactor
import Synchronization
import Transport

/// A client of one cluster: names from OM, bytes from and to datanodes, the rest from SCM.
///
/// It only puts the sides together. That of names (`Names/`) and that of bytes (`Bytes/`) do not
/// know each other: what one needs of the other, such as groups to write to or who commits a key,
/// it has a protocol or a closure for, and gets it here.
///
/// Thread-safe. Calls, writers and readers use the reactor that they are begun on, or else go
/// round the reactors.
public final class ClusterClient: Sendable {
    let names: OMClient<OMChannel>
    let datanodes: DatanodeClient
    private let reservations: KeyReservations
    private let holds: ReaderHolds
    let reactors: ReactorGroup
    /// Calls to SCM.
    public let scm: SCMClient
    private let codecs = Mutex<[ErasureCoding: Codec]>([:])

    /// What bytes on their way take of memory, unless something else is asked for.
    public static let windowBytes = 512 << 20

    /// - Parameters:
    ///   - om: `HOST:PORT` of the OMs, as many as are known; likewise `scm`.
    ///   - channels: shared with other clients of the process, if there are any.
    ///   - windowBytes: memory for what is on its way to and from datanodes, in bytes; each
    ///     transfer takes a stripe at least.
    ///   - reads: which OMs answer look-ups and listings.
    /// - Throws: `invalidArgument` for an address that is none, or where there is none.
    public init(
        om: [String], scm: [String], channels: ChannelPool, reactors: ReactorGroup,
        windowBytes: Int = ClusterClient.windowBytes, reads: LeaderChannel.ReadPlace = .leader
    ) throws(StoreError) {
        self.reactors = reactors
        var toOM: [LeaderChannel] = []
        for reactor in reactors.reactors {
            toOM.append(try LeaderChannel(om, channels: channels, on: reactor))
        }
        let names = OMClient(OMChannel(reactors: reactors, channels: toOM, reads: reads))
        self.names = names
        reservations = KeyReservations { (bucket, count, user, slow) throws(StoreError) in
            try await names.reserve(bucket, count: count, user: user, avoiding: slow)
        }
        holds = ReaderHolds { blocks throws(StoreError) in try await names.holdBlocks(blocks) }
        self.scm = SCMClient(
            channel: try LeaderChannel(scm, channels: channels, on: reactors.next()))
        datanodes = DatanodeClient(
            channels: channels,
            health: NodeHealth { [reservations] in reservations.forget($0, at: $1) },
            window: TransferWindow(bytes: windowBytes),
            onRefusal: { [reservations] in reservations.forget($0) })
    }

    func codec(_ coding: ErasureCoding) -> Codec {
        codecs.withLock { codecs in
            if let codec = codecs[coding] { return codec }
            let codec = Codec(coding)
            codecs[coding] = codec
            return codec
        }
    }

    /// Throws `unsupported` if the key is not erasure-coded.
    private func makeWriter(_ open: OpenKey, length: Int?) throws(StoreError) -> KeyWriter {
        let coding = try open.replication.erasureCoding()
        let reactor = reactors.here()
        let writer = ECWriter(
            coding: coding, prepared: open.groups,
            source: OpenKeyGroups(names: names, open: open), client: datanodes, on: reactor)
        return KeyWriter(
            open: open, length: length, names: names, writer: writer,
            codec: codec(coding), pool: reactor.pool)
    }
}

extension OMClient: KeyCommitter {}

/// The groups of an open key, from OM.
private struct OpenKeyGroups: GroupSource {
    let names: OMClient<OMChannel>
    let open: OpenKey

    func allocate(excluding: ExcludeList) async throws(StoreError) -> BlockGroup {
        try await names.allocateGroup(open, excluding: excluding)
    }
}

extension ClusterClient: ObjectStore {
    public func createUser(_ user: UserInfo) async throws(StoreError) {
        try await names.createUser(user)
    }
    public func user(accessKeyID: String) async throws(StoreError) -> UserInfo? {
        try await names.user(accessKeyID: accessKeyID)
    }
    public func user(named name: String) async throws(StoreError) -> UserInfo? {
        try await names.user(named: name)
    }
    public func users() async throws(StoreError) -> [UserInfo] { try await names.users() }
    public func deleteUser(named name: String) async throws(StoreError) {
        try await names.deleteUser(named: name)
    }

    public func createVolume(_ name: String, user: String) async throws(StoreError) {
        try await names.createVolume(name, user: user)
    }
    public func volumes(user: String) async throws(StoreError) -> [VolumeInfo] {
        try await names.volumes(user: user)
    }
    public func deleteVolume(_ name: String, user: String) async throws(StoreError) {
        try await names.deleteVolume(name, user: user)
    }

    public func createBucket(
        _ bucket: BucketPath, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) {
        try await names.createBucket(bucket, replication: replication, user: user)
    }
    public func bucket(_ bucket: BucketPath, user: String) async throws(StoreError) -> BucketInfo {
        try await names.bucket(bucket, user: user)
    }
    public func buckets(volume: String, user: String) async throws(StoreError) -> [BucketInfo] {
        try await names.buckets(volume: volume, user: user)
    }
    public func deleteBucket(_ bucket: BucketPath, user: String) async throws(StoreError) {
        try await names.deleteBucket(bucket, user: user)
    }

    public func list(
        _ bucket: BucketPath, _ query: ListQuery, user: String
    ) async throws(StoreError) -> ListPage {
        try await names.list(bucket, query, user: user)
    }
    public func key(
        _ key: KeyPath, _ selection: KeySelection, user: String
    ) async throws(StoreError) -> KeyInfo {
        try await names.key(key, selection, user: user)
    }
    public func deleteKey(
        _ key: KeyPath, condition: WriteCondition, user: String
    ) async throws(StoreError) -> Bool {
        try await names.deleteKey(key, condition: condition, user: user)
    }

    /// Opens and commits a key of `length` bytes of which none is written: the load of a write on
    /// the Ozone Manager alone. Such a key cannot be read; whoever makes it deletes it again.
    public func createUnwritten(
        _ key: KeyPath, length: Int, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> KeyInfo {
        let open = try await names.openKey(
            key, length: length, replication: replication, user: user)
        var groups = open.groups
        var left = length
        for index in groups.indices {
            groups[index].length = min(left, groups[index].replication.blockGroupSize)
            left -= groups[index].length
        }
        guard left == 0 else {
            throw StoreError(
                .invalidArgument, "\(length) bytes are more than fit the first groups of a key")
        }
        return try await names.commit(open, groups: groups, KeyCommit(etag: "bench-\(length)"))
    }

    public func openWriter(
        _ key: KeyPath, length: Int?, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> KeyWriter {
        let reactor = reactors.here()
        let beginning = datanodes.health.beginning(at: reactor.now())
        if let length, replication == nil, !beginning.isTrial,
            let open = reservations.take(
                for: key, length: length, user: user, avoiding: beginning.avoiding, on: reactor)
        {
            return try makeWriter(open, length: length)
        }
        let open = try await names.openKey(
            key, length: length, replication: replication, user: user,
            avoiding: beginning.avoiding)
        noteOpened(open, beginning, at: reactor.now())
        return try makeWriter(open, length: length)
    }

    /// Where the first groups have places on nodes that were to be avoided there are none without.
    private func noteOpened(
        _ open: OpenKey, _ beginning: NodeHealth.Beginning, at now: MonotonicTime
    ) {
        let unwanted = ExcludeList(nodes: beginning.avoiding)
        if open.groups.contains(where: unwanted.contains) {
            datanodes.health.foundNoOther(without: beginning.avoiding, at: now)
        }
    }

    public func openReader(_ info: KeyInfo) async throws(StoreError) -> ECReader {
        try ECReader(
            info, codec: codec, client: datanodes, holds: holds, on: reactors.here(),
            locate: { [scm] in await scm.locate($0) },
            reportCorrupt: { [scm] in scm.reportCorrupt($0, $1, $2, $3) })
    }

    public func createUpload(
        _ key: KeyPath, attributes: ObjectAttributes, checksum: UploadChecksum?,
        replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> UploadID {
        try await names.createUpload(
            key, attributes: attributes, checksum: checksum, replication: replication, user: user)
    }
    public func openPartWriter(
        _ key: KeyPath, upload: UploadID, number: Int, length: Int?, user: String
    ) async throws(StoreError) -> KeyWriter {
        let reactor = reactors.here()
        let beginning = datanodes.health.beginning(at: reactor.now())
        let open = try await names.openPart(
            key, upload: upload, number: number, length: length, user: user,
            avoiding: beginning.avoiding)
        noteOpened(open, beginning, at: reactor.now())
        return try makeWriter(open, length: length)
    }
    public func upload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) -> UploadInfo {
        try await names.upload(key, upload: upload, user: user)
    }
    public func parts(
        _ key: KeyPath, upload: UploadID, after: Int, limit: Int, user: String
    ) async throws(StoreError) -> PartsPage {
        try await names.parts(key, upload: upload, after: after, limit: limit, user: user)
    }
    public func completeUpload(
        _ key: KeyPath, upload: UploadID, parts: [CompletedPart], etag: String,
        checksum: ObjectChecksum?, condition: WriteCondition, user: String
    ) async throws(StoreError) -> KeyInfo {
        try await names.completeUpload(
            key, upload: upload, parts: parts, etag: etag, checksum: checksum,
            condition: condition, user: user)
    }
    public func abortUpload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) {
        try await names.abortUpload(key, upload: upload, user: user)
    }
    public func uploads(
        _ bucket: BucketPath, _ query: UploadsQuery, user: String
    ) async throws(StoreError) -> UploadsPage {
        try await names.uploads(bucket, query, user: user)
    }
}
