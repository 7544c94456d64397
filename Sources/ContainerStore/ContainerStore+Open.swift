import ContainerFormat
import Model
import Reactor
import Synchronization

extension ContainerStore {
    /// Opens the store of `datanode` on `volumes`, directories on a disk each; empty ones are
    /// formatted. Journals are replayed, torn tails cut, deletions finished.
    ///
    /// A volume of another datanode, another cluster, written by a newer program, or in use by
    /// another store is refused by name. A volume with I/O errors is taken out and the others go on; `io` if none is left.
    /// - Parameter cluster: where the datanode is registered; nil takes what the volumes say.
    /// - Parameter reactors: volumes are given to them in turn. Not empty.
    public static func open(
        volumes paths: [String], datanode: DatanodeID, cluster: ClusterID?, options: Options,
        reactors: [Reactor]
    ) async throws(StoreError) -> ContainerStore {
        precondition(!reactors.isEmpty, "a store needs a reactor")
        guard !paths.isEmpty, Set(paths).count == paths.count else {
            throw StoreError(
                .invalidArgument, "a store needs at least one volume, and each volume once")
        }
        let volumes = paths.enumerated().map { index, path in
            Volume(path: path, reactor: reactors[index % reactors.count], options: options)
        }
        do throws(StoreError) {
            return try await open(volumes, datanode, cluster, options)
        } catch {
            for volume in volumes { await volume.unlock() }
            throw error
        }
    }

    private static func open(
        _ volumes: [Volume], _ datanode: DatanodeID, _ cluster: ClusterID?, _ options: Options
    ) async throws(StoreError) -> ContainerStore {
        try await eachAtOnce(volumes) { (volume) async throws(StoreError) in
            try await volume.open(datanode: datanode)
        }
        let known = try agreedCluster(of: volumes, with: cluster)
        var found: [Container] = []
        for volume in volumes where volume.failure == nil {
            found += try await volume.openContainers()
        }
        // Chosen when all are open: a volume may have failed over it.
        var containers: [ContainerID: Container] = [:]
        var unused: [Container] = []
        for container in found {
            guard let other = containers[container.id] else {
                containers[container.id] = container
                continue
            }
            let isBetter = other.standing < container.standing
            containers[container.id] = isBetter ? container : other
            unused.append(isBetter ? other : container)
        }
        let store = ContainerStore(
            datanode: datanode, volumes: volumes, cluster: known, options: options,
            containers: containers)
        if let known { try await store.adopt(cluster: known) }
        guard volumes.contains(where: { $0.failure == nil }) else {
            throw StoreError(
                .io, "no volume works: " + volumes.compactMap(\.failure).joined(separator: "; "))
        }
        store.finishOpening()
        for container in unused { await store.settle(twin: container) }
        return store
    }

    private func finishOpening() {
        for volume in volumeList {
            volume.withState { state in
                state.whenFull = { [weak self] in
                    self?.closeAll(of: volume)
                }
                state.isRebuilding = { [weak self] id in
                    guard let self else { return false }
                    let (container, isChanging) = self.state.withLock {
                        ($0.containers[id], $0.changing[id] != nil)
                    }
                    return isChanging
                        || container.map { $0.state.withLock { $0.recovery != nil } } ?? false
                }
            }
        }
        for container in state.withLock({ Array($0.containers.values) })
        where container.volume.failure == nil {
            container.finishDeletions()
        }
        // It may have been told to leave just before it ended.
        for volume in volumeList where volume.isLeaving { closeAll(of: volume) }
        startWatching()
    }

    /// Closes the open containers of a volume that has become full, or leaves.
    func closeAll(of volume: Volume) {
        for container in state.withLock({ Array($0.containers.values) })
        where container.volume === volume {
            let isOpen = container.state.withLock { $0.phase == .open || $0.phase == .closing }
            if isOpen { volume.closer.add(container) }
        }
    }

    private static func agreedCluster(
        of volumes: [Volume], with cluster: ClusterID?
    ) throws(StoreError) -> ClusterID? {
        var known = cluster
        for volume in volumes {
            guard let own = volume.withState({ $0.version?.cluster }) else { continue }
            if let known, known != own {
                throw StoreError(
                    .invalidArgument,
                    "volume \(volume.path) belongs to cluster \(own), not to \(known)")
            }
            known = own
        }
        return known
    }

