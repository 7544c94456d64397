import Model
import Raft
import Reactor

/// Reads a log that nobody has open, without changing anything, and goes on where opening it
/// would be refused: up to the first damage, which it tells.
public enum LogInspector {
    /// Looks at the log in `directory`; `each` gets every batch in turn, with the records of
    /// `group` alone if that is given (then batches without any are left out).
    ///
    /// One segment is in memory at a time, and 20 bytes for each entry.
    ///
    /// - Throws: `invalidArgument` if there is no log, `io`.
    public static func inspect(
        _ directory: String, group: GroupID? = nil, on reactor: Reactor,
        each: (LogReport.Batch) -> Void
    ) async throws(StoreError) -> LogReport {
        var report = LogReport(directory: directory)
        var sequences: [UInt32] = []
        do throws(IOError) {
            for name in try await reactor.list(directory) {
                if let number = LogFile.number(name, prefix: LogFile.segmentPrefix) {
                    sequences.append(UInt32(truncatingIfNeeded: number))
                } else if LogFile.number(name, prefix: LogFile.sparePrefix) != nil {
                    report.spareFiles.append(name)
                }
            }
        } catch {
            throw StoreError(error)
        }
        guard !sequences.isEmpty else {
            throw StoreError(.invalidArgument, "\(directory) holds no segment of a log")
        }
        var progress = RecoveredLog.Progress()
        do throws(StoreError) {
            for sequence in sequences.sorted() {
                let scan = try await SegmentScan.read(
                    "\(directory)/\(LogFile.segment(sequence))", sequence: sequence, on: reactor)
                try look(at: scan, sequence, group, &progress, &report, each)
            }
            try RecoveredLog.checkStart(progress, directory)
        } catch {
            guard error.code == .corrupt || error.code == .versionMismatch else { throw error }
            report.damage = error.message
            report.end = nil
            if !report.segments.isEmpty {
                report.segments[report.segments.count - 1].end = "not read on"
            }
        }
        report.groups = progress.groups.keys.sorted().filter { group == nil || $0 == group }
            .compactMap { id in progress.groups[id].map { LogReport.Group(id, $0) } }
        return report
    }

    private static func look(
        at found: SegmentScan, _ sequence: UInt32, _ group: GroupID?,
        _ progress: inout RecoveredLog.Progress, _ report: inout LogReport,
        _ each: (LogReport.Batch) -> Void
    ) throws(StoreError) {
        try RecoveredLog.checkPlace(of: found, sequence, progress)
        let file = LogFile.segment(sequence)
        var scan = found
        defer {
            report.segments.append(
                LogReport.Segment(
                    file: file, sequence: sequence, bytes: scan.header.size,
                    usedBytes: scan.end, firstBatch: scan.header.firstBatch,
                    nextBatch: scan.nextBatch, end: scan.whatFollows.rawValue))
            report.end = LogReport.End(
                file: file, byte: scan.end, nextBatch: scan.nextBatch,
                reason: scan.whatFollows.text)
        }
        while let (offset, batch) = try scan.next() {
            var records: [LogReport.Record] = []
            try RecoveredLog.take(scan, batch, at: offset, &progress.groups) { record in
                if group == nil || record.group == group {
                    records.append(LogReport.Record(record))
                }
            }
            if group == nil || !records.isEmpty {
                each(
                    LogReport.Batch(
                        file: file, offset: offset, bytes: batch.paddedSize, number: batch.number,
                        oldestSegment: batch.oldest, records: records))
            }
        }
        RecoveredLog.note(scan, &progress)
    }
}

extension SegmentScan.End {
    /// The reason in words.
    var text: String {
        switch self {
        case .full: "the segment is full"
        case .empty: "nothing was written behind the last batch"
        case .torn: "a batch was begun there and is not whole: it was never acknowledged"
        }
    }
}
