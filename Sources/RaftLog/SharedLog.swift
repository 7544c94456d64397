import Bytes
import DequeModule
import Model
import Raft
import Reactor
import Synchronization

/// One log per disk that many Raft groups share: what one sync makes durable is whatever all of
/// them wait for.
///
/// Kept in segments of fixed size that are filled with zeros ahead of their use and reused, so
/// that a sync has no extents to commit. See `LogBytes` for the bytes and why a torn end can be
/// told from damage, and docs/internals/raft-log.md for the whole.
///
/// Isolated to its reactor, as is its one writer. Groups hand their writes over through a lock
/// and are read without the actor.
public actor SharedLog {
    /// Bounds of every log.
    public enum Limits {
        /// Calls of all groups that wait to be written; more are refused with `overloaded`.
        public static let waitingCalls = 65_536
        /// Bytes of entries that wait to be written.
        public static let waitingBytes = 256 << 20
        /// Bytes of the largest batch, and of the buffer that each log keeps for it.
        public static let batchBytes = 4 << 20
        /// Bytes of entries that are rewritten in one batch.
        public static let moveBytes = 512 << 10
        /// Bytes that one read of a fetch takes, unless a single entry is larger.
        public static let readBytes = 1 << 20
        /// Old segments that are kept open to be read.
        public static let openSegments = 64
        /// Members that a configuration may name.
        public static let members = 4096
        /// After descriptors or memory were wanting the same is tried again so much later.
        public static let shortageRetry = Duration.milliseconds(200)
    }

    /// How a log uses its disk and memory.
    public struct Options: Sendable {
        /// Bytes of a segment; a multiple of 4096, 32 KiB to 64 MiB.
        public var segmentSize: Int
        /// Bytes of entries in memory, of all groups together. Only a run that was just fetched
        /// may be larger: the largest entry must go through.
        public var cacheBytes: Int
        /// Segments beyond twice the bytes in use that may be taken before the oldest one's live
        /// entries are written again to free it. At least 2.
        public var slackSegments: Int
        /// Segments that are kept for reuse when they are free; more go back to the disk.
        public var spareSegments: Int
        /// After so long without a batch the last one is proven by an empty one behind it; so is it
        /// when the log is closed. nil for tests of what is cut: no proofs.
        public var proofDelay: Duration? = .seconds(1)

        /// The defaults suit a disk of its own with tens to hundreds of groups.
        public init(
            segmentSize: Int = 16 << 20, cacheBytes: Int = 64 << 20, slackSegments: Int = 4,
            spareSegments: Int = 2
        ) {
            precondition(
                segmentSize % LogBytes.blockSize == 0 && segmentSize >= 8 * LogBytes.blockSize
                    && segmentSize <= BufferPool.Limits.largestBuffer,
                "a segment is a multiple of 4096 bytes, 32 KiB to 64 MiB")
            precondition(slackSegments >= 2, "a log has two segments at least")
            precondition(spareSegments >= 1 && cacheBytes >= 0, "one segment is made ahead")
            self.segmentSize = segmentSize
            self.cacheBytes = cacheBytes
            self.slackSegments = slackSegments
            self.spareSegments = spareSegments
        }

        /// Bytes of the largest batch.
        var batchSize: Int { min(segmentSize / 2, Limits.batchBytes) }

        /// Bytes of the largest entry's data.
        public var maximumEntrySize: Int { batchSize - LogBytes.blockSize }

        /// Bytes at the end of a segment that only records which free space may use, while no
        /// other segment is at hand.
        var reservedBytes: Int {
            max(2 * LogBytes.blockSize, LogBytes.padded(segmentSize / 16))
        }
    }

    /// What a log has done since it was opened.
    public struct Statistics: Sendable, Equatable {
        /// Calls that were made durable.
        public var calls = 0
        /// Batches, each one write and one sync.
        public var batches = 0
        /// Entries that were appended, and the bytes of their data.
        public var entries = 0
        /// See `entries`.
        public var entryBytes = 0
        /// Bytes written in batches, with padding.
        public var bytesWritten = 0
        /// Entries that were written again to free segments, and their bytes.
        public var entriesMoved = 0
        /// See `entriesMoved`.
        public var bytesMoved = 0
        /// Segments that were filled with zeros, begun, and freed.
        public var segmentsMade = 0
        /// See `segmentsMade`.
        public var segmentsBegun = 0
        /// See `segmentsMade`.
        public var segmentsFreed = 0
        /// Entries read back from disk.
        public var entriesFetched = 0
    }

    /// Where the log is isolated, and its files are.
    public nonisolated let reactor: Reactor
    /// The folder of the log.
    public nonisolated let directory: String
    /// As it was opened with.
    public nonisolated let options: Options
    /// The reactor.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    /// What groups hand over, and the groups themselves; see `SharedLog+Queue`.
    nonisolated let queue = Mutex(WriteQueue())
    nonisolated let roster: Mutex<Roster>

    struct Roster {
        var groups: [GroupID: GroupLog] = [:]
        var creating: Set<GroupID> = []
    }

    var ledger: SegmentLedger
    /// The segment that is written to, its bytes, and where the next batch goes.
    var file: File
    var capacity: Int
    var end: Int
    var nextBatch: UInt64
    /// What the last durable batch called the oldest segment; older ones may go.
    var durableOldest: UInt32
    let buffer: AlignedBuffer
    /// Taken from the queue, to be written next.
    var pending: Deque<LogRequest> = []
    /// Numbers of the segments that are ready to be used, and the next to be given.
    var spares: [UInt64]
    var nextSpare: UInt64
    /// The segment that is to be begun, if that could not be finished.
    var activation: Activation?
    /// Makes a segment while it runs.
    var making: Task<Void, any Error>?
    /// Where the current segment ended when the last attempt to make a spare failed.
    var sparelessAt: Int?
    var maintenance: Task<Void, Never>?
    var writer: Task<Void, Never>?
    /// Whether anything durable follows the last batch that has records: see `SharedLog+Proof`.
    var isProven: Bool
    /// Waits for a moment of rest to prove it.
    var prover: Task<Void, Never>?
    var readers: [UInt32: File] = [:]
    var readsUnderWay = 0
    var cachedBytes = 0
    /// Bytes that may be moved to free segments: twice what others wrote. It bounds what moving
    /// can cost whatever the sizes of segments and entries.
    var moveBudget: Int
    /// The error that made the log unusable: what a failed write or sync left is not known.
    var failure: StoreError?
    var counts = Statistics()
    /// Of the batch that is being put together; kept to be filled again without allocation.
    var places: [LogPosition] = []
    var effects: [BatchEffect] = []
    var finished: [LogWaiter] = []

    init(directory: String, on reactor: Reactor, options: Options, _ found: RecoveredLog) {
        self.directory = directory
        self.reactor = reactor
        self.options = options
        ledger = found.ledger
        file = found.file
        capacity = found.capacity
        end = found.end
        nextBatch = found.nextBatch
        durableOldest = found.durableOldest
        isProven = found.isProven
        spares = found.spares
        moveBudget = options.slackSegments * options.segmentSize
        nextSpare = (found.spares.max() ?? 0) + 1
        buffer = reactor.pool.allocate(options.batchSize)
        roster = Mutex(Roster())
    }

    /// Opens the log in `directory`, making it if the folder is absent or holds none, and
    /// rebuilds all groups.
    ///
    /// A torn batch at the end is cut, and what is kept is synced before anybody sees it. The
    /// log stays open, its writer running, until `close`.
    ///
    /// - Throws: `corrupt` with file, byte and group if anything else is damaged or absent,
    ///   `versionMismatch` with the number for a log of another format, `io`, `noSpace`.
    public static func open(
        directory: String, on reactor: Reactor, options: Options = Options()
    ) async throws(StoreError) -> SharedLog {
        let found = try await RecoveredLog.read(directory, on: reactor, options: options)
        let log = SharedLog(directory: directory, on: reactor, options: options, found)
        await log.start(found.groups)
        return log
    }

    private func start(_ groups: [GroupID: GroupState]) {
        for (id, state) in groups {
            var state = state
            state.enter(&ledger)
            let group = GroupLog(id, in: self, state)
            roster.withLock { $0.groups[id] = group }
        }
        writer = Task(executorPreference: reactor) { await self.write() }
        if !isProven { proveSoon() }
        maintainIfNeeded()
    }

    // MARK: Groups

    /// All groups, in the order of their names.
    public nonisolated var groups: [GroupID] { roster.withLock { $0.groups.keys.sorted() } }

    /// The group of that name, nil if there is none.
    public nonisolated func group(_ id: GroupID) -> GroupLog? {
        roster.withLock { $0.groups[id] }
    }

    /// Begins a group, durable when this returns.
    ///
    /// Its log begins after `index`, of which `term` is the term, with the members of
    /// `confState`: 0 and 0 for a new group.
    ///
    /// - Throws: `conflict` if the group is there, `noSpace`, `io`.
    public nonisolated func create(
        _ id: GroupID, confState: ConfState, index: LogIndex = 0, term: Term = 0
    ) async throws(StoreError) -> GroupLog {
        let isNew = roster.withLock { roster in
            roster.groups[id] == nil && roster.creating.insert(id).inserted
        }
        guard isNew else { throw StoreError(.conflict, "the log has a group \(id) already") }
        defer { roster.withLock { _ = $0.creating.remove(id) } }
        let anchor = GroupAnchor(
            base: index, baseTerm: term, last: index,
            hardState: HardState(term: term, commit: index), confState: confState,
            confIndex: index)
        try check(confState)
        let group = GroupLog(id, in: self, GroupState(anchor))
        try await submit(.anchor(.create(anchor)), of: group)
        return group
    }

    /// Removes a group with everything in it, durable when this returns. Its `GroupLog` refuses
    /// what comes later.
    ///
    /// - Throws: `notReady` if there is no such group, `noSpace`, `io`.
    public nonisolated func remove(_ id: GroupID) async throws(StoreError) {
        guard let group = group(id) else {
            throw StoreError(.notReady, "the log has no group \(id)")
        }
        try await submit(.remove, of: group)
    }

    /// Refuses a configuration that would not fit into a batch.
    nonisolated func check(_ confState: ConfState) throws(StoreError) {
        let size = LogBytes.anchorRecordSize(confState)
        let limit = min(
            options.batchSize - LogBytes.blockSize,
            LogBytes.anchorRecordSize(ConfState()) + 8 * Limits.members)
        guard size <= limit else {
            throw StoreError(
                .invalidArgument,
                "a configuration of \(size) bytes is too large for the log: at most \(limit)")
        }
    }

    // MARK: State

    /// What the log has done since it was opened.
    public var statistics: Statistics { counts }

    /// Bytes of disk that the log takes: segments, and those ready to be used.
    public var diskBytes: Int { (ledger.segments.count + spares.count) * options.segmentSize }

    /// Bytes of entries that some group still needs, with their headers.
    public var liveBytes: Int { ledger.liveBytes }

    /// Bytes of entries in memory.
    public var memoryBytes: Int { cachedBytes }

    /// Waits for what was handed over and for work in the background, and closes the files.
    /// Nothing more can be appended or fetched.
    ///
    /// - Throws: `io` if a file cannot be closed; what was acknowledged is durable all the same.
    public func close() async throws(StoreError) {
        let idle = queue.withLock { queue in
            if queue.refusal == nil {
                queue.refusal = StoreError(.notReady, "the log is closed")
            }
            queue.isClosing = true
            defer { queue.idle = nil }
            return queue.idle
        }
        idle?.resume()
        prover?.cancel()
        await prover?.value
        await writer?.value
        writer = nil
        await maintenance?.value
        if let making { _ = await making.result }
        roster.withLock { $0.groups = [:] }
        // A fetch under way keeps what it reads from open.
        let files = readsUnderWay == 0 ? Array(readers.values) + [file] : []
        readers = [:]
        do throws(IOError) {
            for file in files { try await file.close() }
        } catch {
            throw StoreError(error)
        }
    }
}
