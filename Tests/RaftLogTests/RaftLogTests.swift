import Bytes
import Checksum
import Foundation
import Model
import Reactor
import Testing

@testable import RaftLog

/// What replaying gave, in order, with a check that no index is missed.
private final class Replayed {
    var commands: [[UInt8]] = []
    var next: UInt64
    init(after index: UInt64) { next = index + 1 }

    func take(_ firstIndex: UInt64, _ commands: [[UInt8]]) {
        #expect(firstIndex == next)
        next += UInt64(commands.count)
        self.commands += commands
    }
}

private func open(
    _ directory: String, on reactor: Reactor, after index: UInt64 = 0, segmentSize: Int = 32 << 10
) async throws(StoreError) -> (log: RaftLog, commands: [[UInt8]]) {
    let replayed = Replayed(after: index)
    let log = try await RaftLog.open(
        directory: directory, appliedIndex: index, on: reactor,
        options: .init(segmentSize: segmentSize)
    ) { firstIndex, commands throws(StoreError) in replayed.take(firstIndex, commands) }
    return (log, replayed.commands)
}

/// Appends batches of one to three commands and returns them, with the number of commands after
/// each batch.
private func fill(
    _ log: RaftLog, batches: Int, sizes: ClosedRange<Int> = 0...3000, seed: UInt64 = 1
) async throws -> (commands: [[UInt8]], ends: [Int]) {
    var random = SplitMix64(state: seed)
    var commands: [[UInt8]] = []
    var ends: [Int] = []
    for _ in 0..<batches {
        let batch = (0..<Int.random(in: 1...3, using: &random)).map { _ in
            (0..<Int.random(in: sizes, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
        }
        let first = try await log.append(batch)
        #expect(first == UInt64(commands.count) + 1)
        commands += batch
        ends.append(commands.count)
    }
    return (commands, ends)
}

private func segments(_ directory: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: directory)
        .filter { $0.hasPrefix("segment-") }.sorted().map { "\(directory)/\($0)" }
}

private func bytes(_ path: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: path))
}

private func write(_ data: Data, _ path: String) throws {
    try data.write(to: URL(fileURLWithPath: path))
}

@Suite("RaftLog")
struct RaftLogTests {
    @Test("what was appended is replayed in order, over many segments")
    func replay() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var (log, commands) = try await open(directory + "/log", on: reactor)
            #expect(commands.isEmpty)
            let written = try await fill(log, batches: 60)
            try await log.close()
            #expect(try segments(directory + "/log").count > 5)

