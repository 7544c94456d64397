/// A log in memory, for tests and simulation, with the same edges as one on disk.
///
/// Appending costs amortised O(entries appended), compacting amortised O(entries dropped). Not
/// for use from several threads.
public final class MemoryStorage: RaftStorage {
    private var hardState = HardState()
    private var latest = Snapshot()
    /// The compaction point: index and term of the last entry that is gone.
    private var offset: (index: LogIndex, term: Term) = (0, 0)
    private var log: [Entry] = []
    private var dead = 0

    /// An empty log, with members if given: as if a snapshot at 0 had named them.
    public init(confState: ConfState = ConfState()) {
        latest.metadata.confState = confState
    }

    /// The persisted state and the configuration of the latest snapshot.
    public func initialState() throws(StorageError) -> (HardState, ConfState) {
        (hardState, latest.metadata.confState)
    }

    /// See ``RaftStorage/entries(from:to:maxSize:)``.
    public func entries(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) throws(StorageError) -> [Entry] {
        precondition(lo <= hi, "entries \(lo)..<\(hi): the range is reversed")
        if lo <= offset.index { throw .compacted }
        if hi > lastIndex + 1 { throw .unavailable }
        if lo == hi { return [] }
        let start = dead + Int(lo - offset.index - 1)
        return log[start..<start + Int(hi - lo)].limited(to: maxSize)
    }

    /// See ``RaftStorage/term(of:)``.
    public func term(of index: LogIndex) throws(StorageError) -> Term {
        if index == offset.index { return offset.term }
        if index < offset.index { throw .compacted }
        if index > lastIndex { throw .unavailable }
        return log[dead + Int(index - offset.index - 1)].term
    }

    /// The first entry that was not compacted.
    public var firstIndex: LogIndex { offset.index + 1 }

    /// The last entry.
    public var lastIndex: LogIndex { offset.index + LogIndex(log.count - dead) }

    /// The latest snapshot, whatever `index` asks for, as far as one was made.
    public func snapshot(index: LogIndex, to peer: PeerID) throws(StorageError) -> Snapshot {
        if latest.metadata.index < index { throw .snapshotTemporarilyUnavailable }
        return latest
    }

    /// Sets term, vote and commit index.
    public func setHardState(_ state: HardState) { hardState = state }

    /// Appends entries; those in their way are replaced, those already compacted are left out.
    ///
    /// - Precondition: they join the log without a hole.
    public func append(_ entries: [Entry]) {
        guard let first = entries.first, let last = entries.last else { return }
        if last.index <= offset.index { return }
        let skip = first.index <= offset.index ? Int(offset.index + 1 - first.index) : 0
        let start = first.index + LogIndex(skip)
        precondition(
            start <= lastIndex + 1, "append at \(start) leaves a hole after \(lastIndex)")
        log.removeSubrange((dead + Int(start - offset.index - 1))...)
        log.append(contentsOf: entries[skip...])
    }

    /// Makes a snapshot as of `index`; without a configuration, that of the one before stays.
    ///
    /// - Throws: `snapshotOutOfDate` if a later one is there.
    @discardableResult
    public func createSnapshot(
        at index: LogIndex, confState: ConfState?, data: [UInt8] = []
    ) throws(StorageError) -> Snapshot {
        if index <= latest.metadata.index { throw .snapshotOutOfDate }
        let term = try term(of: index)
        latest.metadata.index = index
        latest.metadata.term = term
        if let confState { latest.metadata.confState = confState }
        latest.data = data
        return latest
    }

    /// Replaces everything by a snapshot.
    ///
    /// - Throws: `snapshotOutOfDate` if a later one is there.
    public func applySnapshot(_ snapshot: Snapshot) throws(StorageError) {
        if snapshot.metadata.index <= latest.metadata.index { throw .snapshotOutOfDate }
        latest = snapshot
        offset = (snapshot.metadata.index, snapshot.metadata.term)
        log = []
        dead = 0
    }

    /// Drops the entries up to `index`, that one included.
    ///
    /// - Throws: `compacted` if they are gone, `unavailable` if they never were.
    public func compact(to index: LogIndex) throws(StorageError) {
        if index <= offset.index { throw .compacted }
        let term = try term(of: index)
        dead += Int(index - offset.index)
        offset = (index, term)
        if dead > Limits.deadEntries, dead > log.count - dead {
            log.removeFirst(dead)
            dead = 0
        }
    }
}

extension ArraySlice<Entry> {
    /// As many as fit into `maxSize` bytes, at least one.
    func limited(to maxSize: Int) -> [Entry] {
        var size = 0
        var end = startIndex
        while end < endIndex {
            size += self[end].byteCount
            if size > maxSize, end > startIndex { break }
            end += 1
        }
        return Array(self[startIndex..<end])
    }
}
