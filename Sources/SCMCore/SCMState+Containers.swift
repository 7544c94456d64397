import Model
import Wire

// The life of a container: open, closing, closed; and, once its last block was deleted, removed.

extension SCMState {
    /// Changes of container states that the reports call for. Looks at open containers, at those
    /// being closed or removed, and at those that something was reported of.
    public mutating func dueStateChanges(at now: UInt64) -> [SCMCommand] {
        guard !isInSafeMode else { return [] }
        let seen = nextToLookAt()
        let open = Set(openByReplication.values.joined())
        return open.union(inTransition).union(seen).sorted().compactMap { id in
            guard let container = containers[id],
                let (state, empty) = dueState(of: container, at: now)
            else { return nil }
            var change = SCMCommand.ContainerStateChange()
            change.id = id.rawValue
            change.state = state
            change.emptyIndexes = empty
            change.from = container.state
            return SCMCommand(.containerState(change))
        }
    }

    /// The containers that something was reported of, and those to be looked at again; of very many,
    /// some now and the others later.
    private mutating func nextToLookAt() -> Set<ContainerID> {
        var seen = Self.takeSome(of: &changed, Limits.lookedAtOnce)
        // In rounds: each has its turn before any has a second.
        if again.isEmpty { swap(&again, &waiting) }
        seen.formUnion(Self.takeSome(of: &again, Limits.lookedAtOnce - seen.count))
        return seen
    }

    private static func takeSome(
        of set: inout Set<ContainerID>, _ count: Int
    ) -> Set<ContainerID> {
        guard set.count > count else {
            defer { set = [] }
            return set
        }
        let some = Set(set.prefix(count))
        set.subtract(some)
        return some
    }

    /// What was due could not be logged: the container is looked at once more.
    public mutating func lookAgain(at id: ContainerID) { changed.insert(id) }

    private mutating func dueState(
        of container: Container, at now: UInt64
    ) -> (SCMContainerState, empty: [UInt32])? {
        switch container.state {
        case .containerOpen:
            return mustClose(container, at: now) ? (.containerClosing, []) : nil
        case .containerClosing:
            guard isClosedEverywhere(container, at: now) else { return nil }
            if replicaCount(container) == 0, neverHeldABlock(container, at: now) {
                return isWhollyHeard(container, at: now) ? (.containerDeleted, []) : nil
            }
            // Where nothing is known of any replica, a node that is not heard of may have one.
            let isKnown = container.nodes.indices.contains { place in
                [.here, .lost, .doubtful].contains(presence(of: place, in: container, at: now))
            }
            return isKnown ? (.containerClosed, emptyIndexes(container, at: now)) : nil
        case .containerClosed:
            guard holdsNothing(container) else { return nil }
            guard isWhollyHeard(container, at: now) else {
                // Looked at again: a node that comes back may report nothing new.
                waiting.insert(container.id)
                return nil
            }
            return (.containerDeleting, [])
        case .containerDeleting:
            guard isHeld(container, at: now) else {
                let isKnown = container.nodes.indices.allSatisfy { place in
                    isHeard(place, of: container, at: now)
                        || isGivenUp(place, of: container, at: now)
                }
                return isKnown ? (.containerDeleted, []) : nil
            }
            // A block came after all. That some replicas are gone already, whichever, tells nothing; nor
            // does damage: none had a block when it began, and none takes one.
            return hasGotABlock(container) ? (.containerClosing, []) : nil
        case .containerDeleted:
            // Its first cell came after all. A closed replica of a node that was away is no news: all
            // its blocks were deleted, or none was ever acknowledged. It is removed (`fate`).
            return isWritten(container) ? (.containerClosing, []) : nil
        case .UNRECOGNIZED: return nil
        }
    }

    /// Whether there are replicas, and all are closed and have no block left. Any block that was
    /// acknowledged has a record with index 1 and each parity index: one of these must be there, or
    /// a lost replica might hide a block.
    private func holdsNothing(_ container: Container) -> Bool {
        container.nodes.indices.contains { place in
            container.isInEachBlock(place) && replica(of: container, at: place) != nil
        } && !mayHoldABlock(container)
    }

