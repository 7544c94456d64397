import Foundation
import GRDB
import Model
import Synchronization
import Testing

@testable import MetadataStore

private let first = MetadataTable(1)
private let second = MetadataTable(2)
private let third = MetadataTable(3)

@Suite("Tables that are taken over from a copy", .timeLimit(.minutes(10)))
struct ReplaceTests {
    private func open(
        _ path: String, _ tables: [MetadataTable] = [first, second, third],
        pace: BulkPace = .unbounded
    ) async throws -> MetadataStore {
        let cache = MetadataStore.Cache(tables: [first], bytes: 1 << 20)
        return try await MetadataStore.open(
            path: path, role: "om", tables: tables, cache: cache, pace: pace)
    }

    private func entries(
        _ store: MetadataStore, _ table: MetadataTable
    ) async throws -> [[[UInt8]]] {
        try await store.readStored { tables in
            tables.entries(table, prefix: [], limit: 1 << 20).map { [$0.key, $0.value] }
        }
    }

    /// A copy with records of all sizes.
    private func makeCopy(_ directory: String, index: UInt64) async throws -> String {
        let path = "\(directory)/copy-\(index).db"
        let store = try await open("\(directory)/source-\(index).db", [first, second])
        try await store.apply(through: index) { tables in
            for number in 0..<20_000 as Range<UInt32> {
                var key: [UInt8] = []
                key.appendBigEndian(number &* 2_654_435_761)
                tables.put(first, key, [UInt8](repeating: 1, count: Int(number % 90)))
            }
            for key in [[], [0], [0, 0], [0, 1], [255], [255, 255]] as [[UInt8]] {
                tables.put(second, key, [UInt8](repeating: 7, count: 70_000))
            }
            for number in 0..<250 as Range<UInt8> {
                tables.put(second, [3, number], [UInt8](repeating: number, count: 100_000))
            }
        }
        #expect(try await store.copy(to: path) == index)
        try await store.close()
        return path
    }

    @Test("every record is there afterwards, and no other, whatever its size and its key")
    func whole() async throws {
        try await withTemporaryDirectory { directory in
            let path = try await makeCopy(directory, index: 9)
            let source = try await open("\(directory)/source-9.db")
            var store = try await open("\(directory)/m.db")
            try await store.apply(through: 4) { tables in
                for table in [first, second, third] { tables.put(table, [1, 2], [3]) }
            }
            #expect(try await store.read { $0.get(first, [1, 2]) } == [3])
            try await store.replace(with: path, index: 9)
            #expect(store.appliedIndex == 9)
            #expect(try await store.read { $0.get(first, [1, 2]) } == nil)
            for table in [first, second, third] {
                let found = try await entries(store, table)
                let expected = try await entries(source, table)
                #expect(found == expected)
                #expect(found.isEmpty == (table == third))
            }
            #expect(try await entries(store, second).count == 256)
            // It goes on from there.
            try await store.apply(through: 10) { $0.put(third, [1], [1]) }
            try await store.close()
            store = try await open("\(directory)/m.db")
            #expect(store.appliedIndex == 10)
            #expect(try await entries(store, third) == [[[1], [1]]])
            #expect(try await entries(store, second).count == 256)
            // The same once more. Neither the old records nor the new ones went through the
            // write-ahead log at once.
            try await store.replace(with: path, index: 9)
            #expect(try await entries(store, first) == entries(source, first))
            let log = try FileManager.default.attributesOfItem(atPath: "\(directory)/m.db-wal")
            #expect(try #require(log[.size] as? Int) < 10 << 20)
            try await store.close()
            try await source.close()
        }
    }

    @Test("a read sees the old tables or the new ones, and none between")
    func reads() async throws {
        try await withTemporaryDirectory { directory in
            var copies: [String] = []
            for index in [1, 2] as [UInt64] {
                let source = try await open("\(directory)/source-\(index).db")
                try await source.apply(through: index) { tables in
                    for number in 0..<3000 as Range<UInt16> {
                        tables.put(
                            first, [UInt8(number >> 8), UInt8(number & 255)], [UInt8(index)])
                    }
                }
                copies.append("\(directory)/copy-\(index).db")
                try await source.copy(to: copies[copies.count - 1])
                try await source.close()
            }
            let store = try await open("\(directory)/m.db")
            try await store.replace(with: copies[0], index: 1)
            let isDone = Done()
            try await withThrowingTaskGroup(of: Void.self) { [copies] group in
                group.addTask {
                    for round in 0..<20 {
                        try await store.replace(
                            with: copies[1 - round % 2], index: UInt64(2 - round % 2))
                    }
                    isDone.set()
                }
                for _ in 0..<6 {
                    group.addTask {
                        while !isDone.isSet {
                            let (count, values, one) = try await store.read { tables in
                                let found = tables.entries(first, prefix: [], limit: 9999)
                                return (
                                    found.count, Set(found.map(\.value)),
                                    tables.get(first, [3, 3])
                                )
                            }
                            #expect(count == 3000 && values.count == 1 && one == values.first)
                            let cached = try await store.read { $0.get(first, [3, 3]) }
                            #expect(cached != nil)
                        }
                    }
                }
                try await group.waitForAll()
            }
            try await store.close()
        }
    }

