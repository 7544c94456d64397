import Model
import Raft

/// Reads the records of a batch, one after the other.
///
/// The batch's checksum has been found right before; what is wrong here was written so.
struct RecordReader {
    private let bytes: UnsafeRawBufferPointer
    private var at: Int
    private let end: Int
    /// Where the record begins that was read last, or could not be read.
    private(set) var start = 0

    /// For the records of the batch that begins at `start`.
    init(_ bytes: UnsafeRawBufferPointer, batchAt start: Int, _ header: LogBytes.BatchHeader) {
        self.bytes = bytes
        at = start + LogBytes.BatchHeader.size
        end = at + header.bodySize
        precondition(end <= bytes.count, "a batch beyond its segment")
    }

    /// The next record, nil behind the last.
    mutating func next() throws(LogBytes.Refusal) -> LogRecord? {
        guard at < end else { return nil }
        start = at
        guard start + LogBytes.recordHeaderSize <= end,
            let kind = LogBytes.RecordKind(rawValue: bytes.get(UInt8.self, at: start))
        else { throw .malformed(offset: start) }
        let size = Int(bytes.get(UInt32.self, at: start + 4))
        let body = start + LogBytes.recordHeaderSize
        guard size <= end - body else { throw .malformed(offset: start) }
        let group = GroupID(
            high: bytes.get(UInt64.self, at: start + 8), low: bytes.get(UInt64.self, at: start + 16)
        )
        at = body + size
        let content: LogRecord.Content
        switch kind {
        case .entries:
            content = .entries(try entries(body..<at))
        case .moved:
            content = .moved(try entries(body..<at))
        case .hardState:
            guard size == LogBytes.hardStateSize else { throw .malformed(offset: start) }
            content = .hardState(hardState(body))
        case .anchor:
            guard let cause = LogBytes.AnchorCause(rawValue: bytes.get(UInt8.self, at: start + 1))
            else { throw .malformed(offset: start) }
            content = .anchor(try anchor(body..<at), cause)
        case .removal: content = .removal
        }
        return LogRecord(
            group: group, content: content, offset: start,
            size: LogBytes.recordHeaderSize + size)
    }

    private func hardState(_ at: Int) -> HardState {
        HardState(
            term: bytes.get(UInt64.self, at: at),
            vote: PeerID(bytes.get(UInt64.self, at: at + 8)),
            commit: bytes.get(UInt64.self, at: at + 16))
    }

    private func anchor(_ range: Range<Int>) throws(LogBytes.Refusal) -> GroupAnchor {
        let start = range.lowerBound
        guard range.count >= LogBytes.anchorSize else { throw .malformed(offset: start) }
        var lists: [[PeerID]] = []
        var at = start + LogBytes.anchorSize
        for list in 0..<4 {
            let count = Int(bytes.get(UInt32.self, at: start + 56 + 4 * list))
            guard count * 8 <= range.upperBound - at else { throw .malformed(offset: start) }
            lists.append((0..<count).map { PeerID(bytes.get(UInt64.self, at: at + 8 * $0)) })
            at += 8 * count
        }
        guard at == range.upperBound else { throw .malformed(offset: start) }
        let anchor = GroupAnchor(
            base: bytes.get(UInt64.self, at: start),
            baseTerm: bytes.get(UInt64.self, at: start + 8),
            last: bytes.get(UInt64.self, at: start + 16), hardState: hardState(start + 24),
            confState: ConfState(
                voters: lists[0], learners: lists[1], votersOutgoing: lists[2],
                learnersNext: lists[3], autoLeave: bytes.get(UInt64.self, at: start + 72) == 1),
            confIndex: bytes.get(UInt64.self, at: start + 48))
        guard anchor.last >= anchor.base else { throw .malformed(offset: start) }
        return anchor
    }

    private func entries(
        _ range: Range<Int>
    ) throws(LogBytes.Refusal) -> [LogBytes.EntryHeader] {
        let start = range.lowerBound
        guard range.count >= LogBytes.entriesHeaderSize else { throw .malformed(offset: start) }
        let first = bytes.get(UInt64.self, at: start)
        let count = Int(truncatingIfNeeded: bytes.get(UInt64.self, at: start + 8))
        guard first > 0, count > 0, count <= range.count / LogBytes.entryHeaderSize else {
            throw .malformed(offset: start)
        }
        var headers: [LogBytes.EntryHeader] = []
        headers.reserveCapacity(count)
        let part = UnsafeRawBufferPointer(rebasing: bytes[..<range.upperBound])
        var at = start + LogBytes.entriesHeaderSize
        for number in 0..<count {
            let header = try LogBytes.EntryHeader(reading: part, at: at)
            guard header.index == first &+ UInt64(number) else { throw .malformed(offset: at) }
            headers.append(header)
            at += LogBytes.entryHeaderSize + header.length
        }
        guard at == range.upperBound else { throw .malformed(offset: start) }
        return headers
    }
}
