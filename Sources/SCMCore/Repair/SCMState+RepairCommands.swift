import Model
import Wire

// What nodes are told of repairs. It costs what the node has to do: its own repairs, of which there
// are few, and its own strays.

extension SCMState {
    /// A node reports a replica that is not, or no longer, the one of a place.
    mutating func noteStray(_ id: ContainerID, on node: DatanodeID) {
        guard nodes[node] != nil else { return }
        strays.add(id, on: node, beat: beats)
    }

    /// What `node` is to rebuild, and to remove.
    mutating func repairCommands(for node: DatanodeID, at now: UInt64) -> [SCMDatanodeCommand] {
        guard hasCaughtUp else { return [] }
        let orders = members.repairs(on: node).sorted().compactMap { id in
            containers[id].flatMap { reconstruction(of: $0, on: node, at: now) }
        }
        return orders + removals(on: node, at: now)
    }

    private func reconstruction(
        of container: Container, on node: DatanodeID, at now: UInt64
    ) -> SCMDatanodeCommand? {
        guard container.state == .containerClosed,
            let repair = container.repairs.first(where: { $0.node == node }),
            nodes[node]?.replicas[container.id] == nil
                || isToBeReplaced(by: repair, container)
        else { return nil }
        let health = health(of: container, at: now)
        // Also the one that has the place, where that is copied.
        let sources = health.whole.filter { container.nodes[$0] != node }
        guard sources.count + health.readable - health.whole.count >= health.needed else {
            return nil
        }
        var order = SCMDatanodeCommand.Reconstruct()
        order.container = container.id.rawValue
        order.replication = container.replication.message
        order.replicaIndex = UInt32(repair.index)
        order.token = repair.token
        order.sources = sources.compactMap { place in
            guard let address = container.nodes[place].flatMap({ nodes[$0]?.address }) else {
                return nil
            }
            var source = SCMDatanodeCommand.Reconstruct.Source()
            source.replicaIndex = UInt32(place + 1)
            source.node = address.message
            return source
        }
        order.emptyIndexes = container.empty.message
        order.replaces =
            container.nodes[repair.index - 1] == node
            || nodes[node]?.unusable.contains(container.id) == true
        var command = SCMDatanodeCommand()
        command.reconstruct = order
        return command
    }

    private mutating func removals(on node: DatanodeID, at now: UInt64) -> [SCMDatanodeCommand] {
        var commands: [SCMDatanodeCommand] = []
        for _ in 0..<min(strays.count(on: node), Limits.straysPerHeartbeat) {
            guard commands.count < Limits.removalsPerHeartbeat,
                let (id, beat) = strays.next(on: node)
            else { break }
            switch fate(of: id, on: node, foundAt: beat, at: now) {
            case .belongs: continue
            case .stays: break
            case .goes(let index, let token):
                var command = SCMDatanodeCommand()
                command.removeReplica.container = id.rawValue
                command.removeReplica.replicaIndex = index
                command.removeReplica.token = token
                commands.append(command)
            }
            // Until it is reported as gone.
            strays.add(id, on: node, beat: beat)
        }
        return commands
    }

    private enum Fate {
        /// It is a container's, or is not there any more.
        case belongs
        /// It may be needed yet.
        case stays
        case goes(index: UInt32, token: UInt64)
    }

    /// A replica that is being rebuilt goes when its order is not in force any more. One that is whole
    /// and has no place goes when each place has one whose node has been heard of since the stray was
    /// found, or when the container is deleted. Of unknown containers everything stays.
    ///
    /// Since: a disk may be in another machine before the first one is missed. Who counts as there
    /// for some seconds yet does not show that there are two.
    ///
    /// One of another index than its node's place keeps the node from having its own: it goes when
    /// all other places are whole.
    private func fate(
        of id: ContainerID, on node: DatanodeID, foundAt beat: UInt64, at now: UInt64
    ) -> Fate {
        guard let container = containers[id] else { return .belongs }
        if let found = nodes[node]?.recovering[id] {
            let isOrdered = container.repairs.contains {
                $0.node == node && $0.token == found.token
            }
            return isOrdered ? .belongs : .goes(index: found.replicaIndex, token: found.token)
        }
        let own = container.nodes.firstIndex(of: node)
        let isBeingMade = container.repairs.contains { $0.node == node }
        guard let found = nodes[node]?.replicas[id] else {
            guard nodes[node]?.unusable.contains(id) == true,
                own == nil && !isBeingMade
                    || container.state == .containerDeleted
            else { return .belongs }
            // Files of some index that cannot be opened.
            return mayGo(container, but: nil, foundAt: beat, at: now)
                ? .goes(index: 0, token: 0) : .stays
        }
        let isOwn = own.map { [0, $0 + 1].contains(Int(found.replicaIndex)) } ?? isBeingMade
        guard container.state == .containerDeleted || !isOwn else { return .belongs }
        guard found.state == .closed || found.state == .unhealthy, found.replicaIndex != 0 else {
            return .stays
        }
        return mayGo(container, but: own, foundAt: beat, at: now)
            ? .goes(index: found.replicaIndex, token: 0) : .stays
    }

    /// Whether what nodes have of the container beside its places, and `place`, is needed by nobody.
    private func mayGo(
        _ container: Container, but place: Int?, foundAt beat: UInt64, at now: UInt64
    ) -> Bool {
        switch container.state {
        case .containerClosed:
            container.repairs.isEmpty && isWhole(container, but: place, after: beat, at: now)
        case .containerDeleted: true
        default: false
        }
    }
}
