/// The end of the log that is not known to be on the medium, and a snapshot likewise.
///
/// Entries before `offsetInProgress` were handed out to be written; those from `offset` on are
/// kept until that is confirmed, so that the log reads the same meanwhile. `offset` may lie
/// before the storage's last index: what is here then replaces what is there.
///
/// Appending is amortised O(1) an entry, and so is dropping from the front, which moves entries
/// only when more are dead than alive.
struct UnstableLog {
    private var entries: [Entry] = []
    /// Entries of `entries` in front that are confirmed and gone.
    private var dead = 0
    /// The index of the first entry.
    private(set) var offset: LogIndex
    /// The index after the last entry that was handed out.
    private(set) var offsetInProgress: LogIndex
    /// A snapshot to install, until it is confirmed.
    private(set) var snapshot: Snapshot? { didSet { hasSnapshot = snapshot != nil } }
    /// Whether there is one, which is asked more often than what it is.
    private(set) var hasSnapshot = false
    private var isSnapshotInProgress = false

    /// An empty one after the storage's last index.
    init(after lastIndex: LogIndex) {
        offset = lastIndex + 1
        offsetInProgress = offset
    }

    /// The number of entries.
    var count: Int { entries.count - dead }

    /// The last index, if anything is here to say.
    @inline(__always)
    var lastIndex: LogIndex? {
        if count > 0 { return offset + LogIndex(count) - 1 }
        return !hasSnapshot ? nil : snapshot?.metadata.index
    }

    /// The term of an entry or of the snapshot's last one, if it is here.
    @inline(__always)
    func term(of index: LogIndex) -> Term? {
        if index < offset {
            guard hasSnapshot, let metadata = snapshot?.metadata, metadata.index == index else {
                return nil
            }
            return metadata.term
        }
        let place = Int(index - offset)
        return place < count ? entries[dead + place].term : nil
    }

    /// Whether there are entries that were not handed out.
    var hasNextEntries: Bool { Int(offsetInProgress - offset) < count }

    /// The entries that were not handed out.
    var nextEntries: [Entry] {
        let first = dead + Int(offsetInProgress - offset)
        if first == 0 { return entries }
        return first < entries.count ? Array(entries[first...]) : []
    }

    /// Whether there is a snapshot that was not handed out.
    var hasNextSnapshot: Bool { hasSnapshot && !isSnapshotInProgress }

    /// Marks everything as handed out.
    mutating func accept() {
        offsetInProgress = max(offsetInProgress, offset + LogIndex(count))
        if hasSnapshot { isSnapshotInProgress = true }
    }

    /// Entries `lo..<hi`, which must be here.
    func slice(_ lo: LogIndex, _ hi: LogIndex) -> ArraySlice<Entry> {
        precondition(
            lo >= offset && lo <= hi && hi <= offset + LogIndex(count),
            "unstable entries \(lo)..<\(hi) are not among \(offset)..<\(offset + LogIndex(count))")
        let start = dead + Int(lo - offset)
        return entries[start..<start + Int(hi - lo)]
    }

    /// Entries up to `index` are on the medium, and nothing under way will overwrite them.
    ///
    /// - Returns: false if that entry is not here or another one is, which is so when the log
    ///   was replaced while it was written.
    @discardableResult
    mutating func stable(to index: LogIndex, term: Term) -> Bool {
        guard index >= offset, self.term(of: index) == term else { return false }
        let dropped = Int(index + 1 - offset)
        offset = index + 1
        offsetInProgress = max(offsetInProgress, offset)
        dead += dropped
        if dead == entries.count {
            entries.removeAll(keepingCapacity: entries.count <= Limits.deadEntries)
            dead = 0
        } else if dead > Limits.deadEntries, dead > count {
            entries.removeFirst(dead)
            dead = 0
        }
        return true
    }

    /// The snapshot at `index` is on the medium.
    mutating func stableSnapshot(at index: LogIndex) {
        guard snapshot?.metadata.index == index else { return }
        snapshot = nil
        isSnapshotInProgress = false
    }

    /// Replaces everything by a snapshot.
    mutating func restore(_ new: Snapshot) {
        offset = new.metadata.index + 1
        offsetInProgress = offset
        entries = []
        dead = 0
        snapshot = new
        isSnapshotInProgress = false
    }

    /// Appends entries and drops those in their way.
    ///
    /// - Precondition: they leave no hole.
    mutating func truncateAndAppend(_ new: ArraySlice<Entry>) {
        guard let first = new.first?.index else { return }
        let end = offset + LogIndex(count)
        precondition(first <= end, "append at \(first) leaves a hole after \(end - 1)")
        if first < end {
            if first <= offset {
                entries = []
                dead = 0
                offset = first
            } else {
                entries.removeSubrange((dead + Int(first - offset))...)
            }
            offsetInProgress = min(offsetInProgress, first)
        }
        offsetInProgress = max(offsetInProgress, offset)
        entries.append(contentsOf: new)
    }
}
