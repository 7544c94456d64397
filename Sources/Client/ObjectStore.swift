import Bytes
import Model

/// What gateways and the command line see of the store: names, and readers and writers of bytes.
///
/// `ClusterClient` implements it on a cluster; tests of gateways use one in memory. Every call may
/// come from any executor. All calls throw `StoreError`.
///
/// Every call is linearizable: it sees all changes that were answered, to anybody, before it was
/// made. That is so too where followers answer (`LeaderChannel.ReadPlace`): `user`, `users`,
/// `volumes`, `bucket`, `buckets`, `list`, `key`, `upload`, `parts`, `uploads` may be theirs; all
/// others are the leader's. Each answer is of one moment; two pages of a listing are of two, so keys
/// that change meanwhile may be seen as before or after, and all others are seen once. What is known
/// of the places of replicas may be a minute old: readers notice, and ask again.
///
/// `user` is the name of the user on whose behalf the call is made; the store checks what that
/// user may do.
public protocol ObjectStore: Sendable {
    associatedtype Writer: ObjectWriter
    associatedtype Reader: ObjectReader

    // Users
    func createUser(_ user: UserInfo) async throws(StoreError)
    func user(accessKeyID: String) async throws(StoreError) -> UserInfo?
    func user(named name: String) async throws(StoreError) -> UserInfo?
    func users() async throws(StoreError) -> [UserInfo]
    func deleteUser(named name: String) async throws(StoreError)

    // Volumes
    func createVolume(_ name: String, user: String) async throws(StoreError)
    func volumes(user: String) async throws(StoreError) -> [VolumeInfo]
    func deleteVolume(_ name: String, user: String) async throws(StoreError)

    // Buckets
    /// `replication` nil takes the cluster's default.
    func createBucket(
        _ bucket: BucketPath, replication: ReplicationConfig?, user: String
    ) async throws(StoreError)
    /// `noSuchBucket` if absent, `accessDenied` if it belongs to somebody else.
    func bucket(_ bucket: BucketPath, user: String) async throws(StoreError) -> BucketInfo
    /// The buckets of `volume` that `user` owns (all of them for an administrator), by name.
    func buckets(volume: String, user: String) async throws(StoreError) -> [BucketInfo]
    /// `bucketNotEmpty` if there are keys. Uploads in progress end with the bucket: they cannot be
    /// completed any more, and their parts are deleted.
    func deleteBucket(_ bucket: BucketPath, user: String) async throws(StoreError)

    // Keys
    /// Keys and common prefixes after `query.startAfter`, in the order of their bytes.
    func list(
        _ bucket: BucketPath, _ query: ListQuery, user: String
    ) async throws(StoreError) -> ListPage
    /// The key with what `selection` asks for of its block groups and parts, or `noSuchKey`.
    func key(
        _ key: KeyPath, _ selection: KeySelection, user: String
    ) async throws(StoreError) -> KeyInfo
    /// Opens a key for writing. Nothing is visible until `Writer.commit`.
    /// - Parameter length: user bytes to come, if known; a hint for how many blocks to reserve.
    func openWriter(
        _ key: KeyPath, length: Int?, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> Writer
    /// A reader of those bytes of `info` that were asked for when it was looked up. It reads that
    /// very version of the key, and to its end, whatever becomes of the key meanwhile.
    func openReader(_ info: KeyInfo) async throws(StoreError) -> Reader
    /// Deletes the key if it exists; `condition` as for a commit. Returns whether it existed.
    @discardableResult
    func deleteKey(
        _ key: KeyPath, condition: WriteCondition, user: String
    ) async throws(StoreError) -> Bool

    // Multipart uploads
    func createUpload(
        _ key: KeyPath, attributes: ObjectAttributes, checksum: UploadChecksum?,
        replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> UploadID
    /// Opens part `number` (1…10,000) for writing; `Writer.commit` puts it in place of an older
    /// one with this number.
    func openPartWriter(
        _ key: KeyPath, upload: UploadID, number: Int, length: Int?, user: String
    ) async throws(StoreError) -> Writer
    func upload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) -> UploadInfo
    /// Parts with a number above `after`, in order, at most `limit`.
    func parts(
        _ key: KeyPath, upload: UploadID, after: Int, limit: Int, user: String
    ) async throws(StoreError) -> PartsPage
    /// Makes the listed parts the key. `invalidPart`, `invalidPartOrder`, `partTooSmall`,
    /// `preconditionFailed` as S3 has them; decided in one step in the OM. Asked again, with the
    /// same ETag, it gives the key that the upload became, as long as that is there.
    /// - Parameter checksum: what the client says of the whole object, stored if given.
    func completeUpload(
        _ key: KeyPath, upload: UploadID, parts: [CompletedPart], etag: String,
        checksum: ObjectChecksum?, condition: WriteCondition, user: String
    ) async throws(StoreError) -> KeyInfo
    func abortUpload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError)
    /// Uploads in progress ordered by (key, upload), after the pair given by the query.
    func uploads(
        _ bucket: BucketPath, _ query: UploadsQuery, user: String
    ) async throws(StoreError) -> UploadsPage
}

