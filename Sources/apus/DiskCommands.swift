import ArgumentParser
import ContainerFormat
import DiskTune
import Foundation
import Model
import Reactor
import Synchronization

/// Disks, as those who tune them see them.
struct DiskCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disk", abstract: "Measure disks and look after them.",
        subcommands: [Tune.self, Check.self, Replaced.self, Moved.self])

    struct Tune: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Measure disks, write the settings that the datanode uses, draw the curves.",
            discussion: """
                Each PATH is the directory of a volume whose datanode is stopped, or an empty one. \
                One file without a name is written and measured; it is gone however the command \
                ends. A disk takes less than a minute. The settings go to the file `disk` in PATH.
                """)

        @Argument(help: "Directories, one for each disk.") var paths: [String]
        @Option(help: "MiB of the measuring file.") var fileMib = 1024
        @Option(help: "Also draw the curves into this SVG file (with -1, -2 … for several disks).")
        var svg: String?
        @Flag(help: "Measure only; write no settings.") var dryRun = false
        @Flag(help: "Print JSON, for programs.") var json = false

        func validate() throws {
            guard (64...65_536).contains(fileMib) else {
                throw ValidationError("--file-mib is 64 to 65536, not \(fileMib).")
            }
            guard Set(paths).count == paths.count else {
                throw ValidationError("A PATH is given twice.")
            }
        }

        private struct Result: Encodable {
            var report: DiskReport
            /// By `DiskWork`.
            var knees: [String: Int]
            var settings: [String: Int]
            var settingsFile, svg: String?
        }

        func run() async throws {
            let reactor = try DiskTuner.startReactor()
            let options = DiskTuner.Options(fileBytes: fileMib << 20)
            var results: [Result] = []
            // All are looked at before the first is measured: a wrong one costs no minutes.
            var measured: [MeasuredPath] = []
            for path in paths {
                measured.append(try await looked(at: path, on: reactor, alone: true))
            }
            for (index, path) in measured.enumerated() {
                let line = SharedStatusLine(isQuiet: json)
                let tuner = DiskTuner(on: reactor, options: options) { step in
                    let percent = Int(step.part * 100)
                    line.show("\(step.path): \(percent) %, \(step.text)", isLast: step.part == 1)
                }
                defer { line.show("", isLast: true) }
                let report = try await tuner.measure(path)
                results.append(try await keep(report, index, reactor))
                try await path.release()
            }
            if json { try printJSON(results) }
        }

        private func keep(
            _ report: DiskReport, _ index: Int, _ reactor: Reactor
        ) async throws -> Result {
            let now = Int64(Date().timeIntervalSince1970 * 1000)
            let profile = report.profile(at: now)
            let file = report.path + "/" + DiskProfile.fileName
            if !dryRun { try await profile.write(to: report.path, on: reactor) }
            var picture: String?
            if let svg {
                let name =
                    paths.count == 1
                    ? svg
                    : (svg.hasSuffix(".svg") ? String(svg.dropLast(4)) : svg) + "-\(index + 1).svg"
                do {
                    try report.svg.write(toFile: name, atomically: true, encoding: .utf8)
                } catch {
                    throw StoreError(.io, "cannot write \(name): \(error.localizedDescription)")
                }
                picture = name
            }
            if !json {
                if index > 0 { print("") }
                print(report.text)
                print("")
                print(profile.text)
                print(dryRun ? "nothing was written (--dry-run)" : "written to \(file)")
                if let picture { print("drawn in \(picture)") }
            }
            return Result(
                report: report,
                knees: Dictionary(
                    uniqueKeysWithValues: report.curves.map { ($0.work.rawValue, $0.knee.depth) }),
                settings: [
                    "depth": profile.depth, "bytesInFlight": profile.bytesInFlight,
                    "operationBytes": profile.operationBytes,
                    "clientDepth": profile.client.depth, "repairDepth": profile.repair.depth,
                    "scrubDepth": profile.scrub.depth,
                    "backgroundDepth": profile.background.depth,
                    "syncDelayMicroseconds": profile.syncDelayMicroseconds,
                ], settingsFile: dryRun ? nil : file, svg: picture)
        }
    }

    struct Check: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract:
                "Look at disks that may be at work, and name the one that is not as the others.",
            discussion: """
                Small reads of what is stored, and small writes with a sync to a file without a \
                name, at a low rate, for about five seconds. Exit 1 if a disk is an outlier among \
                its siblings, or fails.
                """)

        @Argument(help: "Directories of volumes, best all of a node.") var paths: [String]
        @Flag(help: "Print JSON, for programs.") var json = false

        func validate() throws {
            guard Set(paths).count == paths.count else {
                throw ValidationError("A PATH is given twice.")
            }
        }

        private struct Result: Encodable {
            var thresholds: DiskHealth.Thresholds
            var disks: [DiskHealth]
        }

        func run() async throws {
            let reactor = try Reactor.start()
            let thresholds = DiskHealth.Thresholds()
            var subjects: [MeasuredPath] = []
            for path in paths {
                subjects.append(try await looked(at: path, on: reactor, alone: false))
            }
            let line = SharedStatusLine(isQuiet: json)
            let checker = DiskChecker(on: reactor) { part in
                line.show("looking at disks: \(Int(part * 100)) %", isLast: part >= 1)
            }
            let disks = await checker.check(subjects, thresholds: thresholds)
            if json {
                try printJSON(Result(thresholds: thresholds, disks: disks))
            } else {
                print(DiskHealth.table(disks))
                print(
                    disks.count > 1
                        ? thresholds.text
                        : "one disk has no siblings to be compared with: give all of the node")
            }
            let bad = disks.filter { $0.verdict != .good }
            guard bad.isEmpty else {
                throw StoreError(
                    .io,
                    bad.map { "\($0.path) is \($0.verdict == .failing ? "failing" : "an outlier")" }
                        .joined(separator: ", "))
            }
        }
    }
}

/// A directory that may be measured; a wrong one in the command line is wrong usage.
private func looked(
    at path: String, on reactor: Reactor, alone: Bool
) async throws -> MeasuredPath {
    do throws(StoreError) {
        return try await MeasuredPath.look(at: path, on: reactor, alone: alone)
    } catch {
        if error.code == .badRequest { throw ValidationError(error.message) }
        throw error
    }
}

/// A status line that several tasks write.
final class SharedStatusLine: Sendable {
    private let line: Mutex<StatusLine>

    init(isQuiet: Bool) { line = Mutex(StatusLine(isQuiet: isQuiet)) }

    func show(_ text: String, isLast: Bool) {
        line.withLock { isLast ? $0.end() : $0.show(text) }
    }
}
