import Model
import Wire

extension SCMState {
    public enum Limits {
        /// Local IDs reserved with one command.
        public static let localIDsPerReservation: UInt64 = 100_000
        /// Groups given out with one request.
        public static let groupsPerRequest = 1000
        /// Containers in one command that logs what was reported for the first time.
        public static let witnessedPerCommand = 4096
        /// Closed containers that are looked at with one look, of those something was reported of.
        public static let lookedAtOnce = 16_384
        /// Datanodes that are heard of and not logged, as far as a member knows.
        public static let newcomers = 1024
        /// Longer than SCM ever goes without looking at its state while it runs.
        public static let standstillNanoseconds: UInt64 = 2_000_000_000
    }

    /// What an allocation needs first, or what it gives.
    public enum Allocation: Sendable {
        case groups([BlockGroup])
        /// To be logged and applied; then ask again.
        case needs(SCMCommand)
        case refused(StoreError)
    }

    /// Nodes that can be written to: in service, heard of lately, with room, and not in `excluding`.
    public func healthyNodes(at now: UInt64, excluding: Set<DatanodeID>) -> [DatanodeID] {
        nodes.values.filter { node in
            !excluding.contains(node.address.id) && isServing(node.address.id, at: now)
                && hasRoom(node)
        }.map(\.address.id).sorted()
    }

    func isServing(_ id: DatanodeID, at now: UInt64) -> Bool {
        operations[id] == nil && state(of: id, at: now) == .healthy
    }

    func hasRoom(_ node: Node) -> Bool {
        node.volumes.contains {
            !$0.isFailed && $0.available >= UInt64(options.minimumFreeBytes)
        }
    }

    /// Nodes that are there and whose disks are full.
    public func fullNodes(at now: UInt64) -> [DatanodeID] {
        nodes.values.filter { isServing($0.address.id, at: now) && !hasRoom($0) }
            .map(\.address.id).sorted()
    }

    /// Whether the cluster could ever place `replication`, counting nodes that are down.
    public func placementError(_ replication: ReplicationConfig) -> StoreError? {
        let leaving = operations.values.count { $0.leaves }
        guard nodes.count - leaving < replication.width else { return nil }
        let others = leaving > 0 ? ", and \(leaving) that leave it" : ""
        return StoreError(
            .cannotPlace,
            "\(replication) needs \(replication.width) datanodes, one for each replica; "
                + "the cluster has \(nodes.count - leaving)\(others)")
    }

    /// Gives out `count` block groups, or says what must be logged first. `count` 0 asks only
    /// whether the cluster could ever place the replication. Whole copies are refused as
    /// `unsupported`.
    public mutating func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList = .none,
        at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> Allocation {
        do throws(StoreError) {
            _ = try replication.erasureCoding()
        } catch { return .refused(error) }
        if let error = placementError(replication) { return .refused(error) }
        guard count > 0 else { return .groups([]) }
        if isInSafeMode {
            let reason = safeModeReason(at: now) ?? "it has just started"
            return .refused(StoreError(.notReady, "SCM is in safe mode: \(reason)"))
        }
        guard count <= Limits.groupsPerRequest else {
            return .refused(
                StoreError(
                    .invalidArgument,
                    "at most \(Limits.groupsPerRequest) block groups at once, not \(count)"))
        }
        let healthy = withoutSlow(
            healthyNodes(at: now, excluding: excluding.nodes), least: replication.width)
        let usable = usableContainers(
            replication, healthy: Set(healthy), excluding: excluding.containers, at: now)
        if usable.count < wantedContainers(replication, healthy: healthy, at: now) {
            switch newContainer(replication, healthy: healthy, now: now, using: &random) {
            case .success(let command): return .needs(command)
            case .failure(let error): if usable.isEmpty { return .refused(error) }
            }
        }
        guard count <= ownLocalIDs.count else {
            var change = SCMCommand.ReserveNumbers()
            change.localIdsFrom = reservedLocalIDs
            change.localIdsUntil =
                reservedLocalIDs + UInt64(count) + options.localIDsPerReservation
            return .needs(SCMCommand(.reserveNumbers(change)))
        }
        return .groups(nextGroups(count, usable, at: now))
    }

