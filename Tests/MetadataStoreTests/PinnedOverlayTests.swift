import Model
import Testing

@testable import MetadataStore

@Suite("MetadataStore: scans of a batch")
struct PinnedOverlayTests {
    private static let table = MetadataTable(1)

    @Test("scans of a batch share one view of the overlay, and see what the batch has changed")
    func shared() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/m.db", role: "test", tables: [Self.table])
            try await store.apply(through: 1) { $0.put(Self.table, [1], [1]) }
            try await store.flush()
            try await store.apply(through: 2) { tables in
                tables.put(Self.table, [2], [1])
                tables.put(Self.table, [3], [1])
            }
            let (views, scans) = try await store.apply(through: 3) { tables in
                var views: [ObjectIdentifier?] = []
                var scans: [[UInt8]] = []
                for round in 0..<4 as Range<UInt8> {
                    var keys: [UInt8] = []
                    tables.scan(Self.table, from: []) { key, value in
                        keys += key + value
                        return true
                    }
                    scans.append(keys)
                    views.append(tables.pinned.map(ObjectIdentifier.init))
                    // What the batch waits for moves to the database meanwhile.
                    if round == 1 { store.beginFlush() }
                    tables.put(Self.table, [round], [9])
                    if round == 2 { tables.delete(Self.table, [3]) }
                }
                return (views, scans)
            }
            #expect(views[0] != nil && Set(views).count == 1)
            #expect(
                scans == [
                    [1, 1, 2, 1, 3, 1], [0, 9, 1, 1, 2, 1, 3, 1], [0, 9, 1, 9, 2, 1, 3, 1],
                    [0, 9, 1, 9, 2, 9],
                ])
            try await store.close()
        }
    }
}
