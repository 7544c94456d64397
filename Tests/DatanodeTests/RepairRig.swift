import Bytes
import Checksum
import ContainerStore
import ErasureCode
import Eventually
import Foundation
import Logging
import Model
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import Datanode

/// Passes requests on to a datanode; holds its reads back when it is told to, and notes them.
final class Gate: RPCHandler {
    private struct State {
        var handler: (any RPCHandler)?
        var reads = 0
        var classes: Set<UInt8> = []
        /// Reads that are let through; nil: all.
        var left: Int?
        var waiting: [CheckedContinuation<Void, Never>] = []
    }
    private let state = Mutex(State())

    func lead(to handler: any RPCHandler) { state.withLock { $0.handler = handler } }

    var reads: Int { state.withLock { $0.reads } }
    var classes: Set<UInt8> { state.withLock { $0.classes } }
    var isHolding: Bool { state.withLock { !$0.waiting.isEmpty } }

    /// Holds all reads back but the next `count`.
    func close(after count: Int) { state.withLock { $0.left = count } }

    func open() {
        let waiting = state.withLock { state in
            state.left = nil
            defer { state.waiting = [] }
            return state.waiting
        }
        for waiter in waiting { waiter.resume() }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let handler = state.withLock({ $0.handler }) else {
            throw StoreError(.notReady, "nobody serves")
        }
        if request.method == DatanodeMethod.readBlock.rawValue {
            let isHeld = state.withLock { state in
                state.reads += 1
                state.classes.insert(request.context.ioClass.rawValue)
                guard let left = state.left else { return false }
                state.left = max(left - 1, 0)
                return left == 0
            }
            if isHeld { await hold() }
        }
        return try await handler.handle(request)
    }

    private func hold() async {
        await withCheckedContinuation { waiter in
            let isClosed = state.withLock { state in
                if state.left != nil { state.waiting.append(waiter) }
                return state.left != nil
            }
            if !isClosed { waiter.resume() }
        }
    }
}

/// A datanode of a rig, and the SCM that it reports to.
final class RepairNode {
    let directory: String
    let scm = FakeSCM()
    let gate = Gate()
    private(set) var datanode: Datanode
    private(set) var port = 0
    private let reactor: Reactor

    init(_ directory: String, on reactor: Reactor) async throws {
        self.directory = directory
        self.reactor = reactor
        datanode = try await Self.open(directory, scm, reactor)
        try serve()
    }

    private static func open(
        _ directory: String, _ scm: FakeSCM, _ reactor: Reactor
    ) async throws -> Datanode {
        var options = Datanode.Options(
            host: "127.0.0.1", port: 0, volumes: [directory + "/volume"],
            metadataDirectory: directory + "/node")
        options.reconstructionRetryDelay = .milliseconds(100)
        options.store.reservedBytes = 0
        options.store.extentBytes = 1 << 20
        let clients = try SCMClients(["127.0.0.1:1"]) { _ throws(StoreError) in
            SCMClient(RPCChannel(.local(scm), name: "datanode", on: reactor))
        }
        return try await Datanode.open(
            options, scms: clients, reactors: [reactor], random: SystemRandomNumberGenerator(),
            logger: Logger(label: "test"))
    }

    private func serve() throws {
        gate.lead(to: datanode)
        port = try datanode.start(reactors: [reactor], serving: gate)
    }

    func restart() async throws {
        try await datanode.close()
        datanode = try await Self.open(directory, scm, reactor)
        try serve()
    }

    var store: ContainerStore { datanode.store }

    var address: DatanodeAddress {
        DatanodeAddress(
            id: datanode.id, host: "127.0.0.1", port: port, rack: "/default-rack")
    }

    func order(_ commands: [SCMDatanodeCommand]) {
        scm.state.withLock { $0.commands = commands }
    }
}

/// A block as the tests write it: what each replica gets of it.
struct SampleBlock {
    let localID: UInt64
    /// User bytes.
    let bytes: [UInt8]
    var isEnded = true
    /// Whether indexes that no byte falls to are told of it.
    var isToldToEmpty = false
    /// User bytes that each index has got of it, where that is not all; nil: it has no record.
    var reached: [Int: Int?] = [:]

    /// The bytes of the block replica `index` when the group has `length` bytes.
    func replica(_ index: Int, _ length: Int, _ codec: Codec) -> [UInt8] {
        let coding = codec.coding
        var replica: [UInt8] = []
        for start in stride(from: 0, to: length, by: coding.stripeSize) {
            let stripe = Array(bytes[start..<min(start + coding.stripeSize, length)])
            let data = (0..<coding.data).map { cell in
                Array(
                    stripe[
                        min(
                            cell * coding.cellSize, stripe.count)..<min(
                                (cell + 1) * coding.cellSize, stripe.count)])
            }
            if index <= coding.data {
                replica += data[index - 1]
                continue
            }
            let inputs = data.map { AlignedBytes($0) }
            let parity = (0..<coding.parity).map { _ in
                AlignedBytes([UInt8](repeating: 0, count: data[0].count))
            }
            codec.encode(data: inputs.map(\.raw), parity: parity.map(\.bytes))
            replica += Array(parity[index - 1 - coding.data].raw)
            withExtendedLifetime((inputs, parity)) {}
        }
        return replica
    }
}

/// Bytes that stay where they are.
final class AlignedBytes {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ values: [UInt8]) {
        bytes = .allocate(byteCount: max(values.count, 1), alignment: 64)
        bytes.copyBytes(from: values)
        count = values.count
    }
    private let count: Int
    var raw: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[0..<count]) }
    deinit { bytes.deallocate() }
}

