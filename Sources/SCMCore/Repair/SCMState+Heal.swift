import Model
import Wire

// Damaged replicas of closed containers are healed where they are: their nodes are told to read all
// of them, and to make what is bad good from the others. `HealLedger` is the leader's memory of
// that. Only what could not be healed, or not in time, is rebuilt, as if it were lost.
//
// Nothing of it is logged. An order that is given twice, late, or by a leader that is none any more
// does what was asked: it makes bytes again what their checksums say, or finds that they are.

extension SCMState.Limits {
    /// Replicas that a node is told to heal with one heartbeat.
    static let healsPerHeartbeat = 64
    /// A replica whose healing takes longer is rebuilt, though its node is at it.
    static let healMostNanoseconds: UInt64 = 3_600_000_000_000
    /// When a replica is to be healed again that could not be, where it was not rebuilt meanwhile.
    static let healRetryNanoseconds: UInt64 = 300_000_000_000
}

extension SCMState {
    // MARK: What is damaged

    /// Whether a replica is there that its node, or a reader, has found damaged.
    func isDamaged(_ place: Int, of container: Container) -> Bool {
        guard let replica = replica(of: container, at: place) else { return false }
        return replica.state == .unhealthy || container.corrupt.contains(place + 1)
    }

    /// Replica indexes from 1 on that are known to be damaged, by their nodes or by readers.
    func damagedIndexes(of container: Container) -> [UInt32] {
        container.nodes.indices.filter {
            container.corrupt.contains($0 + 1)
                || replica(of: container, at: $0)?.state == .unhealthy
        }.map { UInt32($0 + 1) }
    }

    /// Notes which replicas of a closed container are damaged, and which are not any more.
    mutating func noteDamage(of container: Container, at now: UInt64) {
        for (place, node) in container.nodes.enumerated() {
            if let node, isDamaged(place, of: container) {
                repairs.heals.note(container.id, place + 1, on: node, at: now)
            } else {
                repairs.heals.remove(container.id, place + 1)
            }
        }
    }

    /// From when on a damaged replica is to be rebuilt: at once where it could not be healed, else when
    /// nobody has told for some time that it is being.
    func dueIfNotHealed(_ place: Int, of container: Container) -> UInt64 {
        guard let entry = repairs.heals[container.id, place + 1],
            entry.node == container.nodes[place], entry.failedAt == nil
        else { return 0 }
        return min(
            entry.heardOf + options.healPatienceNanoseconds,
            entry.since + Limits.healMostNanoseconds) + 1
    }

    /// Has containers looked at of which a replica was not healed in time, or may be tried again.
    mutating func lookAfterHeals(at now: UInt64) {
        repairs.look(
            at: repairs.heals.review(
                patience: options.healPatienceNanoseconds, most: Limits.healMostNanoseconds,
                retry: Limits.healRetryNanoseconds, at: now))
    }

    // MARK: Replacing

    /// Whether the damaged replica at `place` may give way to one that is rebuilt by the same node: its
    /// node has found it damaged itself, and could not heal it.
    func mayBeReplaced(_ place: Int, of container: Container) -> Bool {
        replica(of: container, at: place)?.state == .unhealthy
            && repairs.heals[container.id, place + 1]?.failedAt != nil
    }

    /// Whether `repair` is to take the place of a damaged replica that its own node has, and has not
    /// moved aside yet.
    func isToBeReplaced(by repair: Container.Repair, _ container: Container) -> Bool {
        container.nodes[repair.index - 1] == repair.node
            && replica(of: container, at: repair.index - 1)?.state == .unhealthy
    }

    // MARK: Orders

    /// What `node` is to heal.
    func healCommands(for node: DatanodeID, at now: UInt64) -> [SCMDatanodeCommand] {
        guard hasCaughtUp else { return [] }
        var commands: [SCMDatanodeCommand] = []
        for id in repairs.heals.containers(on: node).sorted() {
            guard commands.count < Limits.healsPerHeartbeat else { break }
            if let container = containers[id], let order = healing(of: container, on: node, at: now)
            {
                var command = SCMDatanodeCommand()
                command.heal = order
                commands.append(command)
            }
        }
        return commands
    }

    private func healing(
        of container: Container, on node: DatanodeID, at now: UInt64
    ) -> SCMDatanodeCommand.Heal? {
        guard container.state == .containerClosed,
            let place = container.nodes.firstIndex(of: node), isDamaged(place, of: container),
            container.repair(of: place) == nil,
            let entry = repairs.heals[container.id, place + 1], entry.node == node,
            entry.failedAt == nil
        else { return nil }
        var order = SCMDatanodeCommand.Heal()
        order.container = container.id.rawValue
        order.replication = container.replication.message
        order.replicaIndex = UInt32(place + 1)
        // Also those with damage of their own: as a rule it lies elsewhere, and nothing of them is
        // taken that does not match its checksum.
        let sources = container.nodes.indices.compactMap {
            $0 == place ? nil : healSource($0, of: container, at: now)
        }
        order.sources = sources.filter { !$0.isDamaged } + sources.filter(\.isDamaged)
        order.emptyIndexes = container.empty.message
        return order
    }

    private func healSource(
        _ place: Int, of container: Container, at now: UInt64
    ) -> SCMDatanodeCommand.Reconstruct.Source? {
        guard let id = container.nodes[place], state(of: id, at: now) == .healthy,
            let replica = replica(of: container, at: place),
            replica.state == .closed || replica.state == .unhealthy,
            let address = nodes[id]?.address
        else { return nil }
        var source = SCMDatanodeCommand.Reconstruct.Source()
        source.replicaIndex = UInt32(place + 1)
        source.node = address.message
        source.isDamaged = isDamaged(place, of: container)
        return source
    }

    // MARK: Ends

    /// How the healing of a replica ended, as its node tells: for the log.
    public struct HealEnd: Hashable, Sendable {
        public var container: ContainerID
        public var index: Int
        public var node: DatanodeID
        /// Bytes written anew.
        public var bytes: UInt64
        /// A reader had found it damaged, and its node found it whole: the reader's way, or its memory,
        /// may be at fault.
        public var wasWhole: Bool
        /// nil: it is whole.
        public var failure: String?
    }

    /// Node `id` tells what became of its orders to heal. The mark of a replica that is whole ends.
    public mutating func heard(
        _ id: DatanodeID, heals: [SCMHeartbeatRequest.HealResult], at now: UInt64
    ) -> [HealEnd] {
        guard leadingTerm != nil else { return [] }
        var ends: [HealEnd] = []
        for heal in heals {
            let container = ContainerID(heal.container)
            let index = Int(heal.replicaIndex)
            guard let known = containers[container], index >= 1, index <= known.nodes.count,
                known.nodes[index - 1] == id
            else { continue }
            var end = HealEnd(
                container: container, index: index, node: id, bytes: heal.bytes, wasWhole: false)
            switch heal.outcome {
            case .underWay, .UNRECOGNIZED:
                repairs.heals.noteUnderWay(container, index, at: now)
                continue
            case .healed:
                end.wasWhole = heal.bytes == 0 && known.corrupt.contains(index)
                containers[container]?.corrupt.remove(index)
                repairs.heals.noteHealed(container, index, bytes: heal.bytes)
            case .failed:
                end.failure = heal.reason
                repairs.heals.noteFailure(container, index, at: now)
            }
            repairs.look(at: container)
            ends.append(end)
        }
        return ends
    }
}
