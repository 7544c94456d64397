import ContainerFormat
import Model
import Reactor
import Synchronization

// Replicas that are rebuilt from others, by an order of SCM's that a token names. Such a replica is
// begun (its journal says so from its first moment), takes the cells of its order, and is
// finished: closed. Until then it counts for nothing and survives a restart as what it is.

/// What a replica that is being rebuilt knows of a block.
public enum RebuiltBlock: Hashable, Sendable {
    case absent
    /// It was deleted since, here or before it came.
    case deleted
    /// So much of it is durable.
    case there(BlockRecord)
}

extension ContainerStore {
    /// What became of a wish to begin.
    private enum Beginning {
        case goesOn
        /// One by an earlier order, or one that is broken, is removed first.
        case anew(instead: Container)
        /// A damaged one is moved aside first, or files of which none could be opened.
        case replacing(Container)
        case replacingFiles(Volume)
        /// The one that is there is on a volume that was taken out: it stays where it is, and is
        /// forgotten.
        case leaving(Container)
        case new
    }

    /// Makes a replica that is to be rebuilt by the order `token`, durably, whether or not the
    /// container was retired; it needs no permission. One that is being rebuilt by the same order
    /// stays as it is, to be gone on with, unless it is damaged or its journal could not be
    /// written: then, and where it is by an earlier order, it is removed and begun anew.
    ///
    /// A replica on a volume that was taken out is no hindrance either: it is lost until the next start,
    /// which finds two and chooses (`ContainerStore+Twins`).
    ///
    /// Throws `containerState`, and changes nothing, where a replica is that is not being rebuilt, or
    /// one by a later order, or one that is being healed, or whose disk does not answer;
    /// `invalidArgument`, `noSpace`, `io`.
    /// - Parameters:
    ///   - token: not 0. A later order has a greater one.
    ///   - replacing: a damaged replica of the same index, or one whose files could not be opened, is
    ///     no hindrance: it is moved aside, and kept for a while, as soon as there is room for another.
    public func beginRecovery(
        _ id: ContainerID, replication: ReplicationConfig, replicaIndex: Int, token: UInt64,
        replacing: Bool = false
    ) async throws(StoreError) {
        guard token != 0, (1...replication.width).contains(replicaIndex) else {
            throw StoreError(
                .invalidArgument,
                "a replica is rebuilt by an order that is not 0, as one of the indexes 1 to "
                    + "\(replication.width) of \(replication); not by \(token) as \(replicaIndex)")
        }
        let header = ContainerHeader(
            containerID: id, replication: replication, replicaIndex: replicaIndex)
        let isToBeMade = try await claim(id) { state in
            beginning(header, token, replacing, state).map { found in
                if case .goesOn = found { false } else { true }
            }
        }
        guard isToBeMade else { return }
        defer { release(id) }
        let place = try await makeWay(for: header, token, replacing)
        add(
            try await Container.create(
                header, on: place.volume, recovery: (token, place.deleted)))
    }

    /// Where a replica is to be rebuilt.
    private struct RebuildingPlace {
        var volume: Volume
        /// Blocks that it is never to take: SCM has heard that they were deleted here, and does not say
        /// it again.
        var deleted: Set<UInt64>
    }

