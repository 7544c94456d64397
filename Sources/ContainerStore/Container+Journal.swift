import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// Brings a closed container's journal in order that could not be written: what is on disk of
    /// the last round is looked up as at a start, and the rest cut. Nothing to do for any other.
    func mendJournal() async throws(StoreError) {
        await untilIdle()
        let mustMend = state.withLock { state in
            guard state.isClosed, state.journalTrouble == .unwritten, !state.isJournalHeld else {
                return false
            }
            state.isJournalHeld = true
            return true
        }
        guard mustMend else { return }
        defer { state.withLock { $0.isJournalHeld = false } }
        let bytes = try await volume.journalBytes(of: id)
        let parsed: Journal.Contents
        var contents = ContainerContents()
        do throws(FormatError) {
            parsed = try bytes.withParsed { (bytes) throws(FormatError) in
                try Journal.parse(bytes)
            }
            for record in parsed.records { try contents.apply(record) }
        } catch {
            throw StoreError(.corrupt, "\(name): \(error.description)")
        }
        guard parsed.damagedAt == nil else {
            throw StoreError(.corrupt, "\(name): its journal is damaged")
        }
        try await volume.changing { () async throws(IOError) in
            try await cutTail(of: bytes.withUnsafeBytes { JournalTail(parsed, of: $0) })
        }
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
