import Bytes
import Checksum
import Model
import Raft

/// What a snapshot that is streamed in pieces is: known to both ends before the first piece.
public struct SnapshotHeader: Equatable, Sendable {
    /// The group whose state it is.
    public var group: GroupID
    /// The last entry whose effect is in it, and that entry's term.
    public var index: LogIndex
    /// See `index`.
    public var term: Term
    /// Bytes in all.
    public var size: Int
    /// CRC32C of all bytes.
    public var checksum: UInt32

    /// Names a snapshot. Precondition: `size` is not negative.
    public init(group: GroupID, index: LogIndex, term: Term, size: Int, checksum: UInt32) {
        precondition(size >= 0, "a snapshot has no negative size")
        self.group = group
        self.index = index
        self.term = term
        self.size = size
        self.checksum = checksum
    }

    /// Whether it holds more of the log than `other`, of the same group.
    public func isNewer(than other: SnapshotHeader) -> Bool {
        (index, term) > (other.index, other.term)
    }
}

/// A part of a snapshot on its way: a value, carried by whoever connects the two ends.
public struct SnapshotPiece: Sendable {
    /// Where it belongs in the snapshot, in bytes.
    public var offset: Int
    /// Its bytes; at most `SnapshotFile.Limits.pieceBytes`.
    public var payload: Payload
    /// CRC32C of its bytes.
    public var checksum: UInt32

    /// A piece with the checksum that came with it.
    public init(offset: Int, payload: Payload, checksum: UInt32) {
        self.offset = offset
        self.payload = payload
        self.checksum = checksum
    }
}

/// The file of a snapshot that has not arrived in full.
///
/// The bytes lie where they will be in the end. Behind them, at the next multiple of 4096, are two
/// blocks of which each can be the label: it says what is being received and how much of it is
/// durable, with the checksum of that much. They are written in turn, so one is always whole. When
/// all is there the labels are cut off and the file gets its name.
public enum SnapshotFile {
    /// Bounds of the transfer.
    public enum Limits {
        /// Bytes of the largest piece.
        public static let pieceBytes = 1 << 20
        /// Bytes that are written between two syncs of the file; what a crash costs at most. Few, as
        /// a log on the same disk waits for them when it syncs.
        public static let unsyncedBytes = 1 << 20
    }

    static let version: UInt16 = 1
    static let magic: UInt64 = 0x0050_414E_5355_5041  // "APUSNAP\0"
    static let labelBytes = 2 * LogBytes.blockSize

    /// Where a snapshot of `group` is put together.
    static func partial(_ group: GroupID, in directory: String) -> String {
        "\(directory)/snapshot-\(group).partial"
    }

    /// The name of a snapshot that is complete.
    public static func path(_ header: SnapshotHeader, in directory: String) -> String {
        "\(directory)/snapshot-\(header.group)-\(header.index)"
    }

    /// What a label says.
    struct Label: Equatable {
        var header: SnapshotHeader
        /// Bytes from the start that are durable, and their CRC32C.
        var durable = 0
        var durableChecksum: UInt32 = 0
        /// The greater of two is the later.
        var count: UInt64 = 1

        private static let checkedBytes = 88

        /// Where the label goes in the file.
        var place: Int {
            LogBytes.padded(header.size) + (count % 2 == 0 ? LogBytes.blockSize : 0)
        }

        init(header: SnapshotHeader) { self.header = header }

        func write(into block: UnsafeMutableRawBufferPointer) {
            precondition(block.count >= LogBytes.blockSize, "a label fills a block")
            for index in 0..<LogBytes.blockSize { block[index] = 0 }
            block.put(magic, at: 0)
            block.put(version, at: 8)
            block.put(header.group.high, at: 16)
            block.put(header.group.low, at: 24)
            block.put(header.index, at: 32)
            block.put(header.term, at: 40)
            block.put(UInt64(header.size), at: 48)
            block.put(header.checksum, at: 56)
            block.put(UInt64(durable), at: 64)
            block.put(durableChecksum, at: 72)
            block.put(count, at: 80)
            let checked = UnsafeRawBufferPointer(
                rebasing: UnsafeRawBufferPointer(block)[..<Self.checkedBytes])
            block.put(CRC32C.of(checked), at: Self.checkedBytes)
        }

        /// nil if the block holds no label of this format.
        init?(reading block: UnsafeRawBufferPointer) {
            guard block.count >= LogBytes.blockSize, block.get(UInt64.self, at: 0) == magic,
                block.get(UInt16.self, at: 8) == version
            else { return nil }
            let checked = UnsafeRawBufferPointer(rebasing: block[..<Self.checkedBytes])
            guard CRC32C.of(checked) == block.get(UInt32.self, at: Self.checkedBytes),
                let size = Int(exactly: block.get(UInt64.self, at: 48)),
                let durable = Int(exactly: block.get(UInt64.self, at: 64)), durable <= size
            else { return nil }
            header = SnapshotHeader(
                group: GroupID(
                    high: block.get(UInt64.self, at: 16), low: block.get(UInt64.self, at: 24)),
                index: block.get(UInt64.self, at: 32), term: block.get(UInt64.self, at: 40),
                size: size, checksum: block.get(UInt32.self, at: 56))
            self.durable = durable
            durableChecksum = block.get(UInt32.self, at: 72)
            count = block.get(UInt64.self, at: 80)
        }
    }
}
