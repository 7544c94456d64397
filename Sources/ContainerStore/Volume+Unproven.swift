import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor

// A round of the committer syncs data and journal at the same time. So after a power cut the
// records of the last round may be there without the bytes they tell of. No later record proves
// that round, and nobody was told of it unless both syncs had ended; whether they had, the bytes
// say themselves, by their checksums.

/// The cells of a journal that no later record says to be durable, and what deletes them: pure.
struct UnprovenCells: Sendable {
    struct Entry: Sendable {
        /// Of its record in the journal.
        var index: Int
        var cell: BlockEntry.Cell
        var checksums: [UInt32]
        var localID: UInt64
    }

    /// In the order of their records.
    private(set) var entries: [Entry] = []
    /// By local ID: the record that deletes the block.
    private(set) var deletions: [UInt64: Int] = [:]

    init(_ records: [JournalRecord], unproven: Range<Int>) {
        for index in unproven {
            switch records[index] {
            case .cell(let cell, let checksums, let commit):
                entries.append(
                    Entry(index: index, cell: cell, checksums: checksums, localID: commit.localID))
            case .deleted(let localID, _, _): deletions[localID] = index
            default: break
            }
        }
    }

    var isEmpty: Bool { entries.isEmpty }

    /// The record of the first cell that is not whole, before which the journal is to be cut; nil if
    /// there is none.
    ///
    /// A cell of a deleted block need not be whole, for its space may have been given back; but if its
    /// deletion is cut away with what is lost before that, the cell would be back: then it is lost too.
    nonisolated(nonsending)
        func firstLost(
            isWhole: (BlockEntry.Cell, [UInt32]) async throws(IOError) -> Bool
        ) async throws(IOError) -> Int?
    {
        var cut: Int?
        var whole: Set<Int> = []
        while true {
            var lost: Int?
            for entry in entries where entry.index < cut ?? .max && !whole.contains(entry.index) {
                if let deletion = deletions[entry.localID], deletion < cut ?? .max { continue }
                guard try await isWhole(entry.cell, entry.checksums) else {
                    lost = entry.index
                    break
                }
                whole.insert(entry.index)
            }
            guard let lost else { return cut }
            cut = lost
        }
    }
}

extension Volume {
    /// The first of the unproven records of container `id` whose cell is not whole in the data
    /// file; nil if all are, and then the journal is durable when it returns. So are the cells that are
    /// whole, so that later records may say so.
    func firstLostCell(
        _ journal: Journal.Contents, of id: ContainerID
    ) async throws(StoreError) -> Int? {
        let cells = UnprovenCells(journal.records, unproven: journal.unproven)
        do throws(IOError) {
            if !cells.isEmpty, try await reactor.status(dataPath(id), disk: disk) != nil {
                let data = try await File.open(
                    dataPath(id), [.read, .write, .direct], on: reactor, disk: disk)
                let lost = try await cells.firstLost { (cell, checksums) throws(IOError) in
                    try await isWhole(cell, checksums, in: data)
                }
                // Also of those before the lost one the journal says from now on that they are durable.
                try await data.synchronize()
                try await data.close()
                if let lost { return lost }
            }
            guard journal.mustBeSynced else { return nil }
            let file = try await File.open(
                journalPath(id), [.read, .write, .direct], on: reactor, disk: disk)
            try await file.synchronize()
            try await file.close()
        } catch {
            throw unreadable(id, error)
        }
        return nil
    }

    /// A journal file as it is on disk.
    struct JournalFile: Sendable {
        var size: Int
        /// When it was written last, by the clock of the machine: nanoseconds since 1970.
        var modifiedAt: Int64
        /// nil: more than is read.
        var bytes: [UInt8]?
    }

    /// The whole journal of container `id`. One that is too long to be read is refused, never read
    /// in part: its rest would look torn and be cut.
    func journal(
        of id: ContainerID
    ) async throws(StoreError) -> (bytes: [UInt8], modifiedAt: Int64) {
        let file: JournalFile
        do throws(IOError) { file = try await readJournal(of: id) } catch {
            throw unreadable(id, error)
        }
        guard let bytes = file.bytes else {
            throw StoreError(
                .corrupt,
                "container \(id): its journal has \(file.size) bytes, this program reads at most "
                    + "\(options.journalReadBytes); nothing of it was changed")
        }
        return (bytes, file.modifiedAt)
    }

    /// The same for those who tell what is wrong with the file from what passes.
    func readJournal(of id: ContainerID) async throws(IOError) -> JournalFile {
        let path = journalPath(id)
        let status = try await reactor.status(path, disk: disk)
        var file = JournalFile(
            size: status?.size ?? 0, modifiedAt: status?.modifiedAt ?? 0, bytes: nil)
        if file.size <= options.journalReadBytes {
            file.bytes = try await readAll(path, limit: options.journalReadBytes)
        }
        return file
    }

    /// What to tell of a replica's file that could not be opened, read or synced.
    func unreadable(_ id: ContainerID, _ error: IOError) -> StoreError {
        error.isPassing
            ? refusal(for: error) : StoreError(.io, "container \(id): \(error.description)")
    }

    /// Whether the bytes of `cell` match their checksums. Bytes that cannot be read at all are no
    /// trace of a crash: they are left for the reads to meet.
    private func isWhole(
        _ cell: BlockEntry.Cell, _ checksums: [UInt32], in file: File
    ) async throws(IOError) -> Bool {
        let buffer = reactor.pool.allocate(DataFile.aligned(cell.length))
        do throws(IOError) {
            let count = try await file.read(
                into: buffer, 0..<DataFile.aligned(cell.length), at: cell.fileOffset)
            guard count >= cell.length else { return false }
        } catch {
            guard error.kind == .disk else { throw error }
            return true
        }
        do throws(UnitMismatch) {
            try CRC32C.verifyUnits(
                UnsafeRawBufferPointer(buffer.bytes(in: 0..<cell.length)), against: checksums)
            return true
        } catch { return false }
    }
}
