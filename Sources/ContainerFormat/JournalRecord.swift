import Checksum
import Model

/// One change of a container replica, as its journal tells it.
public enum JournalRecord: Hashable, Sendable {
    /// What the writer said about a block group along with a cell, or instead of one.
    public struct Commit: Hashable, Sendable {
        public var localID: UInt64
        public var groupLength: Int
        public var isEnded: Bool

        public init(localID: UInt64, groupLength: Int, isEnded: Bool) {
            self.localID = localID
            self.groupLength = groupLength
            self.isEnded = isEnded
        }
    }

    /// A cell lies durably in the data file.
    case cell(BlockEntry.Cell, checksums: [UInt32], Commit)
    /// Lengths without bytes; the first sight of an empty data replica.
    case commit(Commit)
    /// The block, of `length` bytes, is gone; its extents may be punched.
    case deleted(localID: UInt64, length: Int, extents: [Range<Int>])
    /// The extents of a deleted block have been punched.
    case reclaimed(localID: UInt64)
    /// The data file is complete, its footer at this offset, and does not change any more. Count
    /// and bytes are those of the footer, so that opening a store need not read it.
    case closed(footerOffset: Int, blockCount: Int, usedBytes: Int)
    /// Damage was found in this replica.
    case unhealthy
    /// The journal was left in order: everything before it was acknowledged.
    case mark

    enum Kind: UInt8 {
        case cell = 1
        case commit = 2
        case deleted = 3
        case reclaimed = 4
        case closed = 5
        case unhealthy = 6
        case mark = 7
    }

    private var kind: Kind {
        switch self {
        case .cell: .cell
        case .commit: .commit
        case .deleted: .deleted
        case .reclaimed: .reclaimed
        case .closed: .closed
        case .unhealthy: .unhealthy
        case .mark: .mark
        }
    }

    var body: [UInt8] {
        var writer = ByteWriter()
        writer.append(kind.rawValue)
        switch self {
        case .cell(let cell, let checksums, let commit):
            writer.append(commit.localID)
            writer.append64(commit.groupLength)
            writer.append(UInt8(commit.isEnded ? 1 : 0))
            writer.append64(cell.offset)
            writer.append32(cell.length)
            writer.append64(cell.fileOffset)
            for checksum in checksums { writer.append(checksum) }
        case .commit(let commit):
            writer.append(commit.localID)
            writer.append64(commit.groupLength)
            writer.append(UInt8(commit.isEnded ? 1 : 0))
        case .deleted(let localID, let length, let extents):
            writer.append(localID)
            writer.append64(length)
            writer.append32(extents.count)
            for extent in extents {
                writer.append64(extent.lowerBound)
                writer.append64(extent.count)
            }
        case .reclaimed(let localID): writer.append(localID)
        case .closed(let footerOffset, let blockCount, let usedBytes):
            writer.append64(footerOffset)
            writer.append64(blockCount)
            writer.append64(usedBytes)
        case .unhealthy, .mark: break
        }
        return writer.bytes
    }

    init(body: UnsafeRawBufferPointer) throws(FormatError) {
        var reader = ByteReader(body, of: "journal record")
        let number = try reader.read(UInt8.self)
        guard let kind = Kind(rawValue: number) else { throw .unknownRecord(kind: number) }
        switch kind {
        case .cell: self = try Self.cell(from: &reader)
        case .commit: self = .commit(try Self.commit(from: &reader))
        case .deleted: self = try Self.deleted(from: &reader)
        case .reclaimed: self = .reclaimed(localID: try reader.read(UInt64.self))
        case .closed:
            self = .closed(
                footerOffset: try reader.read64(), blockCount: try reader.read64(),
                usedBytes: try reader.read64())
        case .unhealthy: self = .unhealthy
        case .mark: self = .mark
        }
        guard reader.remaining == 0 else {
            throw .invalid("a journal record has \(reader.remaining) bytes too many")
        }
    }

    private static func commit(from reader: inout ByteReader) throws(FormatError) -> Commit {
        Commit(
            localID: try reader.read(UInt64.self), groupLength: try reader.read64(),
            isEnded: try flag(from: &reader))
    }

    private static func cell(from reader: inout ByteReader) throws(FormatError) -> Self {
        let commit = try commit(from: &reader)
        let cell = BlockEntry.Cell(
            offset: try reader.read64(), length: try reader.read32(),
            fileOffset: try reader.read64())
        let sums = try reader.readChecksums(CRC32C.unitCount(cell.length))
        return .cell(cell, checksums: sums, commit)
    }

    private static func deleted(from reader: inout ByteReader) throws(FormatError) -> Self {
        let localID = try reader.read(UInt64.self)
        let length = try reader.read64()
        let count = try reader.read32()
        guard count <= reader.remaining / 16 else { throw .truncated("journal record") }
        var extents: [Range<Int>] = []
        extents.reserveCapacity(count)
        for _ in 0..<count {
            let start = try reader.read64()
            let length = try reader.read64()
            guard start % DataFile.alignment == 0, length % DataFile.alignment == 0 else {
                throw .invalid("a deleted block has the extent \(start), \(length) bytes")
            }
            extents.append(start..<start + length)
        }
        return .deleted(localID: localID, length: length, extents: extents)
    }

    private static func flag(from reader: inout ByteReader) throws(FormatError) -> Bool {
        let value = try reader.read(UInt8.self)
        guard value <= 1 else { throw .invalid("a journal record has the flag \(value)") }
        return value == 1
    }
}
