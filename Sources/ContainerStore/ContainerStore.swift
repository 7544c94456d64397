import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization
import Telemetry

/// The container replicas of a datanode, on its volumes.
///
/// A replica that is being rebuilt from others is in `ContainerStore+Recovery`.
///
/// An append is acknowledged when its bytes lie in the data file and its record in the journal,
/// both on stable media (`Durability.sync`); what is acknowledged survives a crash at any moment.
/// Bytes are verified when they arrive and each time they are read.
///
/// May be used from any executor. Appends and reads are cheapest from the reactor that the
/// container's volume belongs to.
public final class ContainerStore: Sendable {
    public let datanode: DatanodeID
    let volumeList: [Volume]
    let cache: ClosedCache
    let state: Mutex<State>
    /// What `volumes()` found last.
    let seenVolumes = Mutex<[VolumeReport]>([])

    struct State {
        var containers: [ContainerID: Container] = [:]
        /// Containers that are being made or removed, and who waits for that.
        var changing: [ContainerID: [UnsafeContinuation<Void, Never>]] = [:]
        var permissions = ReplicaPermissions()
        var cluster: ClusterID?
        var isShut = false
        var scrubbers: [Scrubber] = []
        var watches: [Task<Void, Never>] = []
        /// Paths of volumes that get no new replicas while others have room.
        var avoided: Set<String> = []
    }

    init(
        datanode: DatanodeID, volumes: [Volume], cluster: ClusterID?, options: Options,
        containers: [ContainerID: Container]
    ) {
        self.datanode = datanode
        volumeList = volumes
        cache = ClosedCache(indexBytes: options.indexCacheBytes, files: options.openFiles)
        state = Mutex(State(containers: containers, cluster: cluster))
    }

    /// The cluster that the store belongs to; nil until the datanode has registered.
    public var cluster: ClusterID? { state.withLock { $0.cluster } }

    /// The container with `id`, or `noSuchContainer`.
    func container(_ id: ContainerID) throws(StoreError) -> Container {
        let (container, isShut) = state.withLock { ($0.containers[id], $0.isShut) }
        guard !isShut else { throw StoreError(.notReady, "the container store is shut") }
        guard let container else {
            throw StoreError(.noSuchContainer, "datanode \(datanode) has no container \(id)")
        }
        return container
    }

    /// The replica of `id` with that index; `noSuchContainer` if there is none, or the one that
    /// is here has another index: whoever asked knows an old place.
    func container(_ id: ContainerID, replicaIndex: Int) throws(StoreError) -> Container {
        let container = try container(id)
        guard container.header.replicaIndex == replicaIndex else {
            throw StoreError(
                .noSuchContainer,
                "datanode \(datanode) has replica \(container.header.replicaIndex) of container "
                    + "\(id), not replica \(replicaIndex): the place asked for is out of date")
        }
        return container
    }

    // MARK: Blocks

    /// Appends a cell to its block replica, whose record is made when it is first seen, and
    /// returns the durable length of that replica.
    ///
    /// The place is reserved before the first suspension, so calls made in order on one executor
    /// take their places in order; any number may be in flight. A cell that the block has already
    /// (same offset, length and checksums) is acknowledged again. A cell at another offset than
    /// the block's length, or that does not match its checksums, is a `badRequest` and changes
    /// nothing; so does one of another replication than the container's, as `containerState`. If
    /// one append fails, those of its block that were reserved after it fail as well.
    ///
    /// Throws `noSuchContainer`, `containerState`, `noSuchBlock` (deleted), `badRequest`,
    /// `noSpace`, `io`.
    /// - Parameter context: for whom, and until when: what was not written by then fails with
    ///   `deadlineExceeded`.
    @discardableResult
    public nonisolated(nonsending)
        func append(
            _ cell: CellAppend, _ context: IOContext = .client
        ) async throws(StoreError) -> Int
    {
        let container = try container(cell.block.containerID, replicaIndex: cell.replicaIndex)
        guard container.header.replication == cell.replication else {
            throw StoreError(
                .containerState,
                "\(container.name) is of \(container.header.replication): it takes no cell of "
                    + "\(cell.replication)")
        }
        return try await container.append(cell, context)
    }

