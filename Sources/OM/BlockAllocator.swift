import Model

/// What the Ozone Manager needs of SCM.
public protocol BlockAllocator: Sendable {
    /// `count` new block groups of `replication`, none on the nodes in `excluding`.
    /// Throws `cannotPlace` if the cluster has too few nodes, `notReady` in safe mode.
    func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: [DatanodeID]
    ) async throws(StoreError) -> [BlockGroup]

    /// Takes charge of deleting `blocks`: once it has returned, the Ozone Manager forgets them.
    /// May be called again with the same blocks, and with blocks that were never written.
    func delete(_ blocks: [BlockID]) async throws(StoreError)

    /// Where the replicas of `containers` are, by replica index; containers it does not know are
    /// left out.
    func locate(
        _ containers: [ContainerID]
    ) async throws(StoreError) -> [ContainerID: [DatanodeAddress?]]
}
