import FoundationEssentials
import GRDB
import Glibc
import Model
import Synchronization

// Whole copies of the tables: made here for other members, and taken over from them. Both go in
// steps (`BulkPace`), so that a gigabyte does not come between the log and its disk.

extension MetadataStore {
    /// The row of `apus` that says that the tables are being replaced, by what index.
    private static let replacing = "replacing"

    // MARK: Making a copy

    /// Writes a copy of the database, whole and on its own, to `path`, which must not exist, and
    /// returns the index that it has applied: at least all that is applied now. A name that was
    /// made is not synced.
    ///
    /// On a connection of its own, so that neither flushes nor `apply` wait for it, and page by page
    /// as of one moment, at the store's pace. The write-ahead log does not start over meanwhile.
    /// Throws `cancelled` if it is interrupted.
    @discardableResult
    public func copy(to path: String) async throws(StoreError) -> UInt64 {
        try await flush()
        let source = try await connect()
        copies.wrappingAdd(1, ordering: .relaxed)
        defer { copies.wrappingSubtract(1, ordering: .relaxed) }
        let result: Result<UInt64, StoreError>
        do {
            result = .success(
                try await source.writeWithoutTransaction { db in
                    try self.writeCopy(of: db, to: path)
                })
        } catch {
            result = .failure(Self.storeError(error, self.path))
        }
        await disconnect(source)
        return try result.get()
    }

