import Foundation
import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

@Suite("SharedLog")
struct SharedLogTests {
    private func withLog<R>(
        segmentSize: Int = 32 << 10, cacheBytes: Int = 1 << 20,
        _ body: (SharedLog, String, Reactor) async throws -> R
    ) async throws -> R {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let log = try await smallLog(
                directory + "/log", on: reactor, segmentSize: segmentSize, cacheBytes: cacheBytes)
            let result = try await body(log, directory + "/log", reactor)
            try await log.close()
            return result
        }
    }

    @Test("what random operations on many groups did is what a reference holds", arguments: 0..<12)
    func referenceModel(seed: Int) async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var random = SplitMix64(state: UInt64(seed) &+ 77)
            var log = try await smallLog(directory + "/log", on: reactor)
            var model: [GroupID: ModelGroup] = [:]
            for round in 0..<120 {
                for number in 0..<6 where model[groupID(number)] == nil {
                    var group = ModelGroup()
                    group.confState = ConfState(voters: [1, 2, 3])
                    _ = try await log.create(groupID(number), confState: group.confState)
                    model[groupID(number)] = group
                }
                if round % 25 == 24 {
                    let victim = groupID(Int.random(in: 0..<6, using: &random))
                    try await log.remove(victim)
                    #expect(log.group(victim) == nil)
                    model[victim] = nil
                }
                // Group 0 is idle but for its beginning.
                var steps: [(GroupID, ModelOperation)] = []
                for id in model.keys.sorted() where round < 10 || id != groupID(0) {
                    steps.append((id, .random(on: model[id]!, upTo: 2500, using: &random)))
                }
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for (id, operation) in steps {
                        let group = try #require(log.group(id))
                        tasks.addTask { try await operation.perform(on: group) }
                    }
                    for try await _ in tasks {}
                }
                for (id, operation) in steps { model[id]!.apply(operation) }
                if round % 10 == 9 {
                    #expect(try await contents(log) == model, "seed \(seed), round \(round)")
                    #expect(await log.memoryBytes <= 16 << 10)
                }
                if round % 17 == 16 {
                    try await log.close()
                    log = try await smallLog(directory + "/log", on: reactor)
                    #expect(try await contents(log) == model, "seed \(seed), round \(round)")
                }
            }
            try await log.close()
        }
    }

    @Test("the calls of many groups that wait share one batch")
    func groupCommit() async throws {
        try await withLog(segmentSize: 4 << 20) { log, _, _ in
            for number in 0..<64 {
                _ = try await log.create(groupID(number), confState: ConfState(voters: [1]))
            }
            let before = await log.statistics
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for number in 0..<64 {
                    let group = try #require(log.group(groupID(number)))
                    tasks.addTask {
                        for index in 1...50 as ClosedRange<UInt64> {
                            try await group.append(
                                entries: [Entry(term: 1, index: index, data: [1, 2, 3])])
                        }
                    }
                }
                for try await _ in tasks {}
            }
            let after = await log.statistics
            #expect(after.calls - before.calls == 64 * 50)
            // At the very least two calls to a batch; it is about 50 on an idle machine.
            #expect(after.batches - before.batches <= 64 * 50 / 2)
        }
    }

    @Test("entries show when they are durable, and in the order of the calls")
    func order() async throws {
        try await withLog { log, _, reactor in
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            let calls = (0..<40 as Range<UInt64>).map { number in
                Entry(term: number + 1, index: number + 1, data: [UInt8(number)])
            }
            // All are handed over before the first is durable, from one task on the reactor.
            let task = Task(executorPreference: reactor) {
                await withTaskGroup(of: StoreError?.self) { tasks in
                    for entry in calls {
                        tasks.addTask {
                            do throws(StoreError) {
                                try await group.append(entries: [entry])
                                // Durable now, so it shows.
                                return group.lastIndex >= entry.index
                                    ? nil : StoreError(.internal, "not seen")
                            } catch {
                                return error
                            }
                        }
                    }
                    return await tasks.reduce(into: [StoreError]()) {
                        if let error = $1 { $0.append(error) }
                    }
                }
            }
            #expect(await task.value.isEmpty)
            #expect(try await ModelGroup(reading: group).entries == calls)
        }
    }

    @Test("an append larger than any batch is split and comes back whole")
    func largeAppend() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var log = try await smallLog(directory + "/log", on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            var random = SplitMix64(state: 5)
            let entries = ModelOperation.entries(from: 1, 3, 60...60, 3000, &random)
            let state = HardState(term: 3, vote: 1, commit: 55)
            try await group.append(entries: entries, hardState: state)
            #expect(try await ModelGroup(reading: group).entries == entries)
            try await log.close()
            log = try await smallLog(directory + "/log", on: reactor)
            let found = try await ModelGroup(reading: try #require(log.group(groupID(1))))
            #expect(found.entries == entries)
            #expect(found.hardState == state)
            let limit = log.options.maximumEntrySize
            let tooLarge = Entry(term: 3, index: 61, data: .init(repeating: 0, count: limit + 1))
            let error = await #expect(throws: StoreError.self) {
                try await log.group(groupID(1))?.append(entries: [tooLarge])
            }
            #expect(error?.code == .invalidArgument)
            let largest = Entry(term: 3, index: 61, data: .init(repeating: 7, count: limit))
            try await log.group(groupID(1))?.append(entries: [largest])
            #expect(log.group(groupID(1))?.lastIndex == 61)
            try await log.close()
        }
    }

    @Test("what is not there is refused, with what is")
    func refusals() async throws {
        try await withLog { log, _, _ in
            let group = try await log.create(
                groupID(1), confState: ConfState(voters: [1]), index: 10, term: 2)
            #expect(group.firstIndex == 11)
            #expect(group.lastIndex == 10)
            #expect(try group.term(of: 10) == 2)
            try await group.append(entries: [Entry(term: 2, index: 11), Entry(term: 2, index: 12)])
            #expect(throws: StorageError.compacted) {
                try group.entries(from: 10, to: 12, maxSize: 100)
            }
            #expect(throws: StorageError.unavailable) {
                try group.entries(from: 11, to: 14, maxSize: 100)
            }
            #expect(throws: StorageError.compacted) { try group.term(of: 9) }
            #expect(throws: StorageError.unavailable) { try group.term(of: 13) }
            #expect(try group.entries(from: 12, to: 12, maxSize: 100).isEmpty)
            let hole = await #expect(throws: StoreError.self) {
                try await group.append(entries: [Entry(term: 2, index: 14)])
            }
            #expect(hole?.code == .preconditionFailed)
            let early = await #expect(throws: StoreError.self) {
                try await group.compact(through: 13)
            }
            #expect(early?.message.contains("the last is 12") == true)
            // What the state machine applied is committed, even before that is written.
            try await group.compact(through: 11)
            #expect(try group.initialState().0.commit == 11)
            try await group.append(entries: [], hardState: HardState(term: 2, commit: 10))
            #expect(try group.initialState().0.commit == 11)
            #expect(group.firstIndex == 12)
            let twice = await #expect(throws: StoreError.self) {
                _ = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            }
            #expect(twice?.code == .conflict)
            #expect(throws: StorageError.snapshotTemporarilyUnavailable) {
                try group.snapshot(index: 11, to: 2)
            }
            #expect(group.wantedSnapshot == 11)
            let snapshot = Snapshot(metadata: SnapshotMetadata(index: 11, term: 2), data: [5])
            group.offer(snapshot)
            #expect(group.wantedSnapshot == nil)
            #expect(try group.snapshot(index: 11, to: 2) == snapshot)
            try await log.remove(groupID(1))
            let gone = await #expect(throws: StoreError.self) {
                try await group.append(entries: [Entry(term: 2, index: 13)])
            }
            #expect(gone?.code == .notReady)
        }
    }

    @Test("entries beyond the memory limit are fetched, and the limit holds")
    func cache() async throws {
        try await withLog(segmentSize: 256 << 10, cacheBytes: 40 << 10) { log, _, _ in
            var random = SplitMix64(state: 9)
            var written: [[Entry]] = []
            for number in 0..<3 {
                let group = try await log.create(
                    groupID(number), confState: ConfState(voters: [1]))
                let entries = ModelOperation.entries(from: 1, 1, 200...200, 900, &random)
                for start in stride(from: 0, to: 200, by: 8) {
                    try await group.append(entries: Array(entries[start..<start + 8]))
                    #expect(await log.memoryBytes <= 40 << 10)
                }
                written.append(entries)
                // The newest are in memory, the oldest are not.
                #expect(try group.entries(from: 200, to: 201, maxSize: 1) == [entries[199]])
            }
            for number in 0..<3 {
                let group = try #require(log.group(groupID(number)))
                #expect(throws: StorageError.temporarilyUnavailable) {
                    try group.entries(from: 1, to: 201, maxSize: 1000)
                }
                try await group.fetch(from: 1, to: 201, maxSize: 3000)
                let found = try group.entries(from: 1, to: 201, maxSize: 3000)
                #expect(!found.isEmpty && found == Array(written[number].prefix(found.count)))
                #expect(try await ModelGroup(reading: group).entries == written[number])
                #expect(await log.memoryBytes <= 40 << 10)
            }
            #expect(await log.statistics.entriesFetched > 300)
        }
    }

    @Test("an entry larger than the memory limit can be fetched and read")
    func largerThanCache() async throws {
        try await withLog(segmentSize: 256 << 10, cacheBytes: 1000) { log, _, _ in
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            let entries = (1...3).map {
                Entry(term: 1, index: $0, data: .init(repeating: 4, count: 50_000))
            }
            try await group.append(entries: entries)
            for entry in entries {
                try await group.fetch(from: entry.index, to: 4, maxSize: 1 << 20)
                #expect(try group.entries(from: entry.index, to: 4, maxSize: 1 << 20) == [entry])
            }
            #expect(await log.memoryBytes < 51_000)
        }
    }
}
