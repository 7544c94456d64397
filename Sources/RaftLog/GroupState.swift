import DequeModule
import Raft

/// What is known of a group's part of the log, all of it durable.
///
/// Pure: the log's writer changes it after each sync, under the group's lock. Entries
/// `base + 1 ... last` are there; `positions` says where, `terms` which terms. The newest and
/// those that were fetched are cached.
struct GroupState {
    /// Hard state, members, and the compaction point; `anchor.last` is kept up to date.
    private(set) var anchor: GroupAnchor
    /// The segment with the group's latest anchor record; 0 before there is one.
    private(set) var anchorSegment: UInt32 = 0
    private(set) var positions: Deque<LogPosition>
    private(set) var terms: TermRuns
    private(set) var shares: [Share] = []
    var cache = EntryCache()
    /// The bounds of the entries as they will be when the batch that is being written is durable;
    /// nil when no record of the group is in it.
    var pending: (base: LogIndex, last: LogIndex)?
    var isRemoved = false
    /// The snapshot to give to followers.
    var offered: Snapshot?
    /// Entries after this one are to be left by compactions.
    var held: LogIndex?
    /// The index a snapshot was asked for at while there was none.
    var wantedSnapshot: LogIndex?

    /// How many of the group's entries are in a segment.
    struct Share: Equatable {
        var segment: UInt32
        var entries: Int
    }

    init(
        _ anchor: GroupAnchor, anchorSegment: UInt32 = 0, positions: Deque<LogPosition> = [],
        terms: TermRuns = TermRuns()
    ) {
        precondition(
            anchor.last - anchor.base == UInt64(positions.count), "a position for each entry")
        self.anchor = anchor
        self.anchorSegment = anchorSegment
        self.positions = positions
        self.terms = terms
    }

    var first: LogIndex { anchor.base + 1 }
    var last: LogIndex { anchor.last }

    /// Term of an entry or of the compaction point. Precondition: `base ... last`.
    func term(of index: LogIndex) -> Term {
        index == anchor.base ? anchor.baseTerm : terms.term(at: index)
    }

    /// Where the entry lies. Precondition: it is there.
    func position(of index: LogIndex) -> LogPosition { positions[Int(index - first)] }

    // MARK: Changes, each after the sync that made it durable

    mutating func set(_ hardState: HardState) { anchor.hardState = hardState }

    /// Takes `entries` (at least one) in place of all from the first one's index on.
    ///
    /// `places` are where they were written, in `segment`.
    mutating func append(
        _ entries: ArraySlice<Entry>, at places: ArraySlice<LogPosition>, in segment: UInt32,
        _ ledger: inout SegmentLedger
    ) {
        let start = entries[entries.startIndex].index
        precondition(start >= first && start <= last + 1, "entries that leave a hole")
        removeSuffix(from: start, &ledger)
        var bytes = 0
        for place in places { bytes += place.size }
        for entry in entries { terms.append(entry.index, term: entry.term) }
        positions.append(contentsOf: places)
        cache.append(entries)
        anchor.last += UInt64(entries.count)
        share(entries.count, in: segment)
        ledger.count(entries.count, bytes: bytes, in: segment)
    }

    private mutating func removeSuffix(from index: LogIndex, _ ledger: inout SegmentLedger) {
        guard index <= last else { return }
        let kept = Int(index - first)
        release(kept..<positions.count, &ledger)
        positions.removeSubrange(kept...)
        terms.removeSuffix(from: index)
        cache.removeSuffix(from: index, last: last)
        anchor.last = index - 1
    }

    private mutating func removePrefix(through index: LogIndex, _ ledger: inout SegmentLedger) {
        let count = Int(min(index, last) - anchor.base)
        release(0..<count, &ledger)
        positions.removeFirst(count)
    }

    /// Takes the record that was written as the group's anchor into `segment`. What is at or
    /// before its base goes; with `install` everything does.
    mutating func take(
        _ new: GroupAnchor, cause: LogBytes.AnchorCause, in segment: UInt32,
        _ ledger: inout SegmentLedger
    ) {
        ledger.moveAnchor(from: anchorSegment, to: segment)
        anchorSegment = segment
        if cause == .install {
            release(0..<positions.count, &ledger)
            positions.removeAll()
            terms.removeAll()
            cache.removeAll()
        } else {
            removePrefix(through: new.base, &ledger)
            terms.removePrefix(before: new.base + 1, last: last)
            cache.removePrefix(through: new.base, last: last)
        }
        anchor = new
        if let offered, offered.metadata.index < new.base { self.offered = nil }
    }

    /// The group is gone: none of its records is needed.
    mutating func remove(_ ledger: inout SegmentLedger) {
        release(0..<positions.count, &ledger)
        ledger.moveAnchor(from: anchorSegment, to: 0)
        anchorSegment = 0
        positions.removeAll()
        terms.removeAll()
        cache.removeAll()
        anchor.last = anchor.base
        isRemoved = true
    }

    /// Takes the new place of an entry that was written again, if it is still where it was.
    mutating func move(
        _ index: LogIndex, from old: LogPosition, to new: LogPosition, _ ledger: inout SegmentLedger
    ) {
        guard index >= first, index <= last, position(of: index) == old else { return }
        let place = Int(index - first)
        release(place..<place + 1, &ledger)
        positions[place] = new
        share(1, in: new.segment)
        ledger.count(1, bytes: new.size, in: new.segment)
    }

    /// Counts all entries and the anchor, once, after recovery.
    mutating func enter(_ ledger: inout SegmentLedger) {
        ledger.moveAnchor(from: 0, to: anchorSegment)
        for position in positions {
            share(1, in: position.segment)
            ledger.count(1, bytes: position.size, in: position.segment)
        }
    }

    // MARK: Shares

    private mutating func share(_ count: Int, in segment: UInt32) {
        var place = shares.count
        while place > 0, shares[place - 1].segment > segment { place -= 1 }
        if place > 0, shares[place - 1].segment == segment {
            shares[place - 1].entries += count
        } else {
            shares.insert(Share(segment: segment, entries: count), at: place)
        }
    }

    /// Counts the entries at `places` out of their segments.
    private mutating func release(_ places: Range<Int>, _ ledger: inout SegmentLedger) {
        var at = places.lowerBound
        while at < places.upperBound {
            let segment = positions[at].segment
            var bytes = 0
            let start = at
            while at < places.upperBound, positions[at].segment == segment {
                bytes += positions[at].size
                at += 1
            }
            ledger.count(start - at, bytes: -bytes, in: segment)
            guard let place = shares.firstIndex(where: { $0.segment == segment }),
                shares[place].entries >= at - start
            else { preconditionFailure("an entry in a segment where the group has none") }
            shares[place].entries -= at - start
            if shares[place].entries == 0 { shares.remove(at: place) }
        }
    }
}
