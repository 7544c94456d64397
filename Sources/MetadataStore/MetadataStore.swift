import Dispatch
import GRDB
import Glibc
import Model
import Synchronization

/// The ordered tables of one role in a SQLite file, one `WITHOUT ROWID` table each, beside the
/// index of the last command that was applied to them.
///
/// What is applied is visible at once, but reaches the database later, in large batches
/// (`Overlay`): records that live for a moment are never written to it, and neighbours are
/// written together. Not durable by itself: the database's commits reach the file system without
/// a sync (`synchronous=NORMAL` in WAL mode), because the log of commands is what makes them
/// durable. After a crash the file holds the state after some earlier command, whole, and
/// `appliedIndex` of the opened store says which; the rest is replayed from the log.
/// `checkpoint` flushes and syncs; only what is at or below its result may be dropped from the log.
///
/// GRDB works on Dispatch queues: every method suspends, none blocks the calling thread. One
/// `apply` at a time, a flush beside it, up to `Limits.readers` readers, each on a snapshot.
public final class MetadataStore: Sendable {
    public enum Limits {
        /// Connections that read at the same time; more readers wait.
        public static let readers = 4
        /// Reads that share a snapshot, and so a reader, one after the other.
        public static let readsPerSnapshot = 32
        /// KiB of pages that each connection keeps in memory.
        public static let cacheKibibytes = 16 << 10
        /// Bytes that the file of the write-ahead log keeps when it starts over.
        public static let idleLogBytes = 64 << 20
        /// Bytes of the write-ahead log that want a checkpoint: a start after a crash reads it
        /// all.
        public static let longLogBytes = 256 << 20
        /// Bytes of changes, about, that begin a flush to the database. A restart replays at least
        /// so much; larger flushes would gain where neighbours in a table are changed together.
        public static let flushBytes = 2 << 20
        /// Bytes of changes that `apply` waits at for the flush before it begins.
        public static let overlayBytes = 32 << 20
        /// How long a checkpoint waits for readers of older snapshots.
        public static let checkpointWaitSeconds = 0.5
        /// KiB of pages that are kept while a copy is written.
        public static let copyCacheKibibytes = 1 << 10
        /// Pages that a copy takes at a time.
        public static let copyPages: CInt = 128
        /// Rows of a copy that are taken over with the first transaction, and at most with one.
        public static let firstRows = 64
        public static let mostRows = 1024
        /// Bytes, about, that are taken over with one.
        public static let rowBytes = 512 << 10
    }

    /// Records kept in memory, beside the pages of the database.
    public struct Cache: Sendable {
        public var tables: Set<MetadataTable>
        /// Bytes, about; 0 keeps nothing.
        public var bytes: Int

        public init(tables: Set<MetadataTable> = [], bytes: Int = 0) {
            self.tables = tables
            self.bytes = bytes
        }
    }

    /// Called once, with tables or with why there are none.
    private typealias WaitingRead = @Sendable (Result<StoredTables, StoreError>) -> Void

    private struct Reads {
        var waiting: [WaitingRead] = []
        /// How many readers are at work on what waits.
        var readers = 0
        /// Nothing is read for now: the tables are being replaced.
        var isHeld = false
        /// Who waits for the readers to end.
        var holder: CheckedContinuation<Void, Never>?
        /// Why nothing can be read at all: a replacement has failed half-way.
        var refusal: StoreError?
    }

    private let reads = Mutex(Reads())
    /// How fast whole copies are made and taken over.
    let pace: BulkPace
    private let isInterrupted = Atomic(false)
    let isHurried = Atomic(false)
    /// Copies that are being made.
    let copies = Atomic(0)
    let pool: DatabasePool
    /// Where commands are applied: reads beside the writer of flushes.
    let applier: DatabaseQueue
    let checkpointer: DatabaseQueue
    let overlay: Overlay
    let unsynced = Atomic<Int>(0)
    /// Size of the file of the write-ahead log when it was last looked at.
    let logSize = Atomic<Int>(0)
    let cache: RecordCache
    let flushes = Mutex(Flushes())
    private let isClosed = Atomic(false)
    public let path: String
    let tables: [MetadataTable]
    let format: TablesFormat