    /// How many containers are worth being open: more the more is written, so that all disks have
    /// something to do; no more than one replica for each.
    func wantedContainers(
        _ replication: ReplicationConfig, healthy: [DatanodeID], at now: UInt64
    ) -> Int {
        let rate = ingest.rate(of: replication, at: now)
        let each = max(options.bytesPerOpenReplica, 1) * UInt64(replication.width)
        let byRate = Int((rate + each - 1) / each)
        guard byRate > options.openContainers else { return options.openContainers }
        let volumes = healthy.reduce(0) { sum, id in
            sum + (nodes[id]?.volumes.count { !$0.isFailed && !$0.isLeaving } ?? 0)
        }
        return max(options.openContainers, min(byRate, volumes / replication.width))
    }

    /// Open containers that a writer which avoids the other nodes can use: whole ones if there
    /// are any. None that has lost a replica.
    private func usableContainers(
        _ replication: ReplicationConfig, healthy: Set<DatanodeID>,
        excluding: Set<ContainerID>, at now: UInt64
    ) -> [Container] {
        let open = (openByReplication[replication] ?? []).compactMap { containers[$0] }
        let usable = open.filter { container in
            !excluding.contains(container.id)
                && container.nodes.indices.allSatisfy { place in
                    guard let id = container.nodes[place] else { return true }
                    return healthy.contains(id) && takesBlocks(place, of: container, at: now)
                }
        }
        let whole = usable.filter { !$0.isDegraded }
        if !whole.isEmpty || healthy.count >= replication.width { return whole }
        return usable
    }

    /// Whether the replica at `place` takes blocks, or will be made for the first.
    private func takesBlocks(_ place: Int, of container: Container, at now: UInt64) -> Bool {
        switch presence(of: place, in: container, at: now) {
        // A datanode closes a container by itself when its disk is full.
        case .here: replica(of: container, at: place)?.state == .open
        case .unmade: canBeMade(place, of: container)
        case .unplaced, .unheard, .silent, .empty, .lost, .doubtful: false
        }
    }

    /// Groups in all usable containers, those of one container together: many small keys written
    /// at the same time then share the syncs of one container instead of three.
    private mutating func nextGroups(
        _ count: Int, _ usable: [Container], at now: UInt64
    ) -> [BlockGroup] {
        let share = (count + usable.count - 1) / usable.count
        let permissions = usable.map { self.permissions(for: $0, at: now) }
        let groups = (0..<count).map { number in
            let place = (turn + number / share) % usable.count
            return nextGroup(usable[place], permissions[place])
        }
        turn += (count + share - 1) / share
        return groups
    }

    private mutating func nextGroup(
        _ container: Container, _ permissions: [UInt64]
    ) -> BlockGroup {
        let localID = ownLocalIDs.lowerBound
        ownLocalIDs = localID + 1..<ownLocalIDs.upperBound
        var group = BlockGroup(
            blockID: BlockID(containerID: container.id, localID: localID),
            replication: container.replication, length: 0,
            nodes: container.nodes.map { $0.flatMap { nodes[$0]?.address } })
        group.permissions = permissions
        return group
    }

    private func newContainer(
        _ replication: ReplicationConfig, healthy: [DatanodeID], now: UInt64,
        using random: inout some RandomNumberGenerator
    ) -> Result<SCMCommand, StoreError> {
        let least =
            options.allowsDegradedGroups
            ? min(replication.minimumReplicas + 1, replication.width) : replication.width
        guard healthy.count >= least else {
            return .failure(shortage(replication, least: least, healthy: healthy.count, at: now))
        }
        let candidates = healthy.map { id in
            Placement.Candidate(
                id: id, rack: nodes[id]?.address.rack ?? "",
                load: members.openContainers(on: id), free: freePart(of: id))
        }
        let chosen = Placement.choose(
            min(replication.width, healthy.count), from: candidates, using: &random)
        var places = chosen.map { Optional($0) }
        places.append(
            contentsOf: repeatElement(nil, count: replication.width - places.count))
        // Which index goes without a node is drawn, so that parity is not always the one missing.
        places.shuffle(using: &random)
        var change = SCMCommand.CreateContainer()
        change.id = nextContainerID
        change.pipeline = nextContainerID
        change.replication = replication.message
        change.nodes = places.map { id in
            id.flatMap { nodes[$0]?.address.message } ?? WireAddress()
        }
        change.stores = places.map { id in id.flatMap { nodes[$0]?.store } ?? 0 }
        return .success(SCMCommand(.createContainer(change)))
    }

