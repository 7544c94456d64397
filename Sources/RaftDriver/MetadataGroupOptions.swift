import MetadataStore
import Model
import Raft
import RaftLog

public enum MetadataGroupLimits {
    /// Bytes of the largest command.
    public static let commandBytes = 8 << 20
    /// Bytes of log since the last checkpoint of the tables that ask for the next one.
    public static let checkpointBytes = 32 << 20
    /// Entries that the log keeps behind a checkpoint for followers that are a little behind, so
    /// that they need no snapshot.
    public static let trailingEntries: LogIndex = 50_000
    /// Entries that the log keeps at most for members that are being given a snapshot.
    public static let heldEntries: LogIndex = 2_000_000
}

/// How a role's metadata is kept.
public struct MetadataGroupOptions: Sendable {
    public var log: SharedLog.Options
    /// Bytes of log between checkpoints of the tables.
    public var checkpointBytes: Int
    /// Bytes by which the database's own log grows before it wants a checkpoint as well.
    public var tablesLogBytes = MetadataStore.Limits.longLogBytes
    /// Entries that the log of a group of several keeps behind a checkpoint.
    public var trailingEntries = MetadataGroupLimits.trailingEntries
    /// Records kept in memory.
    public var cache = MetadataStore.Cache()
    /// Opens the tables at a path where they are not in a database: in machines that are simulated.
    public var openTables: (@Sendable (_ path: String) async throws(StoreError) -> any TableStore)?
    /// The group's name in its log.
    public var group = GroupID(high: 0, low: 1)
    /// This member.
    public var member = RaftMemberOptions(id: 1)
    /// The members that a new group begins with. Afterwards the log knows them.
    public var voters: [PeerID] = [1]
    /// Whose files the directory has; nil: nobody says so, and a log that is not there is made.
    var identity: MemberIdentity?

    public init(
        log: SharedLog.Options = .init(),
        checkpointBytes: Int = MetadataGroupLimits.checkpointBytes
    ) {
        self.log = log
        self.checkpointBytes = checkpointBytes
    }
}
