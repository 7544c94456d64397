/// Why a step or a proposal was refused. But for `lostEntries`, the group goes on as
/// if nothing had come.
public enum RaftError: Error, Equatable, Sendable {
    /// There is no leader, this member is none of the group, leadership is being transferred,
    /// or the uncommitted entries have reached their limit: propose again later.
    case proposalDropped
    /// The message is one that only the core or its driver may step, and it came from a peer.
    case stepLocal
    /// An answer came from someone who is not a member.
    case stepPeerNotFound
    /// No leader is known that could say a read index, or too many reads wait.
    case readDropped
    /// A leader says that more is committed than this member's log holds: entries that it once
    /// acknowledged are gone from its medium. It must not go on under this name.
    case lostEntries(committed: LogIndex, last: LogIndex)
    /// The entries of an append do not follow one another from the index it names, or their terms
    /// go back or beyond the leader's.
    case malformedAppend
    /// A term or an index is beyond ``Limits/largestNumber``: no member can have come so far.
    case outOfRange
    /// A configuration change's bytes are not to be read.
    case malformedConfChange(ConfChangeError)
}

/// Why ``RaftStorage`` has no answer.
public enum StorageError: Error, Equatable, Sendable {
    /// The entry was compacted into the snapshot.
    case compacted
    /// The entry is beyond the log's end.
    case unavailable
    /// The snapshot is older than the one that is there.
    case snapshotOutOfDate
    /// The snapshot is being made: ask again later.
    case snapshotTemporarilyUnavailable
    /// The entries are on disk and being fetched; the driver calls
    /// ``RawNode/entriesFetched(for:)`` when they are there.
    case temporarilyUnavailable
}

/// Why a member cannot start. Nothing was written.
public enum RaftStartError: Error, Equatable, Sendable {
    /// A setting cannot be.
    case configuration(ConfigurationError)
    /// The storage does not know its state.
    case storage(StorageError)
    /// The persisted members are no configuration.
    case members(ConfChangeRefusal)
    /// Committed entries are gone from the log: it was damaged or cut.
    case lostEntries(committed: LogIndex, last: LogIndex)
    /// The state machine is ahead of the log: they do not belong together, or the log lost its
    /// end.
    case appliedBeyondLog(applied: LogIndex, last: LogIndex)
}
