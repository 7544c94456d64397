import Model
import Wire

/// What is begun with one command, and what that takes of nodes beyond what the rows say.
///
/// Containers one after the other: `begin`, the racks that they are in, then targets.
struct RepairPlan: Sendable {
    private(set) var targets: RepairTargets
    /// Repairs of this plan that read from a node.
    var reads: [DatanodeID: Int] = [:]
    var starts: [SCMCommand.StartRepairs.Start] = []
    /// Containers in too few racks that no other can take.
    var resting: [ContainerID] = []
    /// Replicas of the present container by rack, without those that are lost or go.
    private(set) var racks: [String: Int] = [:]
    private var taken: Set<DatanodeID> = []
    private var bytes: UInt64 = 0

    init(targets: RepairTargets) { self.targets = targets }

    var isFull: Bool { starts.count >= SCMState.Limits.repairsPerCommand }

    /// What follows is of `container`, whose replicas have `bytes` at most.
    mutating func begin(_ container: SCMState.Container, bytes: UInt64) {
        racks = [:]
        taken = container.members
        self.bytes = bytes
    }

    mutating func note(rack: String?) {
        if let rack { racks[rack, default: 0] += 1 }
    }

    /// A node that has nothing to do with the container and `isAllowed`, and takes its slot.
    mutating func choose(_ isAllowed: (DatanodeID) -> Bool) -> DatanodeID? {
        let taken = taken
        guard
            let target = targets.choose(
                bytes: bytes, used: racks, isAllowed: { !taken.contains($0) && isAllowed($0) })
        else { return nil }
        return take(target)
    }

    /// The node that has the place, if it has a slot.
    mutating func choose(own: DatanodeID) -> DatanodeID? {
        targets.choose(bytes: bytes, used: [:]) { $0 == own }.map { take($0) }
    }

    private mutating func take(_ target: RepairTargets.Node) -> DatanodeID {
        taken.insert(target.id)
        note(rack: target.rack)
        return target.id
    }
}
