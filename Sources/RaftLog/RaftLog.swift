import Bytes
import Model
import Reactor

/// The commands of a group, in order, durable once `append` has returned.
///
/// Kept in segments of fixed size that are filled with zeros ahead of their use and reused, so
/// that a sync has no extents to commit. Written with one write and one `fdatasync` for each
/// batch. See `LogFormat` for the bytes and why a torn end can be told from damage.
///
/// Isolated to its reactor. One `append` at a time.
public actor RaftLog {
    public struct Options: Sendable {
        /// Bytes of a segment; a multiple of 4096, at most 64 MiB.
        public var segmentSize: Int

        public init(segmentSize: Int = 16 << 20) {
            precondition(
                segmentSize % LogFormat.blockSize == 0 && segmentSize >= 8 * LogFormat.blockSize
                    && segmentSize <= BufferPool.Limits.largestBuffer,
                "a segment is a multiple of 4096 bytes, 32 KiB to 64 MiB")
            self.segmentSize = segmentSize
        }

        /// Bytes that the commands of one batch may have together.
        public var batchSize: Int { segmentSize / 2 }
    }

    private struct Segment {
        var sequence: UInt64
        var firstIndex: UInt64
    }

    public nonisolated let reactor: Reactor
    public nonisolated let directory: String
    public nonisolated let options: Options
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    /// All segments, oldest first; the last one is written to.
    private var segments: [Segment]
    private var file: File
    private var salt: UInt64
    private var end: Int
    private var nextIndex: UInt64
    /// Makes the file that becomes the next segment. Set from then until the file has its new
    /// name; while it is nil no file is called spare.
    private var spare: Task<Void, any Error>?
    private var isAppending = false
    /// The error that made the log unusable: what a failed write or sync left is not known.
    private var failure: StoreError?

    private init(
        directory: String, reactor: Reactor, options: Options, segments: [Segment], file: File,
        salt: UInt64, end: Int, nextIndex: UInt64
    ) {
        self.directory = directory
        self.reactor = reactor
        self.options = options
        self.segments = segments
        self.file = file
        self.salt = salt
        self.end = end
        self.nextIndex = nextIndex
    }

    /// Index of the first command that is kept.
    public var firstIndex: UInt64 { segments[0].firstIndex }
    /// Index of the last command; one less than `firstIndex` if there is none.
    public var lastIndex: UInt64 { nextIndex - 1 }
    /// Where in the last segment the next batch goes, in bytes.
    func tail() -> Int { end }
    /// Bytes of all segments.
    public var size: Int { segments.count * options.segmentSize }

    /// Opens the log in `directory`, making it if the folder is absent or empty and
    /// `appliedIndex` is 0, and calls `replay` with every command after `appliedIndex`.
    ///
    /// A torn batch at the end is cut. Throws `corrupt` with the place if anything else is
    /// damaged or absent, or if the log ends before `appliedIndex` or begins after it.
    public static func open(
        directory: String, appliedIndex: UInt64, on reactor: Reactor,
        options: Options = Options(),
        replay: (_ firstIndex: UInt64, _ commands: [[UInt8]]) async throws(StoreError) -> Void
    ) async throws(StoreError) -> RaftLog {
        let sequences: [UInt64]
        do throws(IOError) {
            try await reactor.makeDirectory(directory)
            let names = try await reactor.list(directory)
            if names.contains(LogSegment.spareName) {
                // Whether it was finished is not known.
                try await reactor.remove("\(directory)/\(LogSegment.spareName)")
            }
            sequences = names.compactMap(LogSegment.sequence).sorted()
        } catch {
            throw StoreError(error)
        }
        if sequences.isEmpty {
            guard appliedIndex == 0 else {
                throw StoreError(
                    .corrupt,
                    "the log in \(directory) is missing: the database has applied "
                        + "\(appliedIndex) commands of it")
            }
            return try await create(directory: directory, on: reactor, options: options)
        }

        var segments: [Segment] = []
        var tail: ScannedSegment?
        for sequence in sequences {
            let path = "\(directory)/\(LogSegment.name(sequence))"
            let place = tail.map { LogSegment.Place(after: $0) }
            let found = try await LogSegment.scan(
                path, sequence: sequence, place: place ?? .start(appliedIndex: appliedIndex),
                from: appliedIndex + 1, on: reactor
            ) { firstIndex, commands throws(StoreError) in
                let known = appliedIndex + 1 > firstIndex ? appliedIndex + 1 - firstIndex : 0
                try await replay(firstIndex + known, Array(commands.dropFirst(Int(known))))
            }
            segments.append(
                Segment(sequence: sequence, firstIndex: found.header.firstIndex))
            tail = found
        }
        guard let tail else { preconditionFailure("a log with segments has a last one") }
        guard tail.nextIndex > appliedIndex else {
            throw StoreError(
                .corrupt,
                "the log in \(directory) ends at command \(tail.nextIndex - 1), but the database "
                    + "has applied \(appliedIndex): its end is lost")
        }
        do throws(IOError) {
            let file = try await File.open(tail.path, [.read, .write, .direct], on: reactor)
            return RaftLog(
                directory: directory, reactor: reactor, options: options, segments: segments,
                file: file, salt: tail.header.salt, end: tail.end, nextIndex: tail.nextIndex)
        } catch {
            throw StoreError(error)
        }
    }

    private static func create(
        directory: String, on reactor: Reactor, options: Options
    ) async throws(StoreError) -> RaftLog {
        do throws(IOError) {
            try await prepareSpare(directory, on: reactor, options: options)
            let header = SegmentHeader(
                sequence: 1, salt: reactor.now().nanoseconds | 1, firstIndex: 1)
            let file = try await activateSpare(directory, header, on: reactor)
            return RaftLog(
                directory: directory, reactor: reactor, options: options,
                segments: [Segment(sequence: 1, firstIndex: 1)], file: file, salt: header.salt,
                end: LogFormat.blockSize, nextIndex: 1)
        } catch {
            throw StoreError(error)
        }
    }

    // MARK: Appending

    /// Writes `commands` behind the last one and waits until they are on stable media. Returns
    /// the index of the first.
    ///
    /// After a failed write or sync every later call fails too: it is not known what the file
    /// holds. `noSpace` before anything was written is the exception.
    /// Precondition: they fit into a batch (`Options.batchSize`); no other `append` is running.
    public func append(_ commands: [[UInt8]], term: UInt64 = 0) async throws(StoreError) -> UInt64 {
        precondition(!commands.isEmpty, "a batch has at least one command")
        precondition(!isAppending, "batches are appended one after the other")
        if let failure { throw failure }
        isAppending = true
        defer { isAppending = false }
        let size = LogFormat.batchSize(commands)
        precondition(
            size <= options.segmentSize - LogFormat.blockSize, "a batch larger than a segment")
        if end + size > options.segmentSize { try await startSegment() }
        let buffer = reactor.pool.allocate(size)
        BatchHeader.writeBatch(
            commands, firstIndex: nextIndex, term: term, salt: salt, into: buffer.bytes)
        do throws(IOError) {
            try await file.write(Payload(buffer, 0..<size), at: end)
            try await file.synchronize()
        } catch {
            throw fail(error)
        }
        let first = nextIndex
        nextIndex += UInt64(commands.count)
        end += size
        if end > options.segmentSize / 2 { prepareSpareAhead() }
        return first
    }

    private func fail(_ error: IOError) -> StoreError {
        let failure = StoreError(
            StoreError(error).code,
            "the log cannot be written any more until it is opened again: \(error)")
        self.failure = failure
        return failure
    }

    private static func storeError(_ error: any Error) -> StoreError {
        (error as? IOError).map { StoreError($0) }
            ?? StoreError(.io, "no segment of the log could be made: \(error)")
    }

    private func prepareSpareAhead() {
        guard spare == nil else { return }
        let (directory, reactor, options) = (directory, reactor, options)
        spare = Task(executorPreference: reactor) {
            try await Self.prepareSpare(directory, on: reactor, options: options)
        }
    }

    private func startSegment() async throws(StoreError) {
        prepareSpareAhead()
        do {
            try await spare?.value
        } catch {
            // Nothing of the log has been touched: the next append tries again.
            spare = nil
            throw Self.storeError(error)
        }
        let sequence = segments[segments.count - 1].sequence + 1
        let header = SegmentHeader(
            sequence: sequence, salt: reactor.now().nanoseconds | 1, firstIndex: nextIndex)
        do throws(IOError) {
            let next = try await Self.activateSpare(directory, header, on: reactor)
            try await file.close()
            file = next
        } catch {
            throw fail(error)
        }
        // Only now: as long as there is one, `removePrefix` leaves the spare's name alone.
        spare = nil
        salt = header.salt
        end = LogFormat.blockSize
        segments.append(Segment(sequence: sequence, firstIndex: nextIndex))
    }

    /// Makes the file for the next segment and fills it with zeros, or takes the one that
    /// `removePrefix` left for reuse.
    private static func prepareSpare(
        _ directory: String, on reactor: Reactor, options: Options
    ) async throws(IOError) {
        let path = "\(directory)/\(LogSegment.spareName)"
        if let found = try await reactor.status(path), found.size == options.segmentSize { return }
        let file = try await File.open(
            path, [.read, .write, .create, .truncate, .direct], on: reactor)
        try await file.allocate(0..<options.segmentSize)
        let zeros = reactor.pool.allocate(min(1 << 20, options.segmentSize))
        zeros.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        var at = 0
        while at < options.segmentSize {
            let count = min(zeros.capacity, options.segmentSize - at)
            try await file.write(Payload(zeros, 0..<count), at: at)
            at += count
        }
        try await file.synchronize()
        try await file.close()
    }

    /// Gives the spare its header and then its name, each made durable before the next.
    private static func activateSpare(
        _ directory: String, _ header: SegmentHeader, on reactor: Reactor
    ) async throws(IOError) -> File {
        let spare = "\(directory)/\(LogSegment.spareName)"
        let path = "\(directory)/\(LogSegment.name(header.sequence))"
        let file = try await File.open(spare, [.read, .write, .direct], on: reactor)
        let block = reactor.pool.allocate(LogFormat.blockSize)
        header.write(into: block.bytes)
        try await file.write(Payload(block, 0..<LogFormat.blockSize), at: 0)
        try await file.synchronize()
        try await file.close()
        try await reactor.rename(spare, to: path)
        try await reactor.synchronizeDirectory(directory)
        return try await File.open(path, [.read, .write, .direct], on: reactor)
    }

    // MARK: Truncation

    /// Drops the segments that hold nothing after `index`. The caller has made sure that what
    /// was computed from them is durable elsewhere. The last segment always stays.
    public func removePrefix(through index: UInt64) async throws(StoreError) {
        while segments.count > 1, segments[1].firstIndex <= index + 1 {
            let path = "\(directory)/\(LogSegment.name(segments[0].sequence))"
            // One after the other, or a crash could leave a hole.
            if spare == nil {
                let (directory, reactor) = (directory, reactor)
                let recycling = Task(executorPreference: reactor) {
                    try await reactor.rename(
                        path, to: "\(directory)/\(LogSegment.spareName)")
                    try await reactor.synchronizeDirectory(directory)
                }
                spare = recycling
                if case .failure(let error) = await recycling.result {
                    throw Self.storeError(error)
                }
            } else {
                do throws(IOError) {
                    try await reactor.remove(path)
                    try await reactor.synchronizeDirectory(directory)
                } catch {
                    throw StoreError(error)
                }
            }
            segments.removeFirst()
        }
    }

    /// Waits for work in the background and closes the file. Nothing more can be appended.
    public func close() async throws(StoreError) {
        failure = StoreError(.notReady, "the log is closed")
        if let spare { _ = await spare.result }
        spare = nil
        do throws(IOError) {
            try await file.close()
        } catch {
            throw StoreError(error)
        }
    }
}
