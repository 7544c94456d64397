import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// See `ContainerStore.closeContainer`, and `finishRecovery`.
    /// - Parameter recovery: the order by which it was rebuilt and is whole now. One that is being
    ///   rebuilt is closed by nobody else: it would count though blocks are missing.
    func close(recovery: UInt64? = nil) async throws(StoreError) {
        guard try await beginClosing(recovery) else { return try await mendJournal() }
        do throws(StoreError) {
            try await writeIndex(try await takeSnapshot())
        } catch {
            let (waiters, mustBeSettled) = state.withLock { state in
                state.isCloseUnderWay = false
                if state.recovery != nil { state.phase = .recovering }
                return (
                    state.isJournalBroken ? state.failAll(error) : [],
                    state.journalTrouble == .unwritten && state.recovery == nil
                )
            }
            for waiter in waiters { waiter.resume(returning: .failure(error)) }
            releaseJournal()
            wakeClosers()
            if mustBeSettled { volume.closer.add(self) }
            throw error
        }
        state.withLock { $0.isCloseUnderWay = false }
        wakeClosers()
        // Deletions may have come meanwhile; the new journal takes them.
        releaseJournal()
    }

    /// Seals the container. False if it is closed already; waits for a close that is under way.
    private func beginClosing(_ recovery: UInt64?) async throws(StoreError) -> Bool {
        while true {
            let begun = state.withLock { state -> Result<Bool, StoreError>? in
                do throws(StoreError) {
                    try volume.check()
                    if state.isClosed { return .success(false) }
                    if state.recovery != recovery { throw isRecovering(state) }
                    if state.isCloseUnderWay { return nil }
                    if let damage = state.damage {
                        throw StoreError(.containerState, "\(name) is unhealthy: \(damage)")
                    }
                    if recovery != nil {
                        // What its last round wrote is not known, nor whether it is whole.
                        if state.isJournalBroken { throw isRecovering(state) }
                    } else if state.phase != .closing {
                        try check(.open, state)
                    }
                    state.phase = .closing
                    state.isCloseUnderWay = true
                    return .success(true)
                } catch { return .failure(error) }
            }
            if let begun { return try begun.get() }
            await untilClosed()
        }
    }

    /// Waits for the end of a close that is under way.
    func untilClosed() async {
        await withUnsafeContinuation { (waiter: UnsafeContinuation<Void, Never>) in
            let isOver = state.withLock { state in
                if state.isCloseUnderWay { state.closeWaiters.append(waiter) }
                return !state.isCloseUnderWay
            }
            if isOver { waiter.resume() }
        }
    }

    private func wakeClosers() {
        let waiters = state.withLock { state in
            defer { state.closeWaiters.removeAll() }
            return state.closeWaiters
        }
        for waiter in waiters { waiter.resume() }
    }

    private struct Snapshot: Sendable {
        var entries: [BlockEntry]
        var tail: Int
        var usedBytes: Int
        var data: File
    }

    /// Writes index and footer behind the cells, then replaces the journal by one that says so.
    /// The renaming of the new journal is the moment of closing; before it, a crash leaves the
    /// container open.
    private func writeIndex(_ snapshot: Snapshot) async throws(StoreError) {
        let bytes = ContainerIndex.encode(
            snapshot.entries, header: header, usedBytes: snapshot.usedBytes, at: snapshot.tail)
        let footerOffset = snapshot.tail + bytes.count - ContainerFooter.size
        let closed = JournalRecord.closed(
            footerOffset: footerOffset, blockCount: snapshot.entries.count,
            usedBytes: snapshot.usedBytes)
        let tail = try await volume.changing { () async throws(IOError) in
            try await write(bytes, to: snapshot.data, at: snapshot.tail)
            try await snapshot.data.synchronize()
            return try await replaceJournal([closed, .mark])
        }
        state.withLock { state in
            state.phase = .closed(footerOffset: footerOffset)
            state.recovery = nil
            state.blocks = [:]
            // They are not in the index.
            state.deleted = []
            state.journal = tail
            state.dataFile = nil
            state.journalTrouble = nil
            state.writtenTo = tail.end
            state.needsMark = false
        }
        // What was allocated ahead is given back. If this fails, the next start does it.
        do throws(IOError) {
            try await snapshot.data.truncate(to: footerOffset + ContainerFooter.size)
        } catch {
            if error.kind == .disk { volume.note(error) }
            guard error.kind == .unsupported else { throw volume.refusal(for: error) }
        }
        let given = state.withLock { state in
            defer { state.allocatedTo = footerOffset + ContainerFooter.size }
            return state.allocatedTo - (footerOffset + ContainerFooter.size)
        }
        charge(-given)
    }

    /// Waits until nothing is in flight, then holds the journal and takes what goes into the index.
    /// Deletions that come later wait for the new journal, and are deletions of a closed container.
    private func takeSnapshot() async throws(StoreError) -> Snapshot {
        while true {
            // The new journal tells nothing of deletions before it: their holes come first.
            if state.withLock({ $0.unreclaimed > 0 }) { await volume.reclaimer.flush(id) }
            await untilIdle()
            try volume.check()
            let snapshot = state.withLock { state -> Snapshot? in
                guard state.isIdle, state.unreclaimed == 0, let data = state.dataFile else {
                    return nil
                }
                state.isJournalHeld = true
                return Snapshot(
                    entries: state.blocks.values.compactMap(\.entry)
                        .sorted { $0.localID < $1.localID },
                    tail: state.tail, usedBytes: state.usedBytes, data: data)
            }
            if let snapshot { return snapshot }
        }
    }

    private func write(_ bytes: [UInt8], to file: File, at offset: Int) async throws(IOError) {
        var position = 0
        while position < bytes.count {
            let end = min(bytes.count, position + ContainerStore.Limits.indexWriteBytes)
            try await file.write(
                Payload(copying: bytes[position..<end], pool: volume.reactor.pool),
                at: offset + position, for: .background)
            position = end
        }
    }

    /// Writes a new journal of `records` in place of the old one, if there is one. See
    /// `JournalWriter.replace`. Where it fails so that nobody knows which of them will be there, nothing
    /// more is written: whoever has the container in hand is to have `closer` settle it.
    func replaceJournal(
        _ records: [JournalRecord], isToGrow: Bool = false
    ) async throws(IOError) -> JournalTail {
        let (tail, size): (JournalTail, Int)
        do throws(IOError) {
            (tail, size) = try await journalWriter.replace(by: records, isToGrow: isToGrow)
        } catch {
            if journalWriter.isUnsettled {
                // Who waits for the journal to be there would wait for ever.
                let waiters = state.withLock { state in
                    state.journalTrouble = .unwritten
                    return state.takeExtraWaiters()
                }
                let refusal = volume.refusal(for: error)
                for waiter in waiters { waiter.resume(returning: .failure(refusal)) }
                wakeIdle()
            }
            throw error
        }
        let before = state.withLock { state in
            defer { state.journalAheadTo = size }
            return state.journalAheadTo
        }
        charge(size - before)
        return tail
    }
}