    /// Too few nodes can be written to: that passes when nodes come back, but not where it is room
    /// that is missing.
    private func shortage(
        _ replication: ReplicationConfig, least: Int, healthy: Int, at now: UInt64
    ) -> StoreError {
        var text = "\(replication) needs \(replication.width) datanodes"
        if least < replication.width { text += ", or at least \(least) while others are down" }
        let full = fullNodes(at: now).count
        guard full > 0, healthy + full >= least else {
            return StoreError(.overloaded, "\(text); \(healthy) can be written to now")
        }
        return StoreError(
            .noSpace,
            "the cluster is full: \(text) with \(options.minimumFreeBytes >> 20) MiB free on a "
                + "disk; \(healthy) have that, \(full) are full. Delete something or add disks")
    }

    /// Which part of the node's disks is free once all is written that is on its way: open replicas
    /// up to where they are closed, and those that are rebuilt there.
    func freePart(of id: DatanodeID) -> Double {
        let volumes = nodes[id]?.volumes.filter { !$0.isFailed && !$0.isLeaving } ?? []
        let capacity = volumes.reduce(0) { $0 + $1.capacity }
        guard capacity > 0 else { return 0 }
        let available = volumes.reduce(0) { $0 + min($1.available, $1.capacity) }
        let full = UInt64(options.containerSize / 100 * options.closeAtPercent)
        let coming = UInt64(members.openContainers(on: id)) * full + arriving(at: id)
        return Double(available - min(available, coming)) / Double(capacity)
    }
}

/// Chooses datanodes for the replicas of a container.
///
/// No node twice. Racks are filled evenly (Ozone's rack scatter): as long as a rack has fewer
/// chosen nodes than another, it goes first. Among equals the one with fewer open replicas for its
/// free space: one that has half as much free gets half as many. Then chance.
public enum Placement {
    public struct Candidate: Sendable {
        public var id: DatanodeID
        public var rack: String
        /// Open container replicas that the node has already.
        public var load: Int
        /// The part of its disks that is free and not promised, 0 to 1.
        public var free: Double

        public init(id: DatanodeID, rack: String, load: Int, free: Double = 1) {
            self.id = id
            self.rack = rack
            self.load = load
            self.free = free
        }

        /// Open replicas for the free space. In steps: nodes that are nearly alike are left to
        /// chance, so that containers come to lie on many different sets of nodes.
        var pressure: Double {
            let tenths = (min(max(free, 0), 1) * 10).rounded(.down)
            return Double(load + 1) / (tenths + 0.25)
        }
    }

    /// `count` of the candidates. Precondition: there are as many.
    public static func choose(
        _ count: Int, from candidates: [Candidate],
        using random: inout some RandomNumberGenerator
    ) -> [DatanodeID] {
        precondition(candidates.count >= count, "fewer candidates than places")
        var left = candidates.shuffled(using: &random)
        var perRack: [String: Int] = [:]
        var chosen: [DatanodeID] = []
        while chosen.count < count {
            let index = left.indices.min { a, b in
                let rackA = perRack[left[a].rack] ?? 0
                let rackB = perRack[left[b].rack] ?? 0
                return (rackA, left[a].pressure) < (rackB, left[b].pressure)
            }!
            let node = left.remove(at: index)
            perRack[node.rack, default: 0] += 1
            chosen.append(node.id)
        }
        return chosen
    }
}
