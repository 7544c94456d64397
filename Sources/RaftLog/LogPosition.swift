import DequeModule

/// Where an entry's bytes lie: 12 bytes, the index that is kept of each entry.
struct LogPosition: Equatable, Sendable {
    /// Sequence number of the segment; 0 in recovery for an entry that was not seen.
    var segment: UInt32
    /// Of the entry's header in the segment.
    var offset: UInt32
    /// Bytes of its data.
    var length: UInt32

    static let absent = LogPosition(segment: 0, offset: 0, length: 0)

    /// Bytes of the header and the data.
    var size: Int { LogBytes.entryHeaderSize + Int(length) }
}

/// The segments of a log and what of each is still needed.
///
/// Sequence numbers are consecutive; the last segment is the one that is written to.
struct SegmentLedger {
    struct Segment: Equatable {
        var sequence: UInt32
        var salt: UInt64
        /// Entries in it that belong to some group, and their bytes.
        var liveEntries = 0
        var liveBytes = 0
        /// Groups whose latest anchor is in it.
        var anchors = 0

        var isFree: Bool { liveEntries == 0 && anchors == 0 }
    }

    private(set) var segments: Deque<Segment> = []
    private(set) var liveBytes = 0

    init(_ segments: [Segment]) { self.segments = Deque(segments) }

    /// Precondition of both: there is a segment.
    var oldest: Segment { segments[0] }
    var current: Segment { segments[segments.count - 1] }

    mutating func append(_ segment: Segment) {
        precondition(
            segments.isEmpty || segment.sequence == current.sequence + 1,
            "segments have consecutive numbers")
        segments.append(segment)
    }

    /// Takes the oldest out. Precondition: nothing in it is needed.
    mutating func removeOldest() -> Segment {
        precondition(segments.count > 1 && oldest.isFree, "a segment that is needed stays")
        return segments.removeFirst()
    }

    /// Counts `entries` of `bytes` in all in (or, negative, out).
    mutating func count(_ entries: Int, bytes: Int, in segment: UInt32) {
        let place = Int(segment - segments[0].sequence)
        segments[place].liveEntries += entries
        segments[place].liveBytes += bytes
        liveBytes += bytes
        precondition(segments[place].liveEntries >= 0, "more entries dropped than there were")
    }

    /// Notes that a group's anchor went from one segment (0: from none) to another.
    mutating func moveAnchor(from old: UInt32, to new: UInt32) {
        if old != 0 { segments[Int(old - segments[0].sequence)].anchors -= 1 }
        if new != 0 { segments[Int(new - segments[0].sequence)].anchors += 1 }
    }
}

/// The terms of a group's entries, as the indexes where a new one begins.
struct TermRuns: Equatable, Sendable {
    private(set) var runs: Deque<Run> = []

    struct Run: Equatable, Sendable {
        var first: UInt64
        var term: UInt64
    }

    /// Notes that the entry at `index`, behind all others, has `term`.
    mutating func append(_ index: UInt64, term: UInt64) {
        if let last = runs.last, last.term == term { return }
        precondition(runs.last.map { $0.first < index } ?? true, "terms are noted in order")
        runs.append(Run(first: index, term: term))
    }

    /// Forgets the entries from `index` on.
    mutating func removeSuffix(from index: UInt64) {
        while let last = runs.last, last.first >= index { runs.removeLast() }
    }

    /// Forgets the entries before `index`; `last` is the last that was noted.
    mutating func removePrefix(before index: UInt64, last: UInt64) {
        guard index <= last else { return runs.removeAll() }
        while runs.count > 1, runs[1].first <= index { runs.removeFirst() }
        if !runs.isEmpty { runs[0].first = max(runs[0].first, index) }
    }

    mutating func removeAll() { runs.removeAll() }

    /// The term of an entry that was noted. O(log of the number of terms), O(1) in the last one.
    func term(at index: UInt64) -> UInt64 {
        var high = runs.count - 1
        precondition(high >= 0 && runs[0].first <= index, "an index before the first term")
        if runs[high].first <= index { return runs[high].term }
        var low = 0
        while high - low > 1 {
            let middle = (low + high) / 2
            if runs[middle].first <= index { low = middle } else { high = middle }
        }
        return runs[low].term
    }
}
