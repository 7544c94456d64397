import Model
import Wire

// What SCM does with what it knows of slow disks (`DiskHealth`): little, and nothing that gives
// redundancy away. Where too few nodes would be left, slow ones are as good as others.

extension SCMState {
    /// Why there can be no whole group of `replication` without `nodes` now; nil if there can be.
    public func wholeGroupError(
        _ replication: ReplicationConfig, excluding nodes: Set<DatanodeID>, at now: UInt64
    ) -> StoreError? {
        let others = healthyNodes(at: now, excluding: nodes).count
        guard others < replication.width else { return nil }
        return StoreError(
            .cannotPlace,
            "whole groups of \(replication) need \(replication.width) datanodes; \(others) can be "
                + "written to now without the \(nodes.count) that are to be avoided")
    }

    /// `ids` without nodes that are slow, if `least` are left; otherwise all of them.
    func withoutSlow(_ ids: [DatanodeID], least: Int) -> [DatanodeID] {
        guard disks.avoided > 0 else { return ids }
        let others = ids.filter { !disks.isAvoided($0) }
        return others.count >= least ? others : ids
    }

    /// What counts as replicas that a node rebuilds already, though it does not: others are taken
    /// before one that is slow, which is still better than none.
    func slownessAsLoad(of id: DatanodeID) -> Int { disks.isAvoided(id) ? 1 : 0 }

    /// The volumes of node `id` that it is to make no replicas on, if it has others with room.
    public func avoidedVolumes(of id: DatanodeID) -> [String] {
        disks.slow(on: id).filter { $0.disk.state == .avoided }.map { $0.path }
    }

    /// Disks that are not as the others, by state.
    public struct SlowDiskCounts: Sendable {
        public var observed, avoided, spared: Int
    }

    public var slowDiskCounts: SlowDiskCounts {
        SlowDiskCounts(observed: disks.observed, avoided: disks.avoided, spared: disks.spared)
    }

    /// The slow disks of node `id`, for people.
    func slowDisks(of id: DatanodeID, at now: UInt64) -> [SCMSlowDisk] {
        disks.slow(on: id).map { path, disk in
            var message = SCMSlowDisk()
            message.path = path
            switch disk.state {
            case .normal, .observed: message.state = .observed
            case .avoided: message.state = .avoided
            case .spared: message.state = .spared
            }
            message.latency = disk.latency
            message.siblings = disk.siblings
            message.millisecondsInState = (now - min(now, disk.since)) / 1_000_000
            return message
        }
    }
}
