import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization
import Telemetry

/// One container replica of a store: its state behind a lock, and the I/O on its two files.
///
/// Functions may be called from any executor. No lock is held while I/O runs.
final class Container: Sendable {
    let id: ContainerID
    let header: ContainerHeader
    let volume: Volume
    let state: Mutex<ContainerState>
    /// Why the present round of the committer failed for this container; set and read by it.
    private let roundError = Mutex<StoreError?>(nil)

    init(header: ContainerHeader, volume: Volume, state: consuming ContainerState) {
        id = header.containerID
        self.header = header
        self.volume = volume
        self.state = Mutex(state)
    }

    var name: String { "container \(id) on \(volume.path)" }

    // MARK: Append

    /// See `ContainerStore.append`. The place is reserved before the first suspension.
    nonisolated(nonsending)
        func append(
            _ cell: CellAppend, trace: TraceContext?
        ) async throws(StoreError) -> Int
    {
        try verify(cell)
        while true {
            let reservation = try reserve(cell)
            switch reservation {
            case .done(let length): return length
            case .commit(let ticket):
                let stretch = DiskStretch(of: trace, on: volume.disk)
                return try await commit(ticket, cell.block.localID, since: stretch)
            case .write(let ticket, let fileOffset):
                return try await write(cell, ticket: ticket, at: fileOffset, trace)
            case .wait(let ticket):
                let result = await withUnsafeContinuation { (waiter: Waiter) in
                    let isThere = state.withLock {
                        $0.wait(ticket: ticket, of: cell.block.localID, waiter)
                    }
                    // Decided meanwhile: ask again, it is durable or unknown now.
                    if !isThere { waiter.resume(returning: .success(-1)) }
                }
                let length = try result.get()
                if length >= 0 { return length }
            }
        }
    }

    /// Checks everything about `cell` that does not depend on the block's state.
    private func verify(_ cell: CellAppend) throws(StoreError) {
        let count = cell.payload.count
        guard cell.offset >= 0, cell.groupLength >= 0,
            count <= ErasureCoding.maximumCellSize,
            cell.offset <= ReplicationConfig.blockSize - count
        else {
            throw StoreError(
                .badRequest,
                "a cell of \(count) bytes at \(cell.offset) of block \(cell.block): cells have at "
                    + "most 16 MiB and block replicas 256 MiB")
        }
        let mismatch = cell.payload.withBytes { bytes -> UnitMismatch? in
            do throws(UnitMismatch) {
                try CRC32C.verifyUnits(bytes, against: cell.checksums)
                return nil
            } catch { return error }
        }
        if let mismatch {
            throw StoreError(
                .badRequest,
                "the cell at \(cell.offset) of block \(cell.block) arrived damaged: "
                    + mismatch.description)
        }
    }

    private func reserve(_ cell: CellAppend) throws(StoreError) -> ContainerState.Reservation {
        var isFull = false
        let result = state.withLock { state -> Result<ContainerState.Reservation, StoreError> in
            do throws(StoreError) {
                try check(.open, state)
                isFull =
                    state.tail > ContainerStore.Limits.dataFileBytes
                    || state.fullness(volume.options) >= 2
                guard !isFull else { throw StoreError(.containerState, "\(name) is full") }
                return .success(try state.reserve(cell))
            } catch { return .failure(error) }
        }
        // SCM was told long ago, and has not had it closed.
        if isFull { volume.closer.add(self) }
        allocateAhead()
        return try result.get()
    }

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

