import Bytes
import Checksum
import ContainerFormat
import Foundation
import Model
import Reactor
import Telemetry
import Testing

@testable import DiskTune

private func withReactor(
    _ body: @escaping @Sendable (String, Reactor) async throws -> Void
) async throws {
    let path = NSTemporaryDirectory() + "apus-tune-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    let reactor = try Reactor.start()
    defer { reactor.stop() }
    try await Task(executorPreference: reactor) { try await body(path, reactor) }.value
}

private func refusal<R>(_ body: () async throws -> R) async -> StoreError? {
    do {
        _ = try await body()
        return nil
    } catch { return error as? StoreError }
}

private func curve(_ work: DiskWork, _ rates: [Double]) -> DiskCurve {
    DiskCurve(
        work: work,
        points: rates.enumerated().map { index, rate in
            DiskPoint(
                depth: 1 << index, operationsPerSecond: rate,
                p50Microseconds: 1e6 * Double(1 << index) / rate,
                p99Microseconds: 3e6 * Double(1 << index) / rate)
        })
}

private let costs = SyncCosts(
    overwriteMicroseconds: 60, overwriteSyncMicroseconds: 34, overwriteSyncP99Microseconds: 90,
    newExtentMicroseconds: 300, newExtentSyncMicroseconds: 250, newExtentSyncP99Microseconds: 900,
    batch: 16, batchMicroseconds: 120)

private let report = DiskReport(
    path: "/disks/<1>", fileBytes: 1 << 30, isDirect: true, seconds: 40, spread: 0.02,
    curves: [
        curve(.randomRead4K, [9_000, 18_000, 36_000, 70_000, 95_000, 100_000, 99_000, 99_500]),
        curve(.randomWrite4K, [20_000, 35_000, 50_000, 51_000, 50_000, 50_500, 50_000, 49_000]),
        curve(.randomRead1M, [900, 1_800, 2_900, 3_000, 3_010, 2_990]),
        curve(.randomWrite1M, [800, 1_000, 1_010, 1_005, 1_000, 990]),
    ], sync: costs)

@Suite("Disk tuning")
struct DiskTuneTests {
    @Test("the knee is the smallest depth with 90 % of the peak")
    func knee() {
        #expect(report[.randomRead4K].knee.depth == 16)
        #expect(report[.randomRead4K].full.depth == 32)
        #expect(report[.randomWrite4K].knee.depth == 4)
        #expect(report[.randomRead1M].knee.depth == 4)
        #expect(report[.randomWrite1M].knee.depth == 2)
        #expect(curve(.randomRead4K, [5]).knee.depth == 1)
    }

    @Test("the settings follow from the curves")
    func settings() throws {
        let profile = report.profile(at: 77)
        #expect(profile.depth == 32 && profile.client.depth == 32)
        #expect(profile.scrub.depth == 16 && profile.repair.depth == 16)
        #expect(profile.bytesInFlight == 16 << 20)
        #expect(profile.operationBytes == 3010 * (1 << 20) / 100_000)
        #expect(profile.syncDelayMicroseconds == 0)
        #expect(try DiskProfile(parsing: profile.encoded()) == profile)
        var slow = report
        slow.sync.overwriteSyncMicroseconds = 8000
        #expect(slow.profile(at: 0).syncDelayMicroseconds == 1000)
    }

    @Test("the picture is well-formed, and text and picture name every depth and the knee")
    func drawings() throws {
        let svg = report.svg
        let parser = XMLChecker(svg)
        #expect(parser == nil, "\(parser ?? "")")
        #expect(svg.contains("&lt;1&gt;"))
        #expect(svg.components(separatedBy: "knee: depth").count == 5)
        let text = report.text
        #expect(text.components(separatedBy: "<- knee").count == 5)
        for depth in [1, 2, 4, 8, 16, 32, 64, 128] { #expect(text.contains("depth \(depth) ")) }
        #expect(!text.contains("NOTE"))
        var disturbed = report
        disturbed.spread = 0.4
        #expect(disturbed.text.contains("differ by 40 %"))
        #expect(DiskCurve.bar(1).count == 32 && DiskCurve.bar(0).isEmpty)
        #expect(DiskCurve.bar(0.5 / 32) == "▌")
    }

    @Test("numbers are written as people read them")
    func figures() {
        #expect(Figures.count(9_999) == "9999" && Figures.count(12_345) == "12.3k")
        #expect(Figures.count(123_456) == "123k" && Figures.count(1_234_567) == "1.23M")
        #expect(Figures.time(34.25) == "34.3 us" && Figures.time(1_050) == "1.05 ms")
        #expect(Figures.rate(3.2e9) == "3.20 GB/s" && Figures.rate(9.5e8) == "950 MB/s")
        #expect(
            Figures.decimal(-1.05, digits: 1) == "-1.1"
                || Figures.decimal(-1.05, digits: 1) == "-1.0")
        #expect(Figures.decimal(2.04, digits: 2) == "2.04")
    }

