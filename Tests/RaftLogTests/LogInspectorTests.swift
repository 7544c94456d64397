import Foundation
import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

@Suite("LogInspector")
struct LogInspectorTests {
    private func snapshot(_ directory: String) throws -> [String: Data] {
        var files: [String: Data] = [:]
        for name in try FileManager.default.contentsOfDirectory(atPath: directory) {
            files[name] = try Data(contentsOf: URL(fileURLWithPath: "\(directory)/\(name)"))
        }
        return files
    }

    private func made(_ source: String, on reactor: Reactor) async throws {
        let log = try await smallLog(source, on: reactor, segmentSize: 64 << 10)
        let one = try await log.create(groupID(1), confState: ConfState(voters: [1, 2, 3]))
        let two = try await log.create(groupID(2), confState: ConfState(voters: [4]))
        for index in 1...40 as ClosedRange<UInt64> {
            try await one.append(
                entries: [Entry(term: 2, index: index, data: .init(repeating: 1, count: 700))],
                hardState: HardState(term: 2, vote: 3, commit: index))
        }
        try await one.compact(through: 5)
        try await two.append(entries: [Entry(term: 9, index: 1, data: [1, 2])])
        while await log.maintenance != nil { try await reactor.sleep(for: .milliseconds(1)) }
        try await log.close()
    }

    @Test("a log is told as it is: segments, batches, groups, and where it ends")
    func sound() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            try await made(source, on: reactor)
            let before = try snapshot(source)
            var batches: [LogReport.Batch] = []
            var report = try await LogInspector.inspect(source, on: reactor) { batches.append($0) }
            #expect(report.damage == nil)
            #expect(report.segments.count >= 3)
            #expect(report.segments.first?.firstBatch == 1)
            #expect(batches.map(\.number) == Array(1...UInt64(batches.count)))
            #expect(report.end?.nextBatch == UInt64(batches.count) + 1)
            #expect(report.end?.reason.contains("nothing was written behind") == true)
            #expect(report.groups.map(\.id) == ["\(groupID(1))", "\(groupID(2))"])
            let one = try #require(report.groups.first)
            #expect((one.firstIndex, one.lastIndex, one.bytes) == (6, 40, 35 * 700))
            #expect((one.term, one.vote, one.commit) == (2, 3, 40))
            #expect(one.voters == [1, 2, 3])
            #expect(one.problem == nil)
            let entries = batches.flatMap(\.records).filter { $0.kind == "entries" }
            #expect(entries.count == 41)
            #expect(entries.first?.entries?.first?.bytes == 700)
            batches = []
            report = try await LogInspector.inspect(source, group: groupID(2), on: reactor) {
                batches.append($0)
            }
            #expect(report.groups.count == 1)
            #expect(batches.flatMap(\.records).map(\.kind).contains("entries"))
            #expect(batches.flatMap(\.records).allSatisfy { $0.group == "\(groupID(2))" })
            #expect(try snapshot(source) == before)
            let json = try JSONEncoder().encode(report)
            #expect(!json.isEmpty)
        }
    }

    @Test("a damaged log is told up to its first damage, a torn one up to its end")
    func damaged() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            try await made(source, on: reactor)
            var batches: [LogReport.Batch] = []
            _ = try await LogInspector.inspect(source, on: reactor) { batches.append($0) }
            let middle = try #require(batches.first { $0.number == 20 })
            let path = "\(source)/\(middle.file)"
            let whole = try Data(contentsOf: URL(fileURLWithPath: path))
            var data = whole
            data[middle.records[0].offset + 100] ^= 1
            try data.write(to: URL(fileURLWithPath: path))
            var found: [LogReport.Batch] = []
            let report = try await LogInspector.inspect(source, on: reactor) { found.append($0) }
            #expect(found.map(\.number) == Array(1...19))
            #expect(report.damage?.contains("damaged at byte \(middle.offset)") == true)
            #expect(report.end?.file == nil)
            #expect(report.segments.last?.end == "not read on")
            #expect(report.damage?.contains("group \(groupID(1))") == true)
            #expect(report.groups.first?.lastIndex == batches[18].records[0].entries?.last?.index)
            try whole.write(to: URL(fileURLWithPath: path))

            let last = try #require(batches.last)
            let end = "\(source)/\(last.file)"
            data = try Data(contentsOf: URL(fileURLWithPath: end))
            data[last.records[0].offset + 2] ^= 1
            try data.write(to: URL(fileURLWithPath: end))
            let torn = try await LogInspector.inspect(source, on: reactor) { _ in }
            #expect(torn.damage == nil)
            #expect(torn.segments.last?.end == "torn")
            #expect(torn.end?.byte == last.offset)
            let absent = await #expect(throws: StoreError.self) {
                _ = try await LogInspector.inspect(directory, on: reactor) { _ in }
            }
            #expect(absent?.code == .invalidArgument)
        }
    }
}
