import Model

/// Damaged replicas whose nodes are to heal them in place, and what is known of that.
///
/// The leader's memory: who leads next finds the same replicas by looking, and has them healed anew,
/// which harms nobody. A replica that could not be healed is rebuilt, as one that is lost.
///
/// Pure; not thread-safe.
struct HealLedger: Sendable {
    struct Entry: Hashable, Sendable {
        var node: DatanodeID
        /// When the damage was known first, or its healing was begun anew.
        var since: UInt64
        /// When its node told of it last, or else `since`.
        var heardOf: UInt64
        /// When it could not be healed; nil: it may yet be.
        var failedAt: UInt64?
    }

    /// By container and replica index, from 1.
    private var entries: [ContainerID: [Int: Entry]] = [:]
    /// The containers of `entries`, by node.
    private var byNode: [DatanodeID: Set<ContainerID>] = [:]
    /// Since this member began to lead.
    private(set) var healed = 0
    private(set) var failed = 0
    private(set) var healedBytes: UInt64 = 0

    /// Replicas that are to be healed, and have not failed to be.
    var underWay: Int {
        entries.values.reduce(0) { $0 + $1.values.count { $0.failedAt == nil } }
    }

    subscript(id: ContainerID, index: Int) -> Entry? { entries[id]?[index] }

    /// Containers of which `node` has a damaged replica.
    func containers(on node: DatanodeID) -> Set<ContainerID> { byNode[node] ?? [] }

    /// The replica on `node` is damaged; nothing new where that is known.
    mutating func note(_ id: ContainerID, _ index: Int, on node: DatanodeID, at now: UInt64) {
        if self[id, index]?.node == node { return }
        remove(id, index)
        entries[id, default: [:]][index] = Entry(node: node, since: now, heardOf: now)
        byNode[node, default: []].insert(id)
    }

    /// The replica is not damaged, or not there.
    mutating func remove(_ id: ContainerID, _ index: Int) {
        guard let entry = entries[id]?.removeValue(forKey: index) else { return }
        let isLeft = entries[id]?.values.contains { $0.node == entry.node } ?? false
        if !isLeft {
            byNode[entry.node]?.remove(id)
            if byNode[entry.node]?.isEmpty == true { byNode[entry.node] = nil }
        }
        if entries[id]?.isEmpty == true { entries[id] = nil }
    }

    mutating func forget(_ id: ContainerID) {
        for index in entries[id]?.keys.sorted() ?? [] { remove(id, index) }
    }

    // MARK: What nodes tell

    /// Its node is at it.
    mutating func noteUnderWay(_ id: ContainerID, _ index: Int, at now: UInt64) {
        if entries[id]?[index]?.failedAt == nil { entries[id]?[index]?.heardOf = now }
    }

    mutating func noteHealed(_ id: ContainerID, _ index: Int, bytes: UInt64) {
        healed += 1
        healedBytes += bytes
        remove(id, index)
    }

    mutating func noteFailure(_ id: ContainerID, _ index: Int, at now: UInt64) {
        guard entries[id]?[index] != nil, entries[id]?[index]?.failedAt == nil else { return }
        entries[id]?[index]?.failedAt = now
        failed += 1
    }

    /// Notes those as failed of which nothing was heard for `patience`, or which have taken longer
    /// than `most`; and begins those anew that failed `retry` ago. Costs what is damaged.
    /// - Returns: the containers in which something has changed.
    mutating func review(
        patience: UInt64, most: UInt64, retry: UInt64, at now: UInt64
    ) -> Set<ContainerID> {
        var changed: Set<ContainerID> = []
        for (id, replicas) in entries {
            for (index, entry) in replicas {
                if let failedAt = entry.failedAt {
                    guard now > failedAt + retry else { continue }
                    entries[id]?[index] = Entry(node: entry.node, since: now, heardOf: now)
                } else {
                    guard now > entry.heardOf + patience || now > entry.since + most else {
                        continue
                    }
                    noteFailure(id, index, at: now)
                }
                changed.insert(id)
            }
        }
        return changed
    }
}
