import ContainerFormat
import Model
import Reactor

/// Who waits for an append or a record to be durable.
typealias Waiter = UnsafeContinuation<Result<Int, StoreError>, Never>

/// What a container replica is in memory. Decides; `Container` and `Committer` act.
///
/// The rule that everything here keeps: the cells of one block enter the journal in the order of
/// their offsets, and only after their bytes are durable in the data file. So each block has a
/// queue of appends; from its front, those whose bytes are written are ready to be committed.
struct ContainerState: Sendable {
    enum Phase: Hashable {
        case open
        /// Being rebuilt from others: takes cells of the order in `recovery` alone.
        case recovering
        /// Takes no more appends: its index is being written, or will be.
        case closing
        case closed(footerOffset: Int)
        case deleted
    }

    /// An append between its reservation and its acknowledgement.
    struct Pending: Sendable {
        enum Stage { case writing, written, committing }
        var ticket: UInt64
        /// `nil` if it carries no bytes.
        var cell: BlockEntry.Cell?
        var checksums: [UInt32]
        var commit: JournalRecord.Commit
        var stage: Stage
        var waiters: [Waiter] = []

        var record: JournalRecord {
            if let cell { return .cell(cell, checksums: checksums, commit) }
            return .commit(commit)
        }
    }

    struct Block: Sendable {
        /// What is durable; `nil` until the first commit.
        var entry: BlockEntry?
        /// In order of offset.
        var queue: [Pending] = []

        /// Where the next cell must begin.
        var reservedLength: Int {
            for pending in queue.reversed() { if let cell = pending.cell { return cell.end } }
            return entry?.length ?? 0
        }
        var isReservedEnded: Bool { queue.last?.commit.isEnded ?? entry?.isEnded ?? false }
    }

    /// A record that is not part of an append.
    struct Extra: Sendable {
        var record: JournalRecord
        var waiter: Waiter?
    }

    /// What one round of the committer makes durable.
    struct Batch: Sendable {
        var localIDs: [UInt64]
        /// Answered when the batch is durable.
        var extras: [Extra]
        var appends: Int
        var hasCells: Bool
        var write: JournalTail.Write
        /// Zeros to be written ahead of the journal's end.
        var ahead: Range<Int>?
    }

    var phase: Phase = .open
    /// The order by which the replica is being rebuilt, until it is closed; nil: it is not, and
    /// counts.
    var recovery: UInt64?
    /// What is wrong with the replica, if anything. Nothing is appended to it any more.
    var damage: String?
    /// Where damage was found that nobody who heals has taken up.
    var suspicion = Suspicion()
    /// Whether somebody heals the replica.
    var isHealing = false
    /// The block of which bytes are being written in place.
    var mending: UInt64?
    /// Woken when they are there.
    var mendWaiters: [UnsafeContinuation<Void, Never>] = []
    var blocks: [UInt64: Block] = [:]
    /// Blocks deleted, or being deleted: an open container never takes them again. Of a closed
    /// one, those deleted since it closed.
    var deleted: Set<UInt64> = []
    /// Deletions that the last run may not have carried out.
    var unpunched: [UInt64: ContainerContents.Deletion] = [:]
    /// Where the next cell goes in the data file.
    var tail = DataFile.start
    /// The data file is allocated up to here.
    var allocatedTo = 0
    var isAllocating = false
    /// Where the tail was when an allocation failed: the next is tried half an extent later.
    var allocationFailedAt: Int?
    /// Durable bytes of blocks that are not deleted, and the number of these blocks.
    var usedBytes = 0
    var blockCount = 0

    var journal: JournalTail
    /// The journal file has zeros, or records, up to here.
    var journalAheadTo = 0
    var dataFile: File?

