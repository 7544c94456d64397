import Bytes
import Model
import Raft
import Reactor

/// A segment's bytes, whole in memory, and how far its batches go.
struct SegmentScan {
    /// Why there are no more batches.
    enum End: String {
        /// The segment is full, or too little is left for a batch.
        case full
        /// What follows was never written in this life of the segment.
        case empty
        /// A batch was begun and is not whole.
        case torn
    }

    let path: String
    let header: LogBytes.SegmentHeader
    private let buffer: AlignedBuffer
    private let size: Int
    /// Where the next batch is, or would be.
    private(set) var end = LogBytes.blockSize
    /// Number of the next batch.
    private(set) var nextBatch: UInt64
    /// What the last batch called the oldest segment; nil if there was no batch.
    private(set) var oldest: UInt32?

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(buffer.bytes(in: 0..<size)) }

    /// Reads a whole segment, in pieces that are under way at once.
    ///
    /// Throws `corrupt` if it is none of a log, `versionMismatch` if it is one of another format.
    static func read(
        _ path: String, sequence: UInt32, on reactor: Reactor
    ) async throws(StoreError) -> SegmentScan {
        let (buffer, size) = try await contents(path, on: reactor)
        return try SegmentScan(path, sequence: sequence, buffer, size)
    }

    private init(
        _ path: String, sequence: UInt32, _ buffer: AlignedBuffer, _ size: Int
    ) throws(StoreError) {
        self.path = path
        self.buffer = buffer
        self.size = size
        let block = UnsafeRawBufferPointer(buffer.bytes(in: 0..<LogBytes.blockSize))
        do throws(LogBytes.Refusal) {
            header = try LogBytes.SegmentHeader(reading: block)
        } catch {
            if case .version(let version) = error {
                throw Self.unknownVersion(version, path, 0)
            }
            throw StoreError(.corrupt, "\(path) is damaged at byte 0: its header is not valid")
        }
        nextBatch = header.firstBatch
        guard header.sequence == sequence else {
            throw StoreError(
                .corrupt, "\(path) is segment \(header.sequence) of a log, not \(sequence)")
        }
        guard header.size == size else {
            throw StoreError(
                .corrupt, "\(path) has \(size) bytes; its header says \(header.size)")
        }
    }

    /// The next batch and where it begins; nil at the end, of which `whatFollows` says more.
    ///
    /// Throws `corrupt` for a sound batch that is not the next one, and for one that cannot be
    /// read though a later one can.
    mutating func next() throws(StoreError) -> (offset: Int, LogBytes.BatchHeader)? {
        guard end + LogBytes.BatchHeader.size <= size else { return nil }
        let rest = UnsafeRawBufferPointer(rebasing: bytes[end...])
        let batch: LogBytes.BatchHeader
        do throws(LogBytes.Refusal) {
            batch = try LogBytes.BatchHeader(reading: rest, salt: header.salt)
        } catch {
            if case .version(let version) = error {
                throw Self.unknownVersion(version, path, end)
            }
            try refuseHole()
            return nil
        }
        guard batch.number == nextBatch else {
            throw StoreError(
                .corrupt,
                "\(path) has a hole at byte \(end): batch \(nextBatch) should be there, found "
                    + "\(batch.number)")
        }
        let offset = end
        end += batch.paddedSize
        nextBatch += 1
        oldest = batch.oldest
        return (offset, batch)
    }

    /// What is where the next batch should be, after `next` gave nil.
    var whatFollows: End {
        guard end + LogBytes.BatchHeader.size <= size else { return .full }
        let rest = UnsafeRawBufferPointer(rebasing: bytes[end...])
        // A torn batch may lack its first block and have others; those hold no mark of theirs.
        let isOfThisLife =
            rest.get(UInt32.self, at: 0) == LogBytes.batchMagic
            && rest.get(UInt64.self, at: 8) == header.salt
        return isOfThisLife ? .torn : .empty
    }

    /// Throws if anything sound follows what could not be read.
    private func refuseHole() throws(StoreError) {
        var at = end + LogBytes.blockSize
        while at + LogBytes.BatchHeader.size <= size {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[at...])
            at += LogBytes.blockSize
            // Most blocks are told by their first bytes, without a checksum.
            guard rest.get(UInt32.self, at: 0) == LogBytes.batchMagic,
                let later = try? LogBytes.BatchHeader(reading: rest, salt: header.salt)
            else { continue }
            throw damage("batch \(later.number) after it can be read")
        }
    }

    /// The error for the batch that should be at `end`.
    func damage(_ proof: String) -> StoreError {
        StoreError(
            .corrupt,
            "\(path) is damaged at byte \(end): batch \(nextBatch) cannot be read, though "
                + "\(proof); \(suspect)")
    }

    /// Which group's record is damaged in the batch at `end`, as far as can be told: entries
    /// have checksums of their own.
    private var suspect: String {
        let rest = UnsafeRawBufferPointer(rebasing: bytes[end...])
        let unknown = "its groups are not known"
        guard rest.count >= LogBytes.BatchHeader.size,
            rest.get(UInt32.self, at: 0) == LogBytes.batchMagic,
            rest.get(UInt64.self, at: 8) == header.salt
        else { return unknown }
        let size = Int(rest.get(UInt32.self, at: 24))
        guard size <= rest.count - LogBytes.BatchHeader.size else { return unknown }
        let claimed = LogBytes.BatchHeader(
            salt: header.salt, number: nextBatch, recordCount: 0, bodySize: size, oldest: 0)
        var reader = RecordReader(rest, batchAt: 0, claimed)
        var groups: [GroupID] = []
        do throws(LogBytes.Refusal) {
            while let record = try reader.next() {
                if let entry = Self.damagedEntry(of: record, in: rest) {
                    return "it is entry \(entry.index) of group \(record.group) at byte "
                        + "\(end + entry.offset)"
                }
                if !groups.contains(record.group) { groups.append(record.group) }
            }
        } catch {
            guard reader.start + LogBytes.recordHeaderSize <= rest.count else { return unknown }
            let named = GroupID(
                high: rest.get(UInt64.self, at: reader.start + 8),
                low: rest.get(UInt64.self, at: reader.start + 16))
            return "it is the record at byte \(end + reader.start), which names group \(named)"
        }
        guard !groups.isEmpty else { return unknown }
        return "it has records of " + (groups.count == 1 ? "group " : "groups ")
            + groups.prefix(4).map { "\($0)" }.joined(separator: ", ")
            + (groups.count > 4 ? " and others" : "")
    }

    private static func damagedEntry(
        of record: LogRecord, in bytes: UnsafeRawBufferPointer
    ) -> LogBytes.EntryHeader? {
        let headers: [LogBytes.EntryHeader]
        switch record.content {
        case .entries(let entries), .moved(let entries): headers = entries
        case .hardState, .anchor, .removal: return nil
        }
        let seed = LogBytes.seed(record.group)
        return headers.first { header in
            (try? LogBytes.entry(bytes, at: header.offset, seed: seed)) == nil
        }
    }

    private static func contents(
        _ path: String, on reactor: Reactor
    ) async throws(StoreError) -> (AlignedBuffer, Int) {
        do throws(IOError) {
            let file = try await File.open(path, [.read, .direct], on: reactor)
            let size = try await file.size()
            guard size >= LogBytes.blockSize, size <= BufferPool.Limits.largestBuffer else {
                throw IOError(code: 0, operation: "size", path: path)
            }
            let buffer = reactor.pool.allocate(LogBytes.padded(size))
            let count = try await file.read(into: buffer, 0..<LogBytes.padded(size), at: 0)
            try await file.close()
            return (buffer, count)
        } catch {
            guard error.code == 0 else { throw StoreError(error) }
            throw StoreError(.corrupt, "\(path) does not have the size of a segment")
        }
    }

    static func unknownVersion(_ version: UInt16, _ path: String, _ offset: Int) -> StoreError {
        StoreError(
            .versionMismatch,
            "\(path) has format \(version) at byte \(offset)"
                + (version == 1 ? ", the log of one group" : "")
                + "; this program reads format \(LogBytes.version)")
    }
}
