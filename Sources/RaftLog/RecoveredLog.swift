import Model
import Raft
import Reactor

/// A log as it was found on disk, ready to be written on.
struct RecoveredLog {
    var groups: [GroupID: GroupState]
    var ledger: SegmentLedger
    var file: File
    var capacity: Int
    var end: Int
    var nextBatch: UInt64
    var durableOldest: UInt32
    var spares: [UInt64]
    /// Whether something sound follows the last batch that has records.
    var isProven = true

    /// What has been read so far.
    struct Progress {
        var groups: [GroupID: RecoveredGroup] = [:]
        var segments: [SegmentLedger.Segment] = []
        var oldest: UInt32?
        var last: SegmentScan?
        /// Whether the last batch has no records, or there is none in the last segment.
        var isProven = true
    }

    /// Reads all segments in `directory`, one after the other, the next one while one is gone
    /// through: two are in memory at a time. Makes a log if there is none.
    static func read(
        _ directory: String, on reactor: Reactor, options: SharedLog.Options
    ) async throws(StoreError) -> RecoveredLog {
        let (sequences, spares) = try await names(directory, on: reactor, options)
        guard let first = sequences.first else {
            return try await create(directory, spares, on: reactor, options)
        }
        var progress = Progress()
        var ahead: Task<Result<SegmentScan, StoreError>, Never>? = scan(
            directory, first, on: reactor)
        for (place, sequence) in sequences.enumerated() {
            guard let current = ahead else { preconditionFailure("a segment was not read ahead") }
            let scan = await current.value
            ahead =
                place + 1 < sequences.count
                ? Self.scan(directory, sequences[place + 1], on: reactor) : nil
            do throws(StoreError) {
                try take(scan.get(), sequence, &progress)
            } catch {
                _ = await ahead?.value
                throw error
            }
        }
        return try await finish(progress, directory, spares, on: reactor)
    }

    private static func scan(
        _ directory: String, _ sequence: UInt32, on reactor: Reactor
    ) -> Task<Result<SegmentScan, StoreError>, Never> {
        Task(executorPreference: reactor) {
            do throws(StoreError) {
                return .success(
                    try await SegmentScan.read(
                        "\(directory)/\(LogFile.segment(sequence))", sequence: sequence,
                        on: reactor))
            } catch {
                return .failure(error)
            }
        }
    }

    private static func names(
        _ directory: String, on reactor: Reactor, _ options: SharedLog.Options
    ) async throws(StoreError) -> (sequences: [UInt32], spares: [UInt64]) {
        do throws(IOError) {
            try await reactor.makeDirectory(directory)
            var spares: [UInt64] = []
            var sequences: [UInt32] = []
            for name in try await reactor.list(directory) {
                let path = "\(directory)/\(name)"
                if let sequence = LogFile.number(name, prefix: LogFile.segmentPrefix) {
                    sequences.append(UInt32(truncatingIfNeeded: sequence))
                } else if let number = LogFile.number(name, prefix: LogFile.sparePrefix) {
                    // Of another size if the options changed.
                    if try await reactor.status(path)?.size == options.segmentSize,
                        spares.count < options.spareSegments
                    {
                        spares.append(number)
                    } else {
                        try await reactor.remove(path)
                    }
                } else if name == LogFile.unfinished {
                    try await reactor.remove(path)
                }
            }
            return (sequences.sorted(), spares)
        } catch {
            throw StoreError(error)
        }
    }

    private static func create(
        _ directory: String, _ spares: [UInt64], on reactor: Reactor, _ options: SharedLog.Options
    ) async throws(StoreError) -> RecoveredLog {
        let header = LogBytes.SegmentHeader(
            sequence: 1, salt: reactor.randomNumber() | 1, firstBatch: 1,
            size: options.segmentSize)
        do throws(IOError) {
            let unfinished = "\(directory)/\(LogFile.unfinished)"
            try await SharedLog.fillSegment(unfinished, size: options.segmentSize, on: reactor)
            var first = Activation(spare: 0, header: header)
            try await first.advance(unfinished, in: directory, on: reactor)
            guard let file = first.file else { preconditionFailure("an active segment is open") }
            return RecoveredLog(
                groups: [:], ledger: SegmentLedger([.init(sequence: 1, salt: header.salt)]),
                file: file, capacity: options.segmentSize, end: LogBytes.blockSize, nextBatch: 1,
                durableOldest: 1, spares: spares)
        } catch {
            throw StoreError(error)
        }
    }

    // MARK: Going through a segment

    private static func take(
        _ found: SegmentScan, _ sequence: UInt32, _ progress: inout Progress
    ) throws(StoreError) {
        var scan = found
        try checkPlace(of: scan, sequence, progress)
        progress.isProven = true
        while let (offset, batch) = try scan.next() {
            progress.isProven = batch.recordCount == 0
            try take(scan, batch, at: offset, &progress.groups) { _ in }
        }
        note(scan, &progress)
    }

