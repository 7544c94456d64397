import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// See `ContainerStore.deleteBlocks`; `blocks` are of this container.
    func delete(_ blocks: [BlockID], cache: ClosedCache) async throws(StoreError) {
        state.withLock { $0.deleting += 1 }
        defer {
            state.withLock { $0.deleting -= 1 }
            wakeIdle()
        }
        var records: [JournalRecord] = []
        var claimed: [UInt64] = []
        do throws(StoreError) {
            for block in blocks {
                guard try await claim(block) else { continue }
                claimed.append(block.localID)
                guard let entry = try await settledEntry(block, cache: cache) else {
                    release([claimed.removeLast()])
                    continue
                }
                records.append(
                    .deleted(
                        localID: block.localID, length: entry.length, extents: entry.extents))
            }
            try await commit(records)
        } catch {
            release(claimed)
            throw error
        }
        state.withLock { state in
            for case .deleted(let localID, let length, _) in records {
                state.unconfirmed.remove(localID)
                state.blocks[localID] = nil
                state.usedBytes -= length
                state.blockCount -= 1
            }
        }
        for case .deleted(let localID, _, let extents) in records {
            try await reclaim(localID, extents, cache: cache)
        }
    }

    /// Makes the block invisible, and takes no more appends to it. False if it is deleted durably;
    /// waits for a deletion by somebody else that is under way.
    private func claim(_ block: BlockID) async throws(StoreError) -> Bool {
        while true {
            let claimed = state.withLock { state -> Result<Bool, StoreError>? in
                do throws(StoreError) {
                    try volume.check()
                    guard state.phase != .deleted, !state.isJournalBroken else {
                        throw StoreError(
                            .containerState,
                            "\(name) takes no deletions: its journal is not in order")
                    }
                    if state.deleted.insert(block.localID).inserted {
                        state.unconfirmed.insert(block.localID)
                        return .success(true)
                    }
                    return state.unconfirmed.contains(block.localID) ? nil : .success(false)
                } catch { return .failure(error) }
            }
            if let claimed { return try claimed.get() }
            // The other's record goes with this one's round or one of the next.
            try await commit([.mark])
        }
    }

    private func release(_ localIDs: [UInt64]) {
        state.withLock { state in
            for localID in localIDs {
                state.deleted.remove(localID)
                state.unconfirmed.remove(localID)
            }
        }
    }

    /// The entry of a block that was claimed, once all appends to it are decided; `nil` if there
    /// is no such block.
    private func settledEntry(
        _ block: BlockID, cache: ClosedCache
    ) async throws(StoreError) -> BlockEntry? {
        while true {
            let (found, isClosed, isQuiet) = state.withLock { state in
                let found = state.blocks[block.localID]
                return (found?.entry, state.isClosed, found?.queue.isEmpty ?? true)
            }
            if isClosed { break }
            if isQuiet { return found }
            // Appends are on their way. They are ended, not broken off; each round decides some.
            try await commit([.mark])
        }
        let pages = try await indexTable(cache)
        guard let number = ContainerIndex.page(of: block.localID, in: pages) else { return nil }
        return try await indexPage(number, of: pages, cache)
            .first { $0.localID == block.localID }
    }

    /// Gives the space of a deleted block back. A file system that cannot is left as it is.
    func reclaim(
        _ localID: UInt64, _ extents: [Range<Int>], cache: ClosedCache
    ) async throws(StoreError) {
        let file: File
        if let open = state.withLock({ $0.dataFile }) {
            file = open
        } else {
            file = try await cache.dataFile(of: self)
        }
        do throws(IOError) {
            for extent in extents { try await file.punchHole(extent, class: .background) }
        } catch {
            if error.isUnsupported { return }
            throw volume.failure(of: error)
        }
        charge(-extents.reduce(0) { $0 + $1.count })
        note(.reclaimed(localID: localID))
    }

    /// Refuses everything from now on, once a close that is under way has ended. False if
    /// somebody did before.
    private func seal() async -> Bool {
        while true {
            let isFirst = state.withLock { state -> Bool? in
                if state.isCloseUnderWay { return nil }
                defer { state.phase = .deleted }
                return state.phase != .deleted
            }
            if let isFirst { return isFirst }
            await untilClosed()
        }
    }

    /// Refuses everything from now on, and removes both files.
    func removeFiles(cache: ClosedCache) async throws(StoreError) {
        guard await seal() else { return }
        await untilIdle()
        cache.forget(id)
        let charged = state.withLock { state in
            state.dataFile = nil
            state.journalFile = nil
            return state.charged
        }
        try await volume.removeContainer(id)
        charge(-charged)
    }
}

extension Volume {
    /// Removes the files of a container. The renaming of the journal is the moment of deletion;
    /// what is left after a crash is removed by the next start.
    func removeContainer(_ id: ContainerID) async throws(StoreError) {
        try await changing { () async throws(IOError) in
            if try await reactor.status(journalPath(id)) != nil {
                try await reactor.rename(journalPath(id), to: deletedPath(id))
                try await reactor.synchronizeDirectory(containersPath)
            }
            try await finishRemoval(id)
        }
    }

    /// Removes the data file, then the journal under the name that says that it is deleted.
    func finishRemoval(_ id: ContainerID) async throws(IOError) {
        for path in [dataPath(id), deletedPath(id)] {
            if try await reactor.status(path) != nil { try await reactor.remove(path) }
        }
    }
}
