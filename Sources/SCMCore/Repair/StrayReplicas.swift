import DequeModule
import Model

/// Replicas on nodes that may be no one's: those of a node are looked at in turn until they are gone or
/// belong to a container again.
///
/// Every member of SCM's group keeps them, from what it hears, so that one that begins to lead has
/// nothing to gather. Pure; not thread-safe.
struct StrayReplicas: Sendable {
    private struct Node: Sendable {
        /// In turn; also some that are not strays any more.
        var queue: Deque<ContainerID> = []
        /// The heartbeat, of all nodes together, that was the last when each was found.
        var beats: [ContainerID: UInt64] = [:]
    }

    private var nodes: [DatanodeID: Node] = [:]
    private var holders: [ContainerID: Set<DatanodeID>] = [:]

    var isEmpty: Bool { nodes.isEmpty }

    func count(on node: DatanodeID) -> Int { nodes[node]?.beats.count ?? 0 }

    /// Nodes with a stray of the container.
    func holders(of id: ContainerID) -> Set<DatanodeID> { holders[id] ?? [] }

    /// One that is there already was found before.
    mutating func add(_ id: ContainerID, on node: DatanodeID, beat: UInt64) {
        guard holders[id, default: []].insert(node).inserted else { return }
        var state = nodes.removeValue(forKey: node) ?? Node()
        state.beats[id] = beat
        state.queue.append(id)
        if state.queue.count > 2 * state.beats.count + 64 {
            state.queue = Deque(state.beats.keys)
        }
        nodes[node] = state
    }

    mutating func remove(_ id: ContainerID, on node: DatanodeID) {
        holders[id]?.remove(node)
        if holders[id]?.isEmpty == true { holders[id] = nil }
        guard nodes[node]?.beats.removeValue(forKey: id) != nil else { return }
        if nodes[node]?.beats.isEmpty == true { nodes[node] = nil }
    }

    /// The node says anew what it has: its disks may be others than before.
    mutating func forget(_ node: DatanodeID) {
        for id in nodes[node]?.beats.keys.map({ $0 }) ?? [] { remove(id, on: node) }
    }

    /// The next of a node, which is not among them any more.
    mutating func next(on node: DatanodeID) -> (id: ContainerID, beat: UInt64)? {
        while let id = nodes[node]?.queue.popFirst() {
            guard let beat = nodes[node]?.beats[id] else { continue }
            remove(id, on: node)
            return (id, beat)
        }
        return nil
    }
}
