import Model
import Raft
import Synchronization

/// One group's part of a log that many share.
///
/// What the core reads here (`RaftStorage`) is what is durable: entries are seen once the
/// `append` that brought them has returned, and not before. The core keeps what is on its way
/// itself, so it never counts its own vote for an entry that a crash could still take.
///
/// Thread-safe: reads take the group's lock for a few instructions; writes may be called from
/// anywhere. Writes of one caller keep their order, also when it does not wait for the first
/// before it begins the second.
public final class GroupLog: RaftStorage, Sendable {
    /// The group's name.
    public let id: GroupID
    /// Begins the checksums of its entries.
    let seed: UInt32
    let log: SharedLog
    let state: Mutex<GroupState>

    init(_ id: GroupID, in log: SharedLog, _ state: consuming sending GroupState) {
        self.id = id
        self.log = log
        seed = LogBytes.seed(id)
        self.state = Mutex(state)
    }

    // MARK: What the core reads

    /// Term, vote and commit index, and the latest members that `confState` names.
    public func initialState() throws(StorageError) -> (HardState, ConfState) {
        state.withLock { ($0.anchor.hardState, $0.anchor.confState) }
    }

    /// Entries that are in memory; see `RaftStorage`.
    ///
    /// Gives fewer than `maxSize` would allow when only those are in memory; never none, unless
    /// `lo` is `hi`.
    public func entries(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) throws(StorageError) -> [Entry] {
        precondition(lo <= hi, "entries \(lo)..<\(hi): the range is reversed")
        return try state.withLock { state throws(StorageError) in
            if lo < state.first { throw .compacted }
            if hi > state.last + 1 { throw .unavailable }
            if lo == hi { return [] }
            let found = state.cache.entries(from: lo, to: hi, maxSize: maxSize)
            if found.isEmpty { throw .temporarilyUnavailable }
            return found
        }
    }

    /// Always known, from the compaction point to the last entry.
    public func term(of index: LogIndex) throws(StorageError) -> Term {
        try state.withLock { state throws(StorageError) in
            if index < state.anchor.base { throw .compacted }
            if index > state.last { throw .unavailable }
            return state.term(of: index)
        }
    }

    /// Index of the first entry that is kept.
    public var firstIndex: LogIndex { state.withLock { $0.first } }
    /// Index of the last durable entry; one less than `firstIndex` if there is none.
    public var lastIndex: LogIndex { state.withLock { $0.last } }

    /// The snapshot that `offer` was last given, if it is at `index` or later.
    ///
    /// - Throws: `snapshotTemporarilyUnavailable` otherwise; `wantedSnapshot` then says so.
    public func snapshot(index: LogIndex, to peer: PeerID) throws(StorageError) -> Snapshot {
        try state.withLock { state throws(StorageError) in
            if let offered = state.offered, offered.metadata.index >= index { return offered }
            state.wantedSnapshot = max(state.wantedSnapshot ?? 0, index)
            throw .snapshotTemporarilyUnavailable
        }
    }

    // MARK: Beside the core

    /// The latest members, and the entry after which they are right. Committed changes at or
    /// before that entry are in it already.
    public var confState: (ConfState, index: LogIndex) {
        state.withLock { ($0.anchor.confState, $0.anchor.confIndex) }
    }

    /// Names a snapshot that followers may be given from now on; nil for none. Not durable: the
    /// state machine has the snapshot, and offers it again after a restart.
    public func offer(_ snapshot: Snapshot?) {
        state.withLock { state in
            state.offered = snapshot
            if let snapshot, let wanted = state.wantedSnapshot,
                snapshot.metadata.index >= wanted
            {
                state.wantedSnapshot = nil
            }
        }
    }

    /// Entries after `index` are wanted by whoever gets a snapshot of it: a compaction should leave
    /// them. nil if nobody does. Not durable.
    public func hold(after index: LogIndex?) { state.withLock { $0.held = index } }

