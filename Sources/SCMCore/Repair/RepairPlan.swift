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
    /// No node could be had for a replica of the present container, however long one waits.
    private(set) var isHopeless = false
    private var taken: Set<DatanodeID> = []
    private var bytes: UInt64 = 0

    init(targets: RepairTargets) { self.targets = targets }

    var isFull: Bool { starts.count >= SCMState.Limits.repairsPerCommand }

    /// What follows is of `container`, whose replicas have `bytes` at most.
    mutating func begin(_ container: SCMState.Container, bytes: UInt64) {
        racks = [:]
        isHopeless = false
        taken = container.members
        self.bytes = bytes
    }

    mutating func note(rack: String?) {
        if let rack { racks[rack, default: 0] += 1 }
    }

    /// A node that has nothing to do with the container and `isAllowed`, and takes its slot.
    mutating func choose(_ isAllowed: (DatanodeID) -> Bool) -> DatanodeID? {
        let taken = taken
        func mayTake(_ id: DatanodeID) -> Bool { !taken.contains(id) && isAllowed(id) }
        if let target = targets.choose(bytes: bytes, used: racks, isAllowed: mayTake) {
            return take(target)
        }
        isHopeless = !targets.hasCandidate(bytes: bytes, isAllowed: mayTake)
        return nil
    }

    /// The node that has the place, if it has a slot.
    mutating func choose(own: DatanodeID) -> DatanodeID? {
        if targets.hasCandidate(bytes: bytes, isAllowed: { $0 == own }) { isHopeless = false }
        return targets.choose(bytes: bytes, used: [:]) { $0 == own }.map { take($0) }
    }

    private mutating func take(_ target: RepairTargets.Node) -> DatanodeID {
        taken.insert(target.id)
        note(rack: target.rack)
        return target.id
    }
}
