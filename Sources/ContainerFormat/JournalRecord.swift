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

        func write(to writer: inout ByteWriter) {
            writer.append(localID)
            writer.append64(groupLength)
            writer.append(UInt8(isEnded ? 1 : 0))
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
    /// and bytes are those of the footer, so that opening a store need not read it. The generation
    /// names the data file.
    case closed(footerOffset: Int, blockCount: Int, usedBytes: Int, generation: UInt64 = 0)
    /// Damage was found in this replica.
    case unhealthy
    /// The journal was left in order: everything before it was acknowledged.
    case mark
    /// The replica is being rebuilt under `token`, and counts for nothing until it is closed, which
    /// writes a new journal. The first record, where it is there.
    case recovering(token: UInt64)
    /// Not written: the journal that says `closed` tells that the rebuilding is complete.
    case recovered(token: UInt64)
    /// Bytes lie durably in the data file, and belong to no block until they are adopted.
    case staged(Staged, checksums: [UInt32])
    /// The bytes staged under `token` are the next cell of a block, at `offset` of it.
    case adopt(token: UInt64, offset: Int, Commit)
    /// The bytes staged under `token` are not wanted; their extent may be punched.
    case drop(token: UInt64)
    /// As `cell`, in place of all bytes of the block from the cell's offset on, which is a multiple
    /// of 4 KiB within the block.
    case replaceTail(BlockEntry.Cell, checksums: [UInt32], Commit)

    /// Where bytes lie that were staged.
    public struct Staged: Hashable, Sendable {
        public var token: UInt64
        public var length: Int
        /// A multiple of 4 KiB.
        public var fileOffset: Int

        public init(token: UInt64, length: Int, fileOffset: Int) {
            self.token = token
            self.length = length
            self.fileOffset = fileOffset
        }
    }

    enum Kind: UInt8 {
        case cell = 1
        case commit = 2
        case deleted = 3
        case reclaimed = 4
        case closed = 5
        case unhealthy = 6
        case mark = 7
        case recovering = 8
        case recovered = 9
        case staged = 10
        case adopt = 11
        case drop = 12
        case replaceTail = 13

        /// The version of journals that has it first.
        var since: UInt32 { rawValue <= Kind.mark.rawValue ? 2 : 3 }
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
        case .recovering: .recovering
        case .recovered: .recovered
        case .staged: .staged
        case .adopt: .adopt
        case .drop: .drop
        case .replaceTail: .replaceTail
        }
    }

    /// What kind of record it is, as docs/internals/containers.md calls it.
    public var name: String { "\(kind)" }

    /// The bytes of the record in a journal of `version`.
    ///
    /// Precondition: that version has records of this kind.
    func body(version: UInt32) -> [UInt8] {
        precondition(kind.since <= version, "a journal of version \(version) has no \(kind)")
        var writer = ByteWriter()
        writer.append(kind.rawValue)
        switch self {
        case .cell(let cell, let checksums, let commit),
            .replaceTail(let cell, let checksums, let commit):
            commit.write(to: &writer)
            writer.append64(cell.offset)
            writer.append32(cell.length)
            writer.append64(cell.fileOffset)
            for checksum in checksums { writer.append(checksum) }
        case .commit(let commit): commit.write(to: &writer)
        case .deleted(let localID, let length, let extents):
            writer.append(localID)
            writer.append64(length)
            writer.append32(extents.count)
            for extent in extents {
                writer.append64(extent.lowerBound)
                writer.append64(extent.count)
            }
        case .reclaimed(let localID): writer.append(localID)
        case .closed(let footerOffset, let blockCount, let usedBytes, let generation):
            precondition(version >= 3 || generation == 0, "version 2 has no generations")
            writer.append64(footerOffset)
            writer.append64(blockCount)
            writer.append64(usedBytes)
            if version >= 3 { writer.append(generation) }
        case .unhealthy, .mark: break
        case .recovering(let token), .recovered(let token), .drop(let token): writer.append(token)
        case .staged(let staged, let checksums):
            writer.append(staged.token)
            writer.append32(staged.length)
            writer.append64(staged.fileOffset)
            for checksum in checksums { writer.append(checksum) }
        case .adopt(let token, let offset, let commit):
            writer.append(token)
            writer.append64(offset)
            commit.write(to: &writer)
        }
        return writer.bytes
    }

    /// Parses the body of a record of a journal of `version`.
    init(body: UnsafeRawBufferPointer, version: UInt32) throws(FormatError) {
        var reader = ByteReader(body, of: "journal record")
        let number = try reader.read(UInt8.self)
        guard let kind = Kind(rawValue: number), kind.since <= version else {
            throw .unknownRecord(kind: number)
        }
        switch kind {
        case .cell:
            let (cell, checksums, commit) = try Self.cell(from: &reader)
            self = .cell(cell, checksums: checksums, commit)
        case .replaceTail:
            let (cell, checksums, commit) = try Self.cell(from: &reader)
            self = .replaceTail(cell, checksums: checksums, commit)
        case .commit: self = .commit(try Self.commit(from: &reader))
        case .deleted: self = try Self.deleted(from: &reader)
        case .reclaimed: self = .reclaimed(localID: try reader.read(UInt64.self))
        case .closed:
            self = .closed(
                footerOffset: try reader.read64(), blockCount: try reader.read64(),
                usedBytes: try reader.read64(),
                generation: version >= 3 ? try reader.read(UInt64.self) : 0)
        case .unhealthy: self = .unhealthy
        case .mark: self = .mark
        case .recovering: self = .recovering(token: try reader.read(UInt64.self))
        case .recovered: self = .recovered(token: try reader.read(UInt64.self))
        case .staged: self = try Self.staged(from: &reader)
        case .adopt:
            self = .adopt(
                token: try reader.read(UInt64.self), offset: try reader.read64(),
                try Self.commit(from: &reader))
        case .drop: self = .drop(token: try reader.read(UInt64.self))
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

    private static func staged(from reader: inout ByteReader) throws(FormatError) -> Self {
        let staged = Staged(
            token: try reader.read(UInt64.self), length: try reader.read32(),
            fileOffset: try reader.read64())
        guard staged.length > 0, staged.fileOffset % DataFile.alignment == 0 else {
            throw .invalid("\(staged.length) bytes are staged at \(staged.fileOffset)")
        }
        return .staged(
            staged, checksums: try reader.readChecksums(CRC32C.unitCount(staged.length)))
    }

    private static func cell(
        from reader: inout ByteReader
    ) throws(FormatError) -> (BlockEntry.Cell, [UInt32], Commit) {
        let commit = try commit(from: &reader)
        let cell = BlockEntry.Cell(
            offset: try reader.read64(), length: try reader.read32(),
            fileOffset: try reader.read64())
        let sums = try reader.readChecksums(CRC32C.unitCount(cell.length))
        return (cell, sums, commit)
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
