import Model
import Wire

// Absence is loss (docs/decisions/0011): a replica that was reported once and is not any more is
// lost. One that was never reported was never made, provided that its node has lost no volume since
// the container was made; otherwise nobody knows.

extension SCMState {
    /// What is known of one replica of a container.
    enum Presence: Hashable, Sendable {
        /// There was no node for it.
        case unplaced
        /// Its node was not heard of yet, by a member that does not listen for long.
        case unheard
        /// Its node is dead.
        case silent
        /// It is reported.
        case here
        /// It was logged that no byte of any block fell to it.
        case empty
        /// It was reported once, and is not any more; or it is reported as lost.
        case lost
        /// It was never reported, but its node has lost a volume since the container was made: it
        /// may have been made, written to, and lost. Or its node has a replica of another index, on
        /// a disk from elsewhere: it makes no second one, and does not say whether there is one
        /// behind that.
        case doubtful
        /// It was never made.
        case unmade
    }

    /// - Parameter place: the replica index, from 0.
    func presence(of place: Int, in container: Container, at now: UInt64) -> Presence {
        let index = place + 1
        guard let id = container.nodes[place], let node = nodes[id] else {
            return container.empty.contains(index) ? .empty : .unplaced
        }
        let found = state(of: id, at: now)
        if found != .dead, replica(of: container, at: place) != nil { return .here }
        if container.empty.contains(index) { return .empty }
        if found == .dead { return .silent }
        if found == .unheard { return .unheard }
        if isWitnessed(index, of: container) || node.lost.contains(container.id) { return .lost }
        if node.replicas[container.id] != nil { return .doubtful }
        let store = container.store(at: place)
        return store == 0 || store == node.store ? .unmade : .doubtful
    }

    /// What the node at `place` reports of the container's replica with that index.
    func replica(of container: Container, at place: Int) -> Replica? {
        guard let id = container.nodes[place], let found = nodes[id]?.replicas[container.id],
            found.replicaIndex == 0 || Int(found.replicaIndex) == place + 1
        else { return nil }
        return found
    }

    /// Whether the replica was ever reported, be it logged yet or not.
    func isWitnessed(_ index: Int, of container: Container) -> Bool {
        container.witnessed.contains(index) || unlogged[container.id]?.contains(index) == true
    }

    /// Whether the node at `place` makes the replica, which is unmade, when it is told that it may.
    /// Nodes of before make one unasked.
    func canBeMade(_ place: Int, of container: Container) -> Bool {
        guard let id = container.nodes[place], let node = nodes[id] else { return false }
        return node.store == 0 || (container.store(at: place) == node.store && node.epoch != 0)
    }

    /// The permissions that come with a group of the container, by place: the epoch of each node
    /// that may make the replica now. None where all are there.
    func permissions(for container: Container, at now: UInt64) -> [UInt64] {
        let permissions = container.nodes.indices.map { place -> UInt64 in
            guard let id = container.nodes[place],
                presence(of: place, in: container, at: now) == .unmade
            else { return 0 }
            return nodes[id]?.epoch ?? 0
        }
        return permissions.allSatisfy { $0 == 0 } ? [] : permissions
    }

    /// Whether the node at `place`, which has no replica, has said that it makes none any more.
    func isRetired(_ place: Int, of container: Container) -> Bool {
        guard let node = container.nodes[place].flatMap({ nodes[$0] }) else { return true }
        return node.store == 0 || node.retired.contains(container.id)
    }

    /// Whether it is certain that no block of the container was ever acknowledged: each that was
    /// has bytes on index 1 and on each parity index, and one of these was never made.
    func neverHeldABlock(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.indices.contains { place in
            container.isInEachBlock(place)
                && presence(of: place, in: container, at: now) == .unmade
                && isRetired(place, of: container)
        }
    }

    /// Containers whose replica node `id` has lost, or may have.
    public func lostReplicas(of id: DatanodeID, at now: UInt64) -> Int {
        members.containers(of: id).count { number in
            guard let container = containers[number], container.state != .containerDeleting,
                let place = container.nodes.firstIndex(of: id)
            else { return false }
            return [.lost, .doubtful].contains(presence(of: place, in: container, at: now))
        }
    }

    // MARK: Witnessing

