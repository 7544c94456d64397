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
    /// Of `whole`: those that are to be copied to other nodes, for theirs leave service.
    var leaving: [Int] = []
    /// Places whose nodes are in maintenance, or enter it, and which no byte is known not to have
    /// fallen to.
    var away: [Int] = []
    /// Of `present`: those whose nodes are in service.
    var inService = 0
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
            let present = health.present
            look(at: place, of: container, &health, at: now)
            let isOut =
                operation(of: container.nodes[place]) != nil && !container.empty.contains(place + 1)
            if health.present > present, !isOut { health.inService += 1 }
        }
        noteLeaving(&health, container)
        return health
    }

    private func look(
        at place: Int, of container: Container, _ health: inout ContainerHealth, at now: UInt64
    ) {
        switch presence(of: place, in: container, at: now) {
        case .here:
            let state = replica(of: container, at: place)?.state
            if state == .unhealthy || container.corrupt.contains(place + 1) {
                let due = dueIfNotHealed(place, of: container)
                health.missing.append(.init(place: place, due: due))
                return
            }
            health.present += 1
            guard state == .closed else { return }
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

    /// What is to be copied elsewhere: all that is on nodes that leave, and of a container that would
    /// keep too little in service, some of what is on nodes in maintenance.
    private func noteLeaving(_ health: inout ContainerHealth, _ container: Container) {
        for place in container.nodes.indices where !container.empty.contains(place + 1) {
            let operation = operation(of: container.nodes[place])
            // Of one on a disk that leaves its node stays.
            if operation == nil, isOnLeavingDisk(place, of: container) {
                if health.whole.contains(place) { health.leaving.append(place) }
                continue
            }
            guard let operation else { continue }
            if operation.isMaintenance {
                health.away.append(place)
            } else if health.whole.contains(place) {
                health.leaving.append(place)
            }
        }
        guard !health.away.isEmpty else { return }
        // What is lost or leaves will be in service again without a word about maintenance.
        let staying = container.nodes.count - health.away.count
        let lacking = leastWithoutMaintenance(container.replication) - staying
        guard lacking > 0 else { return }
        let ordered = health.away.sorted { a, b in
            (rank(a, health, container), a) < (rank(b, health, container), b)
        }
        for place in ordered.prefix(lacking) {
            if let missing = health.missing.firstIndex(where: { $0.place == place }) {
                health.missing[missing].due = 0
            } else if health.whole.contains(place) {
                health.leaving.append(place)
            }
        }
    }

    private func isOnLeavingDisk(_ place: Int, of container: Container) -> Bool {
        replica(of: container, at: place)?.isLeaving == true
    }

    /// What has been begun is gone on with; what is not there has to be rebuilt.
    private func rank(_ place: Int, _ health: ContainerHealth, _ container: Container) -> Int {
        if container.repair(of: place) != nil { return 0 }
        return health.missing.contains { $0.place == place } ? 1 : 2
    }

    /// Whether enough of a container stays in service while some of its nodes are away.
    func isSpared(_ health: ContainerHealth, _ container: Container) -> Bool {
        health.away.isEmpty
            || health.inService >= leastWithoutMaintenance(container.replication)
    }

    /// When the replicas of a node that is dead are to be rebuilt; `max` of one that is in
    /// maintenance.
    private func dueAfterDeath(of id: DatanodeID) -> UInt64 {
        if let operation = operations[id] { return operation.leaves ? 0 : .max }
        return (nodes[id]?.lastHeartbeat ?? listeningSince) + options.deadAfterNanoseconds
            + options.repairAfterNanoseconds
    }

    /// Whether each replica of a closed container is reported as whole by a node that was heard of
    /// just now, or is known to be empty: then those that others have are not needed.
    ///
    /// - Parameters:
    ///   - exception: a place that is not looked at.
    ///   - beat: a heartbeat, as they are counted; each node is to have sent a later one.
    func isWhole(
        _ container: Container, but exception: Int? = nil, after beat: UInt64 = 0, at now: UInt64
    ) -> Bool {
        container.nodes.indices.filter { $0 != exception }.allSatisfy { place in
            switch presence(of: place, in: container, at: now) {
            case .here:
                isWhole(place, of: container, at: now)
                    && container.nodes[place].flatMap { nodes[$0]?.beat } ?? 0 > beat
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