    /// Reads `range` of a block replica, rounded out to units of 4 KiB, and verifies it.
    ///
    /// Throws `corrupt`, naming container, block, offset and volume; `badRequest` if the range
    /// goes past the replica's durable length or is longer than `Limits.readBytes`;
    /// `noSuchContainer`, `noSuchBlock`, `io`.
    /// - Parameters:
    ///   - replicaIndex: which replica is meant; `noSuchContainer` if another one is here.
    ///   - target: where the bytes go, from its start, if they fit; a buffer of the store's own
    ///     otherwise.
    ///   - context: for whom, and until when: what was not read by then fails with
    ///     `deadlineExceeded`.
    public nonisolated(nonsending)
        func read(
            _ block: BlockID, replicaIndex: Int, _ range: Range<Int>,
            into target: AlignedBuffer? = nil, _ context: IOContext = .client
        ) async throws(StoreError) -> BlockRead
    {
        try await container(block.containerID, replicaIndex: replicaIndex).read(
            block, range, into: target, cache: cache, context)
    }

    /// What is known of a block replica, as far as it is durable.
    /// - Parameter replicaIndex: which replica is meant; `noSuchContainer` if another one is here.
    public nonisolated(nonsending)
        func block(_ block: BlockID, replicaIndex: Int) async throws(StoreError) -> BlockRecord
    {
        let container = try container(block.containerID, replicaIndex: replicaIndex)
        try container.volume.check()
        let open = container.state.withLock { state -> Result<BlockEntry?, StoreError> in
            if state.isClosed { return .success(nil) }
            do throws(StoreError) {
                try container.checkCounts(state)
                guard !state.deleted.contains(block.localID),
                    let entry = state.blocks[block.localID]?.entry
                else { throw container.noSuchBlock(block) }
                return .success(entry)
            } catch { return .failure(error) }
        }
        if let entry = try open.get() { return BlockRecord(entry, in: container.id) }
        return BlockRecord(
            try await container.closedEntry(block, cache: cache), in: container.id)
    }

    /// Deletes blocks: they are durably forgotten when it returns; their space is given back some
    /// seconds later. Blocks that are not there are passed over.
    ///
    /// - Returns: containers whose replica is not here or cannot be had, and why: of these nothing
    ///   was deleted.
    @discardableResult
    public func deleteBlocks(
        _ ids: [BlockID]
    ) async throws(StoreError) -> [ContainerID: ReplicaAbsence] {
        var absent: [ContainerID: ReplicaAbsence] = [:]
        for (id, blocks) in Dictionary(grouping: ids, by: \.containerID) {
            guard let container = state.withLock({ $0.containers[id] }) else {
                let isUnusable = volumeList.contains {
                    $0.withState { $0.unusable.contains(id) }
                }
                absent[id] = isUnusable ? .unusable : ReplicaAbsence.none
                continue
            }
            guard container.volume.failure == nil else {
                absent[id] = .volumeFailed
                continue
            }
            try await container.delete(blocks, cache: cache)
        }
        return absent
    }

    /// Deleted blocks whose space has not been given back.
    public var unreclaimedBlocks: Int { volumeList.reduce(0) { $0 + $1.reclaimer.blocks } }

    /// Gives the space of all deleted blocks back now.
    public func reclaim() async {
        for volume in volumeList { await volume.reclaimer.flush() }
    }

    // MARK: Containers

    /// Makes an empty container replica, durably. That the same one is there already is no error;
    /// one of another replication or index is `containerState`. `noSpace` if no volume has room.
    /// - Parameter permission: that of SCM, without which none is made: `noSuchContainer` if it is
    ///   not of this epoch, `containerState` if the container was retired. Nil: none is needed.
    public func createContainer(
        _ id: ContainerID, replication: ReplicationConfig, replicaIndex: Int,
        permission: UInt64? = nil
    ) async throws(StoreError) {
        guard (1...replication.width).contains(replicaIndex) else {
            throw StoreError(
                .invalidArgument,
                "replica indexes of \(replication) are 1 to \(replication.width), "
                    + "not \(replicaIndex)")
        }
        let header = ContainerHeader(
            containerID: id, replication: replication, replicaIndex: replicaIndex)
        guard try await claimNew(header, permission) else { return }
        defer { release(id) }
        for volume in volumeList where volume.withState({ $0.unusable.contains(id) }) {
            throw StoreError(
                .containerState,
                "container \(id) is on \(volume.path) but could not be opened; delete it first")
        }
        add(try await Container.create(header, on: try await chooseVolume()))
    }

