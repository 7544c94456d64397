import Model
import Wire

/// The tables of the Ozone Manager. Their numbers are part of the format on disk.
enum OMTable {
    /// User name → UserRecord.
    static let users = MetadataTable(1)
    /// Access key ID → user name.
    static let accessKeys = MetadataTable(2)
    /// Volume name → OMVolume.
    static let volumes = MetadataTable(3)
    /// Volume name, 0, bucket name → BucketRecord.
    static let buckets = MetadataTable(4)
    /// Bucket number, key name → KeyRecord.
    static let keys = MetadataTable(5)
    /// Open ID → OpenRecord: keys and parts that are being written.
    static let opens = MetadataTable(6)
    /// Bucket number, key name (terminated), upload → UploadRecord.
    static let uploads = MetadataTable(7)
    /// Upload, part number → PartRecord.
    static let parts = MetadataTable(8)
    /// Index of the command that discarded them, and which piece of them it is but for the first
    /// → DeletedRecord: blocks for SCM to delete.
    static let deleted = MetadataTable(9)

    /// Bucket number, key name (terminated), generation (inverted) → HistoryRecord: what keys were.
    static let history = MetadataTable(10)
    /// Bucket number, kind → SettingRecord.
    static let settings = MetadataTable(11)
    /// Bucket number → UsageRecord.
    static let usage = MetadataTable(12)
    /// Bucket number, number of the directory, leaf: what a directory of a file-system bucket
    /// holds. Reserved: there are no such buckets yet.
    static let entries = MetadataTable(13)

    /// The empty key → the latest time in the log, milliseconds since 1970 (8 bytes): see
    /// `LogClock`.
    static let clock = MetadataTable(14)

    static let all = [
        users, accessKeys, volumes, buckets, keys, opens, uploads, parts, deleted, history,
        settings, usage, entries, clock,
    ]
}

/// The keys of the tables: numbers big-endian, so that their order is the order of the bytes.
enum OMTableKey {
    static func user(_ name: String) -> [UInt8] { Array(name.utf8) }
    static func accessKey(_ id: String) -> [UInt8] { Array(id.utf8) }
    static func volume(_ name: String) -> [UInt8] { Array(name.utf8) }

    /// Names of volumes hold no 0, so buckets of one volume are together.
    static func bucketPrefix(volume: String) -> [UInt8] { Array(volume.utf8) + [0] }
    static func bucket(_ path: OMBucketPath) -> [UInt8] {
        bucketPrefix(volume: path.volume) + Array(path.bucket.utf8)
    }

    static func number(_ value: UInt64) -> [UInt8] {
        var key: [UInt8] = []
        key.reserveCapacity(8)
        key.appendBigEndian(value)
        return key
    }

    static func key(bucket: UInt64, name: [UInt8]) -> [UInt8] { number(bucket) + name }
    static func open(_ id: UInt64) -> [UInt8] { number(id) }
    /// Piece 0 has the index alone: it comes before the others, and is all there was before
    /// there were pieces.
    static func deleted(_ index: UInt64, piece: Int) -> [UInt8] {
        var key = number(index)
        if piece > 0 { key.appendBigEndian(UInt32(piece)) }
        return key
    }

    static func upload(bucket: UInt64, name: [UInt8], upload: WireIdentity) -> [UInt8] {
        number(bucket) + TerminatedName.encode(name) + identity(upload)
    }

    /// All uploads of one key.
    static func uploads(bucket: UInt64, name: [UInt8]) -> [UInt8] {
        number(bucket) + TerminatedName.encode(name)
    }

    static func parts(_ upload: WireIdentity) -> [UInt8] { identity(upload) }
    static func part(_ upload: WireIdentity, number: UInt32) -> [UInt8] {
        var key = identity(upload)
        key.appendBigEndian(UInt16(clamping: number))
        return key
    }

