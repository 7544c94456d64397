import Bytes
import Checksum
import ErasureCode
import FoundationEssentials
import Model
import Reactor
import Transport
import Wire

/// Typed calls to datanodes.
struct DatanodeClient: Sendable {
    enum Limits {
        /// How long a write of one cell may take before its node counts as failed, where nothing
        /// can be done without it. A writer that has another place gives it up when it is late.
        static let writeTimeout = Duration.seconds(20)
        static let readTimeout = Duration.seconds(15)
    }

    let channels: ChannelPool
    let health: NodeHealth
    let window: TransferWindow
    /// For whom its calls are.
    var context = IOContext.client
    /// Told of each container that would not take a block.
    let onRefusal: @Sendable (ContainerID) -> Void

    /// One cell on its way to a datanode.
    struct Cell: Sendable {
        var block: BlockID
        var replication: ReplicationConfig
        var replicaIndex: Int
        var offset: Int
        var payload: Payload?
        var checksums: [UInt32]
        var groupLength: Int
        var isEnd: Bool
        /// To make the replica; 0: there is one, or none may be made.
        var permission: UInt64
        var token: [UInt8]
    }

    /// A replica of a block, as a reader knows it.
    struct Replica: Sendable {
        var block: BlockID
        /// From 1.
        var index: Int
        var token: [UInt8]

        init(of group: BlockGroup, at place: Int) {
            block = group.blockID
            index = place + 1
            token = group.token
        }
    }

    /// Writes a cell; returns the durable length of the block replica.
    func write(
        _ cell: Cell, to node: DatanodeAddress, on reactor: Reactor
    ) async throws(StoreError) -> Int {
        var request = DNWriteCellRequest()
        request.block = cell.block.message
        request.replication = cell.replication.message
        request.replicaIndex = UInt32(cell.replicaIndex)
        request.offset = UInt64(cell.offset)
        request.checksums = cell.checksums
        request.groupLength = UInt64(cell.groupLength)
        request.endOfBlock = cell.isEnd
        request.mayCreate = cell.permission
        request.token = .octets(cell.token)
        let start = reactor.now()
        let reply = try await channels.channel(to: node, on: reactor).call(
            DatanodeMethod.writeCell.rawValue, request.encoded, payload: cell.payload,
            timeout: Limits.writeTimeout, context: context)
        let end = reactor.now()
        health.wrote(node.id, in: end.nanoseconds - start.nanoseconds, at: end)
        let durable = try DNWriteCellResponse(parsing: reply.message).durableLength
        guard durable <= UInt64(ReplicationConfig.blockSize) else {
            throw StoreError(
                .badRequest,
                "\(node) says that \(durable) bytes of \(cell.block) are durable: a block has at "
                    + "most \(ReplicationConfig.blockSize)")
        }
        return Int(durable)
    }

    /// Reads `range` of a block replica. The answer is verified against the checksums that came
    /// with it: bytes that were damaged on the way are an error `corrupt`.
    /// - Parameter patience: how long to wait; then `deadlineExceeded`.
    func read(
        _ replica: Replica, _ range: Range<Int>, from node: DatanodeAddress,
        on reactor: Reactor, patience: Duration
    ) async throws(StoreError) -> Payload {
        let request = DNReadBlockRequest(
            replica.block, index: replica.index, range, token: replica.token)
        let start = reactor.now()
        let reply: RPCReply
        do throws(StoreError) {
            reply = try await channels.channel(to: node, on: reactor).call(
                DatanodeMethod.readBlock.rawValue, request.encoded,
                expecting: DNReadBlockRequest.answerBytes(range),
                timeout: min(patience, Limits.readTimeout), context: context)
        } catch {
            health.readFailed(
                node.id, error.code, isPatient: patience >= Limits.readTimeout,
                at: reactor.now())
            throw error
        }
        let end = reactor.now()
        health.answered(node.id, in: end.nanoseconds - start.nanoseconds, at: end)
        return try DNReadBlockResponse(parsing: reply.message).bytes(
            of: range, in: reply.payload, replica.block, from: node)
    }

    /// What a node knows of a block replica, as far as it is durable.
    func block(
        _ replica: Replica, from node: DatanodeAddress, on reactor: Reactor
    ) async throws(StoreError) -> (length: Int, groupLength: Int, isEnded: Bool) {
        var request = DNBlockRequest()
        request.block = replica.block.message
        request.replicaIndex = UInt32(replica.index)
        request.token = .octets(replica.token)
        let reply = try await channels.channel(to: node, on: reactor).call(
            DatanodeMethod.block.rawValue, request.encoded, timeout: Limits.readTimeout,
            context: context)
        let response = try DNBlockResponse(parsing: reply.message)
        return (
            Int(clamping: response.length), Int(clamping: response.groupLength), response.isEnded
        )
    }

    /// A page of what a container replica holds, by local ID: at most `limit` blocks behind
    /// `localID`, and whether there are more.
    func listBlocks(
        in container: ContainerID, replicaIndex: Int, after localID: UInt64 = 0,
        limit: Int = 0, token: [UInt8] = [], from node: DatanodeAddress, on reactor: Reactor
    ) async throws(StoreError) -> (blocks: [DNListBlocksResponse.Entry], hasMore: Bool) {
        var request = DNListBlocksRequest()
        request.container = container.rawValue
        request.replicaIndex = UInt32(replicaIndex)
        request.after = localID
        request.limit = UInt32(limit)
        request.token = .octets(token)
        let reply = try await channels.channel(to: node, on: reactor).call(
            DatanodeMethod.listBlocks.rawValue, request.encoded, timeout: Limits.readTimeout,
            context: context)
        let response = try DNListBlocksResponse(parsing: reply.message)
        return (response.blocks, response.hasMore_p)
    }
}
