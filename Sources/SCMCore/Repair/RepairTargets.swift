import Model

/// The nodes that may rebuild replicas, from which one is chosen for each.
///
/// Of the racks that have fewest of the container's replicas the one with the best node; of the
/// nodes of a rack the one that rebuilds fewest, of these the one with most room. No node beyond its
/// bound.
///
/// Made for one look at the queue: O(nodes · log nodes). A choice is O(racks + width).
struct RepairTargets: Sendable {
    struct Node: Hashable, Sendable {
        var id: DatanodeID
        var rack: String
        /// Replicas that it is rebuilding.
        var load: Int
        /// How many these may be.
        var bound: Int
        /// What its volume has that has most, and what all have that is not promised yet.
        var most: UInt64
        var rest: UInt64

        /// What a replica may take.
        var free: UInt64 { min(most, rest) }
    }

    /// By rack and load; those with most room first.
    private var racks: [String: [[Node]]] = [:]
    /// Also those at their bounds.
    private let all: [Node]
    /// Replicas that can be given out.
    private(set) var slots = 0

    /// - Parameter random: among equals chance decides.
    init(_ nodes: [Node], using random: inout some RandomNumberGenerator) {
        all = nodes
        let most = nodes.reduce(0) { max($0, $1.bound) }
        let drawn = nodes.filter { $0.load < $0.bound }
            .map { (node: $0, draw: random.next()) }
            .sorted { ($1.node.free, $0.draw) < ($0.node.free, $1.draw) }
        for (node, _) in drawn {
            slots += node.bound - node.load
            racks[node.rack, default: Array(repeating: [], count: most)][node.load].append(node)
        }
    }

    /// A node with `bytes` free that `isAllowed`, and takes its slot; nil: there is none.
    ///
    /// - Parameter used: replicas of the container by rack.
    mutating func choose(
        bytes: UInt64, used: [String: Int], isAllowed: (DatanodeID) -> Bool
    ) -> Node? {
        var best: (used: Int, node: Node, place: Int)?
        for (rack, byLoad) in racks {
            let count = used[rack] ?? 0
            if let best, best.used < count { continue }
            guard let (node, place) = Self.first(in: byLoad, bytes, isAllowed) else { continue }
            if let best, !Self.isBetter((count, node), (best.used, best.node)) { continue }
            best = (count, node, place)
        }
        guard let best else { return nil }
        take(best.node, at: best.place, bytes: bytes)
        return best.node
    }

    /// Whether there is a node with `bytes` free that `isAllowed`, were it not at its bound and what is
    /// on its way to it not there.
    func hasCandidate(bytes: UInt64, isAllowed: (DatanodeID) -> Bool) -> Bool {
        all.contains { $0.most >= bytes && isAllowed($0.id) }
    }

    private static func isBetter(_ a: (Int, Node), _ b: (Int, Node)) -> Bool {
        (a.0, a.1.load, b.1.free, a.1.id) < (b.0, b.1.load, a.1.free, b.1.id)
    }

    private static func first(
        in byLoad: [[Node]], _ bytes: UInt64, _ isAllowed: (DatanodeID) -> Bool
    ) -> (Node, place: Int)? {
        for nodes in byLoad {
            for (place, node) in nodes.enumerated() {
                // All that follow have less.
                guard node.free >= bytes else { break }
                if isAllowed(node.id) { return (node, place) }
            }
        }
        return nil
    }

    private mutating func take(_ node: Node, at place: Int, bytes: UInt64) {
        var node = node
        slots -= 1
        racks[node.rack]![node.load].remove(at: place)
        node.load += 1
        node.rest -= min(node.rest, bytes)
        guard node.load < node.bound else { return }
        let nodes = racks[node.rack]![node.load]
        // Binary search for the first that has less.
        var (low, high) = (0, nodes.count)
        while low < high {
            let middle = (low + high) / 2
            if nodes[middle].free >= node.free { low = middle + 1 } else { high = middle }
        }
        racks[node.rack]![node.load].insert(node, at: low)
    }
}
