import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization
import Telemetry

// Cells on their way into a container: a place is reserved, the bytes are written into the data file,
// and the committer makes a record of them.

extension Container {
    /// See `ContainerStore.append`. The place is reserved before the first suspension.
    /// - Parameter recovery: the order that the cell was rebuilt by; nil: a client's.
    nonisolated(nonsending)
        func append(
            _ cell: CellAppend, recovery: UInt64? = nil, _ context: IOContext
        ) async throws(StoreError) -> Int
    {
        try verify(cell)
        while true {
            let reservation = try reserve(cell, recovery)
            switch reservation {
            case .done(let length): return length
            case .commit(let ticket):
                let stretch = DiskStretch(of: context.trace, on: volume.disk)
                return try await commit(ticket, cell.block.localID, since: stretch)
            case .write(let ticket, let fileOffset):
                return try await write(cell, ticket: ticket, at: fileOffset, context)
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

    private func reserve(
        _ cell: CellAppend, _ recovery: UInt64?
    ) throws(StoreError) -> ContainerState.Reservation {
        var isFull = false
        let result = state.withLock { state -> Result<ContainerState.Reservation, StoreError> in
            do throws(StoreError) {
                if state.recovery != recovery { throw isRecovering(state) }
                try check(recovery == nil ? .open : .recovering, state)
                if recovery != nil, state.isJournalBroken { throw isRecovering(state) }
                // What there is to be rebuilt fitted into others.
                isFull =
                    state.tail > ContainerStore.Limits.dataFileBytes
                    || recovery == nil && state.fullness(volume.options) >= 2
                guard !isFull else { throw StoreError(.containerState, "\(name) is full") }
                return .success(try state.reserve(cell))
            } catch { return .failure(error) }
        }
        // SCM was told long ago, and has not had it closed.
        if isFull, recovery == nil { volume.closer.add(self) }
        allocateAhead()
        return try result.get()
    }

    nonisolated(nonsending)
        private func write(
            _ cell: CellAppend, ticket: UInt64, at fileOffset: Int, _ context: IOContext
        ) async throws(StoreError) -> Int
    {
        let localID = cell.block.localID
        var failure: StoreError?
        let stretch = DiskStretch(of: context.trace, on: volume.disk)
        do throws(IOError) {
            guard let file = state.withLock({ $0.dataFile }) else {
                preconditionFailure("an open container has its data file open")
            }
            try await writePadded(cell.payload, to: file, at: fileOffset, context)
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
            _ payload: Payload, to file: File, at offset: Int, _ context: IOContext
        ) async throws(IOError)
    {
        let isAligned = payload.offset % DataFile.alignment == 0
        let whole = isAligned ? payload.count & ~(DataFile.alignment - 1) : 0
        if isAligned && whole == payload.count {
            return try await file.write(payload, at: offset, for: context)
        }
        // Nobody may write into the payload's own buffer, not even past its end: what is to be
        // padded is copied.
        let start = payload.count > ContainerStore.Limits.paddedCopyBytes ? whole : 0
        if start > 0 {
            try await file.write(payload.slice(0..<start), at: offset, for: context)
        }
        let rest = payload.slice(start..<payload.count)
        let length = DataFile.aligned(rest.count)
        let copy = volume.reactor.pool.allocate(length)
        rest.withBytes { copy.bytes.copyMemory(from: $0) }
        copy.bytes(in: rest.count..<length).initializeMemory(as: UInt8.self, repeating: 0)
        try await file.write(Payload(copy, 0..<length), at: offset + start, for: context)
    }

    // MARK: Space ahead

    /// Allocates the next extent when less than half of one is left. Nobody waits for it: a write
    /// past the allocated end only costs more.
    func allocateAhead() {
        let extent = volume.options.extentBytes
        let work: (File, Range<Int>)? = state.withLock { state in
            guard state.phase == .open || state.phase == .recovering, !state.isAllocating,
                let file = state.dataFile,
                state.tail + extent / 2 > state.allocatedTo,
                state.tail >= state.allocationFailedAt.map { $0 + extent / 2 } ?? 0
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
                state.isAllocating = false
                if isDone {
                    state.allocatedTo = range.upperBound
                } else {
                    state.allocationFailedAt = state.tail
                }
            }
            if isDone { charge(range.count) }
            wakeIdle()
            if await volume.room().available <= 0 { volume.noteFull() }
        }
    }
}
