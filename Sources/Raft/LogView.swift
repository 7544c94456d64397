/// The whole log as the core sees it: the storage with the unstable end over it, and how far it
/// is committed and applied.
///
/// Invariants: `applied <= applying <= committed <= lastIndex`.
struct LogView {
    /// Behind an existential, so that the core is one concrete type: it is asked only where
    /// nothing unstable answers.
    let storage: any RaftStorage
    /// The end that is not known to be durable.
    var unstable: UnstableLog
    /// The highest entry known to be on the media of a quorum.
    private(set) var committed: LogIndex
    /// The highest entry handed out to be applied.
    private(set) var applying: LogIndex
    /// The highest entry known to be applied.
    private(set) var applied: LogIndex
    /// Bytes of entries that may be handed out and not yet applied.
    let maxApplyingSize: Int
    private var applyingSize = 0
    private var isApplyingPaused = false
    /// Whether the entries to apply next are being fetched.
    var isFetching = false

    /// A log that begins at the storage's snapshot.
    init(storage: any RaftStorage, maxApplyingSize: Int) {
        self.storage = storage
        self.maxApplyingSize = max(maxApplyingSize, 1)
        unstable = UnstableLog(after: storage.lastIndex)
        committed = storage.firstIndex - 1
        applying = committed
        applied = committed
    }

    /// The first entry: the one after the snapshot.
    var firstIndex: LogIndex {
        if unstable.hasSnapshot { return (unstable.snapshot?.metadata.index ?? 0) + 1 }
        return storage.firstIndex
    }

    /// The last entry, or the snapshot's index.
    @inline(__always)
    var lastIndex: LogIndex { unstable.lastIndex ?? storage.lastIndex }

    /// The term of the last entry.
    var lastTerm: Term {
        guard let term = term(of: lastIndex) else {
            preconditionFailure("the storage does not know the term of its last entry")
        }
        return term
    }

    /// The term of an entry, from the one before the first on; nil outside.
    @inline(__always)
    func term(of index: LogIndex) -> Term? {
        if let term = unstable.term(of: index) { return term }
        if index + 1 < firstIndex || index > lastIndex { return nil }
        do {
            return try storage.term(of: index)
        } catch {
            precondition(
                error == .compacted || error == .unavailable,
                "the storage must know the terms of its entries")
            return nil
        }
    }

    /// Whether the entry is there with that term.
    func matches(_ index: LogIndex, term: Term) -> Bool { self.term(of: index) == term }

    /// Whether a log that ends there is at least as up-to-date as this one (Raft thesis, section
    /// 3.6.1).
    func isUpToDate(index: LogIndex, term: Term) -> Bool {
        let ours = lastTerm
        return term > ours || (term == ours && index >= lastIndex)
    }

    /// Entries from `lo` on, at least one if there is one, then as many as fit.
    func entries(from lo: LogIndex, maxSize: Int) throws(StorageError) -> [Entry] {
        let last = lastIndex
        return lo > last ? [] : try slice(lo, last + 1, maxSize: maxSize)
    }

    /// Entries `lo..<hi`, at least one, then as many as fit into `maxSize` bytes.
    func slice(_ lo: LogIndex, _ hi: LogIndex, maxSize: Int) throws(StorageError) -> [Entry] {
        if lo < firstIndex { throw .compacted }
        if lo >= hi { return [] }
        if lo >= unstable.offset { return unstable.slice(lo, hi).limited(to: maxSize) }
        let cut = min(hi, unstable.offset)
        var found = try storage.entries(from: lo, to: cut, maxSize: maxSize)
        // Fewer than asked for: the limit was reached, or only the first are in memory.
        if hi <= unstable.offset || found.count < Int(cut - lo) { return found }
        let size = found.reduce(0) { $0 + $1.byteCount }
        if size >= maxSize { return found }
        let rest = unstable.slice(unstable.offset, hi).limited(to: maxSize - size)
        if rest.count == 1, size + rest[0].byteCount > maxSize { return found }
        found.append(contentsOf: rest)
        return found
    }

    /// Where this log may end to match another, of which only one entry is known: the largest
    /// index up to `index` whose term is at most `term`, and that term, or 0 if it is unknown.
    func conflict(upTo index: LogIndex, term: Term) -> (index: LogIndex, term: Term) {
        var index = index
        while index > 0 {
            guard let ours = self.term(of: index) else { return (index, 0) }
            if ours <= term { return (index, ours) }
            index -= 1
        }
        return (0, 0)
    }

