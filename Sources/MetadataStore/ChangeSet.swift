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
    /// By the number of the table.
    private var tables: [TreeDictionary<RecordBytes, RecordChange>] = []
    private(set) var count = 0
    /// Bytes of keys and values and what they cost beside, about.
    private(set) var size = 0

    enum Limits {
        /// Bytes that a change costs beside its own.
        static let overhead = 96
    }

    var isEmpty: Bool { count == 0 }

    func change(_ table: MetadataTable, _ key: [UInt8]) -> RecordChange? {
        let number = Int(table.rawValue)
        return number < tables.count ? tables[number][RecordBytes(key)] : nil
    }

    /// The tables with changes, in the order of their numbers.
    var changedTables: [MetadataTable] {
        tables.indices.filter { !tables[$0].isEmpty }.map { MetadataTable(UInt8($0)) }
    }

    /// Notes a change over what is known of its record. O(log n).
    mutating func merge(_ table: MetadataTable, _ key: [UInt8], _ change: RecordChange) {
        let bytes = RecordBytes(key)
        let number = Int(table.rawValue)
        while tables.count <= number { tables.append([:]) }
        size += Self.cost(key, change)
        guard let before = tables[number].updateValue(change, forKey: bytes) else {
            count += 1
            return
        }
        size -= Self.cost(key, before)
        guard before.isNew else { return }
        guard change.value != nil else {
            size -= Self.cost(key, change)
            count -= 1
            tables[number][bytes] = nil
            return
        }
        tables[number][bytes] = RecordChange(value: change.value, isNew: true)
    }

    /// All changes of `table`, in no order.
    func forEach(
        in table: MetadataTable, _ body: (_ key: RecordBytes, _ value: [UInt8]?) -> Void
    ) {
        let number = Int(table.rawValue)
        guard number < tables.count else { return }
        for (key, change) in tables[number] { body(key, change.value) }
    }

    /// The changes of `table` in the order of their keys. O(n log n).
    func sorted(_ table: MetadataTable) -> [(key: RecordBytes, value: [UInt8]?)] {
        let number = Int(table.rawValue)
        guard number < tables.count else { return [] }
        return tables[number].map { (key: $0.key, value: $0.value.value) }
            .sorted { $0.key < $1.key }
    }

    private static func cost(_ key: [UInt8], _ change: RecordChange) -> Int {
        key.count + (change.value?.count ?? 0) + Limits.overhead
    }
}