/// Datanodes with the replicas of a closed container, one for each index, and one without.
final class RepairRig {
    let container = ContainerID(5)
    let replication: ReplicationConfig
    let codec: Codec
    let blocks: [SampleBlock]
    let nodes: [RepairNode]
    let target: RepairNode
    private let directory: String
    private let reactor: Reactor

    init(_ blocks: [SampleBlock], as notation: String = "rs-3-2-64k") async throws {
        replication = try ReplicationConfig(notation)
        codec = Codec(try replication.erasureCoding())
        self.blocks = blocks
        directory =
            FileManager.default.temporaryDirectory
            .appendingPathComponent("apus-repair-\(UUID().uuidString)").path
        reactor = try Reactor.start()
        var nodes: [RepairNode] = []
        for number in 1...codec.coding.width {
            nodes.append(try await RepairNode("\(directory)/n\(number)", on: reactor))
        }
        self.nodes = nodes
        target = try await RepairNode("\(directory)/target", on: reactor)
        for index in 1...codec.coding.width { try await write(index) }
    }

    /// Writes a replica of the container as clients do, and closes it.
    private func write(_ index: Int) async throws {
        let store = nodes[index - 1].store
        try await store.createContainer(
            container, replication: replication, replicaIndex: index)
        for block in blocks {
            let reached = block.reached[index] ?? block.bytes.count
            guard let length = reached else { continue }
            let bytes = block.replica(index, length, codec)
            let isOneStripe = length < codec.coding.stripeSize
            if bytes.isEmpty, isOneStripe, !block.isToldToEmpty { continue }
            let isEnded = block.isEnded && length == block.bytes.count
            let cell = codec.coding.cellSize
            var start = 0
            repeat {
                let part = Array(bytes[start..<min(start + cell, bytes.count)])
                let isLast = start + part.count == bytes.count
                try await store.append(
                    CellAppend(
                        block: BlockID(containerID: container, localID: block.localID),
                        replicaIndex: index, replication: replication, offset: start,
                        payload: Payload(copying: part, pool: .process),
                        checksums: part.withUnsafeBytes { CRC32C.ofUnits($0) },
                        groupLength: isLast
                            ? length : (start / cell + 1) * codec.coding.stripeSize,
                        endOfBlock: isLast && isEnded))
                start += part.count
            } while start < bytes.count
        }
        try await store.closeContainer(container)
    }

    func reconstruct(
        _ index: Int, token: UInt64, from sources: some Sequence<Int>, empty: [Int] = []
    ) -> SCMDatanodeCommand {
        var command = SCMDatanodeCommand()
        command.reconstruct.container = container.rawValue
        command.reconstruct.replication = replication.message
        command.reconstruct.replicaIndex = UInt32(index)
        command.reconstruct.token = token
        command.reconstruct.sources = sources.map { source in
            var message = SCMDatanodeCommand.Reconstruct.Source()
            message.replicaIndex = UInt32(source)
            message.node = nodes[source - 1].address.message
            return message
        }
        command.reconstruct.emptyIndexes = empty.map { UInt32($0) }
        return command
    }

    func remove(_ index: Int, token: UInt64) -> SCMDatanodeCommand {
        var command = SCMDatanodeCommand()
        command.removeReplica.container = container.rawValue
        command.removeReplica.replicaIndex = UInt32(index)
        command.removeReplica.token = token
        return command
    }

    /// What SCM was told last of the container by the target.
    var reported: SCMReplicaReport? {
        target.scm.state.withLock { $0.replicas[container.rawValue] }
    }

    /// Has `index` rebuilt, and waits until SCM was told that it is closed.
    func rebuild(_ index: Int, token: UInt64, from sources: some Sequence<Int>) async throws {
        target.order([reconstruct(index, token: token, from: sources)])
        try await eventually("replica \(index) is rebuilt") {
            self.reported?.state == .closed && self.reported?.replicaIndex == UInt32(index)
        }
        target.order([])
    }

    /// Has the replica at the target removed, and waits until it is gone.
    func clear(_ index: Int) async throws {
        target.order([remove(index, token: 0)])
        try await eventually("replica \(index) is removed") {
            self.target.store.report(of: self.container) == nil
        }
        target.order([])
        try await eventually("SCM knows") { self.reported?.state == SCMReplicaState.none }
    }

    /// All blocks of a replica, by local ID: what is known of each, and its bytes.
    func contents(
        of store: ContainerStore, _ index: Int
    ) async throws -> [UInt64: (record: BlockRecord, bytes: [UInt8])] {
        var result: [UInt64: (record: BlockRecord, bytes: [UInt8])] = [:]
        let (records, _) = try await store.blocks(
            in: container, replicaIndex: index, limit: 1 << 20)
        for record in records {
            let read = try await store.read(
                record.id, replicaIndex: index, 0..<record.length)
            result[record.id.localID] = (record, read.payload.withBytes { Array($0) })
        }
        return result
    }

    func end() async throws {
        for node in nodes + [target] {
            node.gate.open()
            try await node.datanode.close()
        }
        reactor.stop()
        try FileManager.default.removeItem(atPath: directory)
    }
}

/// `count` bytes that are told apart by `seed`.
func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        withUnsafeBytes(of: state) { bytes.append(contentsOf: $0) }
    }
    return Array(bytes.prefix(count))
}
