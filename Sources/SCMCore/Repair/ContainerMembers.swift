import Model
import Wire

/// Which containers each node has to do with, and what is asked of it by repairs under way: by the
/// tables alone, so the same on each member and with each leader.
///
/// Kept up to date by changes of rows, each at a cost of the container's width. So what a node's
/// death or return changes is found without looking at others' containers.
struct ContainerMembers: Hashable, Sendable {
    private var containers: [DatanodeID: Set<ContainerID>] = [:]
    private var targets: [DatanodeID: Set<ContainerID>] = [:]
    private var reads: [DatanodeID: Int] = [:]
    private var open: [DatanodeID: Int] = [:]
    /// Containers of which a replica is being rebuilt.
    private(set) var repairing: Set<ContainerID> = []
    /// Containers that are not deleted.
    private(set) var counts: [ReplicationConfig: Int] = [:]

    /// Containers that are not deleted and have a place on `node`, or a replica that it is to
    /// rebuild.
    func containers(of node: DatanodeID) -> Set<ContainerID> { containers[node] ?? [] }

    /// Containers of which `node` rebuilds a replica; of each one alone.
    func repairs(on node: DatanodeID) -> Set<ContainerID> { targets[node] ?? [] }

    /// Open containers that have a place on `node`.
    func openContainers(on node: DatanodeID) -> Int { open[node] ?? 0 }

    /// Replicas being rebuilt that may be read from `node`.
    func reads(from node: DatanodeID) -> Int { reads[node] ?? 0 }

    /// A row was another one before; nil: there was none.
    mutating func change(from before: SCMState.Container?, to after: SCMState.Container) {
        if let before {
            guard
                before.nodes != after.nodes || before.repairs != after.repairs
                    || before.empty != after.empty || before.replication != after.replication
                    || (before.state == .containerDeleted) != (after.state == .containerDeleted)
                    || (before.state == .containerOpen) != (after.state == .containerOpen)
            else { return }
            remove(before)
        }
        add(after)
    }

    private mutating func add(_ container: SCMState.Container) {
        if container.state != .containerDeleted {
            counts[container.replication, default: 0] += 1
            for node in container.members { containers[node, default: []].insert(container.id) }
        }
        if container.state == .containerOpen {
            for case let node? in container.nodes { open[node, default: 0] += 1 }
        }
        guard !container.repairs.isEmpty else { return }
        repairing.insert(container.id)
        for repair in container.repairs {
            targets[repair.node, default: []].insert(container.id)
            for source in container.sources(of: repair) { reads[source, default: 0] += 1 }
        }
    }

    private mutating func remove(_ container: SCMState.Container) {
        if container.state != .containerDeleted {
            counts[container.replication]! -= 1
            if counts[container.replication] == 0 { counts[container.replication] = nil }
            for node in container.members {
                containers[node]?.remove(container.id)
                if containers[node]?.isEmpty == true { containers[node] = nil }
            }
        }
        if container.state == .containerOpen {
            for case let node? in container.nodes {
                open[node]! -= 1
                if open[node] == 0 { open[node] = nil }
            }
        }
        repairing.remove(container.id)
        for repair in container.repairs {
            targets[repair.node]?.remove(container.id)
            if targets[repair.node]?.isEmpty == true { targets[repair.node] = nil }
            for source in container.sources(of: repair) {
                reads[source]! -= 1
                if reads[source] == 0 { reads[source] = nil }
            }
        }
    }
}

extension SCMState.Container {
    /// A replica that is being rebuilt.
    public struct Repair: Hashable, Sendable {
        /// From 1.
        public var index: Int
        /// Who rebuilds it.
        public var node: DatanodeID
        /// What its volumes were when it was asked to.
        public var store: UInt64
        /// Names the order; a later one has a greater.
        public var token: UInt64
        public var reason = SCMRepairReason.rebuild
    }

    /// Nodes that have a place or rebuild a replica, each once.
    var members: Set<DatanodeID> { Set(nodes.compactMap { $0 } + repairs.map(\.node)) }

    /// Nodes that may have blocks of the container: those of `members`, but for places that no byte
    /// fell to. None of a container that was removed.
    var holders: Set<DatanodeID> {
        guard state != .containerDeleted else { return [] }
        let placed = nodes.indices.compactMap { empty.contains($0 + 1) ? nil : nodes[$0] }
        return Set(placed + repairs.map(\.node))
    }

    /// Nodes that a repair may read from, by the tables: those of the replicas that are not being
    /// rebuilt and not empty; of one that is copied away from its node, that.
    func sources(of repair: Repair) -> [DatanodeID] {
        if repair.reason != .rebuild { return [nodes[repair.index - 1]].compactMap { $0 } }
        return nodes.indices.compactMap { place in
            let isSource =
                !empty.contains(place + 1) && !repairs.contains { $0.index == place + 1 }
                && place + 1 != repair.index
            return isSource ? nodes[place] : nil
        }
    }

    /// What readers said of a replica says nothing of the one that took its place.
    mutating func forgetReplaced(_ before: Self?) {
        guard let before, !corrupt.isEmpty else { return }
        for place in orders.indices {
            let was = place < before.orders.count ? before.orders[place] : 0
            if orders[place] != was { corrupt.remove(place + 1) }
        }
    }
}
