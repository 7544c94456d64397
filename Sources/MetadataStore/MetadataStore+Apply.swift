import GRDB
import Model
import Synchronization

// Commands: in the thread of whoever applies them as far as memory goes, on the queue of a
// connection from the first that asks for what is only in the database.

extension MetadataStore {
    /// Runs `body`, whose changes become visible together with `index` as the applied index. If
    /// the database fails, nothing is changed and its error is thrown.
    ///
    /// What `body` reads may all be in memory: then it runs at once, in the caller's thread. If
    /// it turns out not to be, `body` runs again on a queue of the database.
    ///
    /// Waits while more than `Limits.overlayBytes` are still to be written to the database; throws
    /// `noSpace`, before anything is changed, if there is no room for them.
    /// Precondition: `index` is not below `appliedIndex`. One call at a time.
    public func apply<R: Sendable>(
        through index: UInt64, _ body: @Sendable @escaping (StoredTables) -> R
    ) async throws(StoreError) -> R {
        let result = LastResult<R>()
        try await apply(1, through: index) { _, tables in result.set(body(tables)) }
        guard let value = result.value else { preconditionFailure("what is applied has run") }
        return value
    }

    /// Runs `step` for each of `count` commands, in order; their changes become visible together,
    /// as with one. A step that asks for something that is only in the database runs again, and
    /// those after it run, on a queue of the database.
    public func apply(
        _ count: Int, through index: UInt64,
        _ step: @Sendable @escaping (_ number: Int, _ tables: StoredTables) -> Void
    ) async throws(StoreError) {
        precondition(index >= appliedIndex, "commands are applied in order")
        try checkOpen()
        // Before, not after: what is published has been done, whatever the database says.
        if overlay.activeSize >= Limits.overlayBytes { try await flush() }
        let tables = StoredTables(applyingOver: overlay, cache)
        var done = 0
        while done < count {
            tables.beginStep()
            step(done, tables)
            if tables.isIncomplete {
                tables.undoStep()
                break
            }
            done += 1
        }
        var changes = tables.changes
        if done < count {
            changes = try await applyStored(done..<count, over: changes, step)
        }
        overlay.publish(changes, through: index)
        var bytes = 0
        for (key, change) in changes { bytes += key.bytes.count + (change.value?.count ?? 0) }
        unsynced.wrappingAdd(bytes, ordering: .relaxed)
        if overlay.activeSize >= Limits.flushBytes { beginFlush() }
    }

    /// The rest of the steps with the database at hand. Returns the changes of all.
    private func applyStored(
        _ steps: Range<Int>, over changes: [RecordKey: RecordChange],
        _ step: @Sendable @escaping (Int, StoredTables) -> Void
    ) async throws(StoreError) -> [RecordKey: RecordChange] {
        let result: Result<[RecordKey: RecordChange], StoreError> =
            await withUnsafeContinuation { waiting in
                applier.asyncWriteWithoutTransaction { [self] db in
                    do throws(StoreError) {
                        try checkOpen()
                        // No transaction: only this changes what it reads, and a flush beside it
                        // moves records from the overlay to the database, where they are found.
                        let tables = StoredTables(
                            applyingOver: overlay, cache, database: db, changes: changes)
                        for number in steps {
                            step(number, tables)
                            if let failure = tables.failure {
                                throw Self.storeError(failure, path)
                            }
                        }
                        waiting.resume(returning: .success(tables.changes))
                    } catch {
                        waiting.resume(returning: .failure(error))
                    }
                }
            }
        return try result.get()
    }
}

/// What the last run of a closure gave.
private final class LastResult<Value: Sendable>: Sendable {
    private let mutex = Mutex<Value?>(nil)
    var value: Value? { mutex.withLock { $0 } }
    func set(_ value: Value) { mutex.withLock { $0 = value } }
}
