import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization

@testable import ContainerStore

let replication: ReplicationConfig = {
    guard let value = try? ReplicationConfig("rs-3-2-64k") else {
        preconditionFailure("the notation of a replication")
    }
    return value
}()

let thisDatanode = DatanodeID(high: 0x1111, low: 0x2222)

extension ContainerStore.Options {
    /// Small extents and segments, so that their ends are reached.
    static let small = Self(
        extentBytes: 256 << 10, journalSegmentBytes: 8 << 10, reservedBytes: 0,
        indexCacheBytes: 1 << 20, openFiles: 4)

    /// For tests that leave a store as a process that dies would.
    static let mortal: Self = {
        var options = small
        options.locksVolumes = false
        return options
    }()
}

/// A store on one or more volumes below `directory`.
func openStore(
    _ directory: String, on reactor: Reactor, volumes: Int = 1, cluster: ClusterID? = nil,
    options: ContainerStore.Options = .small
) async throws(StoreError) -> ContainerStore {
    try await ContainerStore.open(
        volumes: (1...volumes).map { "\(directory)/v\($0)" }, datanode: thisDatanode,
        cluster: cluster, options: options, reactors: [reactor])
}

/// Runs `body` on a reactor of its own with an empty directory.
func withReactor<R: Sendable>(
    _ body: @escaping @Sendable (String, Reactor) async throws -> R
) async throws -> R {
    try await withDirectory { directory in
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        return try await Task(executorPreference: reactor) {
            try await body(directory, reactor)
        }.value
    }
}

func blockID(_ localID: UInt64, in container: UInt64 = 1) -> BlockID {
    BlockID(containerID: ContainerID(container), localID: localID)
}

/// `count` bytes that are told apart by `seed`.
func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
    var random = SplitMix64(state: seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        withUnsafeBytes(of: random.next()) { bytes.append(contentsOf: $0) }
    }
    return Array(bytes.prefix(count))
}

func cell(
    _ block: BlockID, at offset: Int, _ bytes: [UInt8], group: Int? = nil, ended: Bool = false
) -> CellAppend {
    CellAppend(
        block: block, replicaIndex: 0, replication: replication, offset: offset,
        payload: Payload(copying: bytes, pool: .process),
        checksums: bytes.withUnsafeBytes { CRC32C.ofUnits($0) },
        groupLength: group ?? offset + bytes.count, endOfBlock: ended)
}

/// The calls of a test that does not care which replica of a container it has.
extension ContainerStore {
    private func indexHere(_ id: ContainerID) -> Int {
        state.withLock { $0.containers[id]?.header.replicaIndex } ?? 1
    }

    @discardableResult
    nonisolated(nonsending)
        func append(_ cell: CellAppend) async throws(StoreError) -> Int
    {
        var cell = cell
        let header = state.withLock { $0.containers[cell.block.containerID]?.header }
        cell.replicaIndex = header?.replicaIndex ?? 1
        cell.replication = header?.replication ?? cell.replication
        return try await append(cell, .client)
    }

    nonisolated(nonsending)
        func read(_ block: BlockID, _ range: Range<Int>) async throws(StoreError) -> BlockRead
    {
        try await read(block, replicaIndex: indexHere(block.containerID), range)
    }

    nonisolated(nonsending)
        func block(_ block: BlockID) async throws(StoreError) -> BlockRecord
    {
        try await self.block(block, replicaIndex: indexHere(block.containerID))
    }

    /// All blocks of a container, gathered page by page.
    func blocks(
        in id: ContainerID, pageOf limit: Int = 7
    ) async throws(StoreError) -> [BlockRecord] {
        var records: [BlockRecord] = []
        while true {
            let page = try await blocks(
                in: id, replicaIndex: indexHere(id), after: records.last?.id.localID,
                limit: limit)
            records += page.records
            if !page.hasMore { return records }
        }
    }

    /// All bytes of a block, read in one piece.
    func bytes(of block: BlockID) async throws(StoreError) -> [UInt8] {
        let length = try await self.block(block).length
        let read = try await self.read(block, 0..<length)
        return read.payload.withBytes { Array($0) }
    }
}

func crc(_ bytes: [UInt8]) -> UInt32 { CRC32C.of(bytes) }

func parseJournal(_ bytes: [UInt8]) throws -> Journal.Contents {
    try bytes.withUnsafeBytes { try Journal.parse($0) }
}