    @Test("a small file is measured in all respects, and nothing is left behind")
    func measure() async throws {
        try await withReactor { directory, reactor in
            var options = DiskTuner.Options(fileBytes: 8 << 20)
            options.smallDepths = [1, 4]
            options.largeDepths = [1, 2]
            options.pointDuration = .milliseconds(30)
            options.syncDuration = .milliseconds(30)
            options.passes = 2
            let steps = Counter()
            let path = try await MeasuredPath.look(at: directory, on: reactor, alone: true)
            let report = try await DiskTuner(on: reactor, options: options) { step in
                #expect((0...1).contains(step.part))
                steps.add()
            }.measure(path)
            #expect(steps.value > 16)
            #expect(report.curves.map(\.work) == DiskWork.allCases)
            for curve in report.curves {
                #expect(curve.points.allSatisfy { $0.operationsPerSecond > 0 })
                #expect(curve.points.allSatisfy { $0.p99Microseconds >= $0.p50Microseconds })
            }
            #expect(report.sync.overwriteMicroseconds > 0 && report.sync.batchMicroseconds > 0)
            #expect(report.fileBytes == 8 << 20)
            #expect(try await reactor.list(directory).isEmpty)
            try await report.profile(at: 5).write(to: directory, on: reactor)
            #expect(try await reactor.list(directory) == ["disk"])
            // And once more over its own trace.
            _ = try await MeasuredPath.look(at: directory, on: reactor, alone: true)
        }
    }

    @Test("foreign data, files, nothing at all, and newer volumes are refused by name")
    func refusals() async throws {
        try await withReactor { directory, reactor in
            let file = directory + "/thesis.tex"
            try "x".write(toFile: file, atomically: false, encoding: .utf8)
            let foreign = await refusal {
                try await MeasuredPath.look(at: directory, on: reactor, alone: false)
            }
            #expect(foreign?.code == .invalidArgument)
            #expect(foreign?.message.contains("thesis.tex") == true)
            let noDirectory = await refusal {
                try await MeasuredPath.look(at: file, on: reactor, alone: false)
            }
            #expect(noDirectory?.code == .badRequest)
            let nothing = await refusal {
                try await MeasuredPath.look(at: directory + "/x", on: reactor, alone: false)
            }
            #expect(nothing?.code == .badRequest)
            let body = Array("apus-volume 9\ndatanode x\ncluster none\n".utf8)
            let seal = "crc32c \(String(CRC32C.of(body), radix: 16))\n"
            try Data(body + Array(seal.utf8)).write(
                to: URL(fileURLWithPath: directory + "/VERSION"))
            let newer = await refusal {
                try await MeasuredPath.look(at: directory, on: reactor, alone: false)
            }
            #expect(newer?.code == .versionMismatch && newer?.message.contains("9") == true)
        }
    }

    @Test("a volume that is in use is refused, and given back afterwards")
    func inUse() async throws {
        try await withReactor { directory, reactor in
            let version = VolumeVersion(datanode: DatanodeID(high: 1, low: 2), cluster: nil)
            try Data(version.encoded()).write(to: URL(fileURLWithPath: directory + "/VERSION"))
            let first = try await MeasuredPath.look(at: directory, on: reactor, alone: true)
            #expect(first.isVolume)
            let second = await refusal {
                try await MeasuredPath.look(at: directory, on: reactor, alone: true)
            }
            #expect(second?.code == .conflict)
            _ = try await MeasuredPath.look(at: directory, on: reactor, alone: false)
            try await first.release()
            let third = try await MeasuredPath.look(at: directory, on: reactor, alone: true)
            try await third.release()
        }
    }

