import Foundation
import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

/// Waits until `isDone`, at most ten seconds: the log frees segments in the background.
private func eventually(_ reactor: Reactor, _ isDone: () async -> Bool) async throws -> Bool {
    let end = reactor.now().advanced(by: .seconds(10))
    while reactor.now() < end {
        if await isDone() { return true }
        try await reactor.sleep(for: .milliseconds(10))
    }
    return false
}

/// An entry of `size` bytes that says its index.
private func entry(_ index: LogIndex, size: Int = 1000) -> Entry {
    Entry(
        term: 1, index: index, data: .init(repeating: UInt8(truncatingIfNeeded: index), count: size)
    )
}

private func files(_ directory: String, _ prefix: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: directory)
        .filter { $0.hasPrefix(prefix) }.sorted()
}

@Suite("SharedLog and its space")
struct SharedLogSpaceTests {
    @Test("a group that lags does not hold the log: its entries are written again")
    func laggingGroup() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            var log = try await smallLog(source, on: reactor)
            let idle = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            let busy = try await log.create(groupID(2), confState: ConfState(voters: [1]))
            try await idle.append(
                entries: [entry(1), entry(2)], hardState: HardState(term: 1, vote: 7, commit: 1))
            var mostDisk = 0
            for index in 1...600 as ClosedRange<UInt64> {
                try await busy.append(
                    entries: [entry(index)], hardState: HardState(term: 1, vote: 1, commit: index))
                if index % 20 == 0 { try await busy.compact(through: index - 5) }
                mostDisk = max(mostDisk, await log.diskBytes)
            }
            let isSmall = try await eventually(reactor) {
                await log.ledger.segments.count <= log.allowedSegments
            }
            #expect(isSmall)
            // 600 blocks were written; in use were about 30 KiB at any time: one segment and the
            // slack of three, one that is being emptied while others are written, two spare.
            #expect(mostDisk <= 12 * (32 << 10), "\(mostDisk >> 10) KiB")
            let statistics = await log.statistics
            #expect(statistics.entriesMoved >= 2)
            #expect(statistics.segmentsFreed > 50)
            // Reused rather than made anew.
            #expect(statistics.segmentsMade < statistics.segmentsBegun / 2)
            let expected = try await contents(log)
            #expect(expected[groupID(1)]?.entries == [entry(1), entry(2)])
            #expect(expected[groupID(1)]?.hardState.vote == 7)
            try await log.close()
            #expect(try files(source, "segment-").first != "segment-0000000000000001")
            log = try await smallLog(source, on: reactor)
            #expect(try await contents(log) == expected)
            try await log.close()
        }
    }

    @Test("many idle groups are moved, and their terms and members with them")
    func manyIdleGroups() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let source = directory + "/log"
            var log = try await smallLog(source, on: reactor)
            for number in 1...40 {
                let group = try await log.create(
                    groupID(number), confState: ConfState(voters: [PeerID(UInt64(number))]))
                try await group.append(
                    entries: [entry(1, size: 50), entry(2, size: 60)],
                    hardState: HardState(term: UInt64(number), vote: 3))
                if number % 4 == 0 {
                    // Its suffix lies in another segment than its start.
                    try await group.append(entries: [
                        Entry(term: 2, index: 2, data: [9]), Entry(term: 2, index: 3, data: [8]),
                    ])
                }
            }
            let expected = try await contents(log)
            let busy = try await log.create(groupID(99), confState: ConfState(voters: [1]))
            for index in 1...500 as ClosedRange<UInt64> {
                try await busy.append(
                    entries: [entry(index)], hardState: HardState(term: 1, vote: 1, commit: index))
                if index % 10 == 0 { try await busy.compact(through: index) }
            }
            #expect(await log.statistics.entriesMoved >= 80)
            try await log.close()
            log = try await smallLog(source, on: reactor)
            var found = try await contents(log)
            found[groupID(99)] = nil
            #expect(found == expected)
            try await log.close()
        }
    }

    @Test("small entries of many groups are not written again and again while nobody asks for it")
    func rest() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let log = try await smallLog(directory + "/log", on: reactor)
            // Each takes a block, whenever it is moved by itself: together more than the log may have.
            for number in 1...60 {
                let group = try await log.create(groupID(number), confState: ConfState(voters: [1]))
                try await group.append(entries: [entry(1, size: 50)], hardState: HardState(term: 1))
            }
            var before = -1
            let isAtRest = try await eventually(reactor) {
                try? await reactor.sleep(for: .milliseconds(300))
                let now = await log.statistics.segmentsBegun
                defer { before = now }
                return now == before
            }
            #expect(isAtRest, "\(before) segments were begun for 60 entries")
            try await log.close()
        }
    }

    @Test("entries that are read while their segment is freed and reused are right or gone")
    func fetchWhileFreeing() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let log = try await smallLog(directory + "/log", on: reactor, cacheBytes: 0)
            let idle = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            try await idle.append(entries: (1...20).map { entry($0, size: 400) })
            let busy = try await log.create(groupID(2), confState: ConfState(voters: [1]))
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask {
                    for index in 1...400 as ClosedRange<UInt64> {
                        try await busy.append(
                            entries: [entry(index)],
                            hardState: HardState(term: 1, vote: 1, commit: index))
                        if index % 10 == 0 { try await busy.compact(through: index) }
                    }
                }
                tasks.addTask {
                    while busy.lastIndex < 400 {
                        let found = try await log.read(idle, 1..<21, isMoving: false)
                        #expect(found.map(\.entry) == (1...20).map { entry($0, size: 400) })
                    }
                }
                for try await _ in tasks {}
            }
            #expect(await log.statistics.entriesMoved >= 20)
            try await log.close()
        }
    }

    @Test("a full disk is refused without damage, dropping entries makes room, and all goes on")
    func fullDisk() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 4)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            let source = directory + "/log"
            var log = try await smallLog(source, on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            faults.set(isFull: true)
            var index: LogIndex = 0
            var refusal: StoreError?
            while refusal == nil, index < 100 {
                do throws(StoreError) {
                    try await group.append(
                        entries: [entry(index + 1)],
                        hardState: HardState(term: 1, vote: 1, commit: index + 1))
                    index += 1
                } catch {
                    refusal = error
                }
            }
            #expect(refusal?.code == .noSpace)
            #expect(index >= 3)
            #expect(group.lastIndex == index)
            // Again, as often as one likes; and what follows a refused call leaves no hole.
            let again = await #expect(throws: StoreError.self) {
                try await group.append(entries: [entry(index + 1)])
            }
            #expect(again?.code == .noSpace)
            let later = await #expect(throws: StoreError.self) {
                try await group.append(entries: [entry(index + 2)])
            }
            #expect(later?.code == .preconditionFailed || later?.code == .noSpace)
            // There is no other segment yet, so nothing can be freed; but it can be dropped.
            try await group.compact(through: index - 1)
            #expect(group.firstIndex == index)
            #expect(group.lastIndex == index)
            faults.set(isFull: false)
            for _ in 0..<30 {
                index += 1
                try await group.append(
                    entries: [entry(index)], hardState: HardState(term: 1, vote: 1, commit: index))
            }
            try await group.compact(through: index - 2)
            let isSpare = try await eventually(reactor) { await !log.spares.isEmpty }
            #expect(isSpare)
            // With the disk full again the spare segments serve, and dropping makes new ones.
            faults.set(isFull: true)
            for _ in 0..<100 {
                index += 1
                try await group.append(
                    entries: [entry(index)], hardState: HardState(term: 1, vote: 1, commit: index))
                if index % 5 == 0 {
                    try await group.compact(through: index)
                    _ = try await eventually(reactor) { await !log.spares.isEmpty }
                }
            }
            let expected = try await contents(log)
            try await log.close()
            log = try await smallLog(source, on: reactor)
            #expect(try await contents(log) == expected)
            try await log.close()
        }
    }

    @Test("too much that waits is refused, and what waited is written")
    func overload() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let log = try await SharedLog.open(directory: directory + "/log", on: reactor)
            let data = [UInt8](repeating: 5, count: 2 << 20)
            for number in 0..<160 {
                _ = try await log.create(groupID(number), confState: ConfState(voters: [1]))
            }
            let codes = await withTaskGroup(of: StoreError.Code?.self) { tasks in
                for number in 0..<160 {
                    tasks.addTask {
                        do throws(StoreError) {
                            try await log.group(groupID(number))?.append(
                                entries: [Entry(term: 1, index: 1, data: data)])
                            return nil
                        } catch {
                            return error.code
                        }
                    }
                }
                return await tasks.reduce(into: [:]) { $0[$1, default: 0] += 1 }
            }
            #expect(Set(codes.keys).isSubset(of: [nil, .overloaded]))
            // The limit is 128 of these at a time.
            #expect(codes[nil, default: 0] >= 128)
            let written = (0..<160).count { log.group(groupID($0))?.lastIndex == 1 }
            #expect(written == codes[nil])
            try await log.close()
        }
    }
}