    var extras: [Extra] = []
    /// Blocks that may have something ready, in order of first sight.
    private var ready: [UInt64] = []
    private var isReady: Set<UInt64> = []
    /// Appends in all queues.
    private(set) var queued = 0
    var nextTicket: UInt64 = 1
    /// Why tickets that are still being written have failed already.
    var failures: [UInt64: StoreError] = [:]
    /// Calls that delete and have not ended.
    var deleting = 0
    /// Calls that punch holes and have not ended; deleted blocks whose holes are not punched.
    var reclaiming = 0
    var unreclaimed = 0
    /// Blocks in `deleted` whose records are not durable yet.
    var unconfirmed: Set<UInt64> = []
    /// Bytes that the two files take.
    var charged = 0
    /// Writes to the data file in flight.
    var writing = 0
    var isCommitting = false
    /// While set the committer keeps its hands off: the journal is being replaced, or compared. Counts
    /// as a write.
    var isJournalHeld = false
    /// Why nothing is written to the journal any more.
    enum JournalTrouble: Hashable {
        /// It is damaged: nothing of the replica is changed until it is repaired.
        case damaged
        /// A round could not be written because the disk was full, or had too much to do; or a new
        /// journal was named, and it is not known whether that lasts. What is on disk of it is not
        /// known, so that nothing may follow it; closing the container writes a new journal, and is
        /// tried until it succeeds. That of a closed one is looked up (`Container.mendJournal`).
        case unwritten
        /// It was found damaged on disk, while all that it says is known here: healing the replica
        /// writes it anew.
        case rotten
    }
    var journalTrouble: JournalTrouble?
    var isJournalBroken: Bool { journalTrouble != nil }
    /// Where the journal ends as far as it was written.
    var writtenTo = Journal.start
    /// Woken when nothing is in flight.
    var idleWaiters: [UnsafeContinuation<Void, Never>] = []
    /// Woken when a close that is under way has ended.
    var closeWaiters: [UnsafeContinuation<Void, Never>] = []
    var isCloseUnderWay = false
    /// The journal has records after its last mark.
    var needsMark = false

    init(journal: JournalTail) { self.journal = journal }

    /// Whether no append or record is on its way, and nothing of the files is being replaced.
    var isIdle: Bool {
        writing == 0 && queued == 0 && deleting == 0 && reclaiming == 0 && !isCommitting
            && extras.isEmpty && mending == nil && !isJournalHeld
    }

    var hasReady: Bool {
        !isJournalHeld && !isJournalBroken && !isCommitting
            && (!ready.isEmpty || !extras.isEmpty)
    }

    /// Notes that `localID` may have something at the front of its queue to be committed.
    mutating func noteReady(_ localID: UInt64) {
        if isReady.insert(localID).inserted { ready.append(localID) }
    }

    /// Puts an append at the end of its block's queue.
    mutating func enqueue(_ pending: Pending) {
        blocks[pending.commit.localID, default: Block()].queue.append(pending)
        queued += 1
    }

    // MARK: Commit

    /// Takes everything that is ready, and makes journal bytes of it.
    mutating func takeBatch(segment: Int, aheadLeast: Int) -> Batch? {
        guard hasReady else { return nil }
        var records: [JournalRecord] = []
        var localIDs: [UInt64] = []
        var hasCells = false
        for localID in ready {
            // Taken out while it is changed, so that its arrays are not copied.
            guard var block = blocks.removeValue(forKey: localID) else { continue }
            let before = records.count
            for index in block.queue.indices {
                guard block.queue[index].stage != .writing else { break }
                block.queue[index].stage = .committing
                records.append(block.queue[index].record)
                hasCells = hasCells || block.queue[index].cell != nil
            }
            if records.count > before { localIDs.append(localID) }
            blocks[localID] = block
        }
        ready.removeAll(keepingCapacity: true)
        isReady.removeAll(keepingCapacity: true)
        let appends = records.count
        let taken = extras
        extras.removeAll()
        records += taken.map(\.record)
        guard !records.isEmpty else { return nil }
        let write = journal.append(records)
        let end = write.offset + write.bytes.count
        var ahead: Range<Int>?
        if journalAheadTo - end < aheadLeast {
            let start = max(journalAheadTo, end)
            ahead = start..<start + segment
            journalAheadTo = start + segment
        }
        isCommitting = true
        needsMark = records.contains { $0 != .mark }
        return Batch(
            localIDs: localIDs, extras: taken, appends: appends, hasCells: hasCells,
            write: write, ahead: ahead)
    }

