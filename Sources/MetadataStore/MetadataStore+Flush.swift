import FoundationEssentials
import GRDB
import Glibc
import HashTreeCollections
import Model
import Synchronization

// The way from the overlay into the database file, and from there to stable media.

extension MetadataStore {
    /// The flush that runs, and who waits for its end.
    struct Flushes {
        var isRunning = false
        var waiting: [CheckedContinuation<Result<Void, StoreError>, Never>] = []
    }

    /// Begins to write what is applied to the database, unless that is being done already.
    func beginFlush() {
        let begins = flushes.withLock { flushes in
            defer { flushes.isRunning = true }
            return !flushes.isRunning
        }
        if begins { startFlush() }
    }

    /// Writes all that is applied now to the database. Throws if that fails; nothing is lost
    /// then, and the next flush tries the same again.
    func flush() async throws(StoreError) {
        let target = overlay.appliedIndex
        while overlay.flushedIndex < target {
            let result: Result<Void, StoreError> = await withCheckedContinuation { waiting in
                let begins = flushes.withLock { flushes in
                    flushes.waiting.append(waiting)
                    defer { flushes.isRunning = true }
                    return !flushes.isRunning
                }
                if begins { startFlush() }
            }
            try result.get()
        }
    }

    private func startFlush() {
        pool.asyncWriteWithoutTransaction { [self] db in
            let result = Result { () throws(StoreError) in
                do {
                    try writeFrozen(db)
                } catch {
                    throw Self.storeError(error, path)
                }
            }
            let waiting = flushes.withLock { flushes in
                flushes.isRunning = false
                defer { flushes.waiting = [] }
                return flushes.waiting
            }
            for waiter in waiting { waiter.resume(returning: result) }
        }
    }

    /// One transaction with the changes of all commands up to an index, and that index.
    private func writeFrozen(_ db: Database) throws {
        try checkOpen()
        guard let (changes, index) = overlay.freeze() else { return }
        var cached: [RecordKey: [UInt8]?] = [:]
        for table in changes.changedTables where cache.holds(table) {
            changes.forEach(in: table) { key, value in
                cached.updateValue(value, forKey: RecordKey(table: table, bytes: key.bytes))
            }
        }
        // Before the commit, so that nobody reads from the cache what it replaces.
        cache.invalidate(Array(cached.keys))
        try db.inTransaction(.immediate) {
            // In the order of the keys: neighbours share pages.
            for table in changes.changedTables {
                try Self.write(changes.sorted(table), to: table, db)
            }
            try db.cachedStatement(sql: "UPDATE apus SET value = ? WHERE name = 'applied'")
                .execute(arguments: [Int64(index)])
            return .commit
        }
        cache.publish(cached)
        overlay.dropFrozen()
        noteLogSize()
    }

    /// Looks how long the write-ahead log has become.
    func noteLogSize() {
        var status = stat()
        guard stat("\(path)-wal", &status) == 0 else { return }
        logSize.store(Int(status.st_size), ordering: .relaxed)
    }

    private static func write(
        _ records: [(key: RecordBytes, value: [UInt8]?)], to table: MetadataTable, _ db: Database
    ) throws {
        let replace = try db.cachedStatement(
            sql: "REPLACE INTO \(table.sqlName) (k, v) VALUES (?, ?)")
        let delete = try db.cachedStatement(sql: "DELETE FROM \(table.sqlName) WHERE k = ?")
        for record in records {
            if let value = record.value {
                try replace.execute(arguments: [Data(record.key.bytes), Data(value)])
            } else {
                try delete.execute(arguments: [Data(record.key.bytes)])
            }
        }
    }

    /// Flushes, moves the write-ahead log into the database file and syncs it.
    ///
    /// Most of the work runs beside `apply` and flushes on a connection of its own; what came in
    /// meanwhile is moved on the writer's. Returns the index up to which everything is durable;
    /// nil if readers of old snapshots or another checkpoint were in the way: try again later.
    public func checkpoint() async throws(StoreError) -> UInt64? {
        try await flush()
        return try await mapped { () async throws in
            do {
                _ = try await self.checkpointer.writeWithoutTransaction { db in
                    try self.checkOpen()
                    try db.checkpoint(.passive)
                }
                return try await self.pool.writeWithoutTransaction { db in
                    try self.checkOpen()
                    let flushed = self.overlay.flushedIndex
                    let before = self.unsynced.load(ordering: .relaxed)
                    // Full, not truncating: that would wait for a moment without any reader.
                    // The write-ahead log starts over once its readers have moved on.
                    try db.checkpoint(.full)
                    self.unsynced.wrappingSubtract(before, ordering: .relaxed)
                    return flushed
                }
            } catch let error as DatabaseError where error.resultCode == .SQLITE_BUSY {
                return nil
            }
        }
    }