            (log, commands) = try await open(directory + "/log", on: reactor)
            #expect(commands == written.commands)
            #expect(await log.lastIndex == UInt64(written.commands.count))
            try await log.close()
            (log, commands) = try await open(directory + "/log", on: reactor, after: 41)
            #expect(commands == Array(written.commands[41...]))
            #expect(try await log.append([[1]]) == UInt64(written.commands.count) + 1)
            try await log.close()
        }
    }

    @Test("a log cut at any byte gives a whole number of batches, and can be written again")
    func cutAnywhere() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            let log = try await open(source, on: reactor).log
            // A header block and three batches of one to three blocks.
            let written = try await fill(log, batches: 3, sizes: 1000...2500)
            let end = await log.tail()
            try await log.close()
            let path = try #require(try segments(source).last)
            let whole = try bytes(path)
            #expect(end > 4 * 4096 && end < whole.count)
            // Every byte near the seams and a stride of the rest; the bytes from the cut on read
            // as zeros, as those of a segment do that were never written.
            let cuts = (4096...end).filter { $0 % 4096 < 64 || $0 % 4096 > 4080 || $0 % 61 == 0 }
            var seen: Set<Int> = []
            for cut in cuts {
                try write(whole.prefix(cut) + Data(count: whole.count - cut), path)
                let (log, commands) = try await open(source, on: reactor)
                #expect(commands == Array(written.commands.prefix(commands.count)))
                #expect(([0] + written.ends).contains(commands.count), "a batch in part: \(cut)")
                seen.insert(commands.count)
                if cut % 7 == 0 {
                    #expect(try await log.append([[42]]) == UInt64(commands.count) + 1)
                    try await log.close()
                    let (again, more) = try await open(source, on: reactor)
                    #expect(more == commands + [[42]])
                    try await again.close()
                } else {
                    try await log.close()
                }
            }
            #expect(seen == Set([0] + written.ends))
        }
    }

    @Test("a flipped bit before the last batch is refused with its place, in the last one cut")
    func flippedBits() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            let log = try await open(source, on: reactor).log
            let written = try await fill(log, batches: 14, sizes: 500...2500)
            let end = await log.tail()
            try await log.close()
            let paths = try segments(source)
            #expect(paths.count >= 3)
            var random = SplitMix64(state: 3)
            var refused = 0
            var cut = 0
            for round in 0..<400 {
                let path = paths[round % paths.count]
                let isLast = path == paths.last
                let whole = try bytes(path)
                var damaged = whole
                let place = Int.random(in: 0..<(isLast ? end : whole.count), using: &random)
                damaged[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                try write(damaged, path)
                do {
                    let (log, commands) = try await open(source, on: reactor)
                    // In padding, or in the batch that nothing follows.
                    #expect(commands == Array(written.commands.prefix(commands.count)))
                    let isWhole = commands.count == written.commands.count
                    let lostLast = commands.count == written.ends[written.ends.count - 2]
                    #expect(isWhole || (isLast && lostLast), "byte \(place) of \(path)")
                    if lostLast && !isWhole { cut += 1 }
                    try await log.close()
                } catch let error as StoreError {
                    #expect(error.code == .corrupt || error.code == .versionMismatch)
                    #expect(error.message.contains("segment-"))
                    refused += 1
                }
                try write(whole, path)
            }
            #expect(refused > 100)
            #expect(cut > 0)
        }
    }

    @Test("a missing segment, a missing start and a log behind its tables are refused")
    func holes() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            let log = try await open(source, on: reactor).log
            let written = try await fill(log, batches: 40)
            try await log.close()
            let paths = try segments(source)
            try #require(paths.count >= 4)
            let behind = await #expect(throws: StoreError.self) {
                _ = try await open(source, on: reactor, after: UInt64(written.commands.count) + 1)
            }
            #expect(behind?.message.contains("its end is lost") == true)

            let middle = try bytes(paths[2])
            try FileManager.default.removeItem(atPath: paths[2])
            let hole = await #expect(throws: StoreError.self) {
                _ = try await open(source, on: reactor)
            }
            #expect(hole?.code == .corrupt)
            #expect(hole?.message.contains("is missing") == true)
            try write(middle, paths[2])

            try FileManager.default.removeItem(atPath: paths[0])
            let start = await #expect(throws: StoreError.self) {
                _ = try await open(source, on: reactor)
            }
            #expect(start?.message.contains("the log begins with command") == true)

            for path in paths.dropFirst() { try FileManager.default.removeItem(atPath: path) }
            let all = await #expect(throws: StoreError.self) {
                _ = try await open(source, on: reactor, after: 5)
            }
            #expect(all?.message.contains("is missing") == true)
        }
    }

    @Test("a batch of an unknown version is refused with its number")
    func versions() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let log = try await open(directory + "/log", on: reactor).log
            _ = try await log.append([[1, 2, 3]])
            try await log.close()
            let path = try #require(try segments(directory + "/log").first)
            var data = try bytes(path)
            // A header of version 7 whose checksum is right.
            data.withUnsafeMutableBytes { block in
                block[8] = 7
                let checked = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(block)[..<48])
                block.storeBytes(of: CRC32C.of(checked), toByteOffset: 48, as: UInt32.self)
            }
            try write(data, path)
            let error = await #expect(throws: StoreError.self) {
                _ = try await open(directory + "/log", on: reactor)
            }
            #expect(error?.code == .versionMismatch)
            #expect(error?.message.contains("format 7") == true)
        }
    }

    @Test("dropping the start reuses segments, and old content never comes back")
    func reuse() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            var log = try await open(source, on: reactor).log
            var all: [[UInt8]] = []
            var applied: UInt64 = 0
            for round in 0..<12 {
                for _ in 0..<15 {
                    let command = [UInt8](repeating: UInt8(round), count: 1500)
                    _ = try await log.append([command, command])
                    all += [command, command]
                }
                applied = UInt64(all.count) - 3
                try await log.removePrefix(through: applied)
                #expect(await log.firstIndex <= applied + 1)
                #expect(await log.size <= 3 * (32 << 10))
                try await log.close()
                let (next, commands) = try await open(source, on: reactor, after: applied)
                #expect(commands == Array(all[Int(applied)...]))
                log = next
            }
            try await log.close()
        }
    }

    @Test("dropping the start while commands are appended mixes no segments up")
    func reuseWhileAppending() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            for round in 0..<4 as Range<UInt64> {
                let applied = round * 300
                let log = try await open(source, on: reactor, after: applied).log
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    tasks.addTask {
                        for _ in 0..<300 {
                            _ = try await log.append([[UInt8](repeating: UInt8(round), count: 9000)]
                            )
                        }
                    }
                    tasks.addTask {
                        var random = SplitMix64(state: round)
                        while await log.lastIndex < applied + 300 {
                            try await log.removePrefix(through: await log.lastIndex)
                            let pause = Int.random(in: 0...2000, using: &random)
                            try await reactor.sleep(for: .microseconds(pause))
                        }
                    }
                    for try await _ in tasks {}
                }
                try await log.close()
            }
            let (log, commands) = try await open(source, on: reactor, after: 1198)
            #expect(
                commands == [
                    [UInt8](repeating: 3, count: 9000), [UInt8](repeating: 3, count: 9000),
                ])
            try await log.close()
        }
    }

    @Test("after a power cut at any operation nothing acknowledged is gone", arguments: 0..<60)
    func powerCut(seed: Int) async throws {
        try await withTemporaryDirectory { directory in
            let source = directory + "/log"
            let faults = FaultInjector(seed: UInt64(seed))
            let faulty = try Reactor.start(.init(backend: .faulty(faults)))
            faults.crash(atOperation: 12 + seed * 2)
            var acknowledged: [[UInt8]] = []
            var attempted: [[UInt8]] = []
            var removed: UInt64 = 0
            do {
                let log = try await open(source, on: faulty).log
                for round in 0..<60 {
                    let batch = (0...round % 3).map { [UInt8](repeating: UInt8($0), count: 900) }
                    attempted = acknowledged + batch
                    _ = try await log.append(batch)
                    acknowledged = attempted
                    if round % 20 == 19 {
                        try await log.removePrefix(through: UInt64(acknowledged.count) - 5)
                        removed = UInt64(acknowledged.count) - 5
                    }
                }
            } catch let error as StoreError {
                #expect(error.code == .io)
            }
            faulty.stop()
            faults.applyCrash()

            let reactor = try Reactor.start()
            defer { reactor.stop() }
            // The segments dropped were no longer needed from `removed` on; before the crash of
            // the dropping itself `removed` is still the older, smaller index.
            let (log, commands) = try await open(
                source, on: reactor, after: max(removed, UInt64(max(0, acknowledged.count - 5))))
            let from = Int(max(removed, UInt64(max(0, acknowledged.count - 5))))
            let isKept = commands == Array(acknowledged[from...])
            let hasMore = commands == Array(attempted[from...])
            #expect(isKept || hasMore, "seed \(seed)")
            _ = try await log.append([[7]])
            try await log.close()
        }
    }
}