    /// Removes, or moves aside, what is where the replica is to be. What is moved aside takes as much
    /// room as before: it stays where it is until there is a volume with room beside it.
    private func makeWay(
        for header: ContainerHeader, _ token: UInt64, _ replacing: Bool
    ) async throws(StoreError) -> RebuildingPlace {
        let id = header.containerID
        var deleted: Set<UInt64> = []
        var chosen: Volume?
        while true {
            // Nobody else makes or removes it now; what may have changed is that it was deleted from,
            // or healed.
            switch try state.withLock({ beginning(header, token, replacing, $0) }).get() {
            case .goesOn, .new:
                if let chosen { return RebuildingPlace(volume: chosen, deleted: deleted) }
                return RebuildingPlace(volume: try await chooseVolume(), deleted: deleted)
            case .anew(let old):
                try await old.removeFiles(cache: cache)
                forget(old)
                if let known = old.state.withLock({ $0.recovery == nil ? nil : $0.deleted }) {
                    deleted.formUnion(known)
                }
            case .replacing(let old):
                if chosen == nil { chosen = try await chooseVolume() }
                // Sealed it serves nobody any more.
                try await old.volume.makeKeptFolder()
                guard await old.sealToGiveWay() else { continue }
                try await old.moveSealedAside(cache: cache)
                forget(old)
                deleted.formUnion(old.state.withLock { $0.deleted })
            case .replacingFiles(let volume):
                if chosen == nil { chosen = try await chooseVolume() }
                guard try await !volume.isOfLaterVersion(id) else {
                    throw StoreError(
                        .versionMismatch,
                        "container \(id) on \(volume.path) was written by a later program; it is "
                            + "left alone")
                }
                try await volume.moveAside(id, index: header.replicaIndex)
                volume.withState { _ = $0.unusable.remove(id) }
            case .leaving(let old):
                if chosen == nil { chosen = try await chooseVolume() }
                deleted.formUnion(
                    old.state.withLock { $0.deleted.subtracting($0.unconfirmed) })
                forget(old)
                cache.forget(old)
            }
        }
    }

    private func forget(_ container: Container) {
        state.withLock {
            if $0.containers[container.id] === container { $0.containers[container.id] = nil }
        }
    }

    private func beginning(
        _ header: ContainerHeader, _ token: UInt64, _ replacing: Bool, _ state: State
    ) -> Result<Beginning, StoreError> {
        if state.isShut {
            return .failure(StoreError(.notReady, "the container store is shut"))
        }
        let id = header.containerID
        for volume in volumeList
        where volume.failure == nil && volume.withState({ $0.unusable.contains(id) }) {
            if replacing, volume.outage == nil { return .success(.replacingFiles(volume)) }
            return .failure(
                StoreError(
                    .containerState,
                    "container \(id) is on \(volume.path) but could not be opened; delete it first")
            )
        }
        guard let container = state.containers[id] else { return .success(.new) }
        let isLost = container.volume.failure != nil
        if !isLost, let outage = container.volume.outage {
            return .failure(
                StoreError(.containerState, "\(container.name) cannot be had: \(outage)"))
        }
        return container.state.withLock { state in
            let isOfLaterOrder = state.recovery.map { $0 > token } ?? false
            if isLost, !isOfLaterOrder { return .success(.leaving(container)) }
            if replacing, state.isToGiveWay,
                container.header.replicaIndex == header.replicaIndex
            {
                return .success(.replacing(container))
            }
            // Sealed by a removal whose files are still there: it is nobody's.
            if state.phase == .deleted { return .success(.anew(instead: container)) }
            guard let known = state.recovery else {
                let healing = state.isHealing ? ", and is being healed" : ""
                return .failure(
                    StoreError(
                        .containerState,
                        "\(container.name) is there as index \(container.header.replicaIndex), "
                            + "\(state.phase)\(healing): only a replica that is not there is rebuilt"
                    ))
            }
            guard !isOfLaterOrder else {
                return .failure(
                    StoreError(
                        .containerState,
                        "\(container.name) is being rebuilt by order \(known), which is later than "
                            + "\(token)"))
            }
            let isSound =
                known == token && container.header == header && state.damage == nil
                && !state.isJournalBroken
            return .success(isSound ? .goesOn : .anew(instead: container))
        }
    }

    /// Appends a cell that was rebuilt by the order `token`; otherwise as `append`. A block that was
    /// deleted meanwhile is `noSuchBlock`.
    @discardableResult
    public nonisolated(nonsending)
        func appendRebuilt(
            _ cell: CellAppend, token: UInt64, _ context: IOContext = .repair
        ) async throws(StoreError) -> Int
    {
        let container = try container(cell.block.containerID, replicaIndex: cell.replicaIndex)
        guard container.header.replication == cell.replication else {
            throw StoreError(
                .containerState,
                "\(container.name) is of \(container.header.replication), not of "
                    + "\(cell.replication)")
        }
        return try await container.append(cell, recovery: token, context)
    }

