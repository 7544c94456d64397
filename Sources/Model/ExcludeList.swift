/// Where a writer wants no further block group: what it has found to fail.
public struct ExcludeList: Hashable, Sendable {
    /// Datanodes that could not be reached, or failed.
    public var nodes: Set<DatanodeID>
    /// Containers that would not take a block: closed, or on a disk that is full.
    public var containers: Set<ContainerID>

    public init(nodes: Set<DatanodeID> = [], containers: Set<ContainerID> = []) {
        self.nodes = nodes
        self.containers = containers
    }

    /// Nothing is excluded.
    public static let none = ExcludeList()

    public var isEmpty: Bool { nodes.isEmpty && containers.isEmpty }

    /// Whether `group` is what is not wanted.
    public func contains(_ group: BlockGroup) -> Bool {
        containers.contains(group.blockID.containerID)
            || group.nodes.contains { $0.map { nodes.contains($0.id) } ?? false }
    }
}