    private init(
        path: String, tables: [MetadataTable], format: TablesFormat, pool: DatabasePool,
        applier: DatabaseQueue,
        checkpointer: DatabaseQueue,
        applied: UInt64, cache: Cache, pace: BulkPace
    ) {
        self.pace = pace
        self.cache = RecordCache(tables: cache.tables, budget: cache.bytes)
        self.path = path
        self.tables = tables
        self.format = format
        self.pool = pool
        self.applier = applier
        self.checkpointer = checkpointer
        overlay = Overlay(appliedIndex: applied)
        noteLogSize()
    }

    /// Opens the file at `path`, making it if absent; its folder must be there.
    ///
    /// A file of an older version that `format` reads bears the current one from then on; nothing
    /// else of it is rewritten.
    ///
    /// - Parameter role: what the file belongs to, as `om`; a file of another role is refused.
    /// - Throws: `versionMismatch` with its number if a version of this program wrote the file that
    ///   `format` does not read, `badRequest` if it belongs to another role, `corrupt` or `io` if
    ///   it cannot be read, `overloaded` for want of descriptors or memory.
    public static func open(
        path: String, role: String, tables: [MetadataTable], format: TablesFormat = .first,
        cache: Cache = Cache(), pace: BulkPace = BulkPace()
    ) async throws(StoreError) -> MetadataStore {
        let result: Result<MetadataStore, StoreError> = await withCheckedContinuation { waiting in
            DispatchQueue.global().async {
                waiting.resume(
                    returning: Result { () throws(StoreError) in
                        try openBlocking(
                            path: path, role: role, tables: tables, format: format, cache: cache,
                            pace: pace)
                    })
            }
        }
        return try result.get()
    }

    private static func openBlocking(
        path: String, role: String, tables: [MetadataTable], format: TablesFormat, cache: Cache,
        pace: BulkPace
    ) throws(StoreError) -> MetadataStore {
        try mapped(path) {
            let pool = try DatabasePool(path: path, configuration: configuration)
            let applied = try pool.writeWithoutTransaction { db in
                // Checkpoints happen when the log asks for them, not in the middle of a commit.
                try db.execute(sql: "PRAGMA wal_autocheckpoint = 0")
                return try prepare(db, path: path, role: role, tables: tables, format: format)
            }
            let applier = try DatabaseQueue(path: path, configuration: configuration)
            let checkpointer = try DatabaseQueue(path: path, configuration: configuration)
            return MetadataStore(
                path: path, tables: tables, format: format, pool: pool, applier: applier,
                checkpointer: checkpointer, applied: applied, cache: cache, pace: pace)
        }
    }

    /// One more connection, for work that takes long.
    func connect() async throws(StoreError) -> DatabaseQueue {
        try checkOpen()
        let path = path
        let result: Result<DatabaseQueue, StoreError> = await withCheckedContinuation { waiting in
            DispatchQueue.global().async {
                waiting.resume(
                    returning: Result { () throws(StoreError) in
                        try Self.mapped(path) {
                            try DatabaseQueue(path: path, configuration: Self.configuration)
                        }
                    })
            }
        }
        return try result.get()
    }

    /// Closes a connection that nobody uses any more. That it cannot be closed says nothing of what
    /// it has done.
    func disconnect(_ connection: DatabaseQueue) async {
        await withCheckedContinuation { waiting in
            DispatchQueue.global().async {
                try? connection.close()
                waiting.resume()
            }
        }
    }

    private static var configuration: Configuration {
        var configuration = Configuration()
        configuration.maximumReaderCount = Limits.readers
        configuration.busyMode = .timeout(Limits.checkpointWaitSeconds)
        configuration.prepareDatabase { db in
            try db.execute(sql: "PRAGMA synchronous = NORMAL")
            try db.execute(sql: "PRAGMA cache_size = -\(Limits.cacheKibibytes)")
            try db.execute(sql: "PRAGMA temp_store = MEMORY")
            try db.execute(sql: "PRAGMA journal_size_limit = \(Limits.idleLogBytes)")
        }
        return configuration
    }