    @Test("a read of a member that is new sees nothing, or all that was taken over")
    func readsOfNew() async throws {
        try await withTemporaryDirectory { directory in
            let path = try await makeCopy(directory, index: 9)
            let store = try await open("\(directory)/m.db")
            let isDone = Done()
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    defer { isDone.set() }
                    try await store.replace(with: path, index: 9)
                }
                for _ in 0..<3 {
                    group.addTask {
                        while !isDone.isSet {
                            let count = try await store.read { tables in
                                tables.entries(first, prefix: [], limit: 1 << 20).count
                            }
                            #expect(count == 0 || count == 20_000)
                        }
                    }
                }
                try await group.waitForAll()
            }
            try await store.close()
        }
    }

    @Test("one that fails half-way is refused to readers, empty when opened, and can be done again")
    func halfWay() async throws {
        try await withTemporaryDirectory { directory in
            let path = try await makeCopy(directory, index: 9)
            let broken = "\(directory)/broken.db"
            try FileManager.default.copyItem(atPath: path, toPath: broken)
            let queue = try DatabaseQueue(path: broken)
            try await queue.write { db in
                try db.execute(sql: "DROP TABLE t2; CREATE TABLE t2 (k BLOB PRIMARY KEY)")
            }
            try queue.close()
            var store = try await open("\(directory)/m.db")
            try await store.apply(through: 3) { $0.put(third, [1], [1]) }
            // What cannot be taken at all changes nothing.
            let wrong = await #expect(throws: StoreError.self) {
                try await store.replace(with: path, index: 8)
            }
            #expect(wrong?.code == .corrupt)
            #expect(try await entries(store, third).count == 1)
            await #expect(throws: StoreError.self) {
                try await store.replace(with: broken, index: 9)
            }
            let refused = await #expect(throws: StoreError.self) { try await entries(store, first) }
            #expect(refused?.code == .notReady)
            let uncopied = await #expect(throws: StoreError.self) {
                try await store.copy(to: "\(directory)/half.db")
            }
            #expect(uncopied?.code == .notReady)
            #expect(!FileManager.default.fileExists(atPath: "\(directory)/half.db"))
            try await store.close()
            store = try await open("\(directory)/m.db")
            #expect(store.appliedIndex == 0)
            for table in [first, second, third] {
                #expect(try await entries(store, table).isEmpty)
            }
            // Without a restart too.
            await #expect(throws: StoreError.self) {
                try await store.replace(with: broken, index: 9)
            }
            try await store.replace(with: path, index: 9)
            #expect(try await entries(store, first).count == 20_000)
            #expect(store.appliedIndex == 9)
            try await store.close()
        }
    }

    @Test("a copy is of one moment and on its own, whatever is flushed while it is made")
    func copyOfOneMoment() async throws {
        try await withTemporaryDirectory { directory in
            // Slow enough that some of the flushes come in between.
            let store = try await open(
                "\(directory)/m.db", pace: BulkPace(bytesPerSecond: 16 << 20))
            let change = { (index: UInt64) async throws in
                try await store.apply(through: index) { tables in
                    for key in 0..<80 as Range<UInt8> {
                        tables.put(
                            second, [key],
                            [UInt8](repeating: UInt8(truncatingIfNeeded: index), count: 100_000))
                    }
                }
                try await store.flush()
            }
            try await change(1)
            let isDone = Done()
            let path = "\(directory)/copy.db"
            async let copied = {
                defer { isDone.set() }
                return try await store.copy(to: path)
            }()
            var index: UInt64 = 1
            while !isDone.isSet {
                index += 1
                try await change(index)
            }
            let held = try await copied
            #expect(held <= index)
            try await store.close()
            for suffix in ["-wal", "-shm", "-journal"] {
                #expect(!FileManager.default.fileExists(atPath: path + suffix))
            }
            let copy = try await open(path)
            #expect(copy.appliedIndex == held)
            let values = try await entries(copy, second).map { Set($0[1]) }
            #expect(values.count == 80)
            #expect(values.allSatisfy { $0 == [UInt8(truncatingIfNeeded: held)] })
            try await copy.close()
        }
    }

    @Test("work that is interrupted fails with that, and leaves things as they were")
    func interrupted() async throws {
        try await withTemporaryDirectory { directory in
            let path = try await makeCopy(directory, index: 9)
            let store = try await open("\(directory)/m.db")
            try await store.apply(through: 3) { $0.put(third, [1], [1]) }
            store.interrupt()
            let copy = await #expect(throws: StoreError.self) {
                try await store.copy(to: "\(directory)/none.db")
            }
            let replacement = await #expect(throws: StoreError.self) {
                try await store.replace(with: path, index: 9)
            }
            #expect(copy?.code == .cancelled && replacement?.code == .cancelled)
            #expect(!FileManager.default.fileExists(atPath: "\(directory)/none.db"))
            #expect(try await entries(store, third) == [[[1], [1]]])
            // What is applied goes on, and is kept.
            try await store.apply(through: 4) { $0.put(third, [2], [2]) }
            try await store.close()
            let again = try await open("\(directory)/m.db")
            #expect(again.appliedIndex == 4)
            try await again.close()
        }
    }

    @Test("a step is followed by a rest: for the rate, and for how long it took")
    func pace() {
        let pace = BulkPace(bytesPerSecond: 10 << 20)
        let step = 1 << 20
        #expect(pace.rest(after: step, took: .zero) == .milliseconds(100))
        #expect(pace.rest(after: step, took: .milliseconds(20)) == .milliseconds(80))
        // A slow disk is left alone for longer than it was at work,
        #expect(pace.rest(after: step, took: .milliseconds(60)) == .milliseconds(120))
        // but not for ever,
        #expect(pace.rest(after: step, took: .seconds(9)) == BulkPace.Limits.longestRest)
        // unless the rate wants it.
        let slow = BulkPace(bytesPerSecond: BulkPace.Limits.leastRate)
        #expect(slow.rest(after: 4 << 20, took: .seconds(1)) == .seconds(3))
        #expect(BulkPace.unbounded.rest(after: step, took: .seconds(9)) == .zero)
    }
}

private final class Done: Sendable {
    private let state = Mutex(false)
    var isSet: Bool { state.withLock { $0 } }
    func set() { state.withLock { $0 = true } }
}