    nonisolated(nonsending)
        private func write(
            _ cell: CellAppend, ticket: UInt64, at fileOffset: Int, _ trace: TraceContext?
        ) async throws(StoreError) -> Int
    {
        let localID = cell.block.localID
        var failure: StoreError?
        let stretch = DiskStretch(of: trace, on: volume.disk)
        do throws(IOError) {
            guard let file = state.withLock({ $0.dataFile }) else {
                preconditionFailure("an open container has its data file open")
            }
            try await writePadded(cell.payload, to: file, at: fileOffset)
        } catch {
            // What was written of it lies where no record will point to.
            volume.note(error)
            failure = volume.refusal(for: error)
        }
        let next = stretch?.end(
            .disk, "write", on: volume.disk, bytes: cell.payload.count,
            outcome: failure?.code.rawValue ?? 0)
        if let failure {
            let told = state.withLock { state in
                state.writing -= 1
                state.failures[ticket] = nil
                return state.fail(ticket: ticket, of: localID, failure)
            }
            for waiter in told { waiter.resume(returning: .failure(failure)) }
            wakeIdle()
            throw failure
        }
        state.withLock { $0.writing -= 1 }
        defer { wakeIdle() }
        let length = try await commit(ticket, localID, since: next)
        volume.committer.count { $0.bytesAppended += cell.payload.count }
        return length
    }

    /// Waits until the append under `ticket` is durable; `stretch` has begun with that.
    nonisolated(nonsending)
        private func commit(
            _ ticket: UInt64, _ localID: UInt64, since stretch: DiskStretch?
        ) async throws(StoreError) -> Int
    {
        let result = await withUnsafeContinuation { (waiter: Waiter) in
            let answer = state.withLock { $0.written(ticket: ticket, of: localID, waiter) }
            if let answer {
                waiter.resume(returning: answer)
            } else {
                volume.committer.add(self)
            }
        }
        stretch?.end(.wait, "commit", on: volume.disk)
        return try result.get()
    }

    /// Writes `payload` and zeros up to the next 4 KiB, from aligned memory.
    nonisolated(nonsending)
        private func writePadded(
            _ payload: Payload, to file: File, at offset: Int
        ) async throws(IOError)
    {
        let isAligned = payload.offset % DataFile.alignment == 0
        let whole = isAligned ? payload.count & ~(DataFile.alignment - 1) : 0
        if isAligned && whole == payload.count { return try await file.write(payload, at: offset) }
        // Nobody may write into the payload's own buffer, not even past its end: what is to be
        // padded is copied.
        let start = payload.count > ContainerStore.Limits.paddedCopyBytes ? whole : 0
        if start > 0 { try await file.write(payload.slice(0..<start), at: offset) }
        let rest = payload.slice(start..<payload.count)
        let length = DataFile.aligned(rest.count)
        let copy = volume.reactor.pool.allocate(length)
        rest.withBytes { copy.bytes.copyMemory(from: $0) }
        copy.bytes(in: rest.count..<length).initializeMemory(as: UInt8.self, repeating: 0)
        try await file.write(Payload(copy, 0..<length), at: offset + start)
    }

    // MARK: Space ahead

    /// Allocates the next extent when less than half of one is left. Nobody waits for it: a write
    /// past the allocated end only costs more.
    func allocateAhead() {
        let extent = volume.options.extentBytes
        let work: (File, Range<Int>)? = state.withLock { state in
            guard state.phase == .open, !state.isAllocating, let file = state.dataFile,
                state.tail + extent / 2 > state.allocatedTo
            else { return nil }
            state.isAllocating = true
            // Counted as a write: closing and deletion wait for it.
            state.writing += 1
            return (file, state.allocatedTo..<max(state.allocatedTo, state.tail) + extent)
        }
        guard let (file, range) = work else { return }
        Task(executorPreference: volume.reactor) { [self] in
            var isDone = true
            do throws(IOError) { try await file.allocate(range) } catch {
                // A full disk is found out by the space check below, a broken one by the writes.
                isDone = error.kind == .unsupported
            }
            state.withLock { state in
                state.writing -= 1
                if isDone {
                    state.allocatedTo = range.upperBound
                    state.isAllocating = false
                }
            }
            if isDone { charge(range.count) }
            wakeIdle()
            if await volume.space().available <= 0 { volume.noteFull() }
        }
    }

