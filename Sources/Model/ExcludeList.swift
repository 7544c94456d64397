/// Where a writer wants no further block group: what it has found to fail.
public struct ExcludeList: Hashable, Sendable {
    /// Datanodes that could not be reached, failed, or are slow.
    public var nodes: Set<DatanodeID>
    /// Those of `nodes` that are merely slow: what was planned with them is not given up.
    public var slowNodes: Set<DatanodeID>
    /// Containers that would not take a block: closed, or on a disk that is full.
    public var containers: Set<ContainerID>
    /// Groups with empty places are not wanted either: better none at all.
    public var degradedGroups: Bool

    public init(
        nodes: Set<DatanodeID> = [], slowNodes: Set<DatanodeID> = [],
        containers: Set<ContainerID> = [], degradedGroups: Bool = false
    ) {
        self.nodes = nodes
        self.slowNodes = slowNodes
        self.containers = containers
        self.degradedGroups = degradedGroups
    }

    /// Nothing is excluded.
    public static let none = ExcludeList()

    public var isEmpty: Bool { nodes.isEmpty && containers.isEmpty && !degradedGroups }

    /// Whether `group` is what is not wanted.
    public func contains(_ group: BlockGroup) -> Bool {
        containers.contains(group.blockID.containerID) || (degradedGroups && group.isDegraded)
            || group.nodes.contains { $0.map { nodes.contains($0.id) } ?? false }
    }
}
