import ErasureCode
import Model
import Wire

/// SCM's order to make a replica from others: what is asked for, and where the others are.
struct ReconstructionOrder: Hashable, Sendable {
    /// A whole, closed replica of another index, or of the same one.
    struct Source: Hashable, Sendable {
        var index: Int
        var node: DatanodeAddress
    }

    var container: ContainerID
    var replication: ReplicationConfig
    var coding: ErasureCoding
    /// Of the replica to be made, from 1.
    var index: Int
    /// Names the order; a later one has a greater token.
    var token: UInt64
    /// By index, each index once.
    var sources: [Source]
    /// Indexes that no byte of any block fell to: they have no replica.
    var emptyIndexes: Set<Int>

    /// Throws `badRequest` or `invalidArgument` where the order makes no sense, `unsupported` where
    /// the container holds whole copies.
    init(_ message: SCMDatanodeCommand.Reconstruct) throws(StoreError) {
        container = ContainerID(message.container)
        replication = try ReplicationConfig(message.replication)
        coding = try replication.erasureCoding()
        let width = coding.width
        index = Int(message.replicaIndex)
        token = message.token
        guard (1...width).contains(index), token != 0 else {
            throw StoreError(
                .badRequest,
                "an order names itself by a token that is not 0, and one of the indexes 1 to "
                    + "\(width) of \(replication), not \(index) by \(token)")
        }
        var found: [Int: Source] = [:]
        for source in message.sources {
            let index = Int(source.replicaIndex)
            guard (1...width).contains(index) else {
                throw StoreError(
                    .badRequest, "a source of \(replication) has the index \(index)")
            }
            guard let node = try DatanodeAddress(source.node) else { continue }
            found[index] = Source(index: index, node: node)
        }
        sources = found.values.sorted { $0.index < $1.index }
        emptyIndexes = Set(message.emptyIndexes.map { Int($0) })
    }

    var name: String { "replica \(index) of container \(container) (order \(token))" }
}
