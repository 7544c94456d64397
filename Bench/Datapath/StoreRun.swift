import Bytes
import Checksum
import ContainerStore
import Glibc
import Model
import Reactor
import Synchronization

/// Appends to and reads from one container of a `ContainerStore` on one volume and one reactor,
/// as a datanode does them, without the network.
struct StoreRun {
    private let options: Options
    private let cell = 1 << 20
    private static let container = ContainerID(1)
    private static let replication = "rs-3-2-1024k"
    /// More than a ring waits for before it registers the arena.
    private static let operationsToRegister = 600

    init(_ options: Options) throws(UsageError) {
        guard !options.directory.isEmpty else { throw UsageError(message: "--dir is missing") }
        self.options = options
    }

    private func open(on reactor: Reactor) async throws(StoreError) -> ContainerStore {
        try await ContainerStore.open(
            volumes: [options.directory + "/volume1"], datanode: DatanodeID(high: 1, low: 1),
            cluster: nil, options: .init(), reactors: [reactor])
    }

    private func start() throws -> Reactor {
        try Reactor.start(.init(core: 0, registersArena: true))
    }

    /// Has the ring register the arena, as it does for whoever has had much to do: once, and with pages
    /// that are touched for the first time, which is no part of what an operation costs.
    private func warmUp(_ reactor: Reactor) async throws {
        let directory = options.directory
        try await Task(executorPreference: reactor) {
            let file = try await File.open(directory, [.unnamed, .direct], on: reactor)
            let block = reactor.pool.allocate(4096)
            for _ in 0..<StoreRun.operationsToRegister {
                try await file.write(Payload(block, 0..<4096), at: 0)
            }
            try await file.close()
        }.value
    }

    /// Cells with bytes that no disk can shrink, and their checksums, made before the clock runs.
    private struct Source: Sendable {
        let cells: [(payload: Payload, checksums: [UInt32])]

        init(count: Int, bytes: Int) {
            var state: UInt64 = 3
            cells = (0..<count).map { _ in
                let buffer = BufferPool.process.allocate(bytes)
                for offset in stride(from: 0, to: bytes, by: 8) {
                    state = state &* 0x5851_f42d_4c95_7f2d &+ 0x1405_7b7e_f767_814f
                    buffer.bytes.storeBytes(of: state, toByteOffset: offset, as: UInt64.self)
                }
                let payload = Payload(buffer, 0..<bytes)
                return (payload, payload.withBytes { CRC32C.ofUnits($0) })
            }
        }
    }

    /// Writes `mib` cells of 1 MiB with `depth` blocks being written at a time.
    private func fill(
        _ store: ContainerStore, _ reactor: Reactor, mib: Int, depth: Int
    ) async throws {
        let source = Source(count: 8, bytes: cell)
        let container = StoreRun.container
        let replication = try ReplicationConfig(StoreRun.replication)
        let cellsPerBlock = mib / depth
        precondition(
            cellsPerBlock >= 1 && cellsPerBlock * cell <= ReplicationConfig.blockSize,
            "a block holds 1 to 256 cells: choose --mib and --depth so")
        let writing = Task(executorPreference: reactor) { [cell] in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for block in 0..<depth {
                    group.addTask(executorPreference: reactor) {
                        let id = BlockID(containerID: container, localID: UInt64(block))
                        for index in 0..<cellsPerBlock {
                            let (payload, checksums) = source.cells[(block + index) % 8]
                            let append = CellAppend(
                                block: id, replicaIndex: 1, replication: replication,
                                offset: index * cell, payload: payload, checksums: checksums,
                                groupLength: (index + 1) * cell,
                                endOfBlock: index == cellsPerBlock - 1)
                            try await store.append(append)
                        }
                    }
                }
                try await group.waitForAll()
            }
        }
        try await writing.value
    }

    private func makeContainer(_ store: ContainerStore) async throws {
        try await store.createContainer(
            StoreRun.container, replication: try ReplicationConfig(StoreRun.replication),
            replicaIndex: 1)
    }

    /// Row 6.
    func append() async throws {
        let mib = options.number("mib", 1024)
        let reactor = try start()
        let store = try await open(on: reactor)
        try await makeContainer(store)
        try await warmUp(reactor)
        let watch = Stopwatch()
        try await fill(store, reactor, mib: mib, depth: options.number("depth", 16))
        let statistics = store.statistics
        printResult([
            ("seconds", watch.seconds), ("cpu_seconds", watch.cpuSeconds),
            ("bytes", Double(statistics.bytesAppended)),
            ("commits", Double(statistics.commits)),
            ("data_syncs", Double(statistics.dataSyncs)),
            ("journal_syncs", Double(statistics.journalSyncs)),
        ])
        try await store.close()
    }

    /// Writes and closes the container that `read` reads.
    func prepare() async throws {
        let reactor = try start()
        let store = try await open(on: reactor)
        try await makeContainer(store)
        try await fill(store, reactor, mib: options.number("mib", 1024), depth: 16)
        try await store.closeContainer(StoreRun.container)
        try await store.close()
    }

    /// Row 7: reads of `size` bytes at random multiples of it, verified, for some seconds.
    func read() async throws {
        let size = options.number("size", cell)
        let depth = options.number("depth", 8)
        let reactor = try start()
        let store = try await open(on: reactor)
        let blocks = try await store.blocks(
            in: StoreRun.container, replicaIndex: 1, limit: 1 << 20
        ).records
        guard let shortest = blocks.map(\.length).min(), shortest >= size else {
            throw UsageError(message: "run prepare first, with blocks of at least --size bytes")
        }
        try await warmUp(reactor)
        let deadline = ContinuousClock.now.advanced(by: .seconds(options.number("seconds", 3)))
        let watch = Stopwatch()
        let reading = Task(executorPreference: reactor) {
            try await withThrowingTaskGroup(of: Int.self) { group in
                for index in 0..<depth {
                    group.addTask(executorPreference: reactor) {
                        var random = UInt64(index + 1)
                        var count = 0
                        while ContinuousClock.now < deadline {
                            // Multiplier of Knuth's MMIX; the high bits are the good ones.
                            random =
                                random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                            let pick = Int(random >> 33)
                            let block = blocks[pick % blocks.count]
                            let slots = block.length / size
                            let start = pick / blocks.count % slots * size
                            let read = try await store.read(
                                block.id, replicaIndex: 1, start..<start + size)
                            precondition(read.payload.count >= size, "all bytes asked for")
                            count += 1
                        }
                        return count
                    }
                }
                return try await group.reduce(0, +)
            }
        }
        let count = try await reading.value
        printResult([
            ("seconds", watch.seconds), ("cpu_seconds", watch.cpuSeconds),
            ("requests", Double(count)), ("bytes", Double(count * size)),
        ])
        try await store.close()
    }
}