    /// Refuses the database `schema` at `path` if it is of another role, or of a format that this
    /// program does not read; returns its format.
    static func check(
        _ schema: String, of db: Database, at path: String, role: String?, format: TablesFormat
    ) throws -> Int {
        let version = try Int.fetchOne(
            db, sql: "SELECT value FROM \(schema).apus WHERE name = 'format'")
        guard let version, format.reads(version) else {
            throw StoreError(
                .versionMismatch,
                "\(path) has format \(version.map { "\($0)" } ?? "unknown"); this program reads "
                    + "\(format)")
        }
        let found = try Self.role(of: schema, in: db)
        guard found == role else {
            throw StoreError(
                .badRequest,
                "\(path) belongs to role '\(found ?? "")', not to '\(role ?? "")'")
        }
        return version
    }

    /// The role whose tables are in the database `schema`.
    static func role(of schema: String, in db: Database) throws -> String? {
        try String.fetchOne(db, sql: "SELECT value FROM \(schema).apus WHERE name = 'role'")
    }

    /// Makes or checks the tables; returns the applied index.
    private static func prepare(
        _ db: Database, path: String, role: String, tables: [MetadataTable],
        format: TablesFormat
    ) throws -> UInt64 {
        var applied: UInt64 = 0
        try db.inTransaction {
            if try db.tableExists("apus") {
                let version = try check("main", of: db, at: path, role: role, format: format)
                if version < format.current {
                    try db.execute(
                        sql: "UPDATE apus SET value = ? WHERE name = 'format'",
                        arguments: [format.current])
                }
            } else {
                try db.execute(
                    sql: "CREATE TABLE apus (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
                try db.execute(
                    sql: """
                        INSERT INTO apus (name, value) VALUES ('format', ?), ('role', ?), \
                        ('applied', 0)
                        """,
                    arguments: [format.current, role])
            }
            for table in tables {
                try db.execute(
                    sql: """
                        CREATE TABLE IF NOT EXISTS \(table.sqlName) \
                        (k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID
                        """)
            }
            try emptyIfReplacing(db)
            let value = try Int64.fetchOne(
                db, sql: "SELECT value FROM apus WHERE name = 'applied'")
            guard let value, value >= 0 else {
                throw StoreError(.corrupt, "\(path) has no valid applied index")
            }
            applied = UInt64(value)
            return .commit
        }
        return applied
    }

    /// Index of the last command whose changes can be read; 0 if none.
    public var appliedIndex: UInt64 { overlay.appliedIndex }

    /// Bytes of the file of SQLite's write-ahead log, after the last flush. A flush that follows
    /// a whole checkpoint makes it short again.
    public var logBytes: Int { logSize.load(ordering: .relaxed) }

    /// Bytes of keys and values changed since the last checkpoint (or since opening).
    public var unsyncedBytes: Int { unsynced.load(ordering: .relaxed) }

    /// Runs `body` once, within a transaction of `db` that only reads. `make` gives tables on its
    /// snapshot together with all that is applied and not yet in it.
    private func onSnapshot<R>(
        _ db: Database, _ body: (_ make: () -> StoredTables) throws -> R
    ) throws -> R {
        while true {
            var result: R?
            try db.inTransaction(.deferred) {
                let began = cache.clock
                // Makes the snapshot.
                let statement = try db.cachedStatement(
                    sql: "SELECT value FROM apus WHERE name = 'applied'")
                guard let flushed = try Int64.fetchOne(statement) else {
                    throw StoreError(.corrupt, "\(path) has no applied index")
                }
                // What was dropped from the overlay before this is in the snapshot, unless a
                // flush has ended in between: then again.
                let capture = overlay.capture()
                guard capture.flushedIndex <= UInt64(flushed) else { return .rollback }
                let view = OverlayView(capture)
                result = try body {
                    StoredTables(
                        db, isReadOnly: true, cache: cache, began: began,
                        overlay: .captured(view))
                }
                return .commit
            }
            if let result { return result }
        }
    }

    /// Runs `body` on a snapshot of the tables that includes every `apply` that has returned.
    ///
    /// Reads that wait while others run are run together on one snapshot: what an access to the
    /// database costs beside its work (threads to wake, a transaction) is shared between them.
    /// What is all in the cache is answered from there, in the caller's thread: `body` runs a
    /// second time if it turns out not to be.
    public func read<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        if let result = readCached(body) { return try result.get() }
        return try await readStored(body)
    }