    /// Takes up a container that was just made. That its volume has become full meanwhile, or is to
    /// leave, holds for it as well: whoever closed what was there did not see it.
    func add(_ container: Container) {
        state.withLock { $0.containers[container.id] = container }
        let isToBeClosed = container.volume.withState { $0.isLeaving || $0.isFull }
        if isToBeClosed, container.state.withLock({ $0.phase == .open }) {
            container.volume.closer.add(container)
        }
    }

    /// Waits until nobody else makes or removes container `header.containerID`, and keeps others
    /// from it until `release`. False, and nothing to be released, if it is there.
    private func claimNew(
        _ header: ContainerHeader, _ permission: UInt64?
    ) async throws(StoreError) -> Bool {
        let id = header.containerID
        return try await claim(id) { state in
            if state.isShut {
                return .failure(StoreError(.notReady, "the container store is shut"))
            }
            guard let container = state.containers[id] else {
                let refusal = Self.refusal(
                    (id, header.replicaIndex), permission: permission, state.permissions)
                return refusal.map { .failure($0) } ?? .success(true)
            }
            guard container.state.withLock({ $0.phase != .deleted }) else {
                return .failure(
                    StoreError(
                        .containerState,
                        "\(container.name) is removed but its files are not; remove it again"))
            }
            guard container.header == header else {
                return .failure(
                    StoreError(
                        .containerState,
                        "\(container.name) is index \(container.header.replicaIndex) of "
                            + "\(container.header.replication) already, it cannot be index "
                            + "\(header.replicaIndex) of \(header.replication)"))
            }
            return .success(false)
        }
    }

    /// Waits until nobody else makes or removes container `id`; then keeps others from it until
    /// `release`, if `isWanted` says so.
    func claim(
        _ id: ContainerID, if isWanted: (State) -> Result<Bool, StoreError>
    ) async throws(StoreError) -> Bool {
        while true {
            let claimed = state.withLock { state -> Result<Bool, StoreError>? in
                guard state.changing[id] == nil else { return nil }
                let result = isWanted(state)
                if case .success(true) = result { state.changing[id] = [] }
                return result
            }
            if let claimed { return try claimed.get() }
            await untilUnchanged(id)
        }
    }

    func release(_ id: ContainerID) {
        for waiter in state.withLock({ $0.changing.removeValue(forKey: id) }) ?? [] {
            waiter.resume()
        }
    }

    /// Makes no replicas on the volumes at `paths`, which are slow, while others have room.
    public func avoid(_ paths: Set<String>) { state.withLock { $0.avoided = paths } }

    /// The volume with the fewest containers that are written to, among those with room; of those
    /// to be avoided only if there is no other.
    func chooseVolume() async throws(StoreError) -> Volume {
        var open: [String: Int] = [:]
        let (containers, avoided) = state.withLock { (Array($0.containers.values), $0.avoided) }
        for container in containers {
            let isOpen = container.state.withLock { $0.phase == .open || $0.phase == .recovering }
            if isOpen { open[container.volume.path, default: 0] += 1 }
        }
        var best: (volume: Volume, rank: (Int, Int, Int))?
        for volume in volumeList where volume.outage == nil && !volume.isLeaving {
            let available = await volume.room().available
            guard available >= volume.leastRoom else { continue }
            volume.withState { $0.isFull = false }
            let rank = (
                avoided.contains(volume.path) ? 1 : 0, open[volume.path] ?? 0, -available
            )
            if let best, best.rank <= rank { continue }
            best = (volume, rank)
        }
        guard let best else {
            throw StoreError(.noSpace, "no volume of datanode \(datanode) has room for a container")
        }
        return best.volume
    }

    /// Ends appends to a container and writes its sorted index. Waits for the appends in flight.
    /// That it is closed already is no error.
    public func closeContainer(_ id: ContainerID) async throws(StoreError) {
        try await container(id).close()
    }

    /// Removes a container replica with everything in it. That it is not there is no error.
    public func deleteContainer(_ id: ContainerID) async throws(StoreError) {
        try await remove(id, isEmpty: false) { (container, cache) async throws(StoreError) in
            try await container.removeFiles(cache: cache)
        }
    }

