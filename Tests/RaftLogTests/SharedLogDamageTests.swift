import Checksum
import Foundation
import Model
import Raft
import Reactor
import Synchronization
import Testing

@testable import RaftLog

private func bytes(_ path: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: path))
}

private func write(_ data: Data, _ path: String) throws {
    try data.write(to: URL(fileURLWithPath: path))
}

private func segments(_ directory: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: directory)
        .filter { $0.hasPrefix("segment-") }.sorted().map { "\(directory)/\($0)" }
}

/// Where a record of each kind lies in a log.
private struct Place {
    var path: String
    var record: Range<Int>
    var kind: String
    var group: GroupID
    var isInLastBatch: Bool
}

@Suite("SharedLog and damage")
struct SharedLogDamageTests {
    /// A log over several segments that holds records of all kinds, and what is in it. The last
    /// batch is an append to group 2 alone.
    private func made(
        _ source: String, on reactor: Reactor
    ) async throws -> (model: [GroupID: ModelGroup], beforeLast: [GroupID: ModelGroup]) {
        let log = try await smallLog(source, on: reactor)
        var random = SplitMix64(state: 11)
        var model: [GroupID: ModelGroup] = [:]
        for number in 1...4 {
            let conf = ConfState(voters: [1, 2, 3])
            _ = try await log.create(groupID(number), confState: conf)
            model[groupID(number)] = ModelGroup()
            model[groupID(number)]?.confState = conf
        }
        func run(_ id: GroupID, _ operation: ModelOperation) async throws {
            try await operation.perform(on: try #require(log.group(id)))
            model[id]!.apply(operation)
        }
        try await run(groupID(1), .append([Entry(term: 1, index: 1, data: [1])], nil))
        try await run(groupID(1), .append([], HardState(term: 1, vote: 2, commit: 1)))
        var round = 0
        var moved = 0
        while round < 30 || moved == 0, round < 200 {
            round += 1
            moved = await log.statistics.entriesMoved
            for number in 2...3 {
                let group = try #require(model[groupID(number)])
                let new = ModelOperation.entries(
                    from: group.last + 1, 1, 1...2, 1500, &random)
                let commit = group.last + UInt64(new.count)
                try await run(
                    groupID(number), .append(new, HardState(term: 1, vote: 1, commit: commit)))
                if round % 10 == 9 { try await run(groupID(number), .compact(commit - 1, nil)) }
            }
        }
        let members = ConfState(voters: [5], learners: [6])
        try await run(groupID(3), .members(members, model[groupID(3)]!.last))
        let snapshot = SnapshotMetadata(confState: ConfState(voters: [4]), index: 9, term: 3)
        try await run(groupID(1), .install(snapshot, [], HardState(term: 3, vote: 1, commit: 9)))
        try await log.remove(groupID(4))
        model[groupID(4)] = nil
        _ = try await log.create(groupID(5), confState: ConfState(voters: [1]))
        model[groupID(5)] = ModelGroup()
        model[groupID(5)]?.confState = ConfState(voters: [1])
        while await log.maintenance != nil { try await reactor.sleep(for: .milliseconds(1)) }
        let beforeLast = model
        let last = model[groupID(2)]!.last
        try await run(groupID(2), .append([Entry(term: 1, index: last + 1, data: [6, 6])], nil))
        while await log.maintenance != nil { try await reactor.sleep(for: .milliseconds(1)) }
        try await log.close()
        return (model, beforeLast)
    }

    private func places(_ source: String, on reactor: Reactor) async throws -> [Place] {
        var places: [Place] = []
        let paths = try segments(source)
        for path in paths {
            let sequence = try #require(
                LogFile.number(String(path.suffix(24)), prefix: LogFile.segmentPrefix))
            var scan = try await SegmentScan.read(path, sequence: UInt32(sequence), on: reactor)
            var first = places.count
            while let (offset, batch) = try scan.next() {
                first = places.count
                var reader = RecordReader(scan.bytes, batchAt: offset, batch)
                while let record = try reader.next() {
                    let kind: String
                    switch record.content {
                    case .entries: kind = "entries"
                    case .moved: kind = "moved"
                    case .hardState: kind = "hard state"
                    case .anchor(_, let cause): kind = "\(cause)"
                    case .removal: kind = "removal"
                    }
                    places.append(
                        Place(
                            path: path, record: record.offset..<record.offset + record.size,
                            kind: kind, group: record.group, isInLastBatch: false))
                }
            }
            if path == paths.last {
                for place in first..<places.count { places[place].isInLastBatch = true }
            }
        }
        return places
    }

