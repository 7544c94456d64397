import ArgumentParser
import Foundation
import Model
import RaftLog
import Reactor

/// What the files of a stopped node hold, for those who look for a fault.
struct DebugCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "debug", abstract: "Look into the files of a node that is stopped.",
        subcommands: [Log.self])

    /// `apus debug log`
    struct Log: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print a log that Raft groups share: segments, batches, groups, its end.",
            discussion: """
                PATH is the folder of the log. Nothing is changed. A damaged log is printed up to \
                its first damage, and the exit code is 1.
                """)

        @Argument(help: "The folder with the log's segments.") var path: String
        @Option(help: "Only the records of this group: 32 hexadecimal digits.")
        var group: String?
        @Flag(help: "Every entry: index, term, kind, bytes and place.") var entries = false
        @Flag(help: "Print JSON, for programs.") var json = false

        func validate() throws {
            guard let group else { return }
            guard GroupID(group) != nil else {
                throw ValidationError("--group is 32 hexadecimal digits, not '\(group)'.")
            }
        }

        private struct Result: Encodable {
            var log: LogReport
            var batches: [LogReport.Batch]
        }

        func run() async throws {
            let reactor = try Reactor.start()
            var batches: [LogReport.Batch] = []
            let report = try await LogInspector.inspect(
                path, group: group.flatMap { GroupID($0) }, on: reactor
            ) { batch in
                if json {
                    batches.append(entries ? batch : batch.withoutEntries)
                } else {
                    show(batch)
                }
            }
            if json {
                try printJSON(Result(log: report, batches: batches))
            } else {
                show(report)
            }
            guard report.damage == nil else { throw ExitCode.failure }
        }

        private func show(_ batch: LogReport.Batch) {
            print(
                "\(batch.file) @\(batch.offset): batch \(batch.number), \(batch.bytes) bytes, "
                    + "needs segments from \(batch.oldestSegment) on")
            for record in batch.records {
                print("  @\(record.offset) \(record.group) \(record.kind) \(record.text)")
                guard entries else { continue }
                for entry in record.entries ?? [] {
                    print(
                        "    @\(entry.offset) \(entry.index) term \(entry.term) \(entry.kind) "
                            + "\(entry.bytes) bytes")
                }
            }
        }

        private func show(_ report: LogReport) {
            print("")
            printTable(
                ["segment", "batches", "used", "of", "then"],
                report.segments.map {
                    [
                        $0.file, "\($0.firstBatch)..<\($0.nextBatch)", formatBytes($0.usedBytes),
                        formatBytes($0.bytes), $0.end,
                    ]
                })
            print("\(report.spareFiles.count) spare segments")
            print("")
            printTable(
                ["group", "entries", "bytes", "term", "vote", "commit", "voters"],
                report.groups.map {
                    [
                        $0.id, "\($0.firstIndex)...\($0.lastIndex)", formatBytes($0.bytes),
                        "\($0.term)", "\($0.vote)", "\($0.commit)",
                        $0.voters.map(String.init).joined(separator: ","),
                    ]
                })
            for group in report.groups {
                if let problem = group.problem { print("group \(group.id): \(problem)") }
            }
            print("")
            if let end = report.end {
                print(
                    "ends in \(end.file) at byte \(end.byte), batch \(end.nextBatch): \(end.reason)"
                )
            }
            if let damage = report.damage { print("DAMAGED: \(damage)") }
        }
    }
}

extension LogReport.Batch {
    /// The batch without its single entries.
    fileprivate var withoutEntries: Self {
        var copy = self
        for place in copy.records.indices { copy.records[place].entries = nil }
        return copy
    }
}