    /// Writes the cluster into every volume that has none, when the datanode has registered for
    /// the first time. `invalidArgument` if the store belongs to another.
    public func adopt(cluster: ClusterID) async throws(StoreError) {
        if let own = self.cluster, own != cluster {
            throw StoreError(
                .invalidArgument,
                "datanode \(datanode) belongs to cluster \(own), it cannot join \(cluster)")
        }
        for volume in volumeList where volume.failure == nil {
            guard let version = volume.withState({ $0.version }), version.cluster == nil else {
                continue
            }
            do throws(IOError) {
                try await volume.writeVersion(
                    VolumeVersion(datanode: version.datanode, cluster: cluster))
            } catch {
                // What passes by itself is tried again with the next registration.
                try volume.failOpening(error)
            }
        }
        guard volumeList.contains(where: { $0.failure == nil }) else {
            throw StoreError(.io, "no volume of datanode \(datanode) works any more")
        }
        state.withLock { $0.cluster = cluster }
    }

    /// Runs `body` for all volumes at the same time, each on its reactor; throws the first error.
    private static func eachAtOnce(
        _ volumes: [Volume], _ body: @escaping @Sendable (Volume) async throws(StoreError) -> Void
    ) async throws(StoreError) {
        let failure = await withTaskGroup(of: StoreError?.self) { group in
            for volume in volumes {
                group.addTask(executorPreference: volume.reactor) {
                    do throws(StoreError) {
                        try await body(volume)
                        return nil
                    } catch { return error }
                }
            }
            var failure: StoreError?
            for await error in group { failure = failure ?? error }
            return failure
        }
        if let failure { throw failure }
    }
}

extension Volume {
    /// Opens all containers, some at a time. Those that cannot be opened are noted as problems.
    ///
    /// Throws `overloaded` if the process has too few descriptors or too little memory.
    func openContainers() async throws(StoreError) -> [Container] {
        let ids: [ContainerID]
        do throws(IOError) { ids = try await tidy() } catch {
            try failOpening(error)
            return []
        }
        await loadKept()
        typealias Outcome = Result<Container?, StoreError>
        let result = await withTaskGroup(of: Outcome.self) {
            group -> Result<[Container], StoreError> in
            var opened: [Container] = []
            var failure: StoreError?
            var next = ids.makeIterator()
            func startOne() {
                guard failure == nil, let id = next.next() else { return }
                group.addTask(executorPreference: reactor) { await self.openContainer(id) }
            }
            for _ in 0..<ContainerStore.Limits.openingAtOnce { startOne() }
            while let result = await group.next() {
                switch result {
                case .success(let container): if let container { opened.append(container) }
                case .failure(let error): failure = failure ?? error
                }
                startOne()
            }
            return failure.map { .failure($0) } ?? .success(opened)
        }
        return try result.get()
    }

    /// Finishes the creations and deletions that a crash cut short. Returns the containers that
    /// have a journal.
    private func tidy() async throws(IOError) -> [ContainerID] {
        let names = try await reactor.list(containersPath, disk: disk)
        func ids(_ suffix: String) -> Set<ContainerID> {
            Set(names.compactMap { Self.id(of: $0, suffix: suffix) })
        }
        let journals = ids(".journal")
        for id in ids(".journal.deleted") {
            // With a journal beside it the number is in use again.
            if journals.contains(id) {
                try await reactor.remove(deletedPath(id), disk: disk)
            } else {
                try await finishRemoval(id)
            }
        }
        for id in ids(".journal.new") {
            try await reactor.remove(journalPath(id) + ".new", disk: disk)
        }
        let data = ids(".data")
        for id in ids(".data.new") {
            if journals.contains(id) && !data.contains(id) {
                try await reactor.rename(dataPath(id) + ".new", to: dataPath(id), disk: disk)
            } else {
                try await reactor.remove(dataPath(id) + ".new", disk: disk)
            }
        }
        try await reactor.synchronizeDirectory(containersPath, disk: disk)
        for id in data.subtracting(journals).subtracting(ids(".journal.deleted")).sorted() {
            withState { state in
                state.problems.append(
                    "container \(id) on \(path) has a data file but no journal; it is left alone")
                state.unusable.insert(id)
            }
        }
        return journals.sorted()
    }

    /// nil for one that cannot be opened, which is noted as a problem; a failure if it is not the
    /// container that is at fault.
    private func openContainer(_ id: ContainerID) async -> Result<Container?, StoreError> {
        do throws(StoreError) {
            return .success(try await Container.open(id, on: self))
        } catch {
            if error.code == .overloaded { return .failure(error) }
            withState { state in
                state.problems.append(error.description)
                state.unusable.insert(id)
            }
            return .success(nil)
        }
    }

    /// The ID in `container-<id><suffix>`.
    private static func id(of name: String, suffix: String) -> ContainerID? {
        let prefix = "container-"
        guard name.hasPrefix(prefix), name.hasSuffix(suffix) else { return nil }
        return UInt64(name.dropFirst(prefix.count).dropLast(suffix.count)).map { ContainerID($0) }
    }
}