    @Test("a flipped bit in a record of any kind is refused with file, byte and group")
    func records() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let wanted: Set = [
                "entries", "hard state", "moved", "install", "compact", "members", "removal",
                "create", "move",
            ]
            // What the log has tidied up by the end differs from run to run: some lack a kind.
            var source = directory + "/log-0"
            var (model, beforeLast) = try await made(source, on: reactor)
            var places = try await places(source, on: reactor)
            for attempt in 1..<50 where !wanted.isSubset(of: places.map(\.kind)) {
                source = directory + "/log-\(attempt)"
                (model, beforeLast) = try await made(source, on: reactor)
                places = try await self.places(source, on: reactor)
            }
            let kinds = Set(places.map(\.kind))
            #expect(kinds.isSuperset(of: wanted), "\(kinds)")
            var random = SplitMix64(state: 3)
            var refused: [String: Int] = [:]
            var cut = 0
            for kind in kinds.sorted() {
                let some = places.filter { $0.kind == kind }
                for round in 0..<25 {
                    // The last few of its kind, the very last included.
                    let place = some[some.count - 1 - round % min(some.count, 4)]
                    let whole = try bytes(place.path)
                    var damaged = whole
                    let byte = Int.random(in: place.record, using: &random)
                    damaged[byte] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                    try write(damaged, place.path)
                    do {
                        let log = try await smallLog(source, on: reactor)
                        #expect(place.isInLastBatch, "\(kind) at byte \(byte)")
                        let found = try await contents(log)
                        #expect(found == beforeLast)
                        cut += 1
                        try await log.close()
                    } catch let error as StoreError {
                        #expect(error.code == .corrupt)
                        #expect(error.message.contains(place.path), "\(error)")
                        #expect(error.message.contains("is damaged at byte"), "\(error)")
                        refused[kind, default: 0] += 1
                        let isNamed = error.message.contains("\(place.group)")
                        // Damage to the group's name or to a length can hide whose it is.
                        if byte >= place.record.lowerBound + LogBytes.recordHeaderSize {
                            #expect(isNamed || kind == "entries" || kind == "moved", "\(error)")
                        }
                    }
                    try write(whole, place.path)
                }
            }
            for kind in kinds { #expect(refused[kind, default: 0] >= 15, "\(kind)") }
            #expect(cut > 0)
            let log = try await smallLog(source, on: reactor)
            #expect(try await contents(log) == model)
            try await log.close()
        }
    }

    @Test("a damaged entry is named with its group, in recovery and when it is fetched")
    func entries() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            var log = try await smallLog(source, on: reactor, cacheBytes: 0)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            for index in 1...3 as ClosedRange<UInt64> {
                try await group.append(
                    entries: [Entry(term: 1, index: index, data: .init(repeating: 7, count: 900))])
            }
            let position = group.state.withLock { $0.position(of: 2) }
            let path = try #require(try segments(source).first)
            let byte = Int(position.offset) + LogBytes.entryHeaderSize + 450
            let whole = try bytes(path)
            var damaged = whole
            damaged[byte] ^= 4
            let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
            try file.seek(toOffset: UInt64(byte))
            try file.write(contentsOf: damaged[byte...byte])
            try file.synchronize()
            try file.close()
            let fetched = await #expect(throws: StoreError.self) {
                try await group.fetch(from: 2, to: 3, maxSize: 1)
            }
            #expect(fetched?.code == .corrupt)
            #expect(fetched?.message.contains("entry 2 of group \(groupID(1))") == true)
            try await group.fetch(from: 3, to: 4, maxSize: 1)
            try await log.close()
            let opened = await #expect(throws: StoreError.self) {
                log = try await smallLog(source, on: reactor)
            }
            #expect(
                opened?.message.contains(
                    "it is entry 2 of group \(groupID(1)) at byte \(position.offset)") == true,
                "\(String(describing: opened))")
        }
    }

    @Test("a flipped bit anywhere is refused, cut as the last batch, or in what nobody reads")
    func anywhere() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            // What the log has tidied up by the end differs from run to run: some have fewer.
            var source = directory + "/log-0"
            var (model, beforeLast) = try await made(source, on: reactor)
            var paths = try segments(source)
            for attempt in 1..<50 where paths.count < 3 {
                source = directory + "/log-\(attempt)"
                (model, beforeLast) = try await made(source, on: reactor)
                paths = try segments(source)
            }
            try #require(paths.count >= 3)
            var random = SplitMix64(state: 8)
            var outcomes = (refused: 0, cut: 0, whole: 0)
            for round in 0..<300 {
                let path = paths[round % paths.count]
                let whole = try bytes(path)
                var damaged = whole
                let byte = Int.random(in: 0..<whole.count, using: &random)
                damaged[byte] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                try write(damaged, path)
                do {
                    let log = try await smallLog(source, on: reactor)
                    let found = try await contents(log)
                    #expect(found == model || path == paths.last && found == beforeLast)
                    if found == model { outcomes.whole += 1 } else { outcomes.cut += 1 }
                    try await log.close()
                } catch let error as StoreError {
                    #expect(error.code == .corrupt || error.code == .versionMismatch)
                    #expect(error.message.contains("segment-"))
                    outcomes.refused += 1
                }
                try write(whole, path)
            }
            #expect(outcomes.refused > 5)
            #expect(outcomes.whole > 20)
        }
    }

    @Test("a log cut at any byte of its end gives whole batches, and can be written on")
    func cutAnywhere() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            let log = try await smallLog(source, on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            var ends = [await log.end]
            for index in 1...3 as ClosedRange<UInt64> {
                let data = [UInt8](repeating: 3, count: 1500 * Int(index))
                try await group.append(entries: [Entry(term: 1, index: index, data: data)])
                ends.append(await log.end)
            }
            try await log.close()
            let path = try #require(try segments(source).first)
            let whole = try bytes(path)
            var seen: Set<UInt64> = []
            for cut in ends[0]...ends[3]
            where cut % 4096 < 48 || cut % 4096 > 4084 || cut % 97 == 0 {
                // What was never written reads as zeros.
                try write(whole.prefix(cut) + Data(count: whole.count - cut), path)
                let log = try await smallLog(source, on: reactor)
                let last = try #require(log.group(groupID(1))).lastIndex
                // The end of a batch is padding.
                let complete = ends.lastIndex { $0 <= LogBytes.padded(cut) } ?? 0
                #expect(last <= UInt64(complete))
                #expect(last + 1 >= UInt64(complete), "cut at \(cut)")
                seen.insert(last)
                if cut % 5 == 0 {
                    try await log.group(groupID(1))?.append(
                        entries: [Entry(term: 2, index: last + 1, data: [1])])
                    try await log.close()
                    let again = try await smallLog(source, on: reactor)
                    #expect(again.group(groupID(1))?.lastIndex == last + 1)
                    #expect(try again.group(groupID(1))?.term(of: last + 1) == 2)
                    try await again.close()
                } else {
                    try await log.close()
                }
            }
            #expect(seen == [0, 1, 2, 3])
        }
    }

    @Test("a missing segment is refused: the first, one between, and one that is cut short")
    func missing() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            // What the log has tidied up by the end differs from run to run: some have fewer.
            var source = ""
            var paths: [String] = []
            for attempt in 0..<50 where paths.count < 3 {
                source = directory + "/log-\(attempt)"
                _ = try await made(source, on: reactor)
                paths = try segments(source)
            }
            try #require(paths.count >= 3)
            for (path, text) in [(paths[0], "are needed and missing"), (paths[1], "is missing")] {
                let whole = try bytes(path)
                try FileManager.default.removeItem(atPath: path)
                let error = await #expect(throws: StoreError.self) {
                    _ = try await smallLog(source, on: reactor)
                }
                #expect(error?.code == .corrupt)
                #expect(error?.message.contains(text) == true, "\(String(describing: error))")
                try write(whole, path)
            }
            let whole = try bytes(paths[1])
            try write(whole.prefix(whole.count / 2), paths[1])
            let short = await #expect(throws: StoreError.self) {
                _ = try await smallLog(source, on: reactor)
            }
            #expect(short?.message.contains("its header says") == true)
            try write(whole, paths[1])
            try await smallLog(source, on: reactor).close()
        }
    }

    @Test("a log of another format is refused with its number, that of one group too")
    func versions() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            for version in [1, 7] as [UInt16] {
                let source = directory + "/log-\(version)"
                try await smallLog(source, on: reactor).close()
                let path = try #require(try segments(source).first)
                var data = try bytes(path)
                // All formats have the version and this checksum at these places.
                data.withUnsafeMutableBytes { block in
                    block.put(version, at: 8)
                    let checked = UnsafeRawBufferPointer(
                        rebasing: UnsafeRawBufferPointer(block)[..<48])
                    block.put(CRC32C.of(checked), at: 48)
                }
                try write(data, path)
                let error = await #expect(throws: StoreError.self) {
                    _ = try await smallLog(source, on: reactor)
                }
                #expect(error?.code == .versionMismatch)
                #expect(error?.message.contains("format \(version)") == true)
                #expect(error?.message.contains("the log of one group") == (version == 1))
            }
        }
    }
}
