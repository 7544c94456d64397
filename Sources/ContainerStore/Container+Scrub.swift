import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// Whether there is something to verify: neither gone nor known to be damaged.
    var isScrubbable: Bool {
        state.withLock { $0.phase != .deleted && $0.damage == nil } && volume.failure == nil
    }

    /// Reads every cell of every durable block and checks it, marking damage as a read does. True
    /// if all of it was whole; false also where the work was ended, or the container deleted.
    func scrub(by scrubber: Scrubber, cache: ClosedCache) async -> Bool {
        // Blocks that come while it runs are verified next time.
        let buffer = volume.reactor.pool.allocate(Scrubber.Limits.readBytes)
        let open = state.withLock { $0.isClosed ? nil : $0.blocks.keys.sorted() }
        do throws(StoreError) {
            if let open {
                return try await scrubOpen(open, by: scrubber, buffer, cache)
            }
            return try await scrubClosed(by: scrubber, buffer, cache)
        } catch {
            // An index that does not parse has been marked already; a full queue is no damage.
            if error.code == .corrupt { scrubber.didFind(error.message, in: id) }
            return false
        }
    }

    /// The index is read from the disk, whatever is in memory of it.
    private func scrubClosed(
        by scrubber: Scrubber, _ buffer: AlignedBuffer, _ cache: ClosedCache
    ) async throws(StoreError) -> Bool {
        let file = try await cache.dataFile(of: self)
        var isWhole = true
        if let damage = try await damageBesideCells(file) {
            scrubber.didFind(damage, in: id)
            isWhole = false
        }
        let footer = try await storedFooter(file, for: .scrub)
        let pages = try await storedTable(footer, file, for: .scrub)
        for number in pages.indices {
            for entry in try await storedPage(number, of: pages, file, for: .scrub) {
                guard await scrubber.mayGoOn() else { return false }
                let file = try await cache.dataFile(of: self)
                isWhole = try await scrub(entry, of: file, by: scrubber, buffer) && isWhole
            }
        }
        return isWhole
    }

    private func scrubOpen(
        _ ids: [UInt64], by scrubber: Scrubber, _ buffer: AlignedBuffer, _ cache: ClosedCache
    ) async throws(StoreError) -> Bool {
        var isWhole = true
        for localID in ids {
            guard await scrubber.mayGoOn() else { return false }
            let found = state.withLock { state -> (BlockEntry, File)? in
                guard let entry = state.blocks[localID]?.entry, let file = state.dataFile else {
                    return nil
                }
                return (entry, file)
            }
            guard let (entry, file) = found else {
                // Deleted, or the container was closed meanwhile: that is verified by its index,
                // the next time.
                if state.withLock({ $0.isClosed || $0.phase == .deleted }) { return false }
                continue
            }
            isWhole = try await scrub(entry, of: file, by: scrubber, buffer) && isWhole
        }
        return isWhole
    }

    /// Verifies one block. False if it is damaged.
    private func scrub(
        _ entry: BlockEntry, of file: File, by scrubber: Scrubber, _ buffer: AlignedBuffer
    ) async throws(StoreError) -> Bool {
        let unit = ReplicationConfig.checksumUnit
        for cell in entry.cells {
            var done = 0
            while done < cell.length {
                guard await scrubber.mayGoOn() else { return false }
                let count = min(Scrubber.Limits.readBytes, cell.length - done)
                let first = (cell.offset + done) / unit
                let problem = try await damage(
                    file, at: cell.fileOffset + done, count, buffer,
                    entry.checksums[first..<first + (count + unit - 1) / unit])
                if let problem {
                    // Deleted while it was read: its extents are holes, that is no damage.
                    // Not verified, where the deletion may fail yet.
                    if isGone(entry.localID) { return isGoneForGood(entry.localID) }
                    let text =
                        "\(name), block \(BlockID(containerID: id, localID: entry.localID)), "
                        + "offset \(cell.offset + done): \(problem)"
                    markDamaged(text, block: entry.localID)
                    scrubber.didFind(text, in: id)
                    return false
                }
                await scrubber.didRead(count)
                done += count
            }
        }
        return true
    }

    /// What is wrong with `count` bytes of the data file, if anything.
    private func damage(
        _ file: File, at offset: Int, _ count: Int, _ buffer: AlignedBuffer,
        _ checksums: ArraySlice<UInt32>
    ) async throws(StoreError) -> String? {
        let read: Int
        do throws(IOError) {
            read = try await file.read(
                into: buffer, 0..<DataFile.aligned(count), at: offset, for: .scrub)
        } catch {
            guard error.kind == .disk else { throw volume.refusal(for: error) }
            return "a read failed: \(error.description)"
        }
        guard read >= count else { return "the data file ends at \(offset + read), within it" }
        do throws(UnitMismatch) {
            try CRC32C.verifyUnits(
                UnsafeRawBufferPointer(buffer.bytes(in: 0..<count)), against: checksums)
            return nil
        } catch { return "the bytes read do not match their checksum (\(error.description))" }
    }
}
