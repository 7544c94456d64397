import Model
import Testing

@testable import MetadataStore

@Suite("MetadataStore: records in memory")
struct SharedRecordsTests {
    private static let cached = MetadataTable(1)
    private static let other = MetadataTable(2)

    private static func place(_ bytes: [UInt8]?) -> UInt? {
        bytes?.withUnsafeBufferPointer { UInt(bitPattern: $0.baseAddress) }
    }

    @Test("all readers of a cached record have one array of its bytes, on a snapshot as well")
    func oneArray() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/m.db", role: "test", tables: [Self.cached, Self.other],
                cache: .init(tables: [Self.cached], bytes: 1 << 20))
            try await store.apply(through: 1) { tables in
                tables.put(Self.cached, [1], [1, 2, 3])
                tables.put(Self.other, [1], [4])
            }
            try await store.flush()
            let fromCache = try await store.read { tables throws(StoreError) in
                tables.get(Self.cached, [1])
            }
            // Kept, so that nothing else can come to their places.
            var kept = [fromCache]
            for _ in 0..<3 {
                let (value, beside) = try await store.read { tables throws(StoreError) in
                    (tables.get(Self.cached, [1]), tables.get(Self.other, [1]))
                }
                #expect(value == [1, 2, 3] && beside == [4])
                #expect(Self.place(value) == Self.place(fromCache))
                kept.append(value)
                let again = try await store.read { tables throws(StoreError) in
                    tables.get(Self.cached, [1])
                }
                #expect(Self.place(again) == Self.place(fromCache))
                kept.append(again)
            }
            #expect(kept.count == 7)
            try await store.close()
        }
    }

    @Test("bytes that are not those in the cache are handed back, whether they are kept or not")
    func offered() {
        let cache = RecordCache(tables: [Self.cached], budget: 1 << 20)
        let key = RecordKey(table: Self.cached, bytes: [1])
        let before = cache.clock
        #expect(cache.offer(key, [1], readAt: before) == [1])
        cache.publish([key: [2]])
        #expect(cache.offer(key, [1], readAt: before) == [1], "of an older snapshot")
        #expect(cache.get(key) == [2])
        #expect(cache.offer(key, [2], readAt: cache.clock) == [2])
    }
}
