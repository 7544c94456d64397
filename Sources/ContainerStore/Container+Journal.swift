import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// Brings a closed container's journal in order that could not be written, or replaced: what is on
    /// disk is looked up as at a start, and the rest cut. Nothing to do for any other.
    ///
    /// Where the disk does not say all that was acknowledged the journal is rotten: healing the replica
    /// writes it anew.
    func mendJournal() async throws(StoreError) {
        await untilIdle()
        let mustMend = state.withLock { state in
            guard state.isClosed, state.journalTrouble == .unwritten, state.isIdle else {
                return false
            }
            state.isJournalHeld = true
            return true
        }
        guard mustMend else { return }
        defer { releaseJournal() }
        // First of all which file it is: what is added to the one would be lost with the other.
        try await volume.changing { () async throws(IOError) in try await journalWriter.settle() }
        guard let stored = try await storedJournal() else {
            let text = "\(name): its journal is damaged"
            markRotten(text)
            throw StoreError(.corrupt, text)
        }
        try await volume.changing { () async throws(IOError) in
            try await cutTail(of: stored.tail)
        }
        let contents = stored.contents
        let found = state.withLock { state in
            // Deletions whose records are there although nobody was told so.
            let new = contents.unpunched.filter { !state.deleted.contains($0.key) }
            state.deleted.formUnion(contents.deleted)
            state.usedBytes = contents.usedBytes
            state.blockCount = contents.blockCount
            state.journalTrouble = nil
            return new.sorted { $0.key < $1.key }
        }
        volume.reclaimer.add(self, found.map { (localID: $0.key, extents: $0.value.extents) })
        // The one that ends a healing may be there though the healing failed.
        if !contents.isUnhealthy, state.withLock({ $0.damage != nil }) { note(.unhealthy) }
    }

    private struct StoredJournal {
        var tail: JournalTail
        var contents: ContainerContents
    }

    /// The journal of the closed replica as it is on disk; nil: it is damaged, or does not say all that
    /// was acknowledged.
    private func storedJournal() async throws(StoreError) -> StoredJournal? {
        let journal: Volume.JournalFile
        do throws(IOError) { journal = try await volume.readJournal(of: id) } catch {
            if error.isPassing { throw volume.refusal(for: error) }
            try volume.check()
            return nil
        }
        guard let bytes = journal.bytes else { return nil }
        var contents = ContainerContents()
        do throws(FormatError) {
            let parsed = try bytes.withParsed { (bytes) throws(FormatError) in
                try Journal.parse(bytes)
            }
            for record in parsed.records { try contents.apply(record) }
            let isComplete = state.withLock { state in
                guard case .closed(let footerOffset) = state.phase else { return false }
                return contents.closing?.footerOffset == footerOffset
                    && contents.deleted.isSuperset(of: state.deleted)
            }
            guard parsed.header == header, parsed.damagedAt == nil, isComplete else { return nil }
            return StoredJournal(
                tail: bytes.withUnsafeBytes { JournalTail(parsed, of: $0) }, contents: contents)
        } catch { return nil }
    }

    /// Removes what a write left behind the journal's end that was not acknowledged, so that it
    /// can never be taken for records, and goes on from `tail`.
    func cutTail(of tail: JournalTail) async throws(IOError) {
        try await journalWriter.cut(to: tail)
        state.withLock { state in
            state.journal = tail
            state.writtenTo = tail.end
            state.journalAheadTo = DataFile.aligned(tail.end)
        }
    }

    /// In writeback: makes what was written so far durable, and notes it in the journal, so that
    /// damage to it is told from a torn write from now on.
    func prove() async {
        let work = state.withLock { state -> (data: File?, to: Int)? in
            guard !state.isJournalHeld, !state.isJournalBroken, state.phase != .deleted else {
                return nil
            }
            // Closing and deletion wait for it, as for a write.
            state.writing += 1
            return (state.dataFile, state.writtenTo)
        }
        guard let work else { return }
        var isDurable = true
        do throws(IOError) {
            // Data first: the mark says of the cells before it that they are durable.
            try await work.data?.synchronize(for: .background)
            try await journalWriter.open().synchronize(for: .background)
        } catch {
            isDurable = false
            volume.note(error)
        }
        state.withLock { state in
            state.writing -= 1
            if isDurable { state.journal.synced(to: work.to) }
        }
        if isDurable { note(.mark) }
        wakeIdle()
    }
}