    /// Whether a replica takes blocks.
    private func isWritten(_ container: Container) -> Bool {
        container.nodes.indices.contains { place in
            let state = replica(of: container, at: place)?.state
            return state == .open || state == .closing
        }
    }

    /// Whether a replica of a container that had no block has one, or is written to.
    private func hasGotABlock(_ container: Container) -> Bool {
        container.nodes.indices.contains { place in
            guard let replica = replica(of: container, at: place) else { return false }
            return replica.blocks > 0 || replica.state == .open || replica.state == .closing
        }
    }

    /// Whether a replica that is there has a block, or may have one: it is not closed.
    private func mayHoldABlock(_ container: Container) -> Bool {
        container.nodes.indices.contains { place in
            guard let replica = replica(of: container, at: place) else { return false }
            return replica.state != .closed || replica.blocks > 0
        }
    }

    /// Indexes of which no replica was made, and none is made any more.
    private func emptyIndexes(_ container: Container, at now: UInt64) -> [UInt32] {
        container.nodes.indices.compactMap { place in
            guard let id = container.nodes[place], state(of: id, at: now) == .healthy,
                presence(of: place, in: container, at: now) == .unmade,
                isRetired(place, of: container)
            else { return nil }
            return UInt32(place + 1)
        }
    }

    private func replicaCount(_ container: Container) -> Int {
        container.nodes.indices.count { replica(of: container, at: $0) != nil }
    }

    /// Whether all who may have a replica are there.
    private func isWhollyHeard(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.indices.allSatisfy { isHeard($0, of: container, at: now) }
    }

    private func isHeard(_ place: Int, of container: Container, at now: UInt64) -> Bool {
        guard let id = container.nodes[place], !container.empty.contains(place + 1) else {
            return true
        }
        return state(of: id, at: now) == .healthy
    }

    /// Whether somebody has a replica who is waited for: one whose node has been dead for so long
    /// that it would be rebuilt is not. Should that node come back, it is removed then.
    private func isHeld(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.indices.contains { place in
            replica(of: container, at: place) != nil && !isGivenUp(place, of: container, at: now)
        }
    }

    private func isGivenUp(_ place: Int, of container: Container, at now: UInt64) -> Bool {
        container.nodes[place].map { phase(of: $0, at: now) == .overdue } ?? false
    }

    private func mustClose(_ container: Container, at now: UInt64) -> Bool {
        let limit = options.containerSize / 100 * options.closeAtPercent
        for place in container.nodes.indices {
            // What leaves gets nothing more.
            if operation(of: container.nodes[place]) != nil { return true }
            switch presence(of: place, in: container, at: now) {
            // A node that is merely late, or not heard of yet, may come; until then nothing is
            // placed in it.
            case .silent, .lost, .doubtful: return true
            case .unmade: if !canBeMade(place, of: container) { return true }
            case .here:
                guard let replica = replica(of: container, at: place) else { continue }
                if replica.state != .open || replica.usedBytes >= UInt64(limit) { return true }
            case .unplaced, .unheard, .empty: continue
            }
        }
        // Better a whole group as soon as the nodes for one are back.
        return container.isDegraded
            && healthyNodes(at: now, excluding: []).count >= container.replication.width
    }

    private func isClosedEverywhere(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.indices.allSatisfy { place in
            guard let id = container.nodes[place] else { return true }
            switch state(of: id, at: now) {
            case .healthy: break
            case .unheard: return false
            case .stale, .dead: return true
            }
            switch presence(of: place, in: container, at: now) {
            case .here:
                let state = replica(of: container, at: place)?.state
                return state != .open && state != .closing
            case .unmade: return isRetired(place, of: container)
            case .unplaced, .unheard, .silent, .empty, .lost, .doubtful: return true
            }
        }
    }
}