    /// - Parameter index: of the replica, from 1; 0: not told.
    mutating func noteReported(
        _ id: ContainerID, _ state: SCMReplicaState, index: UInt32, by node: DatanodeID
    ) {
        guard state != .none, let container = containers[id] else {
            if state == .none {
                strays.remove(id, on: node)
                if unknown[id]?.remove(node) != nil, unknown[id]?.isEmpty == true {
                    unknown[id] = nil
                }
            } else if state != .lost {
                unknown[id, default: []].insert(node)
            }
            return
        }
        // On a disk that is out: nothing can be done about it there.
        let isOut = state == .lost && index != 0
        guard state != .recovering, let place = container.nodes.firstIndex(of: node),
            index == 0 || Int(index) == place + 1
        else {
            if isOut {
                strays.remove(id, on: node)
            } else {
                noteStray(id, on: node)
            }
            return
        }
        if container.state == .containerDeleted, !isOut { noteStray(container.id, on: node) }
        if state != .lost { deletions.unpark(container.id, by: node) }
        guard !container.witnessed.contains(place + 1) else { return }
        unlogged[container.id, default: []].insert(place + 1)
    }

    /// What is to be logged of replicas that were reported for the first time; many containers at
    /// a time. Nil if there is nothing.
    public func dueWitnesses() -> SCMCommand? {
        guard !unlogged.isEmpty else { return nil }
        var change = SCMCommand.Witnessed()
        change.containers = unlogged.prefix(Limits.witnessedPerCommand)
            .sorted { $0.key < $1.key }.map { id, indexes in
                var replicas = SCMCommand.Witnessed.Replicas()
                replicas.container = id.rawValue
                replicas.indexes = indexes.message
                return replicas
            }
        return SCMCommand(.witnessed(change))
    }

    // MARK: Commands

    /// Has node `id` make no replica of containers that are being closed and of which it has none.
    func retirements(for id: DatanodeID, at now: UInt64) -> [SCMDatanodeCommand] {
        transitions(of: id, to: .containerClosing).compactMap { container in
            guard let place = container.nodes.firstIndex(of: id),
                presence(of: place, in: container, at: now) == .unmade,
                !isRetired(place, of: container),
                closings.mayClose(container.id, delay: options.closeDelayNanoseconds, at: now)
            else { return nil }
            var command = SCMDatanodeCommand()
            command.closeContainer = container.id.rawValue
            return command
        }
    }

    // MARK: Deletions

    /// Node `id` could not delete what `numbers` say, for it has no such replica.
    ///
    /// Those of a replica that is lost, or may be, are kept aside until it is back.
    /// - Returns: those that are done, since there is nothing to delete them from.
    public mutating func heard(
        _ id: DatanodeID, absent numbers: [UInt64], at now: UInt64
    ) -> [UInt64] {
        var done: [UInt64] = []
        for number in numbers {
            guard let container = deletions.container(of: number).flatMap({ containers[$0] }),
                container.state != .containerDeleted
            else {
                done.append(number)
                continue
            }
            // Its replica is to come, with what others have not deleted yet.
            if container.repairs.contains(where: { $0.node == id }) {
                deletions.fail(number, by: id, at: now)
                continue
            }
            guard
                let place = container.nodes.firstIndex(of: id)
            else {
                done.append(number)
                continue
            }
            switch presence(of: place, in: container, at: now) {
            case .lost, .doubtful:
                if !deletions.park(number, by: id) { done.append(number) }
            case .here, .unheard, .silent: deletions.fail(number, by: id, at: now)
            case .empty, .unmade, .unplaced: done.append(number)
            }
        }
        return done
    }

    /// The deletions that still wait for a node in a container that is gone for good, by node.
    public func deletions(ofGone id: ContainerID) -> [DatanodeID: [UInt64]] {
        deletions.parked(of: id)
    }
}

extension SCMState.Container {
    /// The store of the node at `place` when the container was made; 0: not known.
    func store(at place: Int) -> UInt64 { place < stores.count ? stores[place] : 0 }

    /// Whether each block that was acknowledged has a record with the replica at `place`.
    func isInEachBlock(_ place: Int) -> Bool {
        switch replication {
        case .erasureCoded(let coding): place == 0 || place >= coding.data
        case .replicated: true
        }
    }

    /// A record from before indexes were witnessed: of a closed container, each index that was not
    /// logged as empty has had a replica.
    mutating func believeOldRecord() {
        guard stores.isEmpty, state == .containerClosed || state == .containerDeleting else {
            return
        }
        for place in nodes.indices where nodes[place] != nil && !empty.contains(place + 1) {
            witnessed.insert(place + 1)
        }
    }
}