    /// Notes that the files take so many bytes more.
    func charge(_ bytes: Int) {
        state.withLock { $0.charged += bytes }
        volume.addUsed(bytes)
    }

    // MARK: The committer's side

    func takeBatch() -> ContainerState.Batch? {
        roundError.withLock { $0 = nil }
        return state.withLock {
            $0.takeBatch(
                segment: volume.options.journalSegmentBytes,
                aheadLeast: ContainerStore.Limits.journalAheadBytes)
        }
    }

    private func inRound(_ body: (File?, File) async throws(IOError) -> Void) async {
        guard roundError.withLock({ $0 }) == nil else { return }
        do throws(IOError) {
            try await patiently { () async throws(IOError) in
                let journal = try await openJournal()
                try await body(state.withLock { $0.dataFile }, journal)
            }
        } catch {
            volume.note(error)
            let failure = volume.refusal(for: error)
            roundError.withLock { $0 = failure }
        }
    }

    /// Repeats what fails for want of descriptors, memory or a place in the disk's queue, for a
    /// while, and what a suspended disk refuses, until that answers or is given up: what a round
    /// writes is the same each time, and lies at the same place. A sync may be repeated as well: all
    /// files are open with `O_DIRECT`, so the kernel holds nothing that a failed sync would have
    /// given up; the next one has as much to do. Errors of the disk itself are never repeated.
    private func patiently(
        _ body: () async throws(IOError) -> Void
    ) async throws(IOError) {
        let deadline = volume.reactor.now().advanced(by: volume.options.roundPatience)
        while true {
            do throws(IOError) { return try await body() } catch {
                let mayPass =
                    error.kind == .resource || error.kind == .overload
                    ? volume.reactor.now() < deadline : error.kind == .suspended
                guard mayPass, volume.failure == nil else { throw error }
                do throws(CancellationError) {
                    try await volume.reactor.sleep(for: ContainerStore.Limits.roundPause)
                } catch { await Task.yield() }
            }
        }
    }

    /// The journal file; that of a closed container is opened when something is to be written.
    func openJournal() async throws(IOError) -> File {
        if let file = state.withLock({ $0.journalFile }) { return file }
        let file = try await File.open(
            volume.journalPath(id), [.read, .write, .direct], on: volume.reactor, disk: volume.disk)
        state.withLock { $0.journalFile = file }
        return file
    }

    func syncData() async {
        await inRound { (data, _) async throws(IOError) in try await data?.synchronize() }
    }

    func syncJournal() async {
        await inRound { (_, journal) async throws(IOError) in try await journal.synchronize() }
    }

    /// Writes the records of `batch`.
    /// - Parameter isDurable: they are on stable media when it returns.
    func writeJournal(_ batch: ContainerState.Batch, isDurable: Bool = false) async {
        await inRound { (_, journal) async throws(IOError) in
            try await journal.write(
                Payload(copying: batch.write.bytes, pool: volume.reactor.pool),
                at: batch.write.offset, isDurable: isDurable)
            if let ahead = batch.ahead {
                try await writeZeros(ahead, to: journal)
                charge(ahead.count)
            }
        }
    }

    func writeZeros(_ range: Range<Int>, to file: File) async throws(IOError) {
        let buffer = volume.reactor.pool.allocate(range.count)
        buffer.bytes(in: 0..<range.count).initializeMemory(as: UInt8.self, repeating: 0)
        try await file.write(Payload(buffer, 0..<range.count), at: range.lowerBound)
    }

    func complete(_ batch: ContainerState.Batch, isSynced: Bool) {
        if let error = roundError.withLock({ $0 }) { return fail(batch, error) }
        let (answers, hasMore) = state.withLock { state in
            let answers = state.complete(batch, isSynced: isSynced)
            // Thousands of containers are closed: their journals are opened when there is something
            // to write.
            if state.isClosed, !state.hasReady { state.journalFile = nil }
            return (answers, state.hasReady)
        }
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
        volume.closer.add(self)
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