    /// Throws unless the segment follows the last one that was gone through.
    static func checkPlace(
        of scan: SegmentScan, _ sequence: UInt32, _ progress: Progress
    ) throws(StoreError) {
        guard let before = progress.last else { return }
        guard sequence == before.header.sequence + 1 else {
            throw StoreError(
                .corrupt,
                "the segment before \(scan.path) is missing: the last one found is "
                    + before.path)
        }
        guard scan.header.firstBatch == before.nextBatch else {
            throw before.damage("\(scan.path) begins with batch \(scan.header.firstBatch)")
        }
    }

    /// Throws unless the first segment is one that the last batch knows to be there.
    static func checkStart(_ progress: Progress, _ directory: String) throws(StoreError) {
        let needed = progress.oldest ?? 1
        guard let first = progress.segments.first?.sequence, first > needed else { return }
        throw StoreError(
            .corrupt,
            "the log in \(directory) begins with \(LogFile.segment(first)); the segments "
                + "from \(LogFile.segment(needed)) on are needed and missing")
    }

    /// Notes that all of the segment's batches were gone through.
    static func note(_ scan: SegmentScan, _ progress: inout Progress) {
        progress.oldest = scan.oldest ?? progress.oldest
        progress.segments.append(
            .init(sequence: scan.header.sequence, salt: scan.header.salt))
        progress.last = scan
    }

    /// Takes the records of a batch, and shows each to `look`.
    static func take(
        _ scan: SegmentScan, _ batch: LogBytes.BatchHeader, at offset: Int,
        _ groups: inout [GroupID: RecoveredGroup], _ look: (LogRecord) -> Void
    ) throws(StoreError) {
        var reader = RecordReader(scan.bytes, batchAt: offset, batch)
        var count = 0
        while let record = try next(&reader, scan, batch) {
            count += 1
            look(record)
            do throws(RecoveredGroup.Refusal) {
                try take(record, in: scan.header.sequence, &groups)
            } catch {
                guard case .contradiction(let text) = error else { continue }
                throw StoreError(
                    .corrupt,
                    "\(scan.path) has a record at byte \(record.offset) of group "
                        + "\(record.group) that cannot be: \(text)")
            }
        }
        guard count == batch.recordCount else {
            throw StoreError(
                .corrupt,
                "\(scan.path), batch \(batch.number) at byte \(offset): \(batch.recordCount) "
                    + "records should be in it, found \(count)")
        }
    }

    private static func next(
        _ reader: inout RecordReader, _ scan: SegmentScan, _ batch: LogBytes.BatchHeader
    ) throws(StoreError) -> LogRecord? {
        do throws(LogBytes.Refusal) {
            return try reader.next()
        } catch {
            guard case .malformed(let offset) = error else {
                throw StoreError(
                    .corrupt, "\(scan.path): batch \(batch.number) cannot be read")
            }
            throw StoreError(
                .corrupt,
                "\(scan.path) has a record at byte \(offset) in batch \(batch.number) that no "
                    + "log writes")
        }
    }

    private static func take(
        _ record: LogRecord, in segment: UInt32, _ groups: inout [GroupID: RecoveredGroup]
    ) throws(RecoveredGroup.Refusal) {
        switch record.content {
        case .entries(let headers):
            try groups[record.group, default: .init()].append(headers, in: segment)
        case .moved(let headers):
            try groups[record.group, default: .init()].move(headers, in: segment)
        case .hardState(let state):
            try groups[record.group, default: .init()].take(state)
        case .anchor(let anchor, let cause):
            try groups[record.group, default: .init()].take(anchor, cause, in: segment)
        case .removal: groups[record.group] = nil
        }
    }

    // MARK: The end

    private static func finish(
        _ progress: Progress, _ directory: String, _ spares: [UInt64], on reactor: Reactor
    ) async throws(StoreError) -> RecoveredLog {
        guard let last = progress.last else { preconditionFailure("a log has a last segment") }
        try checkStart(progress, directory)
        var groups: [GroupID: GroupState] = [:]
        for (id, group) in progress.groups {
            do throws(RecoveredGroup.Refusal) {
                groups[id] = try group.finish()
            } catch {
                guard case .contradiction(let text) = error else { continue }
                throw StoreError(.corrupt, "the log in \(directory), group \(id): \(text)")
            }
        }
        do throws(IOError) {
            let file = try await File.open(last.path, [.read, .write, .direct], on: reactor)
            // What was found may have been written by a process that died before its sync. From
            // now on it is taken for durable, so it must be.
            try await file.synchronize()
            try await reactor.synchronizeDirectory(directory)
            return RecoveredLog(
                groups: groups, ledger: SegmentLedger(progress.segments), file: file,
                capacity: last.header.size, end: last.end, nextBatch: last.nextBatch,
                durableOldest: progress.oldest ?? 1, spares: spares,
                isProven: progress.isProven)
        } catch {
            throw StoreError(error)
        }
    }
}
