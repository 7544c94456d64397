import Checksum
import Model
import Raft

/// Names a Raft group: 128 bits, as pipelines have.
public typealias GroupID = Identity128

extension LogBytes {
    /// What a record of a batch tells of its group.
    enum RecordKind: UInt8 {
        /// Entries in order; they replace all of the group's from the first one's index on.
        case entries = 1
        /// Term, vote and commit index.
        case hardState = 2
        /// All that is known of the group beside its entries: an anchor (see `GroupAnchor`).
        case anchor = 3
        /// Entries that were in an older segment, written again. They replace nothing.
        case moved = 4
        /// The group is gone, with everything before.
        case removal = 5
    }

    /// Why an anchor was written. Only `create`, `install` and `truncate` change what entries
    /// there are; the others could be left out but for the room they make.
    enum AnchorCause: UInt8 {
        /// The group begins.
        case create = 1
        /// A snapshot took the place of all entries.
        case install = 2
        /// Entries were dropped from the start.
        case compact = 3
        /// The members changed.
        case members = 4
        /// The previous anchor's segment is to be freed.
        case move = 5
    }

    /// Bytes before the body of each record: kind, cause, length of the body, group.
    static let recordHeaderSize = 24
    /// Bytes before the entries of a record: first index and count.
    static let entriesHeaderSize = 16
    /// Bytes before the data of an entry: checksum, length, index, term, kind.
    static let entryHeaderSize = 28
    static let hardStateSize = 24
    static let anchorSize = 80

    /// The checksum that those of a group's entries begin with, so that an entry of one group is
    /// never taken for another's.
    static func seed(_ group: GroupID) -> UInt32 {
        withUnsafeTemporaryAllocation(byteCount: 16, alignment: 8) { bytes in
            bytes.put(group.high, at: 0)
            bytes.put(group.low, at: 8)
            return CRC32C.of(UnsafeRawBufferPointer(bytes))
        }
    }

    /// Bytes of an anchor's record with this configuration.
    static func anchorRecordSize(_ confState: ConfState) -> Int {
        recordHeaderSize + anchorSize + 8
            * (confState.voters.count + confState.learners.count
                + confState.votersOutgoing.count + confState.learnersNext.count)
    }

    /// An entry's place in a record.
    struct EntryHeader: Equatable {
        /// Where the header begins in the bytes it was read from.
        var offset: Int
        /// Bytes of the data.
        var length: Int
        var index: LogIndex
        var term: Term
        var kind: EntryKind
        var checksum: UInt32

        /// Reads the header at `offset`, without looking at the data.
        init(reading bytes: UnsafeRawBufferPointer, at offset: Int) throws(Refusal) {
            guard offset + entryHeaderSize <= bytes.count,
                let kind = EntryKind(rawValue: bytes.get(UInt8.self, at: offset + 24))
            else { throw .malformed(offset: offset) }
            self.offset = offset
            checksum = bytes.get(UInt32.self, at: offset)
            length = Int(bytes.get(UInt32.self, at: offset + 4))
            index = bytes.get(UInt64.self, at: offset + 8)
            term = bytes.get(UInt64.self, at: offset + 16)
            self.kind = kind
            guard length <= bytes.count - offset - entryHeaderSize else {
                throw .malformed(offset: offset)
            }
        }
    }

    /// The whole entry at `offset`, checked against its checksum.
    static func entry(
        _ bytes: UnsafeRawBufferPointer, at offset: Int, seed: UInt32
    ) throws(Refusal) -> Entry {
        let header = try EntryHeader(reading: bytes, at: offset)
        let end = offset + entryHeaderSize + header.length
        let checked = UnsafeRawBufferPointer(rebasing: bytes[offset + 4..<end])
        guard CRC32C.update(seed, checked) == header.checksum else { throw .invalid }
        return Entry(
            term: header.term, index: header.index, kind: header.kind,
            data: Array(bytes[offset + entryHeaderSize..<end]))
    }
}

/// All that the log knows of a group beside its entries.
///
/// A record of it is an anchor: whatever of the group comes before it in the log is only needed
/// for the entries' bytes. Each group's latest anchor is always in a segment that is kept, so all
/// records after it are there too, and the oldest segments can go without leaving a riddle.
struct GroupAnchor: Equatable, Sendable {
    /// The last entry that was compacted away, or that a snapshot stands for.
    var base: LogIndex = 0
    var baseTerm: Term = 0
    /// The last entry as of the record; `base` if there is none.
    var last: LogIndex = 0
    var hardState = HardState()
    var confState = ConfState()
    /// The entry that `confState` is the state after.
    var confIndex: LogIndex = 0
}

/// Writes records one behind the other into the body of a batch.
struct RecordWriter {
    let buffer: UnsafeMutableRawBufferPointer
    /// Where the next byte goes; begins behind the batch's header.
    private(set) var at = LogBytes.BatchHeader.size
    private(set) var count = 0
    /// Where the entries that are being written began, and what of their record is open.
    private var openRecord = 0
    private var openCount = 0