    /// What the replica that is being rebuilt by the order `token` knows of `block`, as far as it is
    /// durable.
    public func rebuilt(_ block: BlockID, token: UInt64) throws(StoreError) -> RebuiltBlock {
        let container = try container(block.containerID)
        let found = container.state.withLock { state -> Result<RebuiltBlock, StoreError> in
            guard state.recovery == token else { return .failure(container.isRecovering(state)) }
            if state.deleted.contains(block.localID) { return .success(.deleted) }
            return .success(
                state.blocks[block.localID]?.entry.map { .there(BlockRecord($0, in: container.id)) }
                    ?? .absent)
        }
        return try found.get()
    }

    /// The local IDs of the blocks that the replica that is being rebuilt by the order `token` has,
    /// in order.
    public func rebuiltBlocks(
        in id: ContainerID, token: UInt64
    ) throws(StoreError) -> [UInt64] {
        let container = try container(id)
        let found = container.state.withLock { state -> Result<[UInt64], StoreError> in
            guard state.recovery == token else { return .failure(container.isRecovering(state)) }
            return .success(
                state.blocks.filter { $0.value.entry != nil && !state.deleted.contains($0.key) }
                    .map(\.key))
        }
        return try found.get().sorted()
    }

    /// Closes the replica that was rebuilt by the order `token` and is whole now. The new journal that
    /// says `closed` is the moment from which it counts: before it, a crash leaves it recovering. That
    /// it is closed already is no error.
    public func finishRecovery(_ id: ContainerID, token: UInt64) async throws(StoreError) {
        try await container(id).close(recovery: token)
    }

    /// Removes a replica with everything in it, if it is the one that is meant; any other is left
    /// alone, as is one whose volume is out. None is made any more in this epoch but by `beginRecovery`.
    ///
    /// - Parameters:
    ///   - replicaIndex: 0: files that cannot be opened, as which index there is nobody knows. They are
    ///     moved aside.
    ///   - token: of one that is being rebuilt, the order; 0: one that is not, and is closed or damaged.
    /// - Returns: whether it was removed.
    @discardableResult
    public func removeReplica(
        _ id: ContainerID, replicaIndex: Int, token: UInt64
    ) async throws(StoreError) -> Bool {
        let isClaimed = try await claim(id) { state in
            if state.isShut {
                return .failure(StoreError(.notReady, "the container store is shut"))
            }
            guard let container = state.containers[id] else { return .success(replicaIndex == 0) }
            return .success(
                container.header.replicaIndex == replicaIndex && container.volume.outage == nil)
        }
        guard isClaimed else { return false }
        defer { release(id) }
        if replicaIndex == 0 { return try await moveUnusable(id) }
        guard let container = state.withLock({ $0.containers[id] }),
            await container.seal(recovery: token)
        else { return false }
        try await container.removeSealed(cache: cache)
        state.withLock { state in
            state.permissions.retire(id)
            if state.containers[id] === container { state.containers[id] = nil }
        }
        return true
    }

    /// Moves the files of a replica that cannot be opened to where they are kept for a while, if there
    /// are any and they are not a later program's. Whether there were.
    private func moveUnusable(_ id: ContainerID) async throws(StoreError) -> Bool {
        var hasMoved = false
        for volume in volumeList
        where volume.outage == nil && volume.withState({ $0.unusable.contains(id) }) {
            guard try await !volume.isOfLaterVersion(id) else { continue }
            try await volume.makeKeptFolder()
            try await volume.moveAside(id, index: 0)
            volume.withState { _ = $0.unusable.remove(id) }
            hasMoved = true
        }
        if hasMoved { state.withLock { $0.permissions.retire(id) } }
        return hasMoved
    }

    /// The replica of `id`, as `report()` tells of it; nil if there is none.
    public func report(of id: ContainerID) -> ContainerReport? {
        state.withLock { $0.containers[id] }?.report()
    }
}
