import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization

// A closed replica that is healed: what it takes of its state and its two files. `Healer` goes
// through it.
//
// Bytes are written over the bad ones, where they lay. Until they are there and synced the journal
// says `unhealthy`, so a crash at any moment leaves the replica as damaged as it was, or less.

extension Container {
    /// Lets nobody else heal the replica, until `endHealing`. Throws `containerState` where it is not
    /// closed, where its journal was damaged before the last start (then nobody knows what was
    /// deleted), or somebody is at it; `overloaded` while its journal is being brought in order.
    func beginHealing() throws(StoreError) {
        try volume.check()
        let refusal = state.withLock { state -> StoreError? in
            guard state.isClosed else {
                return StoreError(
                    .containerState,
                    "\(name) is \(state.phase): only a closed replica is healed where it is")
            }
            guard state.journalTrouble != .unwritten else {
                return StoreError(
                    .overloaded, "\(name) is healed when its journal has been brought in order")
            }
            guard !state.isJournalBroken || state.journalTrouble == .rotten else {
                return StoreError(
                    .containerState,
                    "\(name) cannot be healed: \(state.damage ?? "its journal is not in order")")
            }
            guard !state.isHealing else {
                return StoreError(.containerState, "\(name) is being healed already")
            }
            state.isHealing = true
            return nil
        }
        if let refusal { throw refusal }
    }

    func endHealing() { state.withLock { $0.isHealing = false } }

    /// Throws if the replica is gone, or its volume is.
    func checkHealing() throws(StoreError) {
        try volume.check()
        guard state.withLock({ $0.isClosed }) else {
            throw StoreError(.noSuchContainer, "\(name) is being removed")
        }
        guard !Task.isCancelled else {
            throw StoreError(.cancelled, "\(name): its healing was ended")
        }
    }

    func isGone(_ localID: UInt64) -> Bool { state.withLock { $0.isGone(localID) } }

    func isGoneForGood(_ localID: UInt64) -> Bool { state.withLock { $0.isGoneForGood(localID) } }

    // MARK: Bytes in place

    /// Writes `payload`, which matches the checksums of `damaged`, over what is there, durably, and
    /// reads it again. False, and nothing is written, where the block was deleted.
    ///
    /// A deletion that comes meanwhile waits for it, so that no hole is filled again; a removal of the
    /// replica waits too.
    func mend(
        _ damaged: DamagedRange, with payload: Payload, in file: File
    ) async throws(StoreError) -> Bool {
        let localID = damaged.block.localID
        let hasBegun = state.withLock { state in
            precondition(state.mending == nil, "one healer writes one range at a time")
            guard !state.isGone(localID), state.isClosed else { return false }
            state.mending = localID
            return true
        }
        guard hasBegun else { return false }
        defer { endMending() }
        let count = payload.count
        let size = DataFile.aligned(count)
        let buffer = volume.reactor.pool.allocate(size)
        let bytes = buffer.bytes(in: 0..<size)
        payload.withBytes { bytes.copyMemory(from: $0) }
        UnsafeMutableRawBufferPointer(rebasing: bytes[count..<size])
            .initializeMemory(as: UInt8.self, repeating: 0)
        try await volume.changing { () async throws(IOError) in
            try await file.write(Payload(buffer, 0..<size), at: damaged.fileOffset, for: .repair)
            try await file.synchronize(for: .repair)
        }
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
        let read: Int
        do throws(IOError) {
            read = try await file.read(
                into: buffer, 0..<size, at: damaged.fileOffset, for: .repair)
        } catch { throw volume.refusal(for: error) }
        let isThere =
            read >= count
            && damaged.isMatched(by: UnsafeRawBufferPointer(buffer.bytes(in: 0..<count)))
        guard isThere else {
            throw StoreError(
                .io,
                "\(name), block \(damaged.block), bytes \(damaged.range): what was written there "
                    + "just now is not what is read")
        }
        return true
    }

    private func endMending() {
        let waiters = state.withLock { state in
            state.mending = nil
            defer { state.mendWaiters = [] }
            return state.mendWaiters
        }
        for waiter in waiters { waiter.resume() }
        wakeIdle()
    }

