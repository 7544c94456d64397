import FoundationEssentials
import GRDB
import Model

/// Metadata tables of one SQLite connection, during one transaction or one read.
///
/// Remembers the first error of the database in `failure`; from then on it reads nothing and
/// writes nothing. Whoever made it throws that error instead of using what was computed.
///
/// Lives on the queue of its connection, for the length of one call.
public final class StoredTables: MetadataTransaction {
    private let database: Database
    private let isReadOnly: Bool
    private var scanned: [MetadataTable] = []
    /// The first error that the database gave.
    private(set) var failure: (any Error)?
    /// Bytes of keys and values written.
    private(set) var bytesWritten = 0

    init(_ database: Database, isReadOnly: Bool) {
        self.database = database
        self.isReadOnly = isReadOnly
    }

    public func get(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? {
        guarded {
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
        _ = guarded { () -> Void? in
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
        change(table)
        _ = guarded { () -> Void? in
            let statement = try database.cachedStatement(
                sql: "REPLACE INTO \(table.sqlName) (k, v) VALUES (?, ?)")
            try statement.execute(arguments: [Data(key), Data(value)])
            bytesWritten += key.count + value.count
            return nil
        }
    }

    public func delete(_ table: MetadataTable, _ key: [UInt8]) {
        change(table)
        _ = guarded { () -> Void? in
            let statement = try database.cachedStatement(
                sql: "DELETE FROM \(table.sqlName) WHERE k = ?")
            try statement.execute(arguments: [Data(key)])
            bytesWritten += key.count
            return nil
        }
    }

    private func change(_ table: MetadataTable) {
        precondition(!isReadOnly, "a read does not change \(table)")
        precondition(!scanned.contains(table), "a table is changed while it is scanned")
    }

    private func guarded<R>(_ body: () throws -> R?) -> R? {
        guard failure == nil else { return nil }
        do {
            return try body()
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
