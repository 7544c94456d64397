import Model
import Wire

/// What is there of one container, and what is not: a pure function of its row and of what its
/// nodes report.
struct ContainerHealth: Hashable, Sendable {
    struct Missing: Hashable, Sendable {
        /// The replica index, from 0.
        var place: Int
        /// From when on it is to be rebuilt; 0: at once.
        var due: UInt64
    }

    /// Replicas that nobody has who is there, or that are known to be bad.
    var missing: [Missing] = []
    /// Places of replicas that can be read in full: closed, and not known to be bad.
    var whole: [Int] = []
    /// Replicas that count: those reported, those that no byte fell to, and those whose nodes may
    /// yet be heard of.
    var present = 0
    /// What others are rebuilt from: those that are whole, and those that no byte fell to.
    var readable = 0
    /// How many are needed to rebuild one, or to read.
    var needed: Int

    /// Replicas that can be lost before data is; below 0: it cannot be read now.
    var redundancy: Int { present - needed }
    var isRepairable: Bool { readable >= needed }
}

extension SCMState {
    /// Looks at one container, whose replicas are all to be there: a closed one.
    func health(of container: Container, at now: UInt64) -> ContainerHealth {
        var health = ContainerHealth(needed: container.replication.minimumReplicas)
        for place in container.nodes.indices {
            switch presence(of: place, in: container, at: now) {
            case .here:
                let state = replica(of: container, at: place)?.state
                if state == .unhealthy || container.corrupt.contains(place + 1) {
                    let due = dueIfNotHealed(place, of: container)
                    health.missing.append(.init(place: place, due: due))
                    continue
                }
                health.present += 1
                guard state == .closed else { continue }
                health.whole.append(place)
                health.readable += 1
            case .empty:
                health.present += 1
                health.readable += 1
            case .unheard: health.present += 1
            case .silent:
                let due = container.nodes[place].map { dueAfterDeath(of: $0) } ?? 0
                health.missing.append(.init(place: place, due: due))
            case .unplaced, .lost, .doubtful: health.missing.append(.init(place: place, due: 0))
            case .unmade:
                // Of an open one it will be made with the first byte.
                if container.state == .containerOpen || container.state == .containerClosing {
                    health.present += 1
                } else {
                    // A node that is late may have one that it has not told of.
                    let due = container.nodes[place].map { id in
                        state(of: id, at: now) == .healthy ? 0 : dueAfterDeath(of: id)
                    }
                    health.missing.append(.init(place: place, due: due ?? 0))
                }
            }
        }
        return health
    }

    /// When the replicas of a node that is dead are to be rebuilt.
    private func dueAfterDeath(of id: DatanodeID) -> UInt64 {
        (nodes[id]?.lastHeartbeat ?? listeningSince) + options.deadAfterNanoseconds
            + options.repairAfterNanoseconds
    }

    /// Whether each replica of a closed container is reported as whole by a node that was heard of
    /// just now, or is known to be empty: then those that others have are not needed.
    func isWhole(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.indices.allSatisfy { place in
            switch presence(of: place, in: container, at: now) {
            case .here: isWhole(place, of: container, at: now)
            case .empty: true
            case .unplaced, .unheard, .silent, .lost, .doubtful, .unmade: false
            }
        }
    }

    /// Whether the node at `place` was heard of just now, and reports its replica as closed.
    func isWhole(_ place: Int, of container: Container, at now: UInt64) -> Bool {
        guard let id = container.nodes[place], state(of: id, at: now) == .healthy else {
            return false
        }
        return replica(of: container, at: place)?.state == .closed
            && !container.corrupt.contains(place + 1)
    }

    // MARK: Nodes

    /// What a node's state means for its replicas.
    enum NodePhase: Hashable, Sendable {
        case there
        /// Silent for some seconds.
        case late
        case unheard
        case dead
        /// Dead for so long that its replicas are rebuilt.
        case overdue
    }

    func phase(of id: DatanodeID, at now: UInt64) -> NodePhase {
        switch state(of: id, at: now) {
        case .healthy: .there
        case .stale: .late
        case .unheard: .unheard
        case .dead: dueAfterDeath(of: id) <= now ? .overdue : .dead
        }
    }
}
