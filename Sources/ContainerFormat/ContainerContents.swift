/// What a container holds, as its journal tells it: the journal's records applied in order.
public struct ContainerContents: Sendable {
    /// A deleted block whose extents are perhaps not punched yet.
    public struct Deletion: Hashable, Sendable {
        public var length: Int
        public var extents: [Range<Int>]

        public init(length: Int, extents: [Range<Int>]) {
            self.length = length
            self.extents = extents
        }
    }

    /// What the record of closing said.
    public struct Closing: Hashable, Sendable {
        public var footerOffset: Int
        public var blockCount: Int
        public var usedBytes: Int
        public var generation: UInt64
    }

    /// Blocks of a container that is not closed. Those of a closed one are in its index.
    public private(set) var blocks: [UInt64: BlockEntry] = [:]
    /// All blocks deleted; an open container never takes them again.
    public private(set) var deleted: Set<UInt64> = []
    /// Those of `deleted` whose extents are to be punched.
    public private(set) var unpunched: [UInt64: Deletion] = [:]
    public private(set) var closing: Closing?
    public private(set) var isUnhealthy = false
    /// The order by which the replica is being rebuilt; nil: it is not.
    public private(set) var recovery: UInt64?
    /// Where the data file's cells end: the next one may begin here.
    public private(set) var tail = DataFile.start
    /// Bytes of the blocks that are not deleted.
    public private(set) var usedBytes = 0
    public private(set) var blockCount = 0

    public init() {}

    /// Applies one record. Throws if it does not fit those before it.
    public mutating func apply(_ record: JournalRecord) throws(FormatError) {
        switch record {
        case .cell(let cell, let checksums, let commit):
            try update(cell, checksums: checksums, commit)
            tail = max(tail, cell.extent.upperBound)
            usedBytes += cell.length
        case .commit(let commit): try update(nil, checksums: [], commit)
        case .deleted(let localID, let length, let extents):
            guard deleted.insert(localID).inserted else {
                throw .invalid("block \(localID) is deleted twice")
            }
            // One that is being rebuilt notes deletions of blocks that have not come to it yet.
            let wasThere = blocks.removeValue(forKey: localID) != nil || recovery == nil
            unpunched[localID] = Deletion(length: length, extents: extents)
            tail = extents.reduce(tail) { max($0, $1.upperBound) }
            usedBytes -= length
            if wasThere { blockCount -= 1 }
        case .reclaimed(let localID): unpunched[localID] = nil
        case .closed(let footerOffset, let count, let bytes, let generation):
            guard generation == 0 else {
                throw .unsupported("generation \(generation) of a compacted container")
            }
            guard closing == nil, blocks.isEmpty, recovery == nil else {
                throw .invalid(
                    "a journal closes a container that has blocks in it or is being rebuilt")
            }
            closing = Closing(
                footerOffset: footerOffset, blockCount: count, usedBytes: bytes,
                generation: generation)
            blockCount = count
            usedBytes = bytes
            tail = footerOffset + ContainerFooter.size
        case .unhealthy: isUnhealthy = true
        case .mark: break
        case .recovering(let token):
            guard self.isEmpty else {
                throw .invalid("a journal has 'recovering' behind other records")
            }
            recovery = token
        case .recovered, .staged, .adopt, .drop, .replaceTail:
            throw .unsupported("the journal's record \(record.name)")
        }
    }

    /// Whether no record has been applied yet that says something of blocks or of the whole.
    private var isEmpty: Bool {
        blocks.isEmpty && deleted.isEmpty && closing == nil && !isUnhealthy && recovery == nil
    }

    private mutating func update(
        _ cell: BlockEntry.Cell?, checksums: [UInt32], _ commit: JournalRecord.Commit
    ) throws(FormatError) {
        guard closing == nil else {
            throw .invalid("a journal writes block \(commit.localID) after the container closed")
        }
        guard !deleted.contains(commit.localID) else {
            throw .invalid("a journal writes block \(commit.localID) after it was deleted")
        }
        if blocks[commit.localID] == nil {
            blocks[commit.localID] = BlockEntry(localID: commit.localID)
            blockCount += 1
        }
        // In place, so that appending to a long block does not copy it.
        try blocks[commit.localID]!.apply(cell, checksums: checksums, commit)
    }
}