    /// All that a key was: the newest first, as the generation is inverted.
    static func history(bucket: UInt64, name: [UInt8]) -> [UInt8] {
        number(bucket) + TerminatedName.encode(name)
    }
    static func history(bucket: UInt64, name: [UInt8], generation: UInt64) -> [UInt8] {
        var key = history(bucket: bucket, name: name)
        key.appendBigEndian(~generation)
        return key
    }

    /// What a key of the history table says; nil if it is none.
    static func decodeHistory(
        _ key: [UInt8]
    ) -> (bucket: UInt64, name: [UInt8], generation: UInt64)? {
        guard key.count >= 8, let (name, rest) = TerminatedName.decode(key.dropFirst(8)),
            rest.count == 8
        else { return nil }
        return (key.bigEndian(at: 0), name, ~key.bigEndian(at: rest.startIndex))
    }

    static func setting(bucket: UInt64, _ kind: BucketSettingKind) -> [UInt8] {
        var key = number(bucket)
        key.appendBigEndian(kind.rawValue)
        return key
    }

    /// All entries of a directory, in the order of their leaves. The root of a bucket has the
    /// bucket's own number.
    static func directory(bucket: UInt64, parent: UInt64) -> [UInt8] {
        var key = number(bucket)
        key.appendBigEndian(parent)
        return key
    }
    static func entry(bucket: UInt64, parent: UInt64, leaf: [UInt8]) -> [UInt8] {
        directory(bucket: bucket, parent: parent) + leaf
    }

    /// What a key of the table of entries says; nil if it is none.
    static func decodeEntry(
        _ key: [UInt8]
    ) -> (bucket: UInt64, parent: UInt64, leaf: [UInt8])? {
        guard key.count > 16 else { return nil }
        return (key.bigEndian(at: 0), key.bigEndian(at: 8), Array(key[16...]))
    }

    /// The number of the directory that is at `place` among those that a command makes. They come
    /// from the same space as those of buckets, which are the indexes of their commands: a command
    /// makes a bucket or directories, and no two have the same number.
    static func directoryNumber(of index: UInt64, place: Int) -> UInt64 {
        precondition(index < 1 << 56 && (0..<256).contains(place), "a number of a directory")
        return UInt64(place) << 56 | index
    }

    static func identity(_ identity: WireIdentity) -> [UInt8] {
        var key: [UInt8] = []
        key.reserveCapacity(18)
        key.appendBigEndian(identity.high)
        key.appendBigEndian(identity.low)
        return key
    }
}

/// A name followed by something else in one key, such that keys are ordered by name first.
///
/// A 0 in the name is written 0 FF, and the end is 0 1; thus a name comes before all that it is
/// a prefix of, and the prefix of a name is a prefix of its encoding.
enum TerminatedName {
    private static let escape: UInt8 = 0
    private static let escapedZero: UInt8 = 0xFF
    private static let terminator: UInt8 = 1

    /// Without the end: what the encodings of all names that begin with `prefix` begin with.
    static func encodePrefix(_ prefix: [UInt8]) -> [UInt8] {
        guard prefix.contains(escape) else { return prefix }
        var bytes: [UInt8] = []
        for byte in prefix {
            bytes.append(byte)
            if byte == escape { bytes.append(escapedZero) }
        }
        return bytes
    }

    static func encode(_ name: [UInt8]) -> [UInt8] {
        encodePrefix(name) + [escape, terminator]
    }

    /// The name at the start of `bytes` and what follows it; nil if it has no end.
    static func decode(_ bytes: ArraySlice<UInt8>) -> (name: [UInt8], rest: ArraySlice<UInt8>)? {
        var name: [UInt8] = []
        var index = bytes.startIndex
        while index < bytes.endIndex {
            let byte = bytes[index]
            if byte == escape {
                guard index + 1 < bytes.endIndex else { return nil }
                switch bytes[index + 1] {
                case escapedZero: name.append(0)
                case terminator: return (name, bytes[(index + 2)...])
                default: return nil
                }
                index += 2
            } else {
                name.append(byte)
                index += 1
            }
        }
        return nil
    }
}
