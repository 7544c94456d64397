import Model
import Reactor

/// What the Ozone Manager needs of SCM.
public protocol BlockAllocator: Sendable {
    /// `count` new block groups of `replication`, none where `excluding` says.
    /// Throws `cannotPlace` if the cluster has too few nodes, `notReady` in safe mode, `noSpace`
    /// if the disks are full.
    /// - Parameter patience: how long to wait for the answer, where there is a way without; nil: as
    ///   long as for any.
    func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList, patience: Duration?
    ) async throws(StoreError) -> [BlockGroup]

    /// Which containers have ceased to take new blocks since `mark`, which the last answer named.
    /// SCM has datanodes close them once all who ask regularly know.
    /// - Parameter watcher: tells the one who asks from others.
    func closings(
        since mark: ClosingsMark, watcher: Identity128
    ) async throws(StoreError) -> Closings

    /// Takes charge of deleting `blocks`: once it has returned, the Ozone Manager forgets them.
    /// May be called again with the same blocks, and with blocks that were never written.
    func delete(_ blocks: [BlockID]) async throws(StoreError)

    /// Where the replicas of `containers` are, by replica index; containers it does not know are
    /// left out.
    /// - Parameter context: of the request that asks.
    func locate(
        _ containers: [ContainerID], _ context: IOContext
    ) async throws(StoreError) -> [ContainerID: [DatanodeAddress?]]
}

/// How far a watcher of closings has heard; at first, nothing.
public struct ClosingsMark: Hashable, Sendable {
    public var term: UInt64
    public var sequence: UInt64

    public init(term: UInt64 = 0, sequence: UInt64 = 0) {
        self.term = term
        self.sequence = sequence
    }
}

/// Containers that have ceased to take new blocks.
public struct Closings: Hashable, Sendable {
    public var mark: ClosingsMark
    public var containers: [ContainerID]
    /// There may have been others: nothing that is held in advance can be relied on.
    public var isIncomplete: Bool

    public init(mark: ClosingsMark, containers: [ContainerID], isIncomplete: Bool) {
        self.mark = mark
        self.containers = containers
        self.isIncomplete = isIncomplete
    }
}
