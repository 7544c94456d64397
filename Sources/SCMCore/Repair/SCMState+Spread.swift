import Model
import Wire

// Containers whose replicas are in fewer racks than they could be: made, or rebuilt, while others were
// not there. Some are copied to other racks, after all that is missing and all that leaves.

extension SCMState {
    /// Replicas of a container that a rack has at most when they are spread as well as they can be:
    /// evenly, but for racks with few nodes.
    func mostPerRack(_ replication: ReplicationConfig) -> Int {
        (1...replication.width).first { most in
            repairs.racks.reduce(0) { $0 + min($1, most) } >= replication.width
        } ?? replication.width
    }

    /// Places of replicas that are to be in other racks: of each rack that has more than it should,
    /// those beyond that, the last ones. Only of a container of which nothing else is to be done.
    func misplaced(_ health: ContainerHealth, _ container: Container) -> [Int] {
        guard repairs.racks.count > 1, health.missing.isEmpty, health.leaving.isEmpty,
            health.away.isEmpty
        else { return [] }
        let most = mostPerRack(container.replication)
        let moving = Set(container.repairs.map { $0.index - 1 })
        var racks: [String: Int] = [:]
        var misplaced: [Int] = []
        // Those that move are counted first: what is begun is gone on with.
        for place in container.nodes.indices.sorted(by: { a, b in
            (moving.contains(a) ? 1 : 0, a) < (moving.contains(b) ? 1 : 0, b)
        }) {
            guard !container.empty.contains(place + 1),
                let rack = container.nodes[place].flatMap({ nodes[$0]?.address.rack })
            else { continue }
            racks[rack, default: 0] += 1
            if racks[rack]! > most, health.whole.contains(place) { misplaced.append(place) }
        }
        return misplaced.sorted()
    }

    /// Notes how many nodes each rack has that can be given replicas. Where replicas can be spread better
    /// than before, all closed containers are looked at, some at a time.
    mutating func noteRacks(at now: UInt64) {
        var racks: [String: Int] = [:]
        // One that is merely late comes back: its rack is not another one for that.
        for (id, node) in nodes where operations[id] == nil && hasRoom(node) {
            let state = state(of: id, at: now)
            if state == .healthy || state == .stale { racks[node.address.rack, default: 0] += 1 }
        }
        let sizes = racks.values.sorted()
        guard sizes != repairs.racks else { return }
        let before = members.counts.keys.map { mostPerRack($0) }
        repairs.racks = sizes
        let after = members.counts.keys.map { mostPerRack($0) }
        guard zip(before, after).contains(where: { $0 > $1 }) else { return }
        repairs.look(
            at: containers.values.lazy.filter { $0.state == .containerClosed }.map(\.id))
    }
}

extension SCMState.Limits {
    /// Part of a node's disks that is free at least where replicas come to it for its rack alone.
    static let leastFreeToSpread = 0.1
}