    /// Waits while bytes of the block are being written in place.
    func untilMended(_ localID: UInt64) async {
        await withUnsafeContinuation { (waiter: UnsafeContinuation<Void, Never>) in
            let mustWait = state.withLock { state in
                guard state.mending == localID else { return false }
                state.mendWaiters.append(waiter)
                return true
            }
            if !mustWait { waiter.resume() }
        }
    }

    /// Writes the header of the data file anew. A removal of the replica waits for it.
    func mendHeader(in file: File) async throws(StoreError) {
        let hasBegun = state.withLock { state in
            // Once it is sealed its files, or others under their names, are somebody else's.
            if state.isClosed { state.writing += 1 }
            return state.isClosed
        }
        guard hasBegun else {
            throw StoreError(.noSuchContainer, "\(name) is being removed")
        }
        defer {
            state.withLock { $0.writing -= 1 }
            wakeIdle()
        }
        try await volume.changing { () async throws(IOError) in
            try await file.write(
                Payload(copying: header.encoded(for: .data), pool: volume.reactor.pool), at: 0,
                for: .repair)
            try await file.synchronize(for: .repair)
        }
    }

    // MARK: The end

    /// All was read and is whole: the journal says so from now on, as does memory. False, and it
    /// stays damaged, if damage was found meanwhile, or a block of `passedOver` is there after all.
    ///
    /// The journal is replaced by one without `unhealthy`: whoever opens the replica after a crash
    /// finds the one or the other. What was rotten of it is written from what is known here.
    /// - Parameter passedOver: blocks that were not verified because they were being deleted.
    func endDamage(
        _ cache: ClosedCache, passedOver: Set<UInt64>
    ) async throws(StoreError) -> Bool {
        _ = try await holdJournal(waits: true)
        defer { releaseJournal() }
        let isComplete = state.withLock { state in
            // Deletions that were under way have ended; some may have failed.
            let back = passedOver.filter { !state.isGoneForGood($0) }
            for localID in back { state.suspicion.add(localID) }
            return back.isEmpty
        }
        guard isComplete else { return false }
        let parsed = try await soundJournal()
        // One that was rotten when it was read is written anew, though it can be read by now.
        let isRotten = state.withLock { $0.journalTrouble == .rotten }
        if isRotten || parsed?.records.contains(.unhealthy) ?? true {
            var records = parsed?.records.filter { $0 != .unhealthy && $0 != .mark }
            if records == nil { records = try await knownRecords(cache) }
            let written = (records ?? []) + [.mark]
            let tail: JournalTail
            do throws(StoreError) {
                tail = try await volume.changing { () async throws(IOError) in
                    try await replaceJournal(written)
                }
            } catch {
                // Which journal there is has to be looked up, healed or not.
                if journalWriter.isUnsettled { volume.closer.add(self) }
                throw error
            }
            state.withLock { state in
                state.journal = tail
                state.writtenTo = tail.end
                state.needsMark = false
                if state.journalTrouble == .rotten { state.journalTrouble = nil }
            }
        }
        let isWhole = state.withLock { $0.endDamage() }
        if !isWhole { note(.unhealthy) }
        return isWhole
    }

    /// What the journal of the closed replica would say if it were made now. That holes were punched is
    /// left out: they are punched again by the next start, which changes nothing. Deletions under way
    /// are left out as well: their records wait, and are written behind.
    private func knownRecords(_ cache: ClosedCache) async throws(StoreError) -> [JournalRecord] {
        guard case .closed(let footerOffset) = state.withLock({ $0.phase }) else {
            throw StoreError(.noSuchContainer, "\(name) is being removed")
        }
        let file = try await cache.dataFile(of: self)
        let footer = try await storedFooter(file, for: .repair)
        let pages = try await storedTable(footer, file, for: .repair)
        let deleted = state.withLock { $0.deleted.subtracting($0.unconfirmed) }
        var records: [JournalRecord] = [
            .closed(
                footerOffset: footerOffset, blockCount: footer.blockCount,
                usedBytes: footer.usedBytes)
        ]
        for number in pages.indices where !deleted.isEmpty {
            let entries = try await storedPage(number, of: pages, file, for: .repair)
            for entry in entries where deleted.contains(entry.localID) {
                records.append(
                    .deleted(
                        localID: entry.localID, length: entry.length, extents: entry.extents))
            }
        }
        return records
    }
}
