import Bytes
import ErasureCode
import Model
import Reactor
import Transport
import Wire

/// What a look at one replica of a block found.
public struct ReplicaFinding: Hashable, Sendable {
    public enum State: String, Hashable, Sendable {
        /// All bytes that the key has of it are there and match their checksums.
        case whole
        /// No byte of the block falls to it.
        case empty
        /// It ends before the key does.
        case short
        /// Its node has no such block, or not the container's replica.
        case missing
        /// Bytes do not match their checksums.
        case corrupt
        /// Its node does not answer, or cannot say now.
        case unreachable
        /// There is no node for it.
        case unplaced
    }

    /// From 1.
    public var index: Int
    public var node: DatanodeAddress?
    public var state: State
    /// Bytes that were read and match their checksums.
    public var bytes = 0
    /// What is wrong, in words.
    public var detail = ""

    public var isWhole: Bool { state == .whole || state == .empty }
}

/// What a look at all replicas of a block group found.
public struct GroupFinding: Hashable, Sendable {
    public var block: BlockID
    public var replication: ReplicationConfig
    /// User bytes.
    public var length: Int
    /// By index.
    public var replicas: [ReplicaFinding]
    public var stripes: Int
    /// Stripes whose data cells were all read, so that parity could be computed and compared.
    public var stripesCompared = 0
    /// Stripes, from 0, of which a parity cell is not what the data cells make it.
    public var disagreeing: [Int] = []

    public var isWhole: Bool { replicas.allSatisfy(\.isWhole) && disagreeing.isEmpty }
    /// Replicas that may still be lost before bytes are; below 0: bytes cannot be read now.
    public var spare: Int { replication.redundancy - replicas.count { !$0.isWhole } }
}

/// Reads every replica of a block group and compares parity with data: what no reader of a key
/// does, as long as the data is there.
struct GroupVerifier {
    enum Limits {
        static let patience = DatanodeClient.Limits.readTimeout
    }

    private let group: BlockGroup
    private let nodes: [DatanodeAddress?]
    private let codec: Codec
    private let client: DatanodeClient
    private let reactor: Reactor
    private let geometry: StripeGeometry

    /// - Parameters:
    ///   - nodes: where the replicas are by now.
    ///   - codec: of the group's own coding.
    init(
        _ group: BlockGroup, at nodes: [DatanodeAddress?], codec: Codec, client: DatanodeClient,
        on reactor: Reactor
    ) {
        self.group = group
        self.nodes = nodes
        self.codec = codec
        self.client = client
        self.reactor = reactor
        geometry = StripeGeometry(codec.coding, groupLength: group.length)
    }

    /// Reads one stripe after the other.
    func verify() async -> GroupFinding {
        var finding = GroupFinding(
            block: group.blockID, replication: group.replication, length: group.length,
            replicas: await lookUp(), stripes: geometry.stripeCount)
        for stripe in 0..<geometry.stripeCount {
            let cells = await read(stripe, of: &finding.replicas)
            guard let agrees = compare(stripe, cells) else { continue }
            finding.stripesCompared += 1
            if !agrees { finding.disagreeing.append(stripe) }
        }
        return finding
    }

    /// What the nodes say of their replicas, by place.
    private func lookUp() async -> [ReplicaFinding] {
        await withTaskGroup(of: ReplicaFinding.self) { tasks in
            for place in nodes.indices {
                tasks.addTask(executorPreference: reactor) { await self.lookUp(place) }
            }
            return await tasks.reduce(into: [ReplicaFinding]()) { $0.append($1) }
                .sorted { $0.index < $1.index }
        }
    }

    private func lookUp(_ place: Int) async -> ReplicaFinding {
        let wanted = geometry.replicaLength(index: place + 1)
        var finding = ReplicaFinding(
            index: place + 1, node: nodes[place], state: wanted == 0 ? .empty : .whole)
        guard let node = nodes[place] else {
            if wanted > 0 { finding.state = .unplaced }
            return finding
        }
        do throws(StoreError) {
            let found = try await client.block(
                DatanodeClient.Replica(of: group, at: place), from: node, on: reactor)
            if found.length < wanted {
                finding.state = .short
                finding.detail = "it has \(found.length) bytes of \(wanted)"
            }
        } catch {
            if wanted > 0 { finding.note(error) }
        }
        return finding
    }

    /// The cells of a stripe, by place; nil of those that cannot be had, which is noted.
    private func read(_ stripe: Int, of replicas: inout [ReplicaFinding]) async -> [Payload?] {
        let empty = reactor.pool.allocate(1)
        let results = await withTaskGroup(of: (Int, Result<Payload, StoreError>).self) { tasks in
            for place in nodes.indices {
                let count = geometry.cellLength(stripe: stripe, cell: place)
                guard let node = nodes[place], replicas[place].isWhole, count > 0 else { continue }
                tasks.addTask(executorPreference: reactor) {
                    (place, await self.read(stripe, place, count, from: node))
                }
            }
            return await tasks.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
        return nodes.indices.map { place in
            switch results[place] {
            case .success(let cell):
                replicas[place].bytes += cell.count
                return cell
            case .failure(let error):
                replicas[place].note(error)
                return nil
            case nil:
                let isEmpty = geometry.cellLength(stripe: stripe, cell: place) == 0
                return isEmpty ? Payload(empty, 0..<0) : nil
            }
        }
    }

    private func read(
        _ stripe: Int, _ place: Int, _ count: Int, from node: DatanodeAddress
    ) async -> Result<Payload, StoreError> {
        let start = stripe * codec.coding.cellSize
        do throws(StoreError) {
            return .success(
                try await client.read(
                    DatanodeClient.Replica(of: group, at: place), start..<start + count,
                    from: node, on: reactor, patience: Limits.patience))
        } catch { return .failure(error) }
    }

    /// Whether the parity cells that were read are those of the data cells; nil where a data cell,
    /// or all parity, is wanting.
    private func compare(_ stripe: Int, _ cells: [Payload?]) -> Bool? {
        let coding = codec.coding
        let data = cells[..<coding.data].compactMap(\.self)
        guard data.count == coding.data, cells[coding.data...].contains(where: { $0 != nil })
        else { return nil }
        let count = geometry.cellLength(stripe: stripe, cell: 0)
        let parity = (0..<coding.parity).map { _ in reactor.pool.allocate(count) }
        codec.encode(
            data: data.map {
                UnsafeRawBufferPointer($0.buffer.bytes(in: $0.offset..<$0.offset + $0.count))
            },
            parity: parity.map { $0.bytes(in: 0..<count) })
        withExtendedLifetime(data) {}
        return zip(cells[coding.data...], parity).allSatisfy { found, computed in
            guard let found else { return true }
            return found.withBytes {
                $0.elementsEqual(UnsafeRawBufferPointer(computed.bytes(in: 0..<count)))
            }
        }
    }
}

extension ReplicaFinding {
    fileprivate mutating func note(_ error: StoreError) {
        state =
            switch error.code {
            case .noSuchBlock, .noSuchContainer: .missing
            case .corrupt: .corrupt
            default: .unreachable
            }
        detail = error.message
    }
}