    /// Applies a batch that is durable. Returns who is to be told what.
    mutating func complete(_ batch: Batch, isSynced: Bool) -> [(Waiter, Result<Int, StoreError>)] {
        isCommitting = false
        writtenTo = journal.end
        if isSynced { journal.synced() }
        var answers: [(Waiter, Result<Int, StoreError>)] = []
        for localID in batch.localIDs {
            guard var block = blocks.removeValue(forKey: localID) else { continue }
            let done = block.queue.prefix { $0.stage == .committing }
            block.queue.removeFirst(done.count)
            queued -= done.count
            for pending in done { apply(pending, to: &block, localID) }
            let length = block.entry?.length ?? 0
            answers += done.flatMap(\.waiters).map { ($0, .success(length)) }
            blocks[localID] = block
        }
        for extra in batch.extras {
            if let waiter = extra.waiter { answers.append((waiter, .success(0))) }
        }
        return answers
    }

    private mutating func apply(_ pending: Pending, to block: inout Block, _ localID: UInt64) {
        if block.entry == nil {
            block.entry = BlockEntry(localID: localID)
            blockCount += 1
        }
        do throws(FormatError) {
            try block.entry!.apply(pending.cell, checksums: pending.checksums, pending.commit)
        } catch {
            preconditionFailure("a reserved cell does not fit its block: \(error)")
        }
        usedBytes += pending.cell?.length ?? 0
    }

    // MARK: Bounds

    /// What it holds of what `options` bound, in shares of the bound at which it asks to be closed.
    func fullness(_ options: ContainerStore.Options) -> Double {
        max(
            Double(blocks.count) / Double(options.blocksToClose),
            Double(journal.end) / Double(options.journalBytesToClose),
            Double(tail - usedBytes) / Double(options.wasteToClose))
    }

    // MARK: Failure

    /// Takes who waits for appends out, to be told that the disk does not answer. The appends stay:
    /// they may still be carried out.
    mutating func takeAppendWaiters() -> [Waiter] {
        var waiters: [Waiter] = []
        for localID in Array(blocks.keys) where blocks[localID]?.queue.isEmpty == false {
            for index in blocks[localID]!.queue.indices {
                waiters += blocks[localID]!.queue[index].waiters
                blocks[localID]!.queue[index].waiters = []
            }
        }
        return waiters
    }

    /// Gives up the append with `ticket` and all after it in its block. Returns who to tell.
    mutating func fail(ticket: UInt64, of localID: UInt64, _ error: StoreError) -> [Waiter] {
        guard let place = blocks[localID]?.queue.firstIndex(where: { $0.ticket == ticket }),
            var block = blocks.removeValue(forKey: localID)
        else { return [] }
        let lost = block.queue[place...]
        queued -= lost.count
        block.queue.removeSubrange(place...)
        for pending in lost where pending.stage == .writing && pending.ticket != ticket {
            failures[pending.ticket] = error
        }
        if block.entry != nil || !block.queue.isEmpty { blocks[localID] = block }
        return lost.flatMap(\.waiters)
    }

    /// Gives up everything that waits. Returns who to tell.
    mutating func failAll(_ error: StoreError) -> [Waiter] {
        var waiters: [Waiter] = []
        for localID in Array(blocks.keys) {
            guard let first = blocks[localID]?.queue.first else { continue }
            waiters += fail(ticket: first.ticket, of: localID, error)
            if first.stage == .writing { failures[first.ticket] = error }
        }
        return waiters + takeExtraWaiters()
    }

    /// Gives up all records beside appends. Returns who to tell.
    mutating func takeExtraWaiters() -> [Waiter] {
        defer { extras.removeAll() }
        return extras.compactMap(\.waiter)
    }

    /// Takes the waiters for idleness if there is nothing in flight.
    mutating func takeIdleWaiters() -> [UnsafeContinuation<Void, Never>] {
        guard isIdle else { return [] }
        defer { idleWaiters.removeAll() }
        return idleWaiters
    }
}
