import Model
import Wire

// The life of a container: open, closing, closed; and, once its last block was deleted, removed.

extension SCMState {
    /// Changes of container states that the reports call for. Looks at open containers, at those
    /// being closed or removed, and at those that something was reported of.
    public mutating func dueStateChanges(at now: UInt64) -> [SCMCommand] {
        guard !isInSafeMode else { return [] }
        let seen = changed
        changed = []
        let open = Set(openByReplication.values.joined())
        return open.union(inTransition).union(seen).sorted().compactMap { id in
            guard let container = containers[id],
                let (state, empty) = dueState(of: container, at: now)
            else { return nil }
            var command = SCMCommand()
            command.containerState.id = id.rawValue
            command.containerState.state = state
            command.containerState.emptyIndexes = empty
            return command
        }
    }

    private mutating func dueState(
        of container: Container, at now: UInt64
    ) -> (SCMContainerState, empty: [UInt32])? {
        switch container.state {
        case .containerOpen:
            return mustClose(container, at: now) ? (.containerClosing, []) : nil
        case .containerClosing:
            guard isClosedEverywhere(container, at: now) else { return nil }
            if replicaCount(container) > 0 {
                return (.containerClosed, emptyIndexes(container, at: now))
            }
            return isWhollyHeard(container, at: now) ? (.containerDeleted, []) : nil
        case .containerClosed:
            guard holdsNothing(container) else { return nil }
            guard isWhollyHeard(container, at: now) else {
                // Looked at again: a node that comes back may report nothing new.
                changed.insert(container.id)
                return nil
            }
            return (.containerDeleting, [])
        case .containerDeleting:
            if replicaCount(container) == 0 {
                return isWhollyHeard(container, at: now) ? (.containerDeleted, []) : nil
            }
            // A block came after all.
            return holdsNothing(container) ? nil : (.containerClosing, [])
        case .containerDeleted:
            // Its first cell came after all.
            return replicaCount(container) > 0 ? (.containerClosing, []) : nil
        case .UNRECOGNIZED: return nil
        }
    }

    /// Whether there are replicas, and all are closed and have no block left. Any block that was
    /// acknowledged has a record with each parity index, so no single lost replica hides one.
    private func holdsNothing(_ container: Container) -> Bool {
        let replicas = container.nodes.compactMap { id in
            id.flatMap { nodes[$0]?.replicas[container.id] }
        }
        return !replicas.isEmpty && replicas.allSatisfy { $0.state == .closed && $0.blocks == 0 }
    }

    /// Indexes whose nodes are there and report no replica.
    private func emptyIndexes(_ container: Container, at now: UInt64) -> [UInt32] {
        container.nodes.enumerated().compactMap { place, id in
            guard let id, state(of: id, at: now) == .healthy,
                nodes[id]?.replicas[container.id] == nil
            else { return nil }
            return UInt32(place + 1)
        }
    }

    private func replicaCount(_ container: Container) -> Int {
        container.nodes.count { id in
            id.flatMap { nodes[$0]?.replicas[container.id] } != nil
        }
    }

    private func isWhollyHeard(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.allSatisfy { $0.map { state(of: $0, at: now) == .healthy } ?? true }
    }

    private func mustClose(_ container: Container, at now: UInt64) -> Bool {
        let limit = options.containerSize / 100 * options.closeAtPercent
        for case let id? in container.nodes {
            // One that is merely late may come back; until then nothing is placed in it.
            if state(of: id, at: now) == .dead { return true }
            guard let replica = nodes[id]?.replicas[container.id] else { continue }
            if replica.state != .open || replica.usedBytes >= UInt64(limit) { return true }
        }
        // Better a whole group as soon as the nodes for one are back.
        return container.isDegraded
            && healthyNodes(at: now, excluding: []).count >= container.replication.width
    }

    private func isClosedEverywhere(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.allSatisfy { id in
            guard let id, state(of: id, at: now) == .healthy,
                let replica = nodes[id]?.replicas[container.id]
            else { return true }
            return replica.state != .open
        }
    }
}
