import GRDB
import Model
import Testing

@testable import MetadataStore

@Suite("MetadataStore: a full disk")
struct FullDiskTests {
    private static let table = MetadataTable(1)

    /// Lets the database grow by `pages` at most; by as much as it wants if that is nil.
    private func limit(_ store: MetadataStore, pages: Int?) async throws {
        try await store.pool.writeWithoutTransaction { db in
            let count = try Int.fetchOne(db, sql: "PRAGMA page_count") ?? 0
            let most = pages.map { count + $0 } ?? 1 << 30
            _ = try Int.fetchOne(db, sql: "PRAGMA max_page_count = \(most)")
        }
    }

    @Test("what is told to have no room was not applied, and is when there is room")
    func full() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/m.db", role: "test", tables: [Self.table])
            try await limit(store, pages: 4)
            let value = [UInt8](repeating: 7, count: 1 << 20)
            let apply = { (index: UInt64) async throws(StoreError) in
                try await store.apply(through: index) { tables in
                    tables.put(Self.table, [UInt8(index)], value)
                }
            }
            var index: UInt64 = 1
            var failure: StoreError?
            while failure == nil, index < 100 {
                do throws(StoreError) {
                    try await apply(index)
                    index += 1
                } catch {
                    failure = error
                }
            }
            #expect(failure?.code == .noSpace)
            #expect(index > 30, "some wait in memory")
            #expect(store.appliedIndex == index - 1)
            let refused = index
            let read = try await store.read { tables throws(StoreError) in
                tables.get(Self.table, [UInt8(refused)])
            }
            #expect(read?.count == nil)

            try await limit(store, pages: nil)
            try await apply(refused)
            #expect(store.appliedIndex == index)
            try await store.close()
            let again = try await MetadataStore.open(
                path: directory + "/m.db", role: "test", tables: [Self.table])
            #expect(again.appliedIndex == index)
            let count = try await again.read { tables throws(StoreError) in
                var count: UInt64 = 0
                tables.scan(Self.table, from: []) { _, found in
                    count += found == value ? 1 : 0
                    return true
                }
                return count
            }
            #expect(count == index)
            try await again.close()
        }
    }
}
