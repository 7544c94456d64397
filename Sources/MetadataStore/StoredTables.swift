import FoundationEssentials
import GRDB
import Model

/// Metadata tables of one SQLite connection, during one transaction or one read.
///
/// Remembers the first error of the database in `failure`; from then on it reads nothing and
/// writes nothing. Whoever made it throws that error instead of using what was computed.
///
/// Lives on the queue of its connection, for the length of one call. One without a connection
/// reads from the overlay and the record cache alone, in the thread of its caller; if something
/// is not there it says so in `isIncomplete`, and what was computed is not used.
public final class StoredTables: MetadataTransaction {
    private let database: Database?
    /// What lies below the changes where there is no database at all.
    private let memory: InMemoryTables?
    private let cache: RecordCache
    /// When the snapshot was made, at the earliest, by the cache's steps; nil: no snapshot, each
    /// read finds what is newest.
    private let began: UInt64?
    private let overlay: OverlaySource
    /// The overlay as the first scan found it. Kept for all that is read from then on: while a
    /// scan runs the database shows the state of its beginning, so no later overlay fits it, and
    /// afterwards it fits as well, because only who has these tables publishes, and what a flush
    /// moves to the database meanwhile is the same in both. So its changes are sorted once.
    private(set) var pinned: OverlayView?
    /// What this transaction has changed.
    private(set) var changes: [RecordKey: RecordChange] = [:]
    /// Something that was to be read is not in the cache.
    private(set) var isIncomplete = false
    private let isReadOnly: Bool
    private var scanned: [MetadataTable] = []
    /// The first error that the database gave.
    private(set) var failure: (any Error)?
    /// What the step under way has changed: the records as they were before it, oldest first.
    private var undo: [(key: RecordKey, before: RecordChange?)] = []

    /// Where changes are that the database does not have yet.
    enum OverlaySource {
        /// As they are at each look: for reads without a database.
        case live(Overlay)
        /// As they were when the snapshot was made.
        case captured(OverlayView)

        func change(_ table: MetadataTable, _ key: [UInt8]) -> RecordChange? {
            switch self {
            case .live(let overlay): overlay.change(table, key)
            case .captured(let view): view.capture.change(table, key)
            }
        }
    }

    /// - Parameter database: nil to read from memory alone.
    init(
        _ database: Database?, isReadOnly: Bool, cache: RecordCache, began: UInt64?,
        overlay: OverlaySource, memory: InMemoryTables? = nil
    ) {
        self.database = database
        self.memory = memory
        self.overlay = overlay
        self.isReadOnly = isReadOnly
        self.cache = cache
        self.began = began
    }

    /// Tables that commands change: `changes` over the overlay over the database.
    ///
    /// - Parameter database: nil to go on as long as all that is read is in memory.
    convenience init(
        applyingOver overlay: Overlay, _ cache: RecordCache, database: Database? = nil,
        changes: [RecordKey: RecordChange] = [:]
    ) {
        self.init(
            database, isReadOnly: false, cache: cache, began: nil, overlay: .live(overlay))
        self.changes = changes
    }

    /// Tables that are in memory alone, for a `TableStore` that keeps them there: what is changed
    /// here stays here until `commit`.
    public convenience init(over memory: InMemoryTables, isReadOnly: Bool) {
        self.init(
            nil, isReadOnly: isReadOnly, cache: RecordCache(tables: [], budget: 0), began: 0,
            overlay: .live(Overlay(appliedIndex: 0)), memory: memory)
    }

    /// Carries the changes over to the tables in memory below. Precondition: there are such, and
    /// nothing is used of these afterwards.
    public func commit() {
        guard let memory else { preconditionFailure("a database commits by itself") }
        for (key, change) in changes {
            if let value = change.value {
                memory.put(key.table, key.bytes, value)
            } else {
                memory.delete(key.table, key.bytes)
            }
        }
    }

    /// What is changed from here on can be undone.
    func beginStep() { undo.removeAll(keepingCapacity: true) }

    /// Takes back all changes since `beginStep`.
    func undoStep() {
        for entry in undo.reversed() { changes[entry.key] = entry.before }
        undo = []
    }

