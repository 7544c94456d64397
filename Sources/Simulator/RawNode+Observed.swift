import Raft

extension RawNode {
    /// What the checker looks at after each step.
    var observed: (HardState, Role) {
        let status = basicStatus
        return (status.hardState, status.softState.role)
    }
}

extension Simulation {
    /// A core on a disk, its timeouts drawn from a stream of its own.
    func makeCore(
        _ configuration: Configuration, _ node: SimulatedNode
    ) throws(Violation) -> RawNode<SimulatedDisk> {
        var timeouts = SeededGenerator(seed: chance.nodes.next())
        do throws(RaftStartError) {
            return try RawNode(
                configuration: configuration, storage: node.disk,
                randomTimeout: { timeouts.int(in: $0) })
        } catch {
            throw Violation(
                property: .hardState,
                detail: "node \(node.id) cannot start from what its disk holds: \(error)")
        }
    }

    /// Begins a new group with the first members.
    func bootstrap(_ node: SimulatedNode) {
        node.raft?.bootstrap(firstMembers.voters.map { ($0, []) })
    }
}
