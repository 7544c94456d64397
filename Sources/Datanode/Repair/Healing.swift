import Bytes
import ContainerStore
import ErasureCode
import Model
import Reactor
import Transport
import Wire

/// SCM's order to heal a replica in place: where the others are.
struct HealOrder: Hashable, Sendable {
    var container: ContainerID
    var coding: ErasureCoding
    /// Of the damaged replica, from 1.
    var index: Int
    /// Of other indexes, each index once.
    var sources: [ReconstructionOrder.Source]
    /// Indexes that no byte of any block fell to.
    var emptyIndexes: Set<Int>

    /// Throws `badRequest` where the order makes no sense, `unsupported` where the container holds whole
    /// copies.
    init(_ message: SCMDatanodeCommand.Heal) throws(StoreError) {
        container = ContainerID(message.container)
        let replication = try ReplicationConfig(message.replication)
        coding = try replication.erasureCoding()
        index = Int(message.replicaIndex)
        guard (1...coding.width).contains(index) else {
            throw StoreError(
                .badRequest,
                "a replica of \(replication) is to be healed that has the index \(index)")
        }
        let index = index
        sources = try ReconstructionOrder.Source.all(message.sources, of: replication)
            .filter { $0.index != index }
        emptyIndexes = Set(message.emptyIndexes.map { Int($0) })
    }

    var name: String { "replica \(index) of container \(container)" }
}

/// Heals one replica by an order of SCM's: the store finds what is damaged, and this makes it of the
/// others.
struct Healing: Sendable {
    private let order: HealOrder
    private let store: ContainerStore
    private let sources: SourceReplicas
    private let decoder: ChunkDecoder

    init(
        _ order: HealOrder, store: ContainerStore, channels: ChannelPool, on reactor: Reactor
    ) {
        self.order = order
        self.store = store
        sources = SourceReplicas(
            of: order.container, order.sources, channels: channels, on: reactor)
        decoder = ChunkDecoder(
            name: order.name, coding: order.coding, index: order.index, sources: sources,
            turn: Int(truncatingIfNeeded: order.container.rawValue), on: reactor)
    }

    /// Returns when all of the replica is whole. Throws why it is not.
    func run() async throws(StoreError) -> HealSummary {
        try await store.heal(order.container, replicaIndex: order.index) {
            [self] damaged async throws(StoreError) in try await bytes(of: damaged)
        }
    }

    /// What the damaged bytes are to be, as the others say.
    private func bytes(of damaged: DamagedRange) async throws(StoreError) -> Payload {
        let length = damaged.groupLength
        guard length <= order.coding.blockGroupSize else {
            throw StoreError(.corrupt, "block \(damaged.block) is of a group of \(length) bytes")
        }
        let geometry = StripeGeometry(order.coding, groupLength: length)
        guard damaged.range.upperBound <= geometry.replicaLength(index: order.index) else {
            throw StoreError(
                .corrupt,
                "block \(damaged.block) of \(length) bytes has no bytes \(damaged.range) at index "
                    + "\(order.index)")
        }
        let goal = BlockSurvey.Goal(
            groupLength: length, length: geometry.replicaLength(index: order.index),
            isEnded: true, sources: Set(order.sources.map(\.index)))
        // Of each range anew: a source with bad bytes here may have good ones elsewhere.
        return try await decoder.bytes(
            of: Chunk(geometry, index: order.index, range: damaged.range),
            of: BlockWork(damaged.block, goal, order.coding, endsWithSources: false))
    }
}
