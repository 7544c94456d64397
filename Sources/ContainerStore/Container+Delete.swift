import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// See `ContainerStore.deleteBlocks`; `blocks` are of this container.
    func delete(_ blocks: [BlockID], cache: ClosedCache) async throws(StoreError) {
        await volume.reclaimer.untilComfortable()
        await beginDeleting()
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
                    if state.withLock({ $0.recovery != nil }) {
                        // It has not been rebuilt yet, and must not be.
                        records.append(.deleted(localID: block.localID, length: 0, extents: []))
                    } else {
                        release([claimed.removeLast()])
                    }
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
                let wasThere = state.blocks.removeValue(forKey: localID) != nil
                state.usedBytes -= length
                if wasThere || state.isClosed { state.blockCount -= 1 }
            }
        }
        volume.reclaimer.add(
            self,
            records.compactMap { record in
                guard case .deleted(let localID, _, let extents) = record else { return nil }
                return (localID, extents)
            })
    }

    /// Counts a deletion, once a close that is under way has ended: that has all holes punched
    /// before it writes a journal which no longer tells of them.
    private func beginDeleting() async {
        while true {
            let hasBegun = state.withLock { state in
                if state.isCloseUnderWay { return false }
                state.deleting += 1
                return true
            }
            if hasBegun { return }
            await untilClosed()
        }
    }

    /// Makes the block invisible, and takes no more appends to it. False if it is deleted durably;
    /// waits for a deletion by somebody else that is under way.
    private func claim(_ block: BlockID) async throws(StoreError) -> Bool {
        while true {
            let claimed = state.withLock { state -> Result<Bool, StoreError>? in
                do throws(StoreError) {
                    try volume.check()
                    // As good as gone: whoever asks decides whether anybody waits for it.
                    guard state.phase != .deleted else {
                        throw StoreError(.noSuchContainer, "\(name) is being removed")
                    }
                    guard !state.isJournalBroken else {
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
            if isClosed {
                await untilMended(block.localID)
                break
            }
            if isQuiet { return found }
            // Appends are on their way. They are ended, not broken off; each round decides some.
            try await commit([.mark])
        }
        let pages = try await indexTable(cache)
        guard let number = ContainerIndex.page(of: block.localID, in: pages) else { return nil }
        return try await indexPage(number, of: pages, cache)
            .first { $0.localID == block.localID }
    }

    /// Gives the space of deleted blocks back: punches `holes`, then notes that it is done. What a
    /// file system cannot punch is left as it is; what the disk's queue has no place for is tried
    /// again. If the disk fails the volume is taken out.
    func reclaim(_ localIDs: [UInt64], _ holes: [Range<Int>], atOnce: Int) async {
        let file = await beginReclaiming()
        var isDone = false
        if let file {
            isDone = await punch(holes, of: file, atOnce: atOnce)
        }
        state.withLock { state in
            state.reclaiming -= 1
            state.unreclaimed -= localIDs.count
        }
        if isDone {
            charge(-holes.reduce(0) { $0 + $1.count })
            for localID in localIDs { note(.reclaimed(localID: localID)) }
        }
        wakeIdle()
    }

    /// The data file to punch; nil if there is nothing to be given back any more.
    private func beginReclaiming() async -> File? {
        let (file, isGone) = state.withLock { state in
            state.reclaiming += 1
            return (state.dataFile, state.phase == .deleted)
        }
        guard !isGone, volume.failure == nil else { return nil }
        if let file { return file }
        do throws(IOError) {
            return try await File.open(
                volume.dataPath(id), [.write], on: volume.reactor, disk: volume.disk)
        } catch {
            volume.note(error)
            return nil
        }
    }

    private func punch(_ holes: [Range<Int>], of file: File, atOnce: Int) async -> Bool {
        let list = HoleList(holes)
        await withDiscardingTaskGroup { group in
            for _ in 0..<min(atOnce, holes.count) {
                group.addTask {
                    while let hole = list.next() {
                        if await !self.punch(hole, of: file) { list.giveUp() }
                    }
                }
            }
        }
        return !list.isGivenUp
    }

    /// False if the file system does not punch, or the volume was taken out.
    private func punch(_ hole: Range<Int>, of file: File) async -> Bool {
        while volume.failure == nil {
            do throws(IOError) {
                try await file.punchHole(hole, for: volume.reclaimer.context(for: self))
                return true
            } catch {
                switch error.kind {
                case .overload, .resource, .suspended, .badAddress, .expired: break
                case .full, .absent, .disk, .unsupported:
                    if error.kind != .unsupported { volume.note(error) }
                    return false
                }
                // Cancelled or not: a pause at least of one turn of the reactor.
                do throws(CancellationError) {
                    try await volume.reactor.sleep(for: Reclaimer.Limits.pauseAfterRefusal)
                } catch { await Task.yield() }
            }
        }
        return false
    }

    /// Refuses everything from now on, once a close that is under way has ended.
    private func seal() async {
        while true {
            let isSealed = state.withLock { state in
                if !state.isCloseUnderWay { state.phase = .deleted }
                return !state.isCloseUnderWay
            }
            if isSealed { return }
            await untilClosed()
        }
    }

    /// Refuses everything from now on if the replica is what `ContainerStore.removeReplica` says;
    /// false, and nothing is changed, if it is not. Waits for a close that is under way.
    func seal(recovery token: UInt64) async -> Bool {
        while true {
            let isSealed = state.withLock { state -> Bool? in
                if state.isCloseUnderWay { return nil }
                guard isToGo(state, recovery: token) else { return false }
                state.phase = .deleted
                return true
            }
            if let isSealed { return isSealed }
            await untilClosed()
        }
    }

    /// Removes both files if the container is closed and no block is left in it; else refuses, and
    /// nothing is changed.
    func removeEmpty(cache: ClosedCache) async throws(StoreError) {
        let refusal = state.withLock { state -> StoreError? in
            if state.phase == .deleted { return nil }
            guard state.isClosed, state.blockCount == 0, state.damage == nil else {
                return StoreError(
                    .containerState,
                    "\(name) is \(state.phase) with \(state.blockCount) blocks: only a closed "
                        + "container without blocks is removed so")
            }
            state.phase = .deleted
            return nil
        }
        if let refusal { throw refusal }
        try await removeSealed(cache: cache)
    }

    /// Refuses everything from now on, and removes both files.
    func removeFiles(cache: ClosedCache) async throws(StoreError) {
        await seal()
        try await removeSealed(cache: cache)
    }

    /// The files of a container whose phase is `deleted`; again if it failed before.
    func removeSealed(cache: ClosedCache) async throws(StoreError) {
        let charged = await letGoOfFiles(cache: cache)
        try await volume.removeContainer(id)
        charge(-charged)
    }

    /// Refuses everything from now on if the replica may make way for one that is rebuilt; false, and
    /// nothing is changed, if not. Waits for a close that is under way.
    func sealToGiveWay() async -> Bool {
        while true {
            let isSealed = state.withLock { state -> Bool? in
                if state.isCloseUnderWay { return nil }
                guard state.isToGiveWay else { return false }
                state.phase = .deleted
                return true
            }
            if let isSealed { return isSealed }
            await untilClosed()
        }
    }

    /// Refuses everything from now on, and moves both files aside.
    func moveAside(cache: ClosedCache) async throws(StoreError) {
        await seal()
        try await moveSealedAside(cache: cache)
    }

    /// Moves the files of a container whose phase is `deleted` to where nobody takes them for a
    /// container's; again if it failed before.
    func moveSealedAside(cache: ClosedCache) async throws(StoreError) {
        let charged = await letGoOfFiles(cache: cache)
        try await volume.moveAside(id, index: header.replicaIndex)
        charge(-charged)
    }

    /// Closes the files of a container whose phase is `deleted` once nothing is in flight. Returns the
    /// bytes that they take.
    private func letGoOfFiles(cache: ClosedCache) async -> Int {
        await untilIdle()
        volume.reclaimer.forget(self)
        cache.forget(self)
        journalWriter.letGo()
        return state.withLock { state in
            state.dataFile = nil
            return state.charged
        }
    }
}

/// Holes to be punched, shared by those who do it.
private final class HoleList: Sendable {
    private let holes: [Range<Int>]
    private let state = Mutex((index: 0, isGivenUp: false))

    init(_ holes: [Range<Int>]) { self.holes = holes }

    func next() -> Range<Int>? {
        state.withLock { state in
            guard !state.isGivenUp, state.index < holes.count else { return nil }
            defer { state.index += 1 }
            return holes[state.index]
        }
    }

    func giveUp() { state.withLock { $0.isGivenUp = true } }

    var isGivenUp: Bool { state.withLock { $0.isGivenUp } }
}

extension Volume {
    /// Removes the files of a container. The renaming of the journal is the moment of deletion;
    /// what is left after a crash is removed by the next start.
    func removeContainer(_ id: ContainerID) async throws(StoreError) {
        try await changing { () async throws(IOError) in
            if try await reactor.status(journalPath(id), disk: disk) != nil {
                try await reactor.rename(journalPath(id), to: deletedPath(id), disk: disk)
                try await reactor.synchronizeDirectory(containersPath, disk: disk)
            }
            try await finishRemoval(id)
        }
    }

    /// Removes the data file, then the journal under the name that says that it is deleted.
    func finishRemoval(_ id: ContainerID) async throws(IOError) {
        for path in [dataPath(id), deletedPath(id)] {
            if try await reactor.status(path, disk: disk) != nil {
                try await reactor.remove(path, disk: disk)
            }
        }
    }
}
