import DequeModule
import Raft

/// The entries of a group that are in memory: the newest, and runs that were fetched.
///
/// Counts its bytes; whoever owns it keeps the sum over all groups within a limit by `shrink`.
struct EntryCache {
    enum Limits {
        /// Runs fetched for different readers (followers that are behind, the state machine)
        /// that are kept beside each other.
        static let runs = 4
        /// Bytes that an entry in memory takes beside its data.
        static let entryOverhead = 64
    }

    /// The newest entries of the group, up to its last.
    private(set) var newest: Deque<Entry> = []
    /// Entries in order without gaps; the latest fetched is last.
    private(set) var runs: [[Entry]] = []
    private(set) var bytes = 0

    private static func size(_ entry: Entry) -> Int { entry.data.count + Limits.entryOverhead }

    private static func size(_ entries: some Sequence<Entry>) -> Int {
        entries.reduce(0) { $0 + size($1) }
    }

    mutating func append(_ entries: ArraySlice<Entry>) {
        newest.append(contentsOf: entries)
        bytes += Self.size(entries)
    }

    /// Takes entries that were read from disk.
    mutating func insert(run: [Entry]) {
        guard let first = run.first, let last = run.last else { return }
        // A run that the new one covers is of no more use.
        for place in runs.indices.reversed() {
            let old = runs[place]
            guard old[0].index >= first.index, old[old.count - 1].index <= last.index else {
                continue
            }
            bytes -= Self.size(old)
            runs.remove(at: place)
        }
        if runs.count == Limits.runs { bytes -= Self.size(runs.removeFirst()) }
        runs.append(run)
        bytes += Self.size(run)
    }

    /// The entries from `lo` to `hi` (exclusive) as far as they are here without a gap, and at
    /// most `maxSize` bytes, but at least the first. Empty if that is not here.
    func entries(from lo: LogIndex, to hi: LogIndex, maxSize: Int) -> [Entry] {
        var found: [Entry] = []
        var size = 0
        if let firstNewest = newest.first?.index, lo >= firstNewest {
            let start = Int(lo - firstNewest)
            var end = start
            while end < newest.count, newest[end].index < hi {
                size += newest[end].byteCount
                if size > maxSize, end > start { break }
                end += 1
            }
            found.append(contentsOf: newest[start..<end])
            return found
        }
        for run in runs.reversed() where run[0].index <= lo && run[run.count - 1].index >= lo {
            let start = Int(lo - run[0].index)
            var end = start
            while end < run.count, run[end].index < hi {
                size += run[end].byteCount
                if size > maxSize, end > start { break }
                end += 1
            }
            found.append(contentsOf: run[start..<end])
            return found
        }
        return found
    }

    /// Forgets the entries from `index` on, of a group whose last entry was `last`.
    mutating func removeSuffix(from index: LogIndex, last: LogIndex) {
        while let entry = newest.last, entry.index >= index {
            bytes -= Self.size(entry)
            newest.removeLast()
        }
        for place in runs.indices.reversed() {
            while let entry = runs[place].last, entry.index >= index {
                bytes -= Self.size(entry)
                runs[place].removeLast()
            }
            if runs[place].isEmpty { runs.remove(at: place) }
        }
    }

    /// Forgets the entries up to `index`.
    mutating func removePrefix(through index: LogIndex, last: LogIndex) {
        while let entry = newest.first, entry.index <= index {
            bytes -= Self.size(entry)
            newest.removeFirst()
        }
        for place in runs.indices.reversed() where runs[place][0].index <= index {
            bytes -= Self.size(runs[place])
            runs[place].removeAll { $0.index <= index }
            bytes += Self.size(runs[place])
            if runs[place].isEmpty { runs.remove(at: place) }
        }
    }

    mutating func removeAll() {
        newest.removeAll()
        runs.removeAll()
        bytes = 0
    }

    /// Forgets the oldest until at most `limit` bytes are left: first runs, then the newest
    /// entries from their start. With `sparingLatest` the latest run stays: its reader is yet to
    /// come.
    mutating func shrink(to limit: Int, sparingLatest: Bool) {
        while bytes > limit, runs.count > (sparingLatest ? 1 : 0) {
            bytes -= Self.size(runs.removeFirst())
        }
        while bytes > limit, let entry = newest.popFirst() { bytes -= Self.size(entry) }
        if newest.isEmpty { newest = [] }
    }
}
