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
                // Its reader would be waited for in vain.
                guard self.copies.load(ordering: .relaxed) == 0 else { return nil }
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
}
