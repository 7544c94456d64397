import DequeModule
import Raft

/// A group as far as the records of a log have told of it, in the order in which they lie there.
///
/// The oldest segments may be gone. So records of a group can come before its first anchor: then
/// entries are noted without knowing what came before them, moved ones included, and holes are
/// filled or prove unneeded by what follows. From the anchor on nothing may be missing, which
/// `finish` checks.
struct RecoveredGroup {
    /// Why a record cannot follow those before.
    enum Refusal: Error {
        /// An entry does not join on to the last, a removed one was moved, or the like.
        case contradiction(String)
    }

    private(set) var anchor = GroupAnchor()
    private(set) var isAnchored = false
    private var anchorSegment: UInt32 = 0
    /// Index of the first of `positions` and `terms`.
    private var first: LogIndex = 1
    private var positions: Deque<LogPosition> = []
    private var terms: Deque<Term> = []

    init() {}

    /// Index of the last entry, as far as known.
    private var last: LogIndex {
        isAnchored ? anchor.last : first + UInt64(positions.count) - 1
    }

    mutating func take(_ hardState: HardState) throws(Refusal) {
        // Before the anchor the record is superseded by it.
        guard isAnchored else { return }
        let old = anchor.hardState
        guard
            hardState.term > old.term
                || hardState.term == old.term && (old.vote == .none || old.vote == hardState.vote)
        else {
            throw .contradiction(
                "term \(hardState.term) with vote for \(hardState.vote) after term "
                    + "\(old.term) with vote for \(old.vote)")
        }
        anchor.hardState = hardState
    }

    mutating func take(
        _ new: GroupAnchor, _ cause: LogBytes.AnchorCause, in segment: UInt32
    ) throws(Refusal) {
        if isAnchored {
            guard cause != .create else {
                throw .contradiction("a group begins that is there already")
            }
            guard cause == .install || new.last == anchor.last && new.base >= anchor.base else {
                throw .contradiction(
                    "a state with entries \(new.base + 1) to \(new.last) after one with "
                        + "\(anchor.base + 1) to \(anchor.last)")
            }
        }
        if cause == .install || cause == .create {
            positions = []
            terms = []
            first = new.base + 1
        } else {
            removePrefix(through: new.base)
            removeSuffix(from: new.last + 1)
        }
        anchor = new
        isAnchored = true
        anchorSegment = segment
    }

    mutating func append(
        _ headers: [LogBytes.EntryHeader], in segment: UInt32
    ) throws(Refusal) {
        let start = headers[0].index
        if isAnchored {
            guard start <= anchor.last + 1, start > anchor.base else {
                throw .contradiction(
                    "entry \(start) where the log has \(anchor.base + 1) to \(anchor.last)")
            }
        }
        removeSuffix(from: start)
        if positions.isEmpty { first = start }
        pad(to: start)
        for header in headers { add(header, segment) }
        if isAnchored { anchor.last = headers[headers.count - 1].index }
    }

    mutating func move(
        _ headers: [LogBytes.EntryHeader], in segment: UInt32
    ) throws(Refusal) {
        let start = headers[0].index
        let end = headers[headers.count - 1].index
        if isAnchored {
            guard start > anchor.base, end <= anchor.last else {
                throw .contradiction(
                    "moved entries \(start) to \(end) where the log has \(anchor.base + 1) to "
                        + "\(anchor.last)")
            }
        }
        if positions.isEmpty { first = start }
        while first > start {
            first -= 1
            positions.prepend(.absent)
            terms.prepend(0)
        }
        pad(to: end + 1)
        for header in headers {
            let place = Int(header.index - first)
            positions[place] = LogPosition(
                segment: segment, offset: UInt32(header.offset),
                length: UInt32(header.length))
            terms[place] = header.term
        }
    }

    private mutating func add(_ header: LogBytes.EntryHeader, _ segment: UInt32) {
        positions.append(
            LogPosition(
                segment: segment, offset: UInt32(header.offset),
                length: UInt32(header.length)))
        terms.append(header.term)
    }

    /// Notes entries that were not seen, up to the one before `index`.
    private mutating func pad(to index: LogIndex) {
        while first + UInt64(positions.count) < index {
            positions.append(.absent)
            terms.append(0)
        }
    }

    private mutating func removePrefix(through index: LogIndex) {
        guard index >= first else { return }
        let count = min(positions.count, Int(clamping: index - first + 1))
        positions.removeFirst(count)
        terms.removeFirst(count)
        first = positions.isEmpty ? index + 1 : first + UInt64(count)
    }

    private mutating func removeSuffix(from index: LogIndex) {
        guard index < first + UInt64(positions.count) else { return }
        let kept = index > first ? Int(index - first) : 0
        positions.removeSubrange(kept...)
        terms.removeSubrange(kept...)
    }

    /// Bytes of the data of the entries that were seen.
    var entryBytes: Int { positions.reduce(0) { $0 + Int($1.length) } }

    /// The group's state once all records were taken.
    func finish() throws(Refusal) -> GroupState {
        guard isAnchored else {
            throw .contradiction("records of the group are there, but not where it begins")
        }
        let count = anchor.last - anchor.base
        let missing: LogIndex?
        if count > 0, positions.isEmpty || first > anchor.base + 1 {
            missing = anchor.base + 1
        } else if let hole = positions.firstIndex(of: .absent) {
            missing = first + UInt64(hole)
        } else if count != UInt64(positions.count) {
            missing = first + UInt64(positions.count)
        } else {
            missing = nil
        }
        if let missing {
            throw .contradiction(
                "entry \(missing) is missing of those from \(anchor.base + 1) to \(anchor.last)")
        }
        guard anchor.hardState.commit <= anchor.last else {
            throw .contradiction(
                "entries up to \(anchor.hardState.commit) are committed, the last is "
                    + "\(anchor.last)")
        }
        var runs = TermRuns()
        for (place, term) in terms.enumerated() { runs.append(first + UInt64(place), term: term) }
        return GroupState(
            anchor, anchorSegment: anchorSegment, positions: positions, terms: runs)
    }
}
