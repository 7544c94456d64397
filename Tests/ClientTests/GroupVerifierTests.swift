import Bytes
import Checksum
import ErasureCode
import Model
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import Client

/// A datanode that has a replica of one block, or part of it, or one that is damaged.
private final class FakeBlock: RPCHandler {
    private let bytes: [UInt8]
    private let error: StoreError?
    private let isDamaged: Bool
    let classes = Mutex<Set<IOClass>>([])

    init(_ bytes: [UInt8], error: StoreError? = nil, isDamaged: Bool = false) {
        self.bytes = bytes
        self.error = error
        self.isDamaged = isDamaged
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        classes.withLock { _ = $0.insert(request.context.ioClass) }
        if let error { throw error }
        if request.method == DatanodeMethod.block.rawValue {
            var response = DNBlockResponse()
            response.length = UInt64(bytes.count)
            return RPCReply(response.encoded)
        }
        let read = try DNReadBlockRequest(parsing: request.message)
        let wanted = Array(bytes[Int(read.offset)..<Int(read.offset + read.length)])
        var response = DNReadBlockResponse()
        response.offset = read.offset
        response.checksums = wanted.withUnsafeBytes { CRC32C.ofUnits($0) }
        if isDamaged { response.checksums[0] ^= 1 }
        return RPCReply(response.encoded, payload: Payload(copying: wanted, pool: .process))
    }
}

@Suite("verifying block groups", .timeLimit(.minutes(10)))
struct GroupVerifierTests {
    private let coding: ErasureCoding

    init() throws { coding = try ErasureCoding("rs-3-2-64k") }

    /// The replicas of a group of `length` bytes.
    private func replicas(_ length: Int) -> [[UInt8]] {
        let geometry = StripeGeometry(coding, groupLength: length)
        let codec = ScalarCodec(coding)
        var replicas = [[UInt8]](repeating: [], count: coding.width)
        for stripe in 0..<geometry.stripeCount {
            let data = (0..<coding.data).map { cell in
                (0..<geometry.cellLength(stripe: stripe, cell: cell)).map {
                    UInt8(truncatingIfNeeded: $0 &* 31 &+ cell &* 7 &+ stripe)
                }
            }
            for (index, cell) in (data + codec.encode(data)).enumerated() {
                replicas[index] += cell
            }
        }
        return replicas
    }

    private func verify(
        _ length: Int, _ nodes: [FakeBlock?]
    ) async throws -> GroupFinding {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let channels = ChannelPool(name: "test")
        var addresses: [DatanodeAddress?] = []
        for (place, node) in nodes.enumerated() {
            guard let node else {
                addresses.append(nil)
                continue
            }
            let address = DatanodeAddress(
                id: Identity128(high: 0, low: UInt64(place + 1)), host: "fake", port: place + 1)
            channels.register(node, host: "fake", port: place + 1)
            addresses.append(address)
        }
        let group = BlockGroup(
            blockID: BlockID(containerID: ContainerID(3), localID: 1),
            replication: .erasureCoded(coding), length: length, nodes: addresses)
        var client = DatanodeClient(
            channels: channels, health: NodeHealth(), window: TransferWindow(bytes: 1 << 20),
            onRefusal: { _ in })
        client.context = .scrub
        let verifier = GroupVerifier(
            group, at: addresses, codec: Codec(coding), client: client, on: reactor)
        return await Task(executorPreference: reactor) { await verifier.verify() }.value
    }

    @Test("whole replicas are whole, in the last short stripe too, and are read as a scrub reads")
    func whole() async throws {
        let length = 2 * coding.stripeSize + (64 << 10) + 5000
        let nodes = replicas(length).map { FakeBlock($0) }
        let finding = try await verify(length, nodes)
        #expect(finding.isWhole && finding.spare == 2)
        #expect(finding.replicas.map(\.state) == Array(repeating: .whole, count: 5))
        #expect(finding.stripes == 3 && finding.stripesCompared == 3)
        #expect(finding.replicas.map(\.bytes) == replicas(length).map(\.count))
        #expect(nodes.allSatisfy { $0.classes.withLock { $0 } == [.scrub] })
    }

    @Test("what is lost, short, damaged, silent or nowhere is named, and the rest is verified")
    func broken() async throws {
        let length = 2 * coding.stripeSize
        let bytes = replicas(length)
        let finding = try await verify(
            length,
            [
                FakeBlock(bytes[0], error: StoreError(.noSuchBlock, "it was deleted")),
                FakeBlock(Array(bytes[1][..<70_000])), FakeBlock(bytes[2], isDamaged: true),
                FakeBlock(bytes[3], error: StoreError(.notReady, "it is being rebuilt")), nil,
            ])
        #expect(
            finding.replicas.map(\.state) == [.missing, .short, .corrupt, .unreachable, .unplaced])
        #expect(finding.replicas[0].detail == "it was deleted")
        #expect(finding.replicas[1].detail == "it has 70000 bytes of 131072")
        #expect(!finding.isWhole && finding.spare == -3)
        #expect(finding.stripesCompared == 0)
    }

    @Test("parity that matches its checksums and not the data is found, though others are lost")
    func disagreeing() async throws {
        let length = 2 * coding.stripeSize
        var bytes = replicas(length)
        bytes[4][(64 << 10) + 17] ^= 1
        var nodes = bytes.map { FakeBlock?.some(FakeBlock($0)) }
        nodes[3] = nil
        let finding = try await verify(length, nodes)
        #expect(finding.stripesCompared == 2 && finding.disagreeing == [1])
        #expect(!finding.isWhole && finding.spare == 1)
    }

    @Test("a replica that no byte falls to may be there or not")
    func empty() async throws {
        let bytes = replicas(100)
        let gone = StoreError(.noSuchContainer, "there is none")
        let finding = try await verify(
            100,
            [
                FakeBlock(bytes[0]), FakeBlock(bytes[1]), FakeBlock([], error: gone),
                FakeBlock(bytes[3]), FakeBlock(bytes[4]),
            ])
        #expect(finding.isWhole && finding.stripesCompared == 1)
        #expect(finding.replicas.map(\.state) == [.whole, .empty, .empty, .whole, .whole])
    }
}
