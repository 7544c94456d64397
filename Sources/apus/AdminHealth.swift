import Model
import Wire

// What the administrator's tables put first: the worst news.

/// What is left of a container's redundancy.
struct ContainerHealth: Comparable {
    /// Replica indexes, in order.
    let missing, corrupt: [UInt32]
    /// How many more replicas may be lost before bytes are; below 0: bytes cannot be read now.
    let spare: Int

    init(redundancy: Int, missing: [UInt32], corrupt: [UInt32]) {
        self.missing = missing.sorted()
        self.corrupt = corrupt.sorted()
        spare = redundancy - Set(missing + corrupt).count
    }

    init(_ info: SCMContainerInfo) {
        let redundancy = (try? ReplicationConfig(info.replication))?.redundancy ?? 0
        self.init(
            redundancy: redundancy, missing: info.missingIndexes, corrupt: info.corruptIndexes)
    }

    var isWhole: Bool { missing.isEmpty && corrupt.isEmpty }

    /// `ok`, `missing 1,3`, `UNREADABLE: missing 1,2 corrupt 4`.
    var text: String {
        guard !isWhole else { return "ok" }
        func list(_ name: String, _ indexes: [UInt32]) -> String? {
            indexes.isEmpty
                ? nil : name + " " + indexes.map(String.init).joined(separator: ",")
        }
        let what = [list("missing", missing), list("corrupt", corrupt)].compactMap(\.self)
        return (spare < 0 ? "UNREADABLE: " : "") + what.joined(separator: " ")
    }

    /// Worse is less: by how many replicas may still be lost. All that are whole are alike.
    static func < (a: Self, b: Self) -> Bool {
        (a.isWhole ? 1 : 0, a.isWhole ? 0 : a.spare) < (b.isWhole ? 1 : 0, b.isWhole ? 0 : b.spare)
    }
}

/// How a datanode is; worse is less.
struct NodeHealth: Comparable {
    let state: SCMNodeState
    let failedVolumes: Int

    init(state: SCMNodeState, failedVolumes: Int) {
        self.state = state
        self.failedVolumes = failedVolumes
    }

    init(_ node: SCMNodeInfo) {
        self.init(state: node.state, failedVolumes: node.volumes.count(where: \.isFailed))
    }

    private var rank: (Int, Int) {
        let order =
            switch state {
            case .dead: 0
            case .stale: 1
            case .healthy: 2
            case .UNRECOGNIZED: 0
            }
        return (order, -failedVolumes)
    }

    static func < (a: Self, b: Self) -> Bool { a.rank < b.rank }
}

extension Sequence {
    /// The elements from the worst on; those that are equal stay in their order.
    func worstFirst<Health: Comparable>(_ health: (Element) -> Health) -> [Element] {
        enumerated().map { (health: health($0.element), offset: $0.offset, element: $0.element) }
            .sorted { a, b in
                if a.health < b.health { return true }
                return b.health < a.health ? false : a.offset < b.offset
            }.map(\.element)
    }
}