    init(_ buffer: UnsafeMutableRawBufferPointer) { self.buffer = buffer }

    /// Bytes that still fit.
    var room: Int { buffer.count - at }

    private mutating func header(
        _ kind: LogBytes.RecordKind, _ group: GroupID, bodySize: Int,
        cause: LogBytes.AnchorCause? = nil
    ) {
        precondition(LogBytes.recordHeaderSize + bodySize <= room, "a record beyond its batch")
        buffer.put(kind.rawValue, at: at)
        buffer.put(cause?.rawValue ?? 0, at: at + 1)
        buffer.put(UInt16(0), at: at + 2)
        buffer.put(UInt32(bodySize), at: at + 4)
        buffer.put(group.high, at: at + 8)
        buffer.put(group.low, at: at + 16)
        at += LogBytes.recordHeaderSize
        count += 1
    }

    mutating func hardState(_ state: HardState, of group: GroupID) {
        header(.hardState, group, bodySize: LogBytes.hardStateSize)
        put(state, at: at)
        at += LogBytes.hardStateSize
    }

    private func put(_ state: HardState, at offset: Int) {
        buffer.put(state.term, at: offset)
        buffer.put(state.vote.rawValue, at: offset + 8)
        buffer.put(state.commit, at: offset + 16)
    }

    mutating func removal(of group: GroupID) { header(.removal, group, bodySize: 0) }

    mutating func anchor(_ anchor: GroupAnchor, of group: GroupID, cause: LogBytes.AnchorCause) {
        let conf = anchor.confState
        let size = LogBytes.anchorRecordSize(conf) - LogBytes.recordHeaderSize
        header(.anchor, group, bodySize: size, cause: cause)
        buffer.put(anchor.base, at: at)
        buffer.put(anchor.baseTerm, at: at + 8)
        buffer.put(anchor.last, at: at + 16)
        put(anchor.hardState, at: at + 24)
        buffer.put(anchor.confIndex, at: at + 48)
        var offset = at + 56
        let lists = [conf.voters, conf.learners, conf.votersOutgoing, conf.learnersNext]
        for list in lists {
            buffer.put(UInt32(list.count), at: offset)
            offset += 4
        }
        buffer.put(UInt64(conf.autoLeave ? 1 : 0), at: offset)
        offset += 8
        for peer in lists.joined() {
            buffer.put(peer.rawValue, at: offset)
            offset += 8
        }
        at += size
    }

    // MARK: Entries

    /// Begins a record of entries, of which the first has index `first`; `add` the entries, and
    /// then `endEntries`.
    mutating func beginEntries(_ kind: LogBytes.RecordKind, of group: GroupID, first: LogIndex) {
        openRecord = at
        openCount = 0
        header(kind, group, bodySize: LogBytes.entriesHeaderSize)
        buffer.put(first, at: at)
        at += LogBytes.entriesHeaderSize
    }

    /// Writes an entry and returns where it begins.
    mutating func add(_ entry: Entry, seed: UInt32) -> Int {
        let start = at
        let end = start + LogBytes.entryHeaderSize + entry.data.count
        precondition(end <= buffer.count, "an entry beyond its batch")
        buffer.put(UInt32(entry.data.count), at: start + 4)
        buffer.put(entry.index, at: start + 8)
        buffer.put(entry.term, at: start + 16)
        buffer.put(UInt32(entry.kind.rawValue), at: start + 24)
        let data = start + LogBytes.entryHeaderSize
        let head = UnsafeRawBufferPointer(
            rebasing: UnsafeRawBufferPointer(buffer)[start + 4..<data])
        let target = UnsafeMutableRawBufferPointer(rebasing: buffer[data..<end])
        let checksum = entry.data.withUnsafeBytes { bytes in
            CRC32C.copy(bytes, to: target, after: CRC32C.update(seed, head))
        }
        buffer.put(checksum, at: start)
        at = end
        openCount += 1
        return start
    }

    mutating func endEntries() {
        precondition(openCount > 0, "a record of entries has at least one")
        buffer.put(UInt32(at - openRecord - LogBytes.recordHeaderSize), at: openRecord + 4)
        buffer.put(UInt64(openCount), at: openRecord + LogBytes.recordHeaderSize + 8)
    }
}

/// A record as it was read; its offsets count from the start of the bytes it was read from.
struct LogRecord {
    enum Content {
        case entries([LogBytes.EntryHeader])
        case moved([LogBytes.EntryHeader])
        case hardState(HardState)
        case anchor(GroupAnchor, LogBytes.AnchorCause)
        case removal
    }

    var group: GroupID
    var content: Content
    /// Where the record begins, and its bytes with its header.
    var offset: Int
    var size: Int
}
