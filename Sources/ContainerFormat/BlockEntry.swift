import Model

/// What a container knows of one block replica: its lengths, where its cells lie, and the CRC32C
/// of each 4 KiB of it.
public struct BlockEntry: Hashable, Sendable {
    /// A run of the block's bytes in the data file.
    public struct Cell: Hashable, Sendable {
        /// Where it begins in the block replica. A multiple of 4 KiB.
        public var offset: Int
        public var length: Int
        /// Where it begins in the data file. A multiple of 4 KiB.
        public var fileOffset: Int

        public init(offset: Int, length: Int, fileOffset: Int) {
            self.offset = offset
            self.length = length
            self.fileOffset = fileOffset
        }

        public var end: Int { offset + length }
        /// The bytes of the data file, rounded up to whole 4 KiB.
        public var extent: Range<Int> { fileOffset..<fileOffset + DataFile.aligned(length) }
    }

    public var localID: UInt64
    /// User bytes of the block group, as far as the writer has said.
    public var groupLength: Int
    /// Whether the writer has said that no more follows.
    public var isEnded: Bool
    /// In order of offset, without gaps. Only the last may end within a unit.
    public private(set) var cells: [Cell]
    /// One for each started 4 KiB of the block replica.
    public private(set) var checksums: [UInt32]

    /// A block without cells, as an empty data replica stays.
    public init(localID: UInt64, groupLength: Int = 0, isEnded: Bool = false) {
        self.localID = localID
        self.groupLength = groupLength
        self.isEnded = isEnded
        cells = []
        checksums = []
    }

    /// Bytes of the block replica.
    public var length: Int { cells.last?.end ?? 0 }

    /// Adds the next cell. Throws if it does not follow the last, or a checksum is missing.
    public mutating func append(_ cell: Cell, checksums sums: [UInt32]) throws(FormatError) {
        let unit = ReplicationConfig.checksumUnit
        guard cell.offset == length, cell.offset % unit == 0 else {
            throw .invalid(
                "block \(localID) has a cell at \(cell.offset) where \(length) is its length")
        }
        guard cell.length > 0, cell.length <= ReplicationConfig.blockSize,
            cell.fileOffset >= DataFile.start, cell.fileOffset % DataFile.alignment == 0
        else {
            throw .invalid(
                "block \(localID) has a cell of \(cell.length) bytes at \(cell.fileOffset)")
        }
        guard sums.count == (cell.length + unit - 1) / unit else {
            throw .invalid("block \(localID) has \(sums.count) checksums for \(cell.length) bytes")
        }
        cells.append(cell)
        checksums += sums
    }

    /// Applies what one record says of the block: a cell, if there is one, and the lengths. What a
    /// journal is replayed with at a start, and what a running container follows it with.
    ///
    /// Throws as `append` does; nothing is changed then.
    public mutating func apply(
        _ cell: Cell?, checksums: [UInt32], _ commit: JournalRecord.Commit
    ) throws(FormatError) {
        if let cell { try append(cell, checksums: checksums) }
        groupLength = commit.groupLength
        isEnded = commit.isEnded
    }

    /// The index of the cell that holds byte `offset`. Precondition: 0 ≤ offset < length.
    public func cellIndex(at offset: Int) -> Int {
        precondition(offset >= 0 && offset < length, "byte \(offset) of a block of \(length)")
        var low = 0
        var high = cells.count - 1
        while low < high {
            let middle = (low + high + 1) / 2
            if cells[middle].offset <= offset { low = middle } else { high = middle - 1 }
        }
        return low
    }

    /// The checksums of the cell with index `index`.
    public func checksums(ofCell index: Int) -> ArraySlice<UInt32> {
        let unit = ReplicationConfig.checksumUnit
        let cell = cells[index]
        return checksums[cell.offset / unit..<(cell.end + unit - 1) / unit]
    }

    /// The extents of the data file that the block occupies, neighbours joined.
    public var extents: [Range<Int>] {
        var result: [Range<Int>] = []
        for cell in cells {
            if let last = result.last, last.upperBound == cell.extent.lowerBound {
                result[result.count - 1] = last.lowerBound..<cell.extent.upperBound
            } else {
                result.append(cell.extent)
            }
        }
        return result
    }
}

/// Arithmetic of the data file.
public enum DataFile {
    /// Cells begin at multiples of this.
    public static let alignment = 4096
    /// Where the first cell may begin: after the header.
    public static let start = ContainerHeader.size

    /// `length` rounded up to whole blocks of 4 KiB.
    @inlinable
    public static func aligned(_ length: Int) -> Int { (length + 4095) & ~4095 }
}
