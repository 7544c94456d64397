import Chance
import Foundation
import GRDB
import MetadataStore
import Model
import Synchronization
import Testing

private let first = MetadataTable(1)
private let second = MetadataTable(2)

/// Random bytes of few values, so that prefixes and equal keys are common.
private func randomKey(_ random: inout some RandomNumberGenerator) -> [UInt8] {
    (0..<Int.random(in: 0...4, using: &random)).map { _ in
        [0, 1, 0x61, 0xFF].randomElement(using: &random) ?? 0
    }
}

private final class Flag: Sendable {
    private let value = Atomic(false)
    var isSet: Bool { value.load(ordering: .relaxed) }
    func set() { value.store(true, ordering: .relaxed) }
}

/// One random change or question, with what it answered.
private func step(
    _ tables: some MetadataTransaction, _ random: inout some RandomNumberGenerator
) -> [[UInt8]] {
    let table = Bool.random(using: &random) ? first : second
    let key = randomKey(&random)
    switch Int.random(in: 0..<6, using: &random) {
    case 0...2:
        tables.put(table, key, [UInt8.random(in: 0...255, using: &random)])
        return []
    case 3:
        tables.delete(table, key)
        return []
    case 4: return [tables.get(table, key) ?? [9, 9]]
    default:
        let limit = Int.random(in: 1...5, using: &random)
        var found: [[UInt8]] = []
        tables.scan(table, from: key) { key, value in
            found += [key, value]
            // Scanning within a scan, also of the same table.
            tables.scan(first, from: key) { inner, _ in
                found.append(inner)
                return false
            }
            return found.count < 3 * limit
        }
        return found
    }
}