    /// Removes a closed replica whose blocks have all been deleted; `containerState` if there are
    /// some, or it is not closed. That it is not there is no error.
    public func deleteEmptyContainer(_ id: ContainerID) async throws(StoreError) {
        guard state.withLock({ $0.containers[id] != nil }) else { return }
        try await remove(id, isEmpty: true) { (container, cache) async throws(StoreError) in
            try await container.removeEmpty(cache: cache)
        }
    }

    private func remove(
        _ id: ContainerID, isEmpty: Bool,
        _ body: (Container, ClosedCache) async throws(StoreError) -> Void
    ) async throws(StoreError) {
        // Whoever wants to make one of the same number waits until this one is gone.
        _ = try await claim(id) { state in
            state.isShut
                ? .failure(StoreError(.notReady, "the container store is shut")) : .success(true)
        }
        defer { release(id) }
        for volume in volumeList
        where !isEmpty && volume.withState({ $0.unusable.contains(id) }) {
            try await volume.removeContainer(id)
            volume.withState { _ = $0.unusable.remove(id) }
        }
        guard let container = state.withLock({ $0.containers[id] }) else { return }
        try await body(container, cache)
        state.withLock { state in
            // A writer that comes late must not begin it anew.
            if isEmpty { state.permissions.retire(id) }
            if state.containers[id] === container { state.containers[id] = nil }
        }
    }

    // MARK: Reports

    /// The container replicas, by ID: those of volumes that were taken out, and those that could
    /// not be opened, as lost.
    public func report() async -> [ContainerReport] {
        let containers = state.withLock { $0.containers }
        var reports = containers.values.compactMap { $0.report() }
        for volume in volumeList {
            reports += volume.withState { $0.unusable }.filter { containers[$0] == nil }
                .map { .unusable($0) }
        }
        return reports.sorted { $0.id < $1.id }
    }

    /// The volumes, in the order they were given in.
    public func volumes() async -> [VolumeReport] {
        var reports: [VolumeReport] = []
        var counts: [String: Int] = [:]
        for container in state.withLock({ Array($0.containers.values) }) {
            counts[container.volume.path, default: 0] += 1
        }
        for volume in volumeList {
            if volume.outage == nil { await volume.lookWhetherThere() }
            let wasOut = volume.outage != nil
            let space = await volume.room()
            // Of one that is out nothing is known, least of all that it is full.
            if !wasOut, volume.outage == nil {
                volume.noteRoom(available: space.available)
                await volume.removeSuperfluous()
            }
            let (failure, isFull, problems) = volume.withState {
                ($0.failure ?? $0.suspension, $0.isFull, $0.problems)
            }
            reports.append(
                VolumeReport(
                    path: volume.path, capacity: space.capacity, used: space.used,
                    available: volume.isLeaving ? 0 : space.available, isFailed: failure != nil,
                    isFull: isFull, reason: failure, problems: problems,
                    isLeaving: volume.isLeaving, containers: counts[volume.path] ?? 0,
                    recent: volume.recent()))
        }
        seenVolumes.withLock { [reports] in $0 = reports }
        return reports
    }

    /// Counters since the store was opened.
    public var statistics: StoreStatistics {
        volumeList.reduce(StoreStatistics()) { $0 + $1.committer.statistics }
    }

    /// Ends the use of the store: waits for what is in flight, leaves the journals in order, and
    /// closes the files. Everything is refused afterwards.
    public func close() async throws(StoreError) {
        let (containers, watches) = state.withLock { state in
            state.isShut = true
            defer { state.watches = [] }
            return (Array(state.containers.values), state.watches)
        }
        for watch in watches { watch.cancel() }
        for scrubber in scrubbers { await scrubber.stop() }
        for volume in volumeList { await volume.closer.stop() }
        for container in containers where container.volume.failure == nil {
            try await container.shut()
        }
        for volume in volumeList { await volume.unlock() }
    }
}

extension BlockRecord {
    init(_ entry: BlockEntry, in container: ContainerID) {
        self.init(
            id: BlockID(containerID: container, localID: entry.localID), length: entry.length,
            groupLength: entry.groupLength, isEnded: entry.isEnded)
    }
}
