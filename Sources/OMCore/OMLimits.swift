/// Bounds of the Ozone Manager's names and answers.
public enum OMLimits {
    /// Buckets that one user may own.
    public static let bucketsPerUser = 1000
    /// Entries in one page of a listing; a larger wish is served by more pages.
    public static let listLimit = 10_000
    /// Bytes of one answer, about, beyond which it takes in no more: the rest comes with the next.
    /// Well below what the transport takes, so that one large entry more does not matter.
    public static let answerBytes = 4 << 20
    /// Block groups in one answer; those of a longer key are looked up a range at a time.
    public static let groupsPerAnswer = 10_000
    /// Bytes of a document that a bucket sets.
    public static let settingSize = 256 << 10
    /// Bytes of each name, key or other text that comes with a user, and of an ETag or a checksum.
    public static let textSize = 1024
    /// Bytes of what a listing compares names with: prefix, delimiter, marker.
    public static let markerSize = 64 << 10
    /// Nodes, and containers, that a writer names as failed.
    public static let exclusions = 10_000
    /// Keys of a bucket that one command counts.
    public static let countedKeys = 4096
    /// Parts of one upload, numbered from 1.
    public static let parts = 10_000
    /// Bytes of every part but the last.
    public static let minimumPartSize = 5 << 20
    /// Bytes of one key: S3's 5 TiB for uploads in parts, times ten.
    public static let keySize = 50 << 40
    /// Blocks that one open key may be given.
    public static let blocksPerKey = 100_000
    /// Keys that one command opens in advance.
    public static let reservedKeys = 64
    /// Bytes of user metadata and headers with one key.
    public static let attributesSize = 16 << 10
    /// Blocks of open keys, or parts of uploads, beyond which a command expires no more of them:
    /// an upload has up to 10,000.
    public static let expirySize = 10_000
    /// Blocks in one record of discarded ones.
    public static let discardedBlocks = 1000
    /// Blocks that readers hold at once.
    public static let heldBlocks = 200_000
    /// Blocks in one request to hold some.
    public static let blocksPerHold = 4096
    /// How long blocks stay after they were discarded, in milliseconds, whoever holds them.
    public static let longestHold: Int64 = 24 * 3_600_000
    /// Parts of deleted buckets' uploads that one command takes away, or those of one upload.
    public static let orphanParts = 1000
    /// Open keys or uploads that one command expires.
    public static let expiryBatch = 256
}