@Suite("MetadataStore")
struct MetadataStoreTests {
    @Test(
        "the tables of a database answer like the ones in memory",
        arguments: 0..<20 as Range<UInt64>)
    func likeInMemory(seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/m.db", role: "test", tables: [first, second])
            let model = InMemoryTables()
            var random = SeededGenerator(seed: seed)
            for batch in 1...20 as ClosedRange<UInt64> {
                let start = random
                let count = Int.random(in: 1...60, using: &random)
                let answers = try await store.apply(through: batch) { tables in
                    var random = start
                    return (0..<count).map { _ in step(tables, &random) }
                }
                random = start
                let expected = (0..<count).map { _ in step(model, &random) }
                #expect(answers == expected, "seed \(seed)")
                // What comes after a quiet moment finds the same.
                if batch % 4 == 0 { store.releaseMemory() }
            }
            let all = try await store.read { tables in
                [first, second].map { table in
                    tables.entries(table, prefix: [], limit: .max).map { [$0.key, $0.value] }
                }
            }
            #expect(all == [first, second].map { model.dump($0).map { [$0.key, $0.value] } })
            try await store.close()
        }
    }

    @Test("the applied index and the tables are there after opening again")
    func reopen() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/m.db"
            var store = try await MetadataStore.open(path: path, role: "om", tables: [first])
            #expect(store.appliedIndex == 0)
            try await store.apply(through: 7) { $0.put(first, [1], [2]) }
            try await store.close()
            store = try await MetadataStore.open(path: path, role: "om", tables: [first, second])
            #expect(store.appliedIndex == 7)
            let values = try await store.read { [$0.get(first, [1]), $0.get(second, [1])] }
            #expect(values == [[2], nil])
            try await store.close()
        }
    }

    @Test("a closed store refuses whatever still comes")
    func closed() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/m.db", role: "om", tables: [first])
            try await store.apply(through: 1) { $0.put(first, [1], [2]) }
            try await store.close()
            await #expect(throws: StoreError.self) {
                try await store.apply(through: 2) { $0.put(first, [1], [3]) }
            }
            await #expect(throws: StoreError.self) { _ = try await store.checkpoint() }
            await #expect(throws: StoreError.self) {
                try await store.read { $0.entries(first, prefix: [], limit: 10).count }
            }
            await #expect(throws: StoreError.self) {
                try await store.copy(to: directory + "/copy.db")
            }
            // A quiet moment may come late.
            store.releaseMemory()
        }
    }

    @Test("a step that asks for what is only in the file leaves nothing of its first attempt")
    func stepsRunAgain() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/m.db"
            let cache = MetadataStore.Cache(tables: [first], bytes: 1 << 20)
            var store = try await MetadataStore.open(
                path: path, role: "om", tables: [first, second], cache: cache)
            try await store.apply(through: 1) { $0.put(first, [1], [1]) }
            try await store.close()
            store = try await MetadataStore.open(
                path: path, role: "om", tables: [first, second], cache: cache)
            let runs = Mutex([0, 0, 0, 0])
            try await store.apply(4, through: 5) { number, tables in
                runs.withLock { $0[number] += 1 }
                switch number {
                case 0: tables.add(second, [0], [0])
                case 1:
                    // Without the file there seems to be nothing: all of this is taken back.
                    if tables.get(first, [1]) == nil {
                        tables.delete(second, [0])
                        tables.put(second, [9], [9])
                        tables.put(first, [1], [9])
                    } else {
                        tables.put(second, [1], [1])
                    }
                case 2: if tables.get(first, [7]) == nil { tables.put(second, [2], [2]) }
                default: if tables.get(second, [0]) != nil { tables.put(second, [3], [3]) }
                }
            }
            // What was in memory ran once, the one that was not twice, those after it once.
            #expect(runs.withLock { $0 } == [1, 2, 1, 1])
            let (firsts, seconds) = try await store.read { tables in
                (
                    tables.entries(first, prefix: [], limit: 9).map { [$0.key, $0.value] },
                    tables.entries(second, prefix: [], limit: 9).map { [$0.key, $0.value] }
                )
            }
            #expect(firsts == [[[1], [1]]])
            #expect(seconds == (0...3).map { [[UInt8($0)], [UInt8($0)]] })
            try await store.close()
        }
    }

    @Test("records added and removed again are never there, also after a flush and opening again")
    func shortLived() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/m.db"
            var store = try await MetadataStore.open(path: path, role: "om", tables: [first])
            for index in 1...40 as ClosedRange<UInt64> {
                let key = [UInt8(index)]
                try await store.apply(through: index) { $0.add(first, key, [1]) }
                // Some are written before they are removed, some only between two flushes.
                if index % 3 == 0 { _ = try await store.checkpoint() }
                if index > 2 {
                    let old = [UInt8(index - 2)]
                    // The last run counts: the first may not know what is only in the file.
                    let (before, after) = try await store.apply(through: index) { tables in
                        let before = tables.get(first, old)
                        tables.delete(first, old)
                        return (before, tables.get(first, old))
                    }
                    #expect(before == [1])
                    #expect(after == nil)
                }
                let there = try await store.read { tables in
                    tables.entries(first, prefix: [], limit: 100).map(\.key)
                }
                #expect(there == (max(1, index - 1)...index).map { [UInt8($0)] })
            }
            try await store.close()
            store = try await MetadataStore.open(path: path, role: "om", tables: [first])
            let there = try await store.read { tables in
                tables.entries(first, prefix: [], limit: 100).map(\.key)
            }
            #expect(there == [[39], [40]])
            try await store.close()
        }
    }

    @Test("a read sees one state while changes go on")
    func snapshot() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/m.db", role: "om", tables: [first])
            try await store.apply(through: 1) { $0.put(first, [0], [1]) }
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    for index in 2...200 as ClosedRange<UInt64> {
                        try await store.apply(through: index) { tables in
                            for key in 0..<8 as Range<UInt8> {
                                tables.put(first, [key], [UInt8(truncatingIfNeeded: index)])
                            }
                        }
                    }
                }
                for _ in 0..<3 {
                    group.addTask {
                        for _ in 0..<100 {
                            let values = try await store.read { tables in
                                tables.entries(first, prefix: [], limit: 100).map(\.value)
                            }
                            #expect(Set(values).count == 1, "a read mixed two states")
                        }
                    }
                }
                try await group.waitForAll()
            }
            try await store.close()
        }
    }

    @Test("a file of another role, another version, or no database is refused by name")
    func refusals() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/m.db"
            let store = try await MetadataStore.open(path: path, role: "om", tables: [first])
            try await store.close()
            let role = await #expect(throws: StoreError.self) {
                try await MetadataStore.open(path: path, role: "scm", tables: [first])
            }
            #expect(role?.code == .badRequest)
            #expect(role?.message.contains("'om', not to 'scm'") == true)

            let queue = try DatabaseQueue(path: path)
            try await queue.write { db in
                try db.execute(sql: "UPDATE apus SET value = 9 WHERE name = 'format'")
            }
            try queue.close()
            let version = await #expect(throws: StoreError.self) {
                try await MetadataStore.open(path: path, role: "om", tables: [first])
            }
            #expect(version?.code == .versionMismatch)
            #expect(version?.message.contains("format 9") == true)

            try Data(repeating: 7, count: 8192).write(
                to: URL(fileURLWithPath: directory + "/bad.db"))
            let damaged = await #expect(throws: StoreError.self) {
                try await MetadataStore.open(
                    path: directory + "/bad.db", role: "om", tables: [first])
            }
            #expect(damaged?.code == .corrupt)
        }
    }

    @Test("after a checkpoint the file alone holds everything up to the index it named")
    func checkpoint() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/m.db"
            let store = try await MetadataStore.open(path: path, role: "om", tables: [first])
            for index in 1...50 as ClosedRange<UInt64> {
                try await store.apply(through: index) { tables in
                    tables.put(first, [UInt8(index)], [UInt8](repeating: 1, count: 5000))
                }
            }
            #expect(store.unsyncedBytes > 250_000)
            #expect(try await store.checkpoint() == 50)
            #expect(store.unsyncedBytes == 0)
            // Without the write-ahead log, as after its loss.
            try FileManager.default.copyItem(atPath: path, toPath: directory + "/alone.db")
            try await store.copy(to: directory + "/copy.db")
            for name in ["/alone.db", "/copy.db"] {
                let copy = try await MetadataStore.open(
                    path: directory + name, role: "om", tables: [first])
                #expect(copy.appliedIndex == 50)
                let count = try await copy.read { tables in
                    tables.entries(first, prefix: [], limit: 100).count
                }
                #expect(count == 50)
                try await copy.close()
            }
            try await store.close()
        }
    }

    @Test("a checkpoint gets through while readers and writers never stop")
    func busyCheckpoint() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/m.db"
            let store = try await MetadataStore.open(path: path, role: "om", tables: [first])
            let isDone = Flag()
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    var index: UInt64 = 0
                    while !isDone.isSet {
                        index += 1
                        let value = [UInt8](repeating: UInt8(truncatingIfNeeded: index), count: 999)
                        try await store.apply(through: index) { tables in
                            for key in 0..<20 as Range<UInt8> { tables.put(first, [key], value) }
                        }
                    }
                }
                for _ in 0..<8 {
                    group.addTask {
                        while !isDone.isSet {
                            _ = try await store.read { tables in
                                tables.entries(first, prefix: [], limit: 100).count
                            }
                        }
                    }
                }
                var done = 0
                for _ in 0..<40 {
                    try await Task.sleep(for: .milliseconds(5))
                    guard let index = try await store.checkpoint() else { continue }
                    done += 1
                    guard done % 5 == 0 else { continue }
                    // Only checkpoints write to the file itself: it stands still here.
                    let alone = directory + "/alone\(done).db"
                    try FileManager.default.copyItem(atPath: path, toPath: alone)
                    let copy = try await MetadataStore.open(
                        path: alone, role: "om", tables: [first])
                    #expect(copy.appliedIndex >= index, "less is durable than was said")
                    try await copy.close()
                }
                isDone.set()
                try await group.waitForAll()
                #expect(done >= 20, "\(done) of 40 checkpoints")
                let size = try FileManager.default.attributesOfItem(atPath: path + "-wal")[.size]
                #expect((size as? Int ?? 0) < 32 << 20, "the write-ahead log starts over")
            }
            try await store.close()
        }
    }
}
