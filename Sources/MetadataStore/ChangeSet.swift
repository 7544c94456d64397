import HashTreeCollections
import Model

/// What a record has become.
struct RecordChange: Sendable {
    /// nil if it was removed.
    var value: [UInt8]?
    /// The record was added under a key that was never used before: nothing older lies below this
    /// change, so that its removal leaves nothing to write down.
    var isNew: Bool
}

/// Changes of records, the last one of each. A copy costs O(1) and shares what stays the same.
struct ChangeSet: Sendable {
    private(set) var tables: [MetadataTable: TreeDictionary<RecordBytes, RecordChange>] = [:]
    private(set) var count = 0
    /// Bytes of keys and values and what they cost beside, about.
    private(set) var size = 0

    enum Limits {
        /// Bytes that a change costs beside its own.
        static let overhead = 96
    }

    var isEmpty: Bool { count == 0 }

    func change(_ table: MetadataTable, _ key: [UInt8]) -> RecordChange? {
        tables[table]?[RecordBytes(key)]
    }

    /// Notes a change over what is known of its record. O(log n).
    mutating func merge(_ table: MetadataTable, _ key: [UInt8], _ change: RecordChange) {
        let bytes = RecordBytes(key)
        var merged = change
        if let before = tables[table]?[bytes] {
            size -= Self.cost(key, before)
            count -= 1
            if before.isNew && change.value == nil {
                tables[table]?[bytes] = nil
                return
            }
            merged.isNew = before.isNew || change.isNew
        }
        tables[table, default: [:]][bytes] = merged
        size += Self.cost(key, merged)
        count += 1
    }

    /// The changes of `table` in the order of their keys. O(n log n).
    func sorted(_ table: MetadataTable) -> [(key: RecordBytes, value: [UInt8]?)] {
        guard let changes = tables[table] else { return [] }
        return changes.map { (key: $0.key, value: $0.value.value) }.sorted { $0.key < $1.key }
    }

    private static func cost(_ key: [UInt8], _ change: RecordChange) -> Int {
        key.count + (change.value?.count ?? 0) + Limits.overhead
    }
}
