import MetadataStore
import RaftLog

public enum MetadataGroupLimits {
    /// Commands that wait to be written; more are refused with `overloaded`.
    public static let waitingCommands = 16_384
    /// Bytes of commands that wait to be written.
    public static let waitingBytes = 64 << 20
    /// Commands in one write of the log.
    public static let batchCommands = 4096
    /// Commands in one transaction.
    public static let transactionCommands = 4096
    /// Bytes of log since the last checkpoint of the tables that ask for the next one.
    public static let checkpointBytes = 32 << 20
}

public struct MetadataGroupOptions: Sendable {
    public var log: RaftLog.Options
    /// Bytes of log between checkpoints of the tables.
    public var checkpointBytes: Int
    /// Records kept in memory.
    public var cache = MetadataStore.Cache()

    public init(
        log: RaftLog.Options = .init(),
        checkpointBytes: Int = MetadataGroupLimits.checkpointBytes
    ) {
        self.log = log
        self.checkpointBytes = checkpointBytes
    }
}
