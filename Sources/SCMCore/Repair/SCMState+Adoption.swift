import Model
import Wire

// A whole replica on a node that has no place in the container is as good as one that is rebuilt, and
// is there already: one whose node came back after others had taken its places, or whose disk was
// moved to another machine. Where the place is empty it is taken over, by an order that its node has
// carried out before it was given (`outcome` finds the replica closed).
//
// It may have missed deletions that others have done. Those that are waited for reach it like any
// replica that was rebuilt; of those that are forgotten it keeps blocks that nobody refers to.

extension SCMState {
    /// A node with a whole replica for the place, if it was heard of just now.
    func adoptable(_ place: Int, of container: Container, at now: UInt64) -> DatanodeID? {
        let members = container.members
        return strays.holders(of: container.id).filter { id in
            guard let found = nodes[id]?.replicas[container.id] else { return false }
            return Int(found.replicaIndex) == place + 1 && found.state == .closed
                && !found.isLeaving
                && !members.contains(id) && operations[id] == nil
                && state(of: id, at: now) == .healthy
        }.min()
    }

    /// Whether something that is missing could be taken over from a node that has it.
    func hasAdoptable(
        _ health: ContainerHealth, of container: Container, at now: UInt64
    ) -> Bool {
        guard !strays.isEmpty else { return false }
        return health.missing.contains { missing in
            isDue(missing, health, at: now) && container.repair(of: missing.place) == nil
                && adoptable(missing.place, of: container, at: now) != nil
        }
    }

    /// Of what cannot be read nobody waits for a node to come back.
    func isDue(_ missing: ContainerHealth.Missing, _ health: ContainerHealth, at now: UInt64)
        -> Bool
    {
        missing.due <= now || !health.isRepairable
    }
}
