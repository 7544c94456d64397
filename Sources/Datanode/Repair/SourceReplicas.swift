import Bytes
import Model
import Reactor
import Synchronization
import Transport
import Wire

/// The replicas that another one is rebuilt from: asked in the class `repair`, and remembered where
/// they gave no answer.
///
/// Thread-safe.
final class SourceReplicas: Sendable {
    enum Limits {
        /// How long an answer is waited for: reads of this class give way to clients.
        static let patience = Duration.seconds(30)
        /// Times that a source with too much to do is asked again.
        static let repetitions = 5
        /// Before the first of them; each waits twice as long as the last.
        static let pause = Duration.milliseconds(100)
    }

    private struct State {
        /// Why a source is asked no more.
        var failures: [Int: StoreError] = [:]
        var bytesRead = 0
    }

    private let container: ContainerID
    private let nodes: [Int: DatanodeAddress]
    /// Indexes of those of which some is known to be bad: asked where the others do not suffice.
    let damaged: Set<Int>
    private let channels: ChannelPool
    private let reactor: Reactor
    private let state = Mutex(State())

    /// - Parameter sources: each index once.
    init(
        of container: ContainerID, _ sources: [ReconstructionOrder.Source], channels: ChannelPool,
        on reactor: Reactor
    ) {
        self.container = container
        nodes = Dictionary(uniqueKeysWithValues: sources.map { ($0.index, $0.node) })
        damaged = Set(sources.filter(\.isDamaged).map(\.index))
        self.channels = channels
        self.reactor = reactor
    }

    /// Indexes of those that have not failed.
    var usable: Set<Int> {
        state.withLock { state in Set(nodes.keys.filter { state.failures[$0] == nil }) }
    }

    var bytesRead: Int { state.withLock { $0.bytesRead } }

    /// Asks the source `index` for nothing more.
    func giveUp(_ index: Int, _ error: StoreError) {
        state.withLock { if $0.failures[index] == nil { $0.failures[index] = error } }
    }

    /// Why each source is not used any more, for a message.
    var troubles: String {
        let failures = state.withLock { $0.failures }.sorted { $0.key < $1.key }
        if failures.isEmpty { return "no source failed" }
        return failures.map { index, error in
            "index \(index) (\(nodes[index]?.description ?? "nowhere")): \(error.message)"
        }.joined(separator: "; ")
    }

    /// A page of the blocks of the source `index` behind the local ID `after`.
    func blocks(
        of index: Int, after: UInt64
    ) async throws(StoreError) -> BlockMerge.Page {
        var request = DNListBlocksRequest()
        request.container = container.rawValue
        request.replicaIndex = UInt32(index)
        request.after = after
        let reply = try await call(index, .listBlocks, request.encoded)
        let response = try DNListBlocksResponse(parsing: reply.message)
        return BlockMerge.Page(
            entries: response.blocks.map {
                BlockMerge.Entry(
                    localID: $0.local, length: Int(clamping: $0.length),
                    groupLength: Int(clamping: $0.groupLength), isEnded: $0.isEnded)
            }, hasMore: response.hasMore_p)
    }

    /// Reads `range` of a block replica, and verifies it against the checksums that it was written
    /// with.
    func read(
        _ block: BlockID, of index: Int, _ range: Range<Int>
    ) async throws(StoreError) -> Payload {
        let request = DNReadBlockRequest(block, index: index, range)
        let reply = try await call(
            index, .readBlock, request.encoded,
            expecting: DNReadBlockRequest.answerBytes(range))
        let bytes = try DNReadBlockResponse(parsing: reply.message).bytes(
            of: range, in: reply.payload, block, from: "replica \(index)")
        state.withLock { $0.bytesRead += range.count }
        return bytes
    }

    private func call(
        _ index: Int, _ method: DatanodeMethod, _ message: [UInt8], expecting: Int = 0
    ) async throws(StoreError) -> RPCReply {
        guard let node = nodes[index] else {
            preconditionFailure("a source is asked that the order does not name")
        }
        var pause = Limits.pause
        for _ in 0..<Limits.repetitions {
            do throws(StoreError) {
                return try await channels.channel(to: node, on: reactor).call(
                    method.rawValue, message, expecting: expecting, timeout: Limits.patience,
                    context: .repair)
            } catch {
                guard error.code == .overloaded else { throw error }
            }
            do throws(CancellationError) { try await reactor.sleep(for: pause) } catch {
                throw StoreError(.cancelled, "the rebuilding was ended")
            }
            pause = pause * 2
        }
        throw StoreError(.overloaded, "\(node) has had too much to do for long")
    }
}
