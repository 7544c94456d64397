/// Milliseconds since 1970-01-01T00:00:00Z. Taken in `prepare`, never in `apply`.
public struct Timestamp: Hashable, Comparable, Sendable {
    public var milliseconds: Int64
    public init(milliseconds: Int64) { self.milliseconds = milliseconds }
    public static func < (a: Self, b: Self) -> Bool { a.milliseconds < b.milliseconds }
}

/// A checksum of an object's bytes as S3 names it, base64 as it came or as it was computed.
public struct ObjectChecksum: Hashable, Sendable {
    public enum Algorithm: String, Hashable, Sendable, CaseIterable {
        case crc32 = "CRC32"
        case crc32c = "CRC32C"
        case crc64nvme = "CRC64NVME"
        case sha1 = "SHA1"
        case sha256 = "SHA256"
    }
    public enum Kind: String, Hashable, Sendable {
        case fullObject = "FULL_OBJECT"
        case composite = "COMPOSITE"
    }
    public var algorithm: Algorithm
    public var kind: Kind
    /// Base64; a composite one ends with `-` and the number of parts.
    public var value: String

    public init(algorithm: Algorithm, kind: Kind, value: String) {
        self.algorithm = algorithm
        self.kind = kind
        self.value = value
    }
}

/// What a client says about an object beside its bytes.
public struct ObjectAttributes: Hashable, Sendable {
    /// Standard headers kept as they came, by lower-case name: `content-type`, `cache-control`,
    /// `content-disposition`, `content-encoding`, `content-language`, `expires`.
    public var headers: [String: String]
    /// User metadata by lower-case name without `x-amz-meta-`; at most 2 KB in all.
    public var metadata: [String: String]

    public init(headers: [String: String] = [:], metadata: [String: String] = [:]) {
        self.headers = headers
        self.metadata = metadata
    }
}

/// One part of a key that was uploaded in parts.
public struct PartInfo: Hashable, Sendable {
    public var number: Int
    public var length: Int
    public var etag: String
    public var modified: Timestamp
    public var checksum: ObjectChecksum?

    public init(
        number: Int, length: Int, etag: String, modified: Timestamp,
        checksum: ObjectChecksum? = nil
    ) {
        self.number = number
        self.length = length
        self.etag = etag
        self.modified = modified
        self.checksum = checksum
    }
}

/// The part of a key that a look-up asked for by its number.
public struct SelectedPart: Hashable, Sendable {
    /// nil if the key has no part of that number.
    public var info: PartInfo?
    /// Where in the key it begins.
    public var offset: Int
    /// How many parts the key has.
    public var count: Int

    public init(info: PartInfo?, offset: Int, count: Int) {
        self.info = info
        self.offset = offset
        self.count = count
    }
}

/// A committed key.
public struct KeyInfo: Hashable, Sendable {
    public var name: KeyName
    public var length: Int
    /// Without quotes: 32 hexadecimal digits of MD5, with `-parts` after a multipart upload.
    public var etag: String
    public var modified: Timestamp
    public var replication: ReplicationConfig
    public var attributes: ObjectAttributes
    public var checksum: ObjectChecksum?
    /// In the order of the key's bytes. Empty in listings, which do not look the blocks up; those
    /// that hold what was asked for, if a look-up asked for some of the key.
    public var blockGroups: [BlockGroup]
    /// Where in the key the first of `blockGroups` begins.
    public var groupsOffset = 0
    /// The parts of a key uploaded in parts, in order and with the numbers that they were uploaded
    /// with, which need not be consecutive; empty otherwise, and where only some of the key was
    /// asked for.
    public var parts: [PartInfo]
    /// Grows with each change of the key, and is never given to another one of its bucket; 0 if it
    /// was made before there were generations.
    public var generation: UInt64 = 0
    /// Of a look-up that asked for a part, if the key was uploaded in parts; `parts` is empty then,
    /// as it is wherever only some of the key was asked for.
    public var selectedPart: SelectedPart?

    public init(
        name: KeyName, length: Int, etag: String, modified: Timestamp,
        replication: ReplicationConfig, attributes: ObjectAttributes = .init(),
        checksum: ObjectChecksum? = nil, blockGroups: [BlockGroup] = [], parts: [PartInfo] = []
    ) {
        self.name = name
        self.length = length
        self.etag = etag
        self.modified = modified
        self.replication = replication
        self.attributes = attributes
        self.checksum = checksum
        self.blockGroups = blockGroups
        self.parts = parts
    }
}

/// A user: who owns buckets and signs requests.
public struct UserInfo: Hashable, Sendable {
    public var name: String
    public var accessKeyID: String
    public var secretAccessKey: String
    /// 64 hexadecimal digits, S3's canonical user ID.
    public var canonicalID: String
    public var displayName: String
    /// May do everything in every bucket; the user that `apus up` creates first.
    public var isAdministrator: Bool

    public init(
        name: String, accessKeyID: String, secretAccessKey: String, canonicalID: String,
        displayName: String, isAdministrator: Bool = false
    ) {
        self.name = name
        self.accessKeyID = accessKeyID
        self.secretAccessKey = secretAccessKey
        self.canonicalID = canonicalID
        self.displayName = displayName
        self.isAdministrator = isAdministrator
    }
}

public struct VolumeInfo: Hashable, Sendable {
    public var name: String
    /// Name of the user who created it.
    public var owner: String
    public var created: Timestamp

    public init(name: String, owner: String, created: Timestamp) {
        self.name = name
        self.owner = owner
        self.created = created
    }
}

/// How the names of a bucket are kept, by its number. One that is not known to this version is
/// refused by whoever would use the bucket.
public struct BucketLayout: RawRepresentable, Hashable, Sendable {
    public var rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }

    /// Each key under its whole name.
    public static let objectStore = Self(rawValue: 0)
}

public struct BucketInfo: Hashable, Sendable {
    public var volume: String
    public var name: String
    /// Name, canonical ID and display name of the user who created it.
    public var owner: String
    public var ownerCanonicalID: String
    public var ownerDisplayName: String
    public var created: Timestamp
    /// What keys written here are coded with, unless the writer asks for something else.
    public var replication: ReplicationConfig
    public var layout = BucketLayout.objectStore

    public init(
        volume: String, name: String, owner: String, ownerCanonicalID: String,
        ownerDisplayName: String, created: Timestamp, replication: ReplicationConfig
    ) {
        self.volume = volume
        self.name = name
        self.owner = owner
        self.ownerCanonicalID = ownerCanonicalID
        self.ownerDisplayName = ownerDisplayName
        self.created = created
        self.replication = replication
    }
}