    /// Writes a copy of the database, whole and on its own, to `path`, which must not exist, and
    /// returns the index that it has applied: at least all that is applied now. The copy is not
    /// synced.
    ///
    /// On a connection of its own, so that neither flushes nor `apply` wait for it. The write-ahead
    /// log does not start over meanwhile.
    @discardableResult
    public func copy(to path: String) async throws(StoreError) -> UInt64 {
        try await flush()
        let source = try await connect()
        let result: Result<UInt64, StoreError>
        do {
            let index = try await source.writeWithoutTransaction { db in
                try self.checkOpen()
                try db.execute(sql: "VACUUM INTO ?", arguments: [path])
                try db.execute(sql: "ATTACH DATABASE ? AS copy", arguments: [path])
                defer { try? db.execute(sql: "DETACH DATABASE copy") }
                // Not what is flushed now: that may be more by this time.
                return try Int64.fetchOne(
                    db, sql: "SELECT value FROM copy.apus WHERE name = 'applied'")
            }
            guard let index, let index = UInt64(exactly: index) else {
                throw StoreError(.corrupt, "the copy \(path) has no applied index")
            }
            result = .success(index)
        } catch {
            result = .failure(Self.storeError(error, self.path))
        }
        await disconnect(source)
        return try result.get()
    }

    /// Takes all tables from the database at `path`, a copy of another member's whose applied
    /// index is `index`, in place of what is there. In one transaction: a crash leaves the old
    /// tables or the new ones, and the same can be done again. Durable when it returns, unlike
    /// other changes: the log no longer has what the old tables lack.
    ///
    /// Throws `versionMismatch`, `badRequest` or `corrupt` if the copy cannot be taken.
    /// Precondition: nothing is applied meanwhile.
    public func replace(with path: String, index: UInt64) async throws(StoreError) {
        try await flush()
        try await mapped { () async throws in
            try await self.pool.writeWithoutTransaction { db in
                try self.checkOpen()
                // The commit syncs the write-ahead log.
                try db.execute(sql: "PRAGMA main.synchronous = FULL")
                defer { try? db.execute(sql: "PRAGMA main.synchronous = NORMAL") }
                try db.execute(sql: "ATTACH DATABASE ? AS snapshot", arguments: [path])
                defer { try? db.execute(sql: "DETACH DATABASE snapshot") }
                try self.check(snapshotIn: db, path: path, index: index)
                try db.inTransaction(.immediate) {
                    for table in self.tables {
                        try db.execute(sql: "DELETE FROM main.\(table.sqlName)")
                        guard
                            try Bool.fetchOne(
                                db,
                                sql: "SELECT count(*) FROM snapshot.sqlite_master WHERE name = ?",
                                arguments: [table.sqlName]) == true
                        else { continue }
                        try db.execute(
                            sql: """
                                INSERT INTO main.\(table.sqlName) (k, v) \
                                SELECT k, v FROM snapshot.\(table.sqlName) ORDER BY k
                                """)
                    }
                    try db.execute(
                        sql: "UPDATE main.apus SET value = ? WHERE name = 'applied'",
                        arguments: [Int64(index)])
                    return .commit
                }
                self.cache.clear()
                self.overlay.restart(at: index)
            }
        }
    }

    private func check(snapshotIn db: Database, path: String, index: UInt64) throws {
        let version = try Int.fetchOne(
            db, sql: "SELECT value FROM snapshot.apus WHERE name = 'format'")
        // Records of an older version stay what they are, as those of tables that are opened do.
        guard let version, format.reads(version) else {
            throw StoreError(
                .versionMismatch,
                "the snapshot \(path) has format \(version.map { "\($0)" } ?? "unknown"); this "
                    + "program reads \(format)")
        }
        let role = { (schema: String) in
            try String.fetchOne(db, sql: "SELECT value FROM \(schema).apus WHERE name = 'role'")
        }
        let (ours, theirs) = try (role("main"), role("snapshot"))
        guard ours == theirs else {
            throw StoreError(
                .badRequest,
                "the snapshot \(path) has role \(theirs ?? "unknown"), not \(ours ?? "unknown")")
        }
        let applied = try Int64.fetchOne(
            db, sql: "SELECT value FROM snapshot.apus WHERE name = 'applied'")
        guard applied == Int64(index) else {
            throw StoreError(
                .corrupt,
                "the snapshot \(path) has applied \(applied ?? -1), it should be \(index)")
        }
    }
}
