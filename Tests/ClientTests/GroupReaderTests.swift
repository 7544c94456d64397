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

/// A datanode that has one replica of a container.
private final class FakeReplica: RPCHandler {
    let index: UInt32
    let bytes: [UInt8]
    let asked = Mutex<[DNReadBlockRequest]>([])

    init(index: UInt32, bytes: [UInt8]) {
        self.index = index
        self.bytes = bytes
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        let read = try DNReadBlockRequest(parsing: request.message)
        asked.withLock { $0.append(read) }
        guard read.replicaIndex == index else {
            throw StoreError(.noSuchContainer, "another replica is here")
        }
        var response = DNReadBlockResponse()
        response.checksums = bytes.withUnsafeBytes { CRC32C.ofUnits($0) }
        return RPCReply(response.encoded, payload: Payload(copying: bytes, pool: .process))
    }
}

@Suite("reading block groups", .timeLimit(.minutes(10)))
struct GroupReaderTests {
    @Test("a replica that is not where it was thought to be is asked for once, and read there")
    func stalePlace() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let coding = try ErasureCoding("rs-3-2-64k")
        let bytes = [UInt8](repeating: 9, count: 4096)
        let channels = ChannelPool(name: "test")
        func address(_ number: UInt64) -> DatanodeAddress {
            DatanodeAddress(
                id: Identity128(high: 0, low: number), host: "fake", port: Int(number))
        }
        // Another replica has come where the first one was; that is on node 9 by now.
        let stranger = FakeReplica(index: 4, bytes: [UInt8](repeating: 1, count: 4096))
        let moved = FakeReplica(index: 1, bytes: bytes)
        channels.register(stranger, host: "fake", port: 1)
        channels.register(moved, host: "fake", port: 9)
        var nodes = (1...5).map { DatanodeAddress?.some(address($0)) }
        var group = BlockGroup(
            blockID: BlockID(containerID: ContainerID(3), localID: 1),
            replication: .erasureCoded(coding), length: 4096, nodes: nodes)
        group.token = [1, 2, 3]
        nodes[0] = address(9)
        let fresh = nodes
        let located = Mutex(0)
        let client = DatanodeClient(
            channels: channels, health: NodeHealth(), window: TransferWindow(bytes: 1 << 20),
            onRefusal: { _ in })
        let reader = GroupReader(
            group, codec: Codec(coding), client: client, on: reactor,
            locate: { id in
                located.withLock { $0 += 1 }
                return id == ContainerID(3) ? fresh : nil
            }, reportCorrupt: { _, _, _, _ in })
        for _ in 0..<2 {
            let found = try await Task(executorPreference: reactor) {
                try await reader.read(reader.stripes(in: 0..<4096)[0])
            }.value
            #expect(found.flatMap { $0.withBytes { Array($0) } } == bytes)
        }
        #expect(located.withLock { $0 } == 1)
        #expect(stranger.asked.withLock { $0.map(\.replicaIndex) } == [1])
        #expect(moved.asked.withLock { $0.map { Array($0.token) } } == [[1, 2, 3], [1, 2, 3]])
    }

    @Test("replicas that were rebuilt elsewhere are found when too few are left where they were")
    func rebuiltElsewhere() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let coding = try ErasureCoding("rs-3-2-64k")
        let channels = ChannelPool(name: "test")
        func address(_ number: UInt64) -> DatanodeAddress {
            DatanodeAddress(
                id: Identity128(high: 0, low: number), host: "fake", port: Int(number))
        }
        let data = (1...3).map { [UInt8](repeating: UInt8($0), count: 64 << 10) }
        // Those on nodes 1 to 4 died with them, one was never placed; three are elsewhere by now.
        for number in 1...3 {
            channels.register(
                FakeReplica(index: UInt32(number), bytes: data[number - 1]), host: "fake",
                port: 10 + number)
        }
        let group = BlockGroup(
            blockID: BlockID(containerID: ContainerID(3), localID: 1),
            replication: .erasureCoded(coding), length: 3 * 64 << 10,
            nodes: (1...4).map { address($0) } + [nil])
        let fresh = (11...13).map { DatanodeAddress?.some(address($0)) } + [nil, nil]
        let client = DatanodeClient(
            channels: channels, health: NodeHealth(), window: TransferWindow(bytes: 1 << 20),
            onRefusal: { _ in })
        let located = Mutex(0)
        let reader = GroupReader(
            group, codec: Codec(coding), client: client, on: reactor,
            locate: { _ in
                located.withLock { $0 += 1 }
                try? await reactor.sleep(for: .milliseconds(50))
                return fresh
            }, reportCorrupt: { _, _, _, _ in })
        // Two at a time: the second waits for the answer that the first has asked for.
        let reads = (0..<2).map { _ in
            Task(executorPreference: reactor) {
                try await reader.read(reader.stripes(in: 0..<3 * 64 << 10)[0])
            }
        }
        for read in reads {
            #expect(try await read.value.map { $0.withBytes { Array($0) } } == data)
        }
        #expect(located.withLock { $0 } == 1)
    }
}
