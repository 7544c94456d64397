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
    /// Containers of which no node can make what is missing.
    var resting: [ContainerID] = []
    /// Replicas of the present container by rack, without those that are lost or go.
    private(set) var racks: [String: Int] = [:]
    /// A node was sought for a replica of the present container, and none could be had.
    private var wasSought = false
    /// Something of the present container can be made when others are done.
    private var mayWait = false
    private var taken: Set<DatanodeID> = []
    private var bytes: UInt64 = 0

    init(targets: RepairTargets) { self.targets = targets }

    var isFull: Bool { starts.count >= SCMState.Limits.repairsPerCommand }

    /// What follows is of `container`, whose replicas have `bytes` at most.
    mutating func begin(_ container: SCMState.Container, bytes: UInt64) {
        racks = [:]
        wasSought = false
        mayWait = false
        taken = container.members
        self.bytes = bytes
    }

    /// Nothing more of the present container can be made, however long one waits.
    var isHopeless: Bool { wasSought && !mayWait }

    /// What could be made of the present container waits for others.
    mutating func wait() { mayWait = true }

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
        noteFailure(mayTake)
        return nil
    }

    /// The node that has the place, if it has a slot.
    mutating func choose(own: DatanodeID) -> DatanodeID? {
        if let target = targets.choose(bytes: bytes, used: [:], isAllowed: { $0 == own }) {
            return take(target)
        }
        noteFailure { $0 == own }
        return nil
    }

    private mutating func noteFailure(_ isAllowed: (DatanodeID) -> Bool) {
        wasSought = true
        mayWait = mayWait || targets.hasCandidate(bytes: bytes, isAllowed: isAllowed)
    }

    private mutating func take(_ target: RepairTargets.Node) -> DatanodeID {
        taken.insert(target.id)
        note(rack: target.rack)
        return target.id
    }
}
