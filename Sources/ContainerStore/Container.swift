import ContainerFormat
import Model
import Reactor
import Synchronization

/// One container replica of a store: its state behind a lock, and what is done with its two files.
///
/// `ContainerState` decides. What is appended is in `Container+Append`, the journal file is a
/// `JournalWriter`'s, called in rounds by the `Committer`; the extensions have what else happens in the
/// life of a container: opened, closed, deleted from, read, scrubbed.
///
/// Functions may be called from any executor. No lock is held while I/O runs.
final class Container: Sendable {
    private static let lastSerial = Atomic<UInt64>(0)

    let id: ContainerID
    /// Tells it from others of the same number that are made after it was removed.
    let serial: UInt64
    let header: ContainerHeader
    let volume: Volume
    let state: Mutex<ContainerState>
    let journalWriter: JournalWriter
    /// When its journal had been written last when the store was opened: nanoseconds since 1970; 0 of
    /// one that was made since.
    let foundAt: Int64

    init(
        header: ContainerHeader, volume: Volume, state: consuming ContainerState,
        foundAt: Int64 = 0
    ) {
        self.foundAt = foundAt
        id = header.containerID
        serial = Self.lastSerial.wrappingAdd(1, ordering: .relaxed).newValue
        self.header = header
        self.volume = volume
        self.state = Mutex(state)
        journalWriter = JournalWriter(header, on: volume)
    }

    var name: String { "container \(id) on \(volume.path)" }

    /// Throws unless the container is in `phase` and undamaged.
    func check(
        _ phase: ContainerState.Phase, _ state: borrowing ContainerState
    ) throws(StoreError) {
        try volume.check()
        if let damage = state.damage {
            throw StoreError(.containerState, "\(name) is unhealthy: \(damage)")
        }
        guard state.phase == phase else {
            throw StoreError(.containerState, "\(name) is \(state.phase), not \(phase)")
        }
    }

    /// Notes that the files take so many bytes more.
    func charge(_ bytes: Int) {
        state.withLock { $0.charged += bytes }
        volume.addUsed(bytes)
    }

    // MARK: The committer's side

    /// What the next round writes for this container; nil if nothing is ready.
    func takeBatch() -> ContainerState.Batch? {
        journalWriter.beginRound()
        return state.withLock {
            $0.takeBatch(
                segment: volume.options.journalSegmentBytes,
                aheadLeast: ContainerStore.Limits.journalAheadBytes)
        }
    }

    func syncData() async {
        let data = state.withLock { $0.dataFile }
        await journalWriter.inRound { () async throws(IOError) in try await data?.synchronize() }
    }

    /// Writes the records of `batch`.
    /// - Parameter isDurable: they are on stable media when it returns.
    func writeJournal(_ batch: ContainerState.Batch, isDurable: Bool = false) async {
        let isWritten = await journalWriter.write(
            batch.write, ahead: batch.ahead, isDurable: isDurable)
        if isWritten, let ahead = batch.ahead { charge(ahead.count) }
    }

    func complete(_ batch: ContainerState.Batch, isSynced: Bool) {
        if let error = journalWriter.failure { return fail(batch, error) }
        let (answers, hasMore, isClosed) = state.withLock { state in
            (state.complete(batch, isSynced: isSynced), state.hasReady, state.isClosed)
        }
        // Thousands of containers are closed: their journals are opened when there is something to
        // write.
        if isClosed, !hasMore { journalWriter.letGo() }
        for (waiter, result) in answers { waiter.resume(returning: result) }
        if hasMore { volume.committer.add(self) }
        wakeIdle()
    }

    /// Gives up everything that waits: its round failed, and what it wrote is unknown. The old
    /// journal is not written any more. If the disk is merely full or busy, closing the container
    /// writes a new one; otherwise the volume is out.
    private func fail(_ batch: ContainerState.Batch, _ error: StoreError) {
        let waiters = state.withLock { state in
            state.isCommitting = false
            state.journalTrouble = state.journalTrouble ?? .unwritten
            if state.phase == .open { state.phase = .closing }
            return state.failAll(error) + batch.extras.compactMap(\.waiter)
        }
        for waiter in waiters { waiter.resume(returning: .failure(error)) }
        wakeIdle()
        // One that is being rebuilt is begun anew by whoever goes on with it.
        if state.withLock({ $0.recovery == nil }) { volume.closer.add(self) }
    }

    // MARK: Records beside appends

    /// Writes `records` in the next round and waits until they are durable.
    func commit(_ records: [JournalRecord]) async throws(StoreError) {
        guard !records.isEmpty else { return }
        let result = await withUnsafeContinuation { (waiter: Waiter) in
            // Enqueued together they are taken together: the last one's answer is that of all.
            let isTaken = state.withLock { state in
                guard !state.isJournalBroken else { return false }
                state.extras += records.dropLast().map { .init(record: $0, waiter: nil) }
                state.extras.append(.init(record: records[records.count - 1], waiter: waiter))
                return true
            }
            if isTaken {
                volume.committer.add(self)
            } else {
                waiter.resume(
                    returning: .failure(
                        StoreError(.containerState, "\(name) waits to be closed; ask again")))
            }
        }
        _ = try result.get()
    }

    /// Writes `record` in the next round; nobody waits for it.
    func note(_ record: JournalRecord) {
        let isTaken = state.withLock { state in
            guard !state.isJournalBroken, state.phase != .deleted else { return false }
            state.extras.append(.init(record: record, waiter: nil))
            return true
        }
        if isTaken { volume.committer.add(self) }
    }

    /// Whether something was written that the journal does not say to be durable.
    var needsProof: Bool {
        state.withLock { !$0.isJournalBroken && $0.journal.syncedTo < $0.writtenTo }
    }

    /// Whether the journal's last records have no mark behind them.
    var needsMark: Bool {
        state.withLock { $0.needsMark && !$0.isJournalBroken && $0.phase != .deleted }
    }

    // MARK: Quiet

    /// Waits until no append, record or allocation is on its way.
    func untilIdle() async {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            let isIdle = state.withLock { state in
                if !state.isIdle { state.idleWaiters.append(continuation) }
                return state.isIdle
            }
            if isIdle { continuation.resume() }
        }
    }

    func wakeIdle() {
        for continuation in state.withLock({ $0.takeIdleWaiters() }) { continuation.resume() }
    }
}