    @Test("without the space, what is needed is said and nothing is written")
    func noSpace() async throws {
        try await withReactor { directory, reactor in
            let path = try await MeasuredPath.look(at: directory, on: reactor, alone: true)
            let error = await refusal {
                try await DiskTuner(on: reactor, options: .init(fileBytes: 1 << 50)).measure(path)
            }
            #expect(error?.code == .noSpace)
            #expect(error?.message.contains("\(((1 << 50) + (64 << 20)) >> 20) MiB") == true)
        }
    }
}

@Suite("Disk check")
struct DiskCheckTests {
    private func health(_ path: String, read: UInt64, sync: UInt64, tail: UInt64) -> DiskHealth {
        let (reads, syncs) = (LatencyHistogram(), LatencyHistogram())
        for number in 0..<100 {
            reads.record(nanoseconds: number >= 98 ? tail * 1000 : read * 1000)
            syncs.record(nanoseconds: sync * 1000)
        }
        return DiskHealth(
            path: path, reads: reads.snapshot(), syncs: syncs.snapshot(), errors: [])
    }

    @Test("the disk that is slower than its siblings is named, by each measure")
    func outlier() {
        let good = (1...4).map { health("/d\($0)", read: 100, sync: 400, tail: 300) }
        let same = DiskHealth.compared(good, by: .init())
        #expect(same.allSatisfy { $0.verdict == .good && $0.reasons.isEmpty })
        for (bad, word) in [
            (health("/bad", read: 900, sync: 400, tail: 1000), "read p50"),
            (health("/bad", read: 100, sync: 1500, tail: 300), "sync p50"),
            (health("/bad", read: 100, sync: 400, tail: 60_000), "read p99"),
        ] {
            let all = DiskHealth.compared(good + [bad], by: .init())
            #expect(all.filter { $0.verdict == .outlier }.map(\.path) == ["/bad"])
            #expect(all[4].reasons.contains { $0.hasPrefix(word) }, "\(all[4].reasons)")
            #expect(DiskHealth.table(all).contains("outlier: "))
        }
    }

    @Test("a disk with errors is failing, alone or not, and no measure for the others")
    func failing() {
        var bad = health("/bad", read: 1, sync: 1, tail: 1)
        bad.errors = ["read /bad/f: Input/output error (errno 5)"]
        let good = health("/good", read: 5000, sync: 5000, tail: 50_000)
        let both = DiskHealth.compared([good, bad], by: .init())
        #expect(both.map(\.verdict) == [.good, .failing])
        #expect(DiskHealth.compared([bad], by: .init())[0].verdict == .failing)
        #expect(DiskHealth.compared([good], by: .init())[0].verdict == .good)
    }

    @Test("looking at a disk reads and syncs, and leaves nothing behind")
    func look() async throws {
        try await withReactor { directory, reactor in
            let path = try await MeasuredPath.look(at: directory, on: reactor, alone: false)
            var options = DiskChecker.Options()
            options.rounds = 20
            options.pause = .milliseconds(1)
            let found = await DiskChecker(on: reactor, options: options)
                .check([path], thresholds: .init())
            #expect(found[0].reads == 20 && found[0].syncs == 5)
            #expect(found[0].errors.isEmpty && found[0].readP50 > 0)
            #expect(try await reactor.list(directory).isEmpty)
        }
    }
}

/// What is wrong with the nesting of `text`, nil if nothing.
private func XMLChecker(_ text: String) -> String? {
    var open: [String] = []
    for part in text.components(separatedBy: "<").dropFirst() {
        guard let end = part.firstIndex(of: ">") else { return "a tag without an end: \(part)" }
        let tag = String(part[..<end])
        let name = tag.split(whereSeparator: { " /".contains($0) }).first.map(String.init) ?? ""
        if tag.hasPrefix("/") {
            guard open.popLast() == name else { return "\(name) is closed and was not open" }
        } else if !tag.hasSuffix("/") {
            open.append(name)
        }
    }
    return open.isEmpty ? nil : "\(open) are not closed"
}