    /// The same with the database at hand from the start: `body` runs once.
    public func readStored<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        let result: Result<R, StoreError> = await withCheckedContinuation { answer in
            let read: WaitingRead = { tables in
                switch tables {
                case .success(let tables):
                    let result = Result { () throws(StoreError) in try body(tables) }
                    // What was computed without all that was there to read is not used.
                    if let failure = tables.failure {
                        answer.resume(returning: .failure(Self.storeError(failure, self.path)))
                    } else {
                        answer.resume(returning: result)
                    }
                case .failure(let error): answer.resume(returning: .failure(error))
                }
            }
            let (startsReader, refusal) = reads.withLock { reads -> (Bool, StoreError?) in
                if let refusal = reads.refusal { return (false, refusal) }
                reads.waiting.append(read)
                guard reads.readers < Limits.readers, !reads.isHeld else { return (false, nil) }
                reads.readers += 1
                return (true, nil)
            }
            if let refusal { read(.failure(refusal)) }
            if startsReader { runReads() }
        }
        return try result.get()
    }

    /// Lets no reads begin, and returns when none runs: what is only partly there must not be seen.
    func holdReads() async {
        await withCheckedContinuation { holder in
            let isQuiet = reads.withLock { reads in
                precondition(!reads.isHeld || reads.readers == 0, "one replaces at a time")
                reads.isHeld = true
                if reads.readers > 0 { reads.holder = holder }
                return reads.readers == 0
            }
            if isQuiet { holder.resume() }
        }
        // What is answered from memory looks here as well.
        cache.clear()
    }

    /// Lets reads go on; or, where the tables are not whole, refuses them until they are.
    func releaseReads(isWhole: Bool) {
        let (refused, refusal, readers) = reads.withLock {
            reads -> ([WaitingRead], StoreError?, Int) in
            reads.refusal =
                isWhole
                ? nil : StoreError(.notReady, "the tables in \(path) are only partly replaced")
            reads.isHeld = false
            guard reads.refusal == nil else {
                defer { reads.waiting = [] }
                return (reads.waiting, reads.refusal, 0)
            }
            reads.readers = min(reads.waiting.count, Limits.readers)
            return ([], nil, reads.readers)
        }
        if let refusal { for read in refused { read(.failure(refusal)) } }
        for _ in 0..<readers { runReads() }
    }

    /// The answer from the cache alone; nil if something is missing there or was changed
    /// meanwhile, so that what was read need not be of one moment.
    private func readCached<R>(
        _ body: (StoredTables) throws(StoreError) -> R
    ) -> Result<R, StoreError>? {
        let began = overlay.clock
        let tables = StoredTables(
            nil, isReadOnly: true, cache: cache, began: cache.clock, overlay: .live(overlay))
        let result = Result { () throws(StoreError) in try body(tables) }
        return tables.isIncomplete || overlay.clock != began ? nil : result
    }

    /// Runs what waits on the queue of a reader until nothing does.
    private func runReads() {
        pool.asyncUnsafeRead { [self] database in
            while let batch = nextReads() {
                var isAnswered = false
                // The snapshot is made by the first access after this: it has all that was
                // applied before any of these reads was asked for.
                do {
                    let database = try database.get()
                    try onSnapshot(database) { make in
                        for read in batch { read(.success(make())) }
                        isAnswered = true
                    }
                } catch {
                    // After the answers only the end of the transaction can have failed.
                    guard !isAnswered else { continue }
                    for read in batch { read(.failure(Self.storeError(error, path))) }
                }
            }
        }
    }

    private func nextReads() -> [WaitingRead]? {
        let (batch, holder) = reads.withLock {
            reads -> ([WaitingRead]?, CheckedContinuation<Void, Never>?) in
            guard !reads.waiting.isEmpty, !reads.isHeld else {
                reads.readers -= 1
                guard reads.readers == 0 else { return (nil, nil) }
                defer { reads.holder = nil }
                return (nil, reads.holder)
            }
            let batch = Array(reads.waiting.prefix(Limits.readsPerSnapshot))
            reads.waiting.removeFirst(batch.count)
            return (batch, nil)
        }
        holder?.resume()
        return batch
    }

    /// Has a copy that is being made or taken over fail with `cancelled`, soon: the tables are about
    /// to be closed.
    public func interrupt() { isInterrupted.store(true, ordering: .releasing) }

    /// Has tables that are being taken over be taken over without rests, or with them again: while
    /// nobody can do without.
    public func hurry(_ isHurried: Bool) { self.isHurried.store(isHurried, ordering: .relaxed) }

    /// To be called before each step of work that takes long.
    func checkGoesOn() throws(StoreError) {
        try checkOpen()
        guard !isInterrupted.load(ordering: .acquiring) else {
            throw StoreError(.cancelled, "the work on \(path) was interrupted: it is to be closed")
        }
    }

    /// Gives back what connections keep: pages of the file and compiled statements. They come again
    /// with the next accesses; those that run are not disturbed. The cache of records stays: what
    /// it holds was asked for more than once.
    public func releaseMemory() {
        // Readers end, and are opened again when they are wanted.
        pool.releaseMemoryEventually()
        for queue in [applier, checkpointer] {
            queue.asyncWriteWithoutTransaction { $0.releaseMemory() }
        }
    }

    /// Flushes, waits for running accesses and closes the file. Further calls fail.
    public func close() async throws(StoreError) {
        var failure: StoreError?
        do throws(StoreError) {
            try await flush()
        } catch {
            failure = error
        }
        let result: Result<Void, StoreError> = await withCheckedContinuation { waiting in
            DispatchQueue.global().async {
                waiting.resume(
                    returning: Result { () throws(StoreError) in
                        try Self.mapped(self.path) {
                            self.isClosed.store(true, ordering: .releasing)
                            try self.applier.close()
                            try self.checkpointer.close()
                            try self.pool.close()
                        }
                    })
            }
        }
        if let failure { throw failure }
        try result.get()
    }

    /// To be called on the queue of a connection before it is used: SQLite must not be called with
    /// one that is closed.
    func checkOpen() throws(StoreError) {
        guard !isClosed.load(ordering: .acquiring) else {
            throw StoreError(.notReady, "\(path) is closed")
        }
    }

    func mapped<R>(_ body: () async throws -> R) async throws(StoreError) -> R {
        do {
            return try await body()
        } catch {
            throw Self.storeError(error, path)
        }
    }

    private static func mapped<R>(_ path: String, _ body: () throws -> R) throws(StoreError) -> R {
        do {
            return try body()
        } catch {
            throw storeError(error, path)
        }
    }

    /// What is wanting if `error` says that the machine lacks memory or descriptors, and nothing
    /// of the database: the same can be done when there is some again. Nil if it says something else.
    ///
    /// SQLite does not tell why it could not open a file. Where this process may read and write
    /// the database, what it could not open was one more descriptor of it or of its log.
    private static func shortage(_ error: DatabaseError, _ path: String) -> StoreError? {
        switch error.extendedResultCode {
        case .SQLITE_NOMEM, .SQLITE_IOERR_NOMEM:
            return StoreError(.overloaded, "no memory for \(path): try again later")
        case .SQLITE_CANTOPEN where access(path, R_OK | W_OK) == 0:
            return StoreError(.overloaded, "no descriptor to open \(path): try again later")
        default: return nil
        }
    }

    static func storeError(_ error: any Error, _ path: String) -> StoreError {
        switch error {
        case let error as StoreError: error
        case is CancellationError: StoreError(.cancelled, "the request was cancelled")
        case let error as DatabaseError:
            switch error.resultCode {
            case .SQLITE_CORRUPT, .SQLITE_NOTADB:
                StoreError(.corrupt, "\(path) is damaged: \(error.message ?? "no reason given")")
            case .SQLITE_FULL:
                StoreError(.noSpace, "no space left for \(path)")
            case .SQLITE_NOMEM, .SQLITE_CANTOPEN, .SQLITE_IOERR:
                shortage(error, path)
                    ?? StoreError(.io, "\(path): \(error.message ?? "\(error.resultCode)")")
            case .SQLITE_BUSY, .SQLITE_LOCKED:
                StoreError(.io, "\(path) is in use by another process")
            case .SQLITE_INTERRUPT, .SQLITE_ABORT:
                StoreError(.cancelled, "a request on \(path) was cancelled")
            default:
                StoreError(.io, "\(path): \(error.message ?? "\(error.resultCode)")")
            }
        default: StoreError(.io, "\(path): \(error)")
        }
    }
}
