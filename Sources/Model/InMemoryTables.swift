/// Metadata tables as sorted arrays: the reference that databases are compared with, and what
/// cores are tested on. Inserting is O(n).
///
/// Not thread-safe.
public final class InMemoryTables: MetadataTransaction {
    private struct Table {
        var keys: [[UInt8]] = []
        var values: [[UInt8]] = []

        /// Index of the first key that is not below `key`.
        func lowerBound(_ key: [UInt8]) -> Int {
            var low = 0
            var high = keys.count
            while low < high {
                let middle = (low + high) / 2
                if keys[middle].lexicographicallyPrecedes(key) {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            return low
        }
    }

    private var tables: [MetadataTable: Table] = [:]
    private var scanned: [MetadataTable] = []

    public init() {}

    /// A copy that changes on its own.
    public init(copying other: InMemoryTables) { tables = other.tables }

    public func get(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? {
        guard let content = tables[table] else { return nil }
        let index = content.lowerBound(key)
        guard index < content.keys.count, content.keys[index] == key else { return nil }
        return content.values[index]
    }

    public func scan(
        _ table: MetadataTable, from start: [UInt8],
        _ body: (_ key: [UInt8], _ value: [UInt8]) -> Bool
    ) {
        guard let content = tables[table] else { return }
        scanned.append(table)
        defer { scanned.removeLast() }
        for index in content.lowerBound(start)..<content.keys.count {
            guard body(content.keys[index], content.values[index]) else { return }
        }
    }

    public func put(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8]) {
        precondition(!scanned.contains(table), "a table is changed while it is scanned")
        var content = tables.removeValue(forKey: table) ?? Table()
        let index = content.lowerBound(key)
        if index < content.keys.count, content.keys[index] == key {
            content.values[index] = value
        } else {
            content.keys.insert(key, at: index)
            content.values.insert(value, at: index)
        }
        tables[table] = content
    }

    public func delete(_ table: MetadataTable, _ key: [UInt8]) {
        precondition(!scanned.contains(table), "a table is changed while it is scanned")
        guard var content = tables.removeValue(forKey: table) else { return }
        let index = content.lowerBound(key)
        if index < content.keys.count, content.keys[index] == key {
            content.keys.remove(at: index)
            content.values.remove(at: index)
        }
        tables[table] = content
    }

    /// Everything in `table`, in order.
    public func dump(_ table: MetadataTable) -> [(key: [UInt8], value: [UInt8])] {
        guard let content = tables[table] else { return [] }
        return Array(zip(content.keys, content.values)).map { (key: $0, value: $1) }
    }
}
