import Dispatch
import Foundation
import GRDB
import Model
import Synchronization
import Testing

@testable import MetadataStore

private let table = MetadataTable(1)

@Suite("A copy of the tables", .timeLimit(.minutes(10)))
struct CopyTests {
    private func put(_ key: UInt8, _ store: MetadataStore, index: UInt64) async throws {
        try await store.apply(1, through: index) { _, tables in
            tables.put(table, [key], [key])
        }
    }

    private func keys(_ path: String) async throws -> ([[UInt8]], UInt64) {
        let store = try await MetadataStore.open(path: path, role: "test", tables: [table])
        let keys = try await store.read { tables in
            var keys: [[UInt8]] = []
            tables.scan(table, from: []) { key, _ in
                keys.append(key)
                return true
            }
            return keys
        }
        let index = store.appliedIndex
        try await store.close()
        return (keys, index)
    }

    @Test("it is made beside the writer, which goes on, and says what it holds")
    func besideTheWriter() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/a.db", role: "test", tables: [table])
            for key in 1...3 as ClosedRange<UInt8> {
                try await put(key, store, index: UInt64(key))
            }
            try await store.flush()
            // The writer's queue is taken, as by a long flush.
            let release = DispatchSemaphore(value: 0)
            let holder = Holder()
            store.pool.asyncWriteWithoutTransaction { _ in
                holder.isTaken = true
                release.wait()
            }
            while !holder.isTaken { try await Task.sleep(for: .milliseconds(1)) }
            let index = try await store.copy(to: directory + "/b.db")
            #expect(index == 3)
            // And the other way round: what is applied during a copy is not of it.
            release.signal()
            try await put(4, store, index: 4)
            #expect(try await store.copy(to: directory + "/c.db") == 4)
            let (first, firstIndex) = try await keys(directory + "/b.db")
            #expect(first == [[1], [2], [3]] && firstIndex == 3)
            let (second, secondIndex) = try await keys(directory + "/c.db")
            #expect(second == [[1], [2], [3], [4]] && secondIndex == 4)
            let refusal = await #expect(throws: StoreError.self) {
                try await store.copy(to: directory + "/c.db")
            }
            #expect(refusal != nil)
            try await store.close()
            await #expect(throws: StoreError.self) {
                try await store.copy(to: directory + "/d.db")
            }
        }
    }
}

private final class Holder: Sendable {
    private let state = Mutex(false)
    var isTaken: Bool {
        get { state.withLock { $0 } }
        set { state.withLock { $0 = newValue } }
    }
}