    private func writeCopy(of db: Database, to path: String) throws -> UInt64 {
        try checkGoesOn()
        // It is opened before SQLite does and closed after: the descriptor that syncs must not take
        // away the locks of the one that writes.
        let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            throw Self.fileError("make the copy", path, errno)
        }
        defer { Glibc.close(descriptor) }
        var configuration = Configuration()
        configuration.prepareDatabase { db in
            // Nobody reads it before it is whole, so nothing of it is ever taken back.
            try db.execute(sql: "PRAGMA journal_mode = OFF")
            try db.execute(sql: "PRAGMA synchronous = OFF")
            try db.execute(sql: "PRAGMA cache_size = -\(Limits.copyCacheKibibytes)")
        }
        let target = try DatabaseQueue(path: path, configuration: configuration)
        var index: UInt64 = 0
        do {
            try target.writeWithoutTransaction { copy in
                // The transaction holds the moment: what is flushed meanwhile is not seen, and does
                // not make the copy begin anew.
                try db.inTransaction(.deferred) {
                    index = try appliedIndexOfWhole(db, path)
                    try writePages(of: db, to: copy, descriptor, path)
                    return .commit
                }
            }
            try target.close()
            // The source says that it has a write-ahead log; the copy has none. (Versions of the
            // format for writing and for reading, in the file's header.)
            guard pwrite(descriptor, [1, 1] as [UInt8], 2, 18) == 2 else {
                throw Self.fileError("write", path, errno)
            }
            try sync(descriptor, path)
        } catch {
            try? target.close()
            unlink(path)
            throw error
        }
        return index
    }

    private func writePages(
        of db: Database, to copy: Database, _ descriptor: Int32, _ path: String
    ) throws {
        var steps = BulkSteps(pace)
        var remaining: Int?
        let pageBytes = try Int.fetchOne(db, sql: "PRAGMA page_size") ?? 4096
        var failure: (any Error)?
        try db.backup(to: copy, pagesPerStep: Limits.copyPages) { [self] progress in
            do {
                try checkGoesOn()
                let done = (remaining ?? progress.totalPageCount) - progress.remainingPageCount
                remaining = progress.remainingPageCount
                try steps.wrote(done * pageBytes, hurries: false) { try sync(descriptor, path) }
            } catch {
                // What the last step throws is not passed on.
                failure = error
                throw error
            }
        }
        if let failure { throw failure }
    }

    private func sync(_ descriptor: Int32, _ path: String) throws(StoreError) {
        guard fdatasync(descriptor) == 0 else { throw Self.fileError("sync", path, errno) }
    }

    private static func fileError(_ what: String, _ path: String, _ code: Int32) -> StoreError {
        let text = "cannot \(what) \(path): \(String(cString: strerror(code)))"
        return switch code {
        case ENOSPC, EDQUOT: StoreError(.noSpace, text)
        case EMFILE, ENFILE, ENOMEM: StoreError(.overloaded, text)
        default: StoreError(.io, text)
        }
    }

    private func appliedIndexOfWhole(_ db: Database, _ path: String) throws -> UInt64 {
        guard try !Self.isReplacing(db) else {
            throw StoreError(.notReady, "the tables in \(self.path) are being replaced")
        }
        let index = try Int64.fetchOne(db, sql: "SELECT value FROM apus WHERE name = 'applied'")
        guard let index, let index = UInt64(exactly: index) else {
            throw StoreError(.corrupt, "the copy \(path) has no applied index")
        }
        return index
    }

    // MARK: Taking one over

    /// Takes all tables from the database at `path`, a copy of another member's whose applied
    /// index is `index`, in place of what is there. Durable when it returns, unlike other changes:
    /// the log no longer has what the old tables lack.
    ///
    /// In steps, at the store's pace. From the first to the last the file bears a mark, by which
    /// `open` finds that the tables are not whole: it empties them, with 0 as their applied index.
    /// So a crash leaves the old tables, none, or the new ones, and the same can be done again
    /// from each of the three. Reads wait until it is done.
    ///
    /// Throws `versionMismatch`, `badRequest` or `corrupt` if the copy cannot be taken, and
    /// nothing is changed then; `cancelled` if it is interrupted. After any other failure reads are
    /// refused with `notReady` until the same is done again.
    /// Precondition: nothing is applied meanwhile.
    public func replace(with path: String, index: UInt64) async throws(StoreError) {
        try await flush()
        await holdReads()
        do throws(StoreError) {
            try await mapped { () async throws in
                try await self.pool.writeWithoutTransaction { db in
                    try self.checkGoesOn()
                    try db.execute(sql: "ATTACH DATABASE ? AS snapshot", arguments: [path])
                    defer { try? db.execute(sql: "DETACH DATABASE snapshot") }
                    try self.check(snapshotIn: db, path: path, index: index)
                    try self.takeOver(db, index: index)
                    self.cache.clear()
                    self.overlay.restart(at: index)
                }
            }
        } catch {
            releaseReads(isWhole: await isWhole())
            throw error
        }
        releaseReads(isWhole: true)
    }

    private func isWhole() async -> Bool {
        let found = try? await pool.writeWithoutTransaction { db in
            try self.checkOpen()
            return try !Self.isReplacing(db)
        }
        return found ?? false
    }

    static func isReplacing(_ db: Database) throws -> Bool {
        try Int64.fetchOne(
            db, sql: "SELECT value FROM main.apus WHERE name = ?", arguments: [replacing]) != nil
    }

    /// What a replacement that was cut off has left is of no use: removes it, within the caller's
    /// transaction.
    static func emptyIfReplacing(_ db: Database) throws {
        guard try isReplacing(db) else { return }
        // Also those that this program does not know: the copy may have had them.
        let names = try String.fetchAll(
            db, sql: "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 't[0-9]*'")
        try withoutErasing(db) {
            for name in names { try db.execute(sql: "DELETE FROM \(name)") }
        }
        try db.execute(sql: "DELETE FROM apus WHERE name = ?", arguments: [replacing])
    }

    /// Has `body` give up pages as they are. SQLite may be built to fill them with zeros
    /// (`SQLITE_SECURE_DELETE`), which writes as much at once as was there.
    private static func withoutErasing(_ db: Database, _ body: () throws -> Void) throws {
        let erases = try Int.fetchOne(db, sql: "PRAGMA main.secure_delete") ?? 0
        _ = try Int.fetchOne(db, sql: "PRAGMA main.secure_delete = 0")
        defer { _ = try? Int.fetchOne(db, sql: "PRAGMA main.secure_delete = \(erases)") }
        try body()
    }

    private func takeOver(_ db: Database, index: UInt64) throws {
        try db.inTransaction(.immediate) {
            try Self.withoutErasing(db) {
                for table in tables { try db.execute(sql: "DELETE FROM main.\(table.sqlName)") }
            }
            try db.execute(sql: "UPDATE main.apus SET value = 0 WHERE name = 'applied'")
            try db.execute(
                sql: "REPLACE INTO main.apus (name, value) VALUES (?, ?)",
                arguments: [Self.replacing, Int64(index)])
            return .commit
        }
        cache.clear()
        var steps = BulkSteps(pace)
        for table in tables {
            guard
                try Bool.fetchOne(
                    db, sql: "SELECT count(*) FROM snapshot.sqlite_master WHERE name = ?",
                    arguments: [table.sqlName]) == true
            else { continue }
            try takeOver(table, db, &steps)
        }
        // This commit syncs the write-ahead log. What is no longer in it was synced when it was
        // moved.
        try db.execute(sql: "PRAGMA main.synchronous = FULL")
        defer { try? db.execute(sql: "PRAGMA main.synchronous = NORMAL") }
        try db.inTransaction(.immediate) {
            try db.execute(
                sql: "UPDATE main.apus SET value = ? WHERE name = 'applied'",
                arguments: [Int64(index)])
            try db.execute(
                sql: "DELETE FROM main.apus WHERE name = ?", arguments: [Self.replacing])
            return .commit
        }
    }

    /// One table, some rows at a time, in the order of their keys. The write-ahead log stays as
    /// long as a step.
    private func takeOver(
        _ table: MetadataTable, _ db: Database, _ steps: inout BulkSteps
    ) throws {
        let name = table.sqlName
        let insert = try db.makeStatement(
            sql: """
                INSERT INTO main.\(name) (k, v) \
                SELECT k, v FROM snapshot.\(name) WHERE k >= ? ORDER BY k LIMIT ?
                """)
        let look = try db.makeStatement(
            sql: """
                SELECT count(*), total(length(k) + length(v)), max(k) FROM main.\(name) \
                WHERE k >= ?
                """)
        var start = Data()
        var rows = Limits.firstRows
        while true {
            try checkGoesOn()
            try db.inTransaction(.immediate) {
                try insert.execute(arguments: [start, rows])
                return .commit
            }
            guard let found = try Row.fetchOne(look, arguments: [start]),
                let last = found[2] as Data?
            else { return }
            let (count, bytes) = (found[0] as Int, Int(found[1] as Double))
            // The next key that there can be.
            start = last + [0]
            // Twice: into the write-ahead log, and from there.
            try steps.wrote(2 * bytes, hurries: isHurried.load(ordering: .relaxed)) {
                try db.checkpoint(.passive)
            }
            if count < rows { return }
            let wanted = Limits.rowBytes / max(1, bytes / count)
            rows = min(max(wanted, 1), 2 * rows, Limits.mostRows)
        }
    }

    private func check(snapshotIn db: Database, path: String, index: UInt64) throws {
        // Records of an older version stay what they are, as those of tables that are opened do.
        let role = try Self.role(of: "main", in: db)
        _ = try Self.check(
            "snapshot", of: db, at: "the snapshot \(path)", role: role, format: format)
        let applied = try Int64.fetchOne(
            db, sql: "SELECT value FROM snapshot.apus WHERE name = 'applied'")
        guard applied == Int64(index) else {
            throw StoreError(
                .corrupt,
                "the snapshot \(path) has applied \(applied ?? -1), it should be \(index)")
        }
    }
}