extension ObjectStore {
    /// The key with all of its block groups and parts, or `noSuchKey`.
    public func key(_ key: KeyPath, user: String) async throws(StoreError) -> KeyInfo {
        try await self.key(key, .all, user: user)
    }
}

/// What of a key a look-up is for: a key of 10,000 parts has as many block groups, of which the
/// reader of its last bytes needs one.
public enum KeySelection: Hashable, Sendable {
    /// All block groups and all parts.
    case all
    /// Neither: what is known of the key as a whole.
    case head
    /// The block groups with bytes from the first number up to the second; nil: to the end.
    case range(from: Int, to: Int?)
    /// The block groups with the last bytes of the key, so many.
    case suffix(Int)
    /// The part of this number and its block groups; of a key that was not uploaded in parts, all
    /// of its bytes are number 1.
    case part(Int)

    /// All block groups, and no parts.
    public static let bytes = KeySelection.range(from: 0, to: nil)
}

/// Receives the bytes of one key or part in order. Used by one task at a time.
public protocol ObjectWriter: Sendable {
    /// Takes a copy of `bytes`; suspends while the window of unacknowledged stripes is full.
    func write(_ bytes: UnsafeRawBufferPointer) async throws(StoreError)
    /// Waits until all bytes are durable on every replica promised, then makes the key visible.
    /// Decides `condition` against the key as it then is. Part writers ignore attributes and
    /// condition.
    func commit(_ commit: KeyCommit) async throws(StoreError) -> KeyInfo
    /// Gives up: nothing becomes visible. Safe to call after a failed write or commit.
    func abort() async
}

extension ObjectWriter {
    /// Takes a copy of `piece`.
    public func write(_ piece: Payload) async throws(StoreError) {
        let bytes = piece.buffer.bytes(in: piece.offset..<piece.offset + piece.count)
        try await write(UnsafeRawBufferPointer(bytes))
        withExtendedLifetime(piece) {}
    }
}

/// Reads ranges of one key. Used by one task at a time.
public protocol ObjectReader: Sendable {
    /// Calls `body` with the bytes of `range` in order, piece by piece (each at most a cell),
    /// reading ahead while `body` runs. A piece may be kept as long as it is needed; nobody
    /// writes to it any more.
    /// Precondition: the range lies within the key. Errors thrown by `body` end the read.
    func read(
        _ range: Range<Int>, _ body: @Sendable (Payload) async throws -> Void
    ) async throws
}

public struct BucketPath: Hashable, Sendable, CustomStringConvertible {
    public var volume: String
    public var bucket: String

    public init(volume: String, bucket: String) {
        self.volume = volume
        self.bucket = bucket
    }

    /// The volume that S3's buckets live in.
    public static let s3Volume = "s3v"
    public var description: String { "/\(volume)/\(bucket)" }
}

public struct KeyPath: Hashable, Sendable, CustomStringConvertible {
    public var bucket: BucketPath
    public var name: KeyName

    public init(bucket: BucketPath, name: KeyName) {
        self.bucket = bucket
        self.name = name
    }
    public var description: String { "\(bucket)/\(name)" }
}

public struct UploadID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var identity: Identity128
    public init(_ identity: Identity128) { self.identity = identity }
    public init?(_ text: String) {
        guard let identity = Identity128(text) else { return nil }
        self.identity = identity
    }
    public static func < (a: Self, b: Self) -> Bool { a.identity < b.identity }
    public var description: String { identity.description }
}

/// What must hold of the key that a write replaces; decided where the write is applied.
public enum WriteCondition: Hashable, Sendable {
    case none
    /// `If-None-Match: *`
    case ifAbsent
    /// `If-Match: "etag"` (without quotes)
    case ifETag(String)
    /// `If-Match: *`
    case ifPresent
    /// The key is the very one that was looked up, with this `KeyInfo.generation`.
    case ifGeneration(UInt64)
}

public struct KeyCommit: Sendable {
    public var etag: String
    public var attributes: ObjectAttributes
    public var checksum: ObjectChecksum?
    public var condition: WriteCondition

