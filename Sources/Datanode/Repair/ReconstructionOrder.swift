import ErasureCode
import Model
import Wire

/// SCM's order to make a replica from others: what is asked for, and where the others are.
struct ReconstructionOrder: Hashable, Sendable {
    /// A whole, closed replica of another index, or of the same one.
    struct Source: Hashable, Sendable {
        var index: Int
        var node: DatanodeAddress
        /// Some of it is known to be bad.
        var isDamaged = false

        /// By index, each index once; a source without an address is none. Throws `badRequest` for an
        /// index that `replication` does not have.
        static func all(
            _ messages: [SCMDatanodeCommand.Reconstruct.Source], of replication: ReplicationConfig
        ) throws(StoreError) -> [Self] {
            var found: [Int: Self] = [:]
            for message in messages {
                let index = Int(message.replicaIndex)
                guard (1...replication.width).contains(index) else {
                    throw StoreError(
                        .badRequest, "a source of \(replication) has the index \(index)")
                }
                guard let node = try DatanodeAddress(message.node) else { continue }
                found[index] = Self(index: index, node: node, isDamaged: message.isDamaged)
            }
            return found.values.sorted { $0.index < $1.index }
        }
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
    /// A damaged replica of this index may be there, and gives way.
    var replaces: Bool

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
        sources = try Source.all(message.sources, of: replication)
        replaces = message.replaces
        emptyIndexes = Set(message.emptyIndexes.map { Int($0) })
    }

    var name: String { "replica \(index) of container \(container) (order \(token))" }
}
