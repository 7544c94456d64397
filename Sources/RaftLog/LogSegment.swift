import Bytes
import Model
import Reactor

/// A segment as it was found on disk: which batches it holds and where they end.
struct ScannedSegment {
    var header: SegmentHeader
    var path: String
    /// Where each batch begins, and its first index.
    var batches: [(offset: Int, firstIndex: UInt64)] = []
    /// Where the next batch would go.
    var end: Int
    /// Index of the command after the last in it.
    var nextIndex: UInt64
    var size: Int
}

enum LogSegment {
    /// What must hold of a segment for its place in the log.
    enum Place {
        /// The first that is kept: begins no later than what comes after `appliedIndex`.
        case start(appliedIndex: UInt64)
        case after(ScannedSegment)

        init(after segment: ScannedSegment) { self = .after(segment) }
    }

    static let prefix = "segment-"
    static let spareName = "spare"

    static func name(_ sequence: UInt64) -> String {
        let digits = String(sequence, radix: 16)
        return prefix + String(repeating: "0", count: 16 - digits.count) + digits
    }

    static func sequence(_ name: String) -> UInt64? {
        guard name.hasPrefix(prefix), name.utf8.count == prefix.utf8.count + 16 else { return nil }
        return UInt64(name.dropFirst(prefix.count), radix: 16)
    }

    /// Reads and checks the whole segment at `path` and calls `each` with every batch of
    /// commands that has one at or after `from`.
    ///
    /// A damaged batch with a sound one after it is refused; without one it is where the segment
    /// ends, and the next segment's place shows whether anything is missing.
    static func scan(
        _ path: String, sequence: UInt64, place: Place, from: UInt64, on reactor: Reactor,
        _ each: (_ firstIndex: UInt64, _ commands: [[UInt8]]) async throws(StoreError) -> Void
    ) async throws(StoreError) -> ScannedSegment {
        let (buffer, size) = try await contents(path, on: reactor)
        defer { withExtendedLifetime(buffer) {} }
        let bytes = UnsafeRawBufferPointer(buffer.bytes(in: 0..<size))
        let header = try header(bytes, path: path, sequence: sequence)
        try check(header, path: path, place: place)
        var segment = ScannedSegment(
            header: header, path: path, end: LogFormat.blockSize, nextIndex: header.firstIndex,
            size: size)
        while segment.end + LogFormat.batchHeaderSize <= size {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[segment.end...])
            let batch: BatchHeader
            let commands: [[UInt8]]
            do throws(LogFormat.Refusal) {
                batch = try BatchHeader(reading: rest, salt: header.salt)
                commands = try batch.commands(in: rest)
            } catch {
                if case .version(let version) = error {
                    throw unknownVersion(version, path, segment.end)
                }
                try refuseHole(bytes, after: segment)
                break
            }
            guard batch.firstIndex == segment.nextIndex else {
                throw StoreError(
                    .corrupt,
                    "\(path) has a hole at byte \(segment.end): command \(segment.nextIndex) "
                        + "should be there, found \(batch.firstIndex)")
            }
            segment.batches.append((segment.end, batch.firstIndex))
            segment.nextIndex += UInt64(batch.count)
            segment.end += batch.paddedSize
            if segment.nextIndex > from { try await each(batch.firstIndex, commands) }
        }
        return segment
    }

    private static func header(
        _ bytes: UnsafeRawBufferPointer, path: String, sequence: UInt64
    ) throws(StoreError) -> SegmentHeader {
        let header: SegmentHeader
        do throws(LogFormat.Refusal) {
            header = try SegmentHeader(reading: bytes)
        } catch {
            if case .version(let version) = error { throw unknownVersion(version, path, 0) }
            throw StoreError(.corrupt, "\(path) is damaged: its header is not valid")
        }
        guard header.sequence == sequence else {
            throw StoreError(
                .corrupt, "\(path) is segment \(header.sequence) of a log, not \(sequence)")
        }
        return header
    }

    private static func check(
        _ header: SegmentHeader, path: String, place: Place
    ) throws(StoreError) {
        switch place {
        case .start(let appliedIndex):
            guard header.firstIndex <= appliedIndex + 1 else {
                throw StoreError(
                    .corrupt,
                    "the log begins with command \(header.firstIndex) in \(path), but the "
                        + "database has applied only \(appliedIndex)")
            }
        case .after(let previous):
            guard header.sequence == previous.header.sequence + 1 else {
                throw StoreError(
                    .corrupt,
                    "the segment before \(path) is missing: the last one found is "
                        + previous.path)
            }
            guard header.firstIndex == previous.nextIndex else {
                throw StoreError(
                    .corrupt,
                    "\(previous.path) is damaged at byte \(previous.end): it should hold "
                        + "commands up to \(header.firstIndex - 1), but ends at "
                        + "\(previous.nextIndex - 1)")
            }
        }
    }

    /// Throws if anything sound follows what could not be read at the segment's end.
    private static func refuseHole(
        _ bytes: UnsafeRawBufferPointer, after segment: ScannedSegment
    ) throws(StoreError) {
        var at = segment.end + LogFormat.blockSize
        while at + LogFormat.batchHeaderSize <= bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[at...])
            let later = try? BatchHeader(reading: rest, salt: segment.header.salt)
            if let later {
                throw StoreError(
                    .corrupt,
                    "\(segment.path) is damaged at byte \(segment.end): command "
                        + "\(segment.nextIndex) cannot be read, though command "
                        + "\(later.firstIndex) after it can")
            }
            at += LogFormat.blockSize
        }
    }

    private static func contents(
        _ path: String, on reactor: Reactor
    ) async throws(StoreError) -> (AlignedBuffer, Int) {
        do throws(IOError) {
            let file = try await File.open(path, [.read, .direct], on: reactor)
            let size = try await file.size()
            guard size >= LogFormat.blockSize, size <= BufferPool.Limits.largestBuffer else {
                throw IOError(code: 0, operation: "size", path: path)
            }
            let buffer = reactor.pool.allocate(LogFormat.padded(size))
            let count = try await file.read(
                into: buffer, 0..<LogFormat.padded(size), at: 0)
            try await file.close()
            return (buffer, count)
        } catch {
            guard error.code == 0 else { throw StoreError(error) }
            throw StoreError(.corrupt, "\(path) does not have the size of a segment")
        }
    }

    private static func unknownVersion(
        _ version: UInt16, _ path: String, _ offset: Int
    ) -> StoreError {
        StoreError(
            .versionMismatch,
            "\(path) has format \(version) at byte \(offset); this program reads format "
                + "\(LogFormat.version)")
    }
}