    public init(
        etag: String, attributes: ObjectAttributes = .init(), checksum: ObjectChecksum? = nil,
        condition: WriteCondition = .none
    ) {
        self.etag = etag
        self.attributes = attributes
        self.checksum = checksum
        self.condition = condition
    }
}

public struct ListQuery: Hashable, Sendable {
    /// Bytes that keys must begin with; may be empty.
    public var prefix: [UInt8]
    /// May be empty: no grouping. Any byte string, as in S3.
    public var delimiter: [UInt8]
    /// Only keys and common prefixes after these bytes; empty: from the start. After a common
    /// prefix, its whole subtree is skipped.
    public var startAfter: [UInt8]
    /// At most this many keys and common prefixes together; 0 gives an empty page.
    public var limit: Int
    /// Whether headers and metadata are looked at. They are as long as they like.
    public var wantsAttributes = true
    public var wantsChecksums = true

    public init(
        prefix: [UInt8] = [], delimiter: [UInt8] = [], startAfter: [UInt8] = [], limit: Int = 1000
    ) {
        self.prefix = prefix
        self.delimiter = delimiter
        self.startAfter = startAfter
        self.limit = limit
    }
}

public struct ListPage: Hashable, Sendable {
    /// Without block groups and parts.
    public var keys: [KeyInfo]
    public var commonPrefixes: [[UInt8]]
    /// The last key or common prefix of this page if there is more: the next `startAfter`.
    public var next: [UInt8]?

    public init(keys: [KeyInfo] = [], commonPrefixes: [[UInt8]] = [], next: [UInt8]? = nil) {
        self.keys = keys
        self.commonPrefixes = commonPrefixes
        self.next = next
    }
}

/// The checksum that a multipart upload was created with.
public struct UploadChecksum: Hashable, Sendable {
    public var algorithm: ObjectChecksum.Algorithm
    public var kind: ObjectChecksum.Kind
    public init(algorithm: ObjectChecksum.Algorithm, kind: ObjectChecksum.Kind) {
        self.algorithm = algorithm
        self.kind = kind
    }
}

public struct UploadInfo: Hashable, Sendable {
    public var key: KeyName
    public var upload: UploadID
    public var initiated: Timestamp
    /// Name of the user who created it.
    public var initiator: String
    public var attributes: ObjectAttributes
    public var checksum: UploadChecksum?
    public var replication: ReplicationConfig

    public init(
        key: KeyName, upload: UploadID, initiated: Timestamp, initiator: String,
        attributes: ObjectAttributes, checksum: UploadChecksum?, replication: ReplicationConfig
    ) {
        self.key = key
        self.upload = upload
        self.initiated = initiated
        self.initiator = initiator
        self.attributes = attributes
        self.checksum = checksum
        self.replication = replication
    }
}

public struct PartsPage: Hashable, Sendable {
    public var parts: [PartInfo]
    public var isTruncated: Bool
    public init(parts: [PartInfo], isTruncated: Bool) {
        self.parts = parts
        self.isTruncated = isTruncated
    }
}

public struct CompletedPart: Hashable, Sendable {
    public var number: Int
    public var etag: String
    public init(number: Int, etag: String) {
        self.number = number
        self.etag = etag
    }
}

public struct UploadsQuery: Hashable, Sendable {
    public var prefix: [UInt8]
    public var delimiter: [UInt8]
    public var keyMarker: [UInt8]
    public var uploadMarker: UploadID?
    public var limit: Int
    /// Whether headers and metadata are looked at.
    public var wantsAttributes = true

    public init(
        prefix: [UInt8] = [], delimiter: [UInt8] = [], keyMarker: [UInt8] = [],
        uploadMarker: UploadID? = nil, limit: Int = 1000
    ) {
        self.prefix = prefix
        self.delimiter = delimiter
        self.keyMarker = keyMarker
        self.uploadMarker = uploadMarker
        self.limit = limit
    }
}

public struct UploadsPage: Hashable, Sendable {
    public var uploads: [UploadInfo]
    public var commonPrefixes: [[UInt8]]
    public var isTruncated: Bool
    public var nextKeyMarker: [UInt8]
    public var nextUploadMarker: UploadID?

    public init(
        uploads: [UploadInfo] = [], commonPrefixes: [[UInt8]] = [], isTruncated: Bool = false,
        nextKeyMarker: [UInt8] = [], nextUploadMarker: UploadID? = nil
    ) {
        self.uploads = uploads
        self.commonPrefixes = commonPrefixes
        self.isTruncated = isTruncated
        self.nextKeyMarker = nextKeyMarker
        self.nextUploadMarker = nextUploadMarker
    }
}
