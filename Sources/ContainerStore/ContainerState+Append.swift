import Bytes
import ContainerFormat
import Model

extension ContainerState {
    /// What is to be done for an append.
    enum Reservation {
        /// Write the bytes at `fileOffset`, then commit under the ticket.
        case write(ticket: UInt64, fileOffset: Int)
        /// There are no bytes: commit under the ticket.
        case commit(ticket: UInt64)
        /// The same cell is on its way already: wait for it.
        case wait(ticket: UInt64)
        /// The same cell is durable already; this is the replica's length.
        case done(length: Int)
    }

    /// Finds the place of `cell`, whose payload has been verified. Errors change nothing.
    mutating func reserve(_ cell: CellAppend) throws(StoreError) -> Reservation {
        let localID = cell.block.localID
        guard !deleted.contains(localID) else {
            throw StoreError(.noSuchBlock, "block \(cell.block) was deleted")
        }
        // In the dictionary's own memory, so that a long block is not copied.
        let commit = JournalRecord.Commit(
            localID: localID, groupLength: cell.groupLength, isEnded: cell.endOfBlock)
        let reserved = blocks[localID]?.reservedLength ?? 0
        let isEnded = blocks[localID]?.isReservedEnded ?? false
        var count = cell.payload.count
        var offset = cell.offset
        if count > 0, offset < reserved, let found = repetition(of: cell) {
            guard case .done = found, offset + count == reserved, !isDurable(commit) else {
                return found
            }
            // The last cell again, with something new to say of the group.
            offset = reserved
            count = 0
        }
        if count == 0, offset == reserved, isDurable(commit) { return .done(length: reserved) }
        guard offset == reserved else {
            throw StoreError(
                .badRequest,
                "block \(cell.block) is at \(reserved) bytes here: an append must begin there, "
                    + "not at \(cell.offset)")
        }
        guard !isEnded || (count == 0 && cell.endOfBlock) else {
            throw StoreError(
                .badRequest,
                "block \(cell.block) was ended at \(reserved) bytes, nothing may follow")
        }
        guard count == 0 || reserved % ReplicationConfig.checksumUnit == 0 else {
            throw StoreError(
                .badRequest,
                "block \(cell.block) ends with a cut unit at \(reserved) bytes: only its last cell "
                    + "may have a length that is no multiple of 4 KiB")
        }
        let ticket = nextTicket
        nextTicket += 1
        var pending = Pending(
            ticket: ticket, cell: nil, checksums: [], commit: commit, stage: .written)
        if count > 0 {
            pending.cell = .init(offset: offset, length: count, fileOffset: tail)
            pending.checksums = cell.checksums
            pending.stage = .writing
            writing += 1
            tail += DataFile.aligned(count)
        }
        enqueue(pending)
        guard let place = pending.cell else { return .commit(ticket: ticket) }
        return .write(ticket: ticket, fileOffset: place.fileOffset)
    }

    /// Whether exactly this is what is known of the block already, with nothing on its way.
    private func isDurable(_ commit: JournalRecord.Commit) -> Bool {
        guard let block = blocks[commit.localID], block.queue.isEmpty, let entry = block.entry
        else { return false }
        return entry.groupLength == commit.groupLength && entry.isEnded == commit.isEnded
    }

    /// If `cell` is a cell that the block has already: where it stands.
    private func repetition(of cell: CellAppend) -> Reservation? {
        guard let block = blocks[cell.block.localID] else { return nil }
        let count = cell.payload.count
        if let pending = block.queue.first(where: { $0.cell?.offset == cell.offset }) {
            guard pending.cell?.length == count, pending.checksums == cell.checksums,
                pending.commit.groupLength == cell.groupLength,
                pending.commit.isEnded == cell.endOfBlock
            else { return nil }
            return .wait(ticket: pending.ticket)
        }
        guard let entry = block.entry, cell.offset >= 0, cell.offset < entry.length else {
            return nil
        }
        let index = entry.cellIndex(at: cell.offset)
        guard entry.cells[index].offset == cell.offset, entry.cells[index].length == count,
            entry.checksums(ofCell: index).elementsEqual(cell.checksums)
        else { return nil }
        return .done(length: entry.length)
    }

    /// Notes that the bytes under `ticket` are written and `waiter` waits for them to be durable.
    /// Returns what to answer at once if an append before this one failed meanwhile.
    mutating func written(
        ticket: UInt64, of localID: UInt64, _ waiter: Waiter
    ) -> Result<Int, StoreError>? {
        if let error = failures.removeValue(forKey: ticket) { return .failure(error) }
        guard let place = blocks[localID]?.queue.firstIndex(where: { $0.ticket == ticket }) else {
            // A commit without bytes is failed without a trace of its ticket.
            return .failure(StoreError(.io, "an append before this one failed; nothing was kept"))
        }
        blocks[localID]!.queue[place].waiters.append(waiter)
        if blocks[localID]!.queue[place].stage == .writing {
            blocks[localID]!.queue[place].stage = .written
        }
        noteReady(localID)
        return nil
    }

    /// Waits along with the append under `ticket`; false if it has been decided meanwhile.
    mutating func wait(ticket: UInt64, of localID: UInt64, _ waiter: Waiter) -> Bool {
        guard let place = blocks[localID]?.queue.firstIndex(where: { $0.ticket == ticket }) else {
            return false
        }
        blocks[localID]!.queue[place].waiters.append(waiter)
        return true
    }
}
