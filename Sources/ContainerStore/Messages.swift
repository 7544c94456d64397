import Bytes
import Model

/// One cell to be appended to a block replica, or only what is to be known of its group.
public struct CellAppend: Sendable {
    public var block: BlockID
    /// Which replica it belongs to: one that has another index refuses it.
    public var replicaIndex: Int
    /// How the block's group is laid out: a container of another replication refuses it.
    public var replication: ReplicationConfig
    /// Where the cell begins in the block replica: its length so far.
    public var offset: Int
    /// May be empty: then only group length and end are noted.
    public var payload: Payload
    /// CRC32C of each 4 KiB of the cell, the last of which may be short.
    public var checksums: [UInt32]
    /// User bytes of the block group that this cell's stripe completes.
    public var groupLength: Int
    /// No more follows.
    public var endOfBlock: Bool

    public init(
        block: BlockID, replicaIndex: Int, replication: ReplicationConfig, offset: Int,
        payload: Payload, checksums: [UInt32], groupLength: Int, endOfBlock: Bool
    ) {
        self.block = block
        self.replicaIndex = replicaIndex
        self.replication = replication
        self.offset = offset
        self.payload = payload
        self.checksums = checksums
        self.groupLength = groupLength
        self.endOfBlock = endOfBlock
    }
}

/// Bytes of a block replica, verified.
public struct BlockRead: Sendable {
    /// The bytes of `range`, contiguous.
    public var payload: Payload
    /// What was asked for, rounded out to 4 KiB units and cut at the block's end.
    public var range: Range<Int>
    /// CRC32C of each unit of `range`.
    public var checksums: [UInt32]
}

/// What a store knows of a block replica.
public struct BlockRecord: Hashable, Sendable {
    public var id: BlockID
    /// Durable bytes of this replica.
    public var length: Int
    /// User bytes of the block group, as far as the writer has said.
    public var groupLength: Int
    public var isEnded: Bool

    public init(id: BlockID, length: Int, groupLength: Int, isEnded: Bool) {
        self.id = id
        self.length = length
        self.groupLength = groupLength
        self.isEnded = isEnded
    }
}

/// One container replica, for the report to SCM.
public struct ContainerReport: Hashable, Sendable {
    public enum State: String, Hashable, Sendable {
        /// Takes appends.
        case open
        /// Takes no more; its index is not written yet.
        case closing
        case closed
        /// Damage was found. Reads may fail; nothing is appended.
        case unhealthy
        /// It cannot be had: its volume was taken out, or it could not be opened.
        case lost
        /// It is being rebuilt from others, and counts for nothing.
        case recovering
    }

    public var id: ContainerID
    /// Nil if it could not be opened.
    public var replication: ReplicationConfig?
    /// 0 if it could not be opened.
    public var replicaIndex: Int
    public var state: State
    /// Bytes of the blocks, without padding.
    public var usedBytes: Int
    public var blockCount: Int
    /// Of one that is being rebuilt: the order; else 0.
    public var recovery: UInt64 = 0
    /// Its volume is to be taken out of use.
    public var isLeaving = false

    /// A replica whose files are there but could not be opened.
    static func unusable(_ id: ContainerID) -> Self {
        Self(
            id: id, replication: nil, replicaIndex: 0, state: .lost, usedBytes: 0, blockCount: 0)
    }
}

/// One volume, for the report to SCM and for people.
public struct VolumeReport: Hashable, Sendable {
    public var path: String
    public var capacity: Int
    /// Bytes that the store's files take.
    public var used: Int
    /// Bytes that may still be written.
    public var available: Int
    public var isFailed: Bool
    /// There is no room for a new container.
    public var isFull: Bool
    /// Why the volume was taken out, or nil.
    public var reason: String?
    /// Container replicas that could not be opened, and why.
    public var problems: [String]
    /// Nothing new is put on it, and what it has is to be elsewhere.
    public var isLeaving = false
    /// Container replicas on it.
    public var containers = 0
    /// How the disk has done in the last seconds.
    public var recent = RecentDisk()
}

/// Counters since the store was opened.
public struct StoreStatistics: Hashable, Sendable {
    /// Rounds of the committers.
    public var commits = 0
    /// Appends and deletions that these rounds answered.
    public var writers = 0
    public var dataSyncs = 0
    public var journalSyncs = 0
    public var bytesAppended = 0
    public var bytesRead = 0

    /// Writers answered per round of syncs.
    public var writersPerCommit: Double { commits == 0 ? 0 : Double(writers) / Double(commits) }

    static func + (a: Self, b: Self) -> Self {
        Self(
            commits: a.commits + b.commits, writers: a.writers + b.writers,
            dataSyncs: a.dataSyncs + b.dataSyncs, journalSyncs: a.journalSyncs + b.journalSyncs,
            bytesAppended: a.bytesAppended + b.bytesAppended,
            bytesRead: a.bytesRead + b.bytesRead)
    }
}
