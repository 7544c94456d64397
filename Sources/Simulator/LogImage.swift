import Raft

/// What one call to the log asks it to keep: a batch that recovery finds whole or not at all.
struct LogWrite {
    var entries: [Entry] = []
    var hardState: HardState?
    /// A snapshot that a leader sent: it replaces the log.
    var snapshot: Snapshot?
    /// Drops entries up to this one: the application's own checkpoint holds them.
    var compaction: LogIndex?
    /// What goes out once it is durable, of an asynchronous node.
    var responses: [Message] = []
    /// Whether a synchronous node's Ready ends with it.
    var endsReady = false
    /// Whether somebody waits until it is durable.
    var needsSync = false

    /// Bytes it takes on disk.
    var byteCount: Int {
        var count = 48
        for entry in entries { count += entry.byteCount }
        if let snapshot { count += snapshot.data.count + 64 }
        return count
    }
}

/// The contents of a node's log at some moment: either as written, or as the medium has it.
struct LogImage {
    var hardState = HardState()
    /// The last entry that is compacted away, or the installed snapshot's.
    private(set) var base: (index: LogIndex, term: Term) = (0, 0)
    /// The entries after the base.
    private(set) var entries: [Entry] = []
    /// The snapshot installed last.
    private(set) var snapshot: Snapshot?

    var firstIndex: LogIndex { base.index + 1 }
    var lastIndex: LogIndex { base.index + LogIndex(entries.count) }

    /// A log that begins after a snapshot.
    init(snapshot: Snapshot? = nil, hardState: HardState = HardState()) {
        self.hardState = hardState
        guard let snapshot else { return }
        self.snapshot = snapshot
        base = (snapshot.metadata.index, snapshot.metadata.term)
    }

    /// The term of an entry that is there, or of the base; nil of all others.
    func term(of index: LogIndex) -> Term? {
        if index == base.index { return base.term }
        guard index > base.index, index <= lastIndex else { return nil }
        return entries[Int(index - base.index - 1)].term
    }

    /// The entries from `lo` up to, not including, `hi`; all must be there.
    func entries(from lo: LogIndex, to hi: LogIndex) -> ArraySlice<Entry> {
        entries[Int(lo - base.index - 1)..<Int(hi - base.index - 1)]
    }

    /// Carries out a batch. False if its entries would leave a hole; these are then left out.
    @discardableResult
    mutating func apply(_ write: LogWrite) -> Bool {
        if let state = write.hardState { hardState = state }
        if let new = write.snapshot {
            snapshot = new
            base = (new.metadata.index, new.metadata.term)
            entries = []
        }
        let isWhole = append(write.entries[...])
        if let compaction = write.compaction { compact(through: compaction) }
        return isWhole
    }

    private mutating func append(_ new: ArraySlice<Entry>) -> Bool {
        let new = new.drop { $0.index <= base.index }
        guard let first = new.first else { return true }
        guard first.index <= lastIndex + 1 else { return false }
        let kept = Int(first.index - base.index - 1)
        if kept < entries.count { entries.removeSubrange(kept...) }
        entries.append(contentsOf: new)
        return true
    }

    private mutating func compact(through index: LogIndex) {
        guard index > base.index, let term = term(of: index) else { return }
        entries.removeFirst(Int(index - base.index))
        base = (index, term)
    }
}