    /// A snapshot from which the log goes on.
    func snapshot(for peer: PeerID) throws(StorageError) -> Snapshot {
        if let snapshot = unstable.snapshot { return snapshot }
        return try storage.snapshot(index: firstIndex - 1, to: peer)
    }
}

extension LogView {
    /// Appends a leader's entries if `previous` matches (Raft thesis, figure 3.1, AppendEntries).
    ///
    /// - Returns: the last index that now matches the leader's; nil if the entry before does not.
    mutating func append(
        after previous: LogIndex, term: Term, _ entries: [Entry], committed leaderCommit: LogIndex
    ) -> LogIndex? {
        guard matches(previous, term: term) else { return nil }
        let last = previous + LogIndex(entries.count)
        if let new = entries.firstIndex(where: { !matches($0.index, term: $0.term) }) {
            precondition(
                entries[new].index > committed,
                "entry \(entries[new].index) conflicts with a committed one")
            unstable.truncateAndAppend(entries[new...])
        }
        commit(to: min(leaderCommit, last))
        return last
    }

    /// Appends entries that a leader made itself.
    mutating func append(_ entries: [Entry]) {
        guard let first = entries.first else { return }
        precondition(first.index > committed, "append at \(first.index), which is committed")
        unstable.truncateAndAppend(entries[...])
    }

    /// Raises the commit index.
    ///
    /// - Precondition: the entries are there.
    mutating func commit(to index: LogIndex) {
        if index <= committed { return }
        precondition(
            index <= lastIndex,
            "commit index \(index) lies beyond the log's end \(lastIndex): was the log lost?")
        committed = index
    }

    /// Restores the commit index of a restart.
    mutating func load(committed index: LogIndex) {
        precondition(
            index >= committed && index <= lastIndex,
            "the persisted commit index \(index) is not within \(committed)...\(lastIndex)")
        committed = index
    }

    /// Replaces everything by a snapshot.
    mutating func restore(_ snapshot: Snapshot) {
        committed = snapshot.metadata.index
        unstable.restore(snapshot)
    }

    /// Whether there is a snapshot that is not installed yet.
    var hasPendingSnapshot: Bool { unstable.hasSnapshot }

    private func maxAppliable(allowUnstable: Bool) -> LogIndex {
        allowUnstable ? committed : min(committed, unstable.offset - 1)
    }

    /// Whether there are entries to apply: committed, not handed out, and within the bound.
    /// Before a snapshot is installed there are none, so that the order of the two is plain.
    func hasNextCommitted(allowUnstable: Bool) -> Bool {
        !isApplyingPaused && !isFetching && !hasPendingSnapshot
            && applying < maxAppliable(allowUnstable: allowUnstable)
    }

    /// The entries to apply, as many as the bound allows.
    mutating func nextCommitted(allowUnstable: Bool) -> [Entry] {
        guard hasNextCommitted(allowUnstable: allowUnstable) else { return [] }
        do {
            return try slice(
                applying + 1, maxAppliable(allowUnstable: allowUnstable) + 1,
                maxSize: maxApplyingSize - applyingSize)
        } catch {
            precondition(
                error == .temporarilyUnavailable,
                "committed entries from \(applying + 1) on are not in the log: \(error)")
            isFetching = true
            return []
        }
    }

    /// Entries up to `index` of `size` bytes were handed out to be applied.
    mutating func acceptApplying(to index: LogIndex, size: Int, allowUnstable: Bool) {
        precondition(index <= committed, "entry \(index) was handed out and is not committed")
        applying = index
        applyingSize += size
        // Entries that did not come along had no room.
        isApplyingPaused =
            applyingSize >= maxApplyingSize || index < maxAppliable(allowUnstable: allowUnstable)
    }

    /// Entries up to `index` of `size` bytes are applied.
    mutating func applied(to index: LogIndex, size: Int) {
        precondition(
            index >= applied && index <= committed,
            "applied index \(index) is not within \(applied)...\(committed)")
        applied = index
        applying = max(applying, index)
        applyingSize = max(0, applyingSize - size)
        isApplyingPaused = applyingSize >= maxApplyingSize
    }
}

extension [Entry] {
    /// The bytes that count for the limits of messages.
    var totalSize: Int { reduce(0) { $0 + $1.byteCount } }

    /// The bytes of data alone, which count for the limit of what is uncommitted.
    var dataSize: Int { reduce(0) { $0 + $1.data.count } }
}
