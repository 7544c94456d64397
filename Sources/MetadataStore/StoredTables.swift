import FoundationEssentials
import GRDB
import Model

/// Metadata tables of one SQLite connection, during one transaction or one read.
///
/// Remembers the first error of the database in `failure`; from then on it reads nothing and
/// writes nothing. Whoever made it throws that error instead of using what was computed.
///
/// Lives on the queue of its connection, for the length of one call. One without a connection
/// reads from the record cache alone, in the thread of its caller; if something is not there it
/// says so in `isIncomplete`, and what was computed is not used.
public final class StoredTables: MetadataTransaction {
    private let database: Database?
    private let cache: RecordCache
    /// When the snapshot was made, at the earliest, by the cache's steps.
    private let began: UInt64
    /// What this transaction has changed in tables that the cache holds.
    private(set) var changes: [RecordCache.Key: [UInt8]?] = [:]
    /// Something that was to be read is not in the cache.
    private(set) var isIncomplete = false
    private let isReadOnly: Bool
    private var scanned: [MetadataTable] = []
    /// The first error that the database gave.
    private(set) var failure: (any Error)?
    /// Bytes of keys and values written.
    private(set) var bytesWritten = 0

    /// - Parameter database: nil to read from the cache alone.
    init(_ database: Database?, isReadOnly: Bool, cache: RecordCache, began: UInt64) {
        self.database = database
        self.isReadOnly = isReadOnly
        self.cache = cache
        self.began = began
    }

    public func get(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? {
        guard cache.holds(table) else { return read(table, key) }
        let cacheKey = RecordCache.Key(table: table, bytes: key)
        if isReadOnly {
            // Beside a snapshot the cache may be ahead of it.
            guard database != nil else {
                let value = isIncomplete ? nil : cache.get(cacheKey)
                if value == nil { isIncomplete = true }
                return value
            }
        } else {
            // The one writer: nothing is newer than what it wrote, then the cache.
            if let own = changes[cacheKey] { return own }
            if let value = cache.get(cacheKey) { return value }
        }
        let value = read(table, key)
        if let value { cache.offer(cacheKey, value, readAt: began) }
        return value
    }

    private func read(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? {
        guarded { database in
            let statement = try database.cachedStatement(
                sql: "SELECT v FROM \(table.sqlName) WHERE k = ?")
            let rows = try Row.fetchCursor(statement, arguments: [Data(key)])
            return try rows.next().flatMap { try Self.bytes($0, 0) }
        }
    }

    public func scan(
        _ table: MetadataTable, from start: [UInt8],
        _ body: (_ key: [UInt8], _ value: [UInt8]) -> Bool
    ) {
        // A statement of the cache serves one cursor at a time: a scan within a scan of the same
        // table gets one of its own.
        let isNested = scanned.contains(table)
        scanned.append(table)
        defer { scanned.removeLast() }
        _ = guarded { database -> Void? in
            let sql = "SELECT k, v FROM \(table.sqlName) WHERE k >= ? ORDER BY k"
            let statement =
                isNested
                ? try database.makeStatement(sql: sql) : try database.cachedStatement(sql: sql)
            let rows = try Row.fetchCursor(statement, arguments: [Data(start)])
            while let row = try rows.next() {
                guard body(try Self.bytes(row, 0), try Self.bytes(row, 1)), failure == nil
                else { break }
            }
            return nil
        }
    }

    public func put(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8]) {
        change(table, key, value)
        _ = guarded { database -> Void? in
            let statement = try database.cachedStatement(
                sql: "REPLACE INTO \(table.sqlName) (k, v) VALUES (?, ?)")
            try statement.execute(arguments: [Data(key), Data(value)])
            bytesWritten += key.count + value.count
            return nil
        }
    }

    public func delete(_ table: MetadataTable, _ key: [UInt8]) {
        change(table, key, nil)
        _ = guarded { database -> Void? in
            let statement = try database.cachedStatement(
                sql: "DELETE FROM \(table.sqlName) WHERE k = ?")
            try statement.execute(arguments: [Data(key)])
            bytesWritten += key.count
            return nil
        }
    }

    private func change(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8]?) {
        precondition(!isReadOnly, "a read does not change \(table)")
        precondition(!scanned.contains(table), "a table is changed while it is scanned")
        if cache.holds(table) {
            changes.updateValue(value, forKey: RecordCache.Key(table: table, bytes: key))
        }
    }

    private func guarded<R>(_ body: (Database) throws -> R?) -> R? {
        guard failure == nil else { return nil }
        guard let database else {
            isIncomplete = true
            return nil
        }
        do {
            return try body(database)
        } catch {
            failure = error
            return nil
        }
    }

    private static func bytes(_ row: Row, _ column: Int) throws -> [UInt8] {
        try row.withUnsafeData(atIndex: column) { data in data.map { [UInt8]($0) } ?? [] }
    }
}

extension MetadataTable {
    var sqlName: String { "t\(rawValue)" }
}