    /// What `hold` was last given.
    public var held: LogIndex? { state.withLock { $0.held } }

    /// The index at or after which a snapshot was asked for in vain; nil if none was.
    public var wantedSnapshot: LogIndex? { state.withLock { $0.wantedSnapshot } }

    // MARK: Writes

    /// Makes `entries`, `hardState` and the place of an installed `snapshot` durable, all that
    /// are given, and returns when they are.
    ///
    /// A snapshot takes the place of the whole log; entries may follow it. Entries replace what
    /// is at and after their first index (Raft thesis, section 3.5); those at or before the
    /// compaction point are left out. Whatever is given lies in one batch, so that a crash leaves
    /// all or nothing, unless it is larger than a batch: then a crash may leave the term and vote
    /// with the first of the entries.
    ///
    /// - Throws: `noSpace` if there is no room: nothing of the log is damaged, and the same call
    ///   may be repeated. `invalidArgument` for an entry beyond `maximumEntrySize`,
    ///   `preconditionFailed` for entries that leave a hole, as after a refused call,
    ///   `overloaded` if too much waits, `notReady` once log or group is gone. After `io` every
    ///   call of all groups fails until the log is opened again.
    /// - Precondition: indexes without gaps; term and vote do not go back; what is committed is
    ///   not replaced.
    public nonisolated(nonsending) func append(
        entries: [Entry], hardState: HardState? = nil, snapshot: SnapshotMetadata? = nil
    ) async throws(StoreError) {
        if entries.isEmpty, hardState == nil, snapshot == nil { return }
        var bytes = 0
        var largest = 0
        for place in entries.indices {
            let count = entries[place].data.count
            bytes += count
            largest = max(largest, count)
            precondition(
                entries[place].index == entries[0].index + UInt64(place), "entries with a gap")
        }
        guard largest <= log.options.maximumEntrySize else {
            throw StoreError(
                .invalidArgument,
                "an entry of \(largest) bytes is too large for the log: at most "
                    + "\(log.options.maximumEntrySize)")
        }
        if let snapshot {
            try log.check(snapshot.confState)
            try await log.submit(
                .install(snapshot, entries: entries, hardState: hardState), of: self, bytes: bytes)
        } else {
            try await log.submit(
                .append(entries: entries, hardState: hardState), of: self, bytes: bytes)
        }
    }

    /// Drops all entries up to `index`, that one included: the state machine has made what they
    /// did durable itself, so they are committed, and are noted as such. Durable when it returns.
    ///
    /// `confState` is the members as of `index`, if the caller knows better than the log.
    /// Nothing happens if they are gone already.
    ///
    /// - Throws: `preconditionFailed` if `index` is beyond the last entry; `noSpace`, `io`, `notReady`.
    public nonisolated(nonsending) func compact(
        through index: LogIndex, confState: ConfState? = nil
    ) async throws(StoreError) {
        if let confState { try log.check(confState) }
        try await log.submit(.anchor(.compact(index, confState)), of: self)
    }

    /// Makes the members durable that hold after the entry `index` was applied. Older ones than
    /// those that are known are ignored.
    public nonisolated(nonsending) func setConfState(
        _ confState: ConfState, at index: LogIndex
    ) async throws(StoreError) {
        try log.check(confState)
        try await log.submit(.anchor(.members(confState, index)), of: self)
    }

    /// Brings entries that are only on disk into memory: from `lo` on, before `hi`, at most
    /// `maxSize` bytes but at least one. `entries` then gives them, unless something else is
    /// fetched in between for which they had to make room.
    ///
    /// - Throws: `preconditionFailed` if they are not in the log (any more), `corrupt` with file,
    ///   byte and group if they cannot be read.
    public func fetch(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) async throws(StoreError) {
        try await log.fetch(self, from: lo, to: hi, maxSize: maxSize)
    }
}