    public func get(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? {
        let recordKey = RecordKey(table: table, bytes: key)
        if !changes.isEmpty, let own = changes[recordKey] { return own.value }
        if isIncomplete { return nil }
        // Before the overlay: what leaves it from here on is in the database by then.
        let began = began ?? cache.clock
        let newer = pinned.map { $0.capture.change(table, key) } ?? overlay.change(table, key)
        if let newer { return newer.value }
        guard cache.holds(table) else { return read(table, key) }
        if isReadOnly {
            // Beside a snapshot the cache may be ahead of it.
            guard database != nil else {
                let value = cache.get(recordKey)
                if value == nil { isIncomplete = true }
                return value
            }
        } else if let value = cache.get(recordKey) {
            // The one that applies: what is newer than the database stands in the overlay.
            return value
        }
        return read(table, key).map { cache.offer(recordKey, $0, readAt: began) }
    }

    private func read(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? {
        if let memory { return memory.get(table, key) }
        return guarded { database in
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
        let newer = newer(table)
        var next = Self.lowerBound(newer, start)
        if let memory { return scan(memory, table, from: start, newer, body) }
        _ = guarded { database -> Void? in
            let sql = "SELECT k, v FROM \(table.sqlName) WHERE k >= ? ORDER BY k"
            let statement =
                isNested
                ? try database.makeStatement(sql: sql) : try database.cachedStatement(sql: sql)
            let rows = try Row.fetchCursor(statement, arguments: [Data(start)])
            while let row = try rows.next() {
                let key = try Self.bytes(row, 0)
                while next < newer.count, newer[next].key.bytes.lexicographicallyPrecedes(key) {
                    let entry = newer[next]
                    next += 1
                    guard let value = entry.value else { continue }
                    guard body(entry.key.bytes, value), failure == nil else { return nil }
                }
                if next < newer.count, newer[next].key.bytes == key { continue }
                guard body(key, try Self.bytes(row, 1)), failure == nil else { return nil }
            }
            while next < newer.count {
                let entry = newer[next]
                next += 1
                guard let value = entry.value else { continue }
                guard body(entry.key.bytes, value), failure == nil else { return nil }
            }
            return nil
        }
    }

    /// The same where all is in memory.
    private func scan(
        _ memory: InMemoryTables, _ table: MetadataTable, from start: [UInt8],
        _ newer: [(key: RecordBytes, value: [UInt8]?)],
        _ body: (_ key: [UInt8], _ value: [UInt8]) -> Bool
    ) {
        var older: [(key: RecordBytes, value: [UInt8]?)] = []
        memory.scan(table, from: start) { key, value in
            older.append((RecordBytes(key), value))
            return true
        }
        for entry in OverlayView.merge(newer: newer, older: older)
        where !entry.key.bytes.lexicographicallyPrecedes(start) {
            guard let value = entry.value else { continue }
            guard body(entry.key.bytes, value) else { return }
        }
    }

    /// What is newer than the database in `table`, by key. Taken before the database is read:
    /// what a flush moves there meanwhile is the same in both.
    private func newer(_ table: MetadataTable) -> [(key: RecordBytes, value: [UInt8]?)] {
        let view: OverlayView
        switch overlay {
        case .captured(let captured): view = captured
        case .live(let overlay):
            guard database != nil || memory != nil else { return [] }
            view = pinned ?? OverlayView(overlay.capture())
            pinned = view
        }
        let own = changes.filter { $0.key.table == table }
            .map { (key: RecordBytes($0.key.bytes), value: $0.value.value) }
            .sorted { $0.key < $1.key }
        return OverlayView.merge(newer: own, older: view.changes(table))
    }

    private static func lowerBound(
        _ entries: [(key: RecordBytes, value: [UInt8]?)], _ start: [UInt8]
    ) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].key.bytes.lexicographicallyPrecedes(start) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low
    }

    public func put(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8]) {
        change(table, key, RecordChange(value: value, isNew: false))
    }

    public func add(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8]) {
        change(table, key, RecordChange(value: value, isNew: true))
    }

    public func delete(_ table: MetadataTable, _ key: [UInt8]) {
        change(table, key, RecordChange(value: nil, isNew: false))
    }

    private func change(_ table: MetadataTable, _ key: [UInt8], _ change: RecordChange) {
        precondition(!isReadOnly, "a read does not change \(table)")
        precondition(!scanned.contains(table), "a table is changed while it is scanned")
        let recordKey = RecordKey(table: table, bytes: key)
        let before = changes.updateValue(change, forKey: recordKey)
        if database == nil { undo.append((recordKey, before)) }
        guard before?.isNew == true else { return }
        // Nothing older lies below: a record that came and went leaves nothing.
        changes[recordKey] =
            change.value == nil ? nil : RecordChange(value: change.value, isNew: true)
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
