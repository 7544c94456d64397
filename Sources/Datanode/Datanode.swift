import Bytes
import ContainerFormat
import ContainerStore
import Logging
import Model
import Reactor
import Synchronization
import Telemetry
import Transport
import Wire

/// A datanode: stores and serves cells, and does what SCM tells it.
///
/// Requests run on the reactor that received them; the store moves them to the disk's.
public final class Datanode: RPCHandler {
    enum Limits {
        /// Blocks in an answer that lists them: 35 bytes each at most.
        static let listedBlocks = 4096
    }

    public struct Options: Sendable {
        public var host: String
        public var port: Int
        public var rack: String
        public var volumes: [String]
        public var store = ContainerStore.Options()
        /// Where this node's identity is kept; a new one is drawn where there is none.
        public var metadataDirectory: String
        /// Replicas rebuilt at a time for each volume, at least one.
        public var reconstructionsAtOnce = 2
        /// How long a replica that could not be rebuilt is left alone before it is tried again.
        public var reconstructionRetryDelay = Duration.seconds(10)

        public init(
            host: String, port: Int, rack: String = "/default-rack", volumes: [String],
            metadataDirectory: String
        ) {
            self.host = host
            self.port = port
            self.rack = rack
            self.volumes = volumes
            self.metadataDirectory = metadataDirectory
        }
    }

    public let id: DatanodeID
    let store: ContainerStore
    let logger: Logger
    /// Stands for what the volumes hold; see `StoreIdentity`.
    private let storeNumber: UInt64
    private let options: Options
    private let scms: SCMClients
    /// To other datanodes.
    private let channels: ChannelPool
    private let reactor: Reactor
    private let server = Mutex<RPCServer?>(nil)
    private let heartbeats = Mutex<Task<Void, Never>?>(nil)
    private let scrubLog = Mutex<Task<Void, Never>?>(nil)

    private init(
        id: DatanodeID, store: ContainerStore, storeNumber: UInt64, options: Options,
        scms: SCMClients, channels: ChannelPool, reactor: Reactor, logger: Logger
    ) {
        self.id = id
        self.store = store
        self.storeNumber = storeNumber
        self.options = options
        self.scms = scms
        self.channels = channels
        self.reactor = reactor
        self.logger = logger
    }

    /// Opens the node's volumes and recovers what is on them. Nothing is served before `start()`.
    ///
    /// - Parameters:
    ///   - scms: those that it reports to, all of them, so that any may lead at once.
    ///   - channels: to other datanodes, which replicas are rebuilt from.
    public static func open(
        _ options: Options, scms: SCMClients,
        channels: ChannelPool = ChannelPool(name: "datanode"), reactors: [Reactor],
        random: some RandomNumberGenerator & Sendable, logger: Logger
    ) async throws(StoreError) -> Datanode {
        let id = try await NodeIdentity.load(
            from: options.metadataDirectory, on: reactors[0], random: random)
        let store = try await ContainerStore.open(
            volumes: options.volumes, datanode: id, cluster: nil, options: options.store,
            reactors: reactors)
        var random = random
        let working = await store.volumes().filter { !$0.isFailed }.map(\.path)
        let identity: StoreIdentity
        do throws(StoreError) {
            identity = try await StoreIdentityFiles(reactor: reactors[0]).load(
                from: options.metadataDirectory, volumes: working, using: &random)
        } catch {
            try await store.close()
            throw error
        }
        store.begin(epoch: .random(in: 1...(.max), using: &random))
        return Datanode(
            id: id, store: store, storeNumber: identity.number, options: options, scms: scms,
            channels: channels, reactor: reactors[0], logger: logger)
    }

    /// Serves on the configured port and begins to report to the SCMs. Returns the port.
    ///
    /// - Parameter handler: this datanode with something around it, such as measures; nil: itself.
    public func start(
        reactors: [Reactor], serving handler: (any RPCHandler)? = nil
    ) throws(StoreError) -> Int {
        let server = try RPCServer(
            host: options.host, port: options.port, name: "datanode \(id)", reactors: reactors,
            handler: handler ?? self, notice: { [logger] in logger.warning("\($0)") })
        server.start()
        self.server.withLock { $0 = server }
        let address = DatanodeAddress(
            id: id, host: options.host, port: server.port, rack: options.rack)
        var repairs = ReconstructionQueue.Options()
        repairs.atOnce = options.reconstructionsAtOnce * max(options.volumes.count, 1)
        repairs.retryDelay = options.reconstructionRetryDelay
        let reporters = SCMReporters(
            address: address, store: store, storeNumber: storeNumber, scms: scms,
            repairs: ReconstructionQueue(
                store: store, channels: channels, reactor: reactor, options: repairs,
                logger: logger), reactor: reactor, logger: logger)
        heartbeats.withLock {
            $0 = Task(executorPreference: reactor) { await reporters.run() }
        }
        return server.port
    }

    /// Stops serving, then closes the volumes.
    public func close() async throws(StoreError) {
        scrubLog.withLock { $0 }?.cancel()
        let task = heartbeats.withLock { $0 }
        task?.cancel()
        await task?.value
        await server.withLock { $0 }?.stop()
        try await store.close()
    }

    // MARK: Scrubbing

    /// Begins to verify what the disks hold, in the background, and logs what is found and how far
    /// it is; ended by `close()`.
    public func startScrubbing(
        _ options: Scrubber.Options, clock: @escaping @Sendable () -> Timestamp
    ) {
        store.startScrubbing(options, clock: clock)
        scrubLog.withLock {
            $0 = Task(executorPreference: reactor) { await self.logScrubbing() }
        }
    }

    private func logScrubbing() async {
        var told: [String: Scrubber.Status] = [:]
        var lookedAt = 0
        while !Task.isCancelled {
            for status in store.scrubbers.map(\.status) {
                let before = told[status.volume]
                for finding in status.findings.dropFirst(before?.findings.count ?? 0) {
                    logger.error("scrub: \(finding)")
                }
                let isFinished = status.rounds > before?.rounds ?? 0
                if isFinished || (status.activity == .reading && lookedAt % 60 == 59) {
                    logger.info("\(status)")
                }
                told[status.volume] = status
            }
            lookedAt += 1
            do throws(CancellationError) { try await reactor.sleep(for: .seconds(10)) } catch {
                return
            }
        }
    }

    // MARK: Requests

    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = DatanodeMethod(rawValue: request.method) else {
            throw StoreError(
                .unsupported, "a datanode has no method 0x\(String(request.method, radix: 16))")
        }
        switch method {
        case .writeCell: return try await writeCell(request)
        case .readBlock: return try await readBlock(request)
        case .block:
            let message = try DNBlockRequest(parsing: request.message)
            let record = try await store.block(
                BlockID(message.block), replicaIndex: try Self.replicaIndex(message.replicaIndex))
            var response = DNBlockResponse()
            response.length = UInt64(record.length)
            response.groupLength = UInt64(record.groupLength)
            response.isEnded = record.isEnded
            return RPCReply(response.encoded)
        case .listBlocks: return try await listBlocks(request)
        case .closeContainer:
            let id = ContainerID(try DNContainerRequest(parsing: request.message).container)
            try await store.retireContainer(id)
            return RPCReply()
        case .status: return await status()
        case .disks: return await disks()
        case .volume:
            let message = try DNVolumeRequest(parsing: request.message)
            try await store.setLeaving(message.isLeaving, volume: message.path)
            logger.notice(
                "volume \(message.path) \(message.isLeaving ? "leaves" : "stays")")
            return RPCReply()
        }
    }

    private func writeCell(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        let message = try DNWriteCellRequest(parsing: request.message)
        let block = BlockID(message.block)
        let replication = try ReplicationConfig(message.replication)
        let coding = try replication.erasureCoding()
        let index = Int(message.replicaIndex)
        guard index >= 1, index <= replication.width else {
            throw StoreError(
                .badRequest,
                "a replica index of \(replication) is 1 to \(replication.width), "
                    + "not \(index)")
        }
        // Bounded before they become Ints: what does not fit one would end the process.
        guard message.offset <= UInt64(ReplicationConfig.blockSize),
            message.groupLength <= UInt64(replication.blockGroupSize)
        else {
            throw StoreError(
                .badRequest,
                "a cell lies within \(ReplicationConfig.blockSize) bytes of a block, in a group of "
                    + "at most \(replication.blockGroupSize), not at \(message.offset) in "
                    + "\(message.groupLength)")
        }
        let payload = request.payload ?? Payload(reactor.pool.allocate(1), 0..<0)
        guard payload.count <= coding.cellSize else {
            throw StoreError(
                .badRequest,
                "a cell of \(replication) has at most \(coding.cellSize) bytes, "
                    + "not \(payload.count)")
        }
        let cell = CellAppend(
            block: block, replicaIndex: index, replication: replication,
            offset: Int(message.offset), payload: payload, checksums: message.checksums,
            groupLength: Int(message.groupLength), endOfBlock: message.endOfBlock)
        var response = DNWriteCellResponse()
        response.durableLength = UInt64(
            try await append(cell, permission: message.mayCreate, request.context))
        return RPCReply(response.encoded)
    }

    /// Appends; makes the container replica before that if there is none, the cell is the first of
    /// its block, and SCM has given permission: without, its absence is loss.
    private func append(
        _ cell: CellAppend, permission: UInt64, _ context: IOContext
    ) async throws(StoreError) -> Int {
        if cell.offset > 0 || store.hasReplica(of: cell.block.containerID) {
            return try await store.append(cell, context)
        }
        try await store.createContainer(
            cell.block.containerID, replication: cell.replication, replicaIndex: cell.replicaIndex,
            permission: permission)
        return try await store.append(cell, context)
    }

    /// The index of a replica in a request. Throws `badRequest` if it is missing, as from a client
    /// of before.
    private static func replicaIndex(_ index: UInt32) throws(StoreError) -> Int {
        guard index > 0, index <= UInt32(ReplicationConfig.maximumWidth) else {
            throw StoreError(
                .badRequest,
                "the request says 'replica_index' \(index): which replica is meant, from 1 to "
                    + "\(ReplicationConfig.maximumWidth), must be said; a client that does not is "
                    + "of an earlier version")
        }
        return Int(index)
    }

    private func readBlock(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        let message = try DNReadBlockRequest(parsing: request.message)
        let limit = UInt64(ReplicationConfig.blockSize)
        guard message.length > 0, message.length <= 16 << 20,
            message.offset <= limit, message.offset + message.length <= limit
        else {
            throw StoreError(
                .badRequest,
                "a read takes 1 byte to 16 MiB of a block, "
                    + "not \(message.length) from \(message.offset)")
        }
        let start = Int(message.offset)
        let range = start..<start + Int(message.length)
        // Before the store allocates what it reads into, unless the caller's memory takes it.
        let unit = ReplicationConfig.checksumUnit
        let needed =
            (range.upperBound + unit - 1) / unit * unit - range.lowerBound / unit * unit
        let hold = try await request.reserveAnswer(
            needed <= request.landing?.capacity ?? 0 ? 0 : needed)
        let index = try Self.replicaIndex(message.replicaIndex)
        let read = try await abandoning(hold) { () async throws(StoreError) in
            try await store.read(
                BlockID(message.block), replicaIndex: index, range, into: request.landing,
                request.context)
        }
        var response = DNReadBlockResponse()
        response.offset = UInt64(read.range.lowerBound)
        response.checksums = read.checksums
        var reply = RPCReply(response.encoded, payload: read.payload)
        reply.hold = hold
        return reply
    }

    /// Runs `body`; gives up `hold`'s part of its connection's budget once nobody waits any more.
    private nonisolated(nonsending) func abandoning<T: Sendable>(
        _ hold: AnswerHold?, _ body: nonisolated(nonsending) () async throws(StoreError) -> T
    ) async throws(StoreError) -> T {
        guard let hold else { return try await body() }
        let result: Result<T, StoreError> = await withTaskCancellationHandler {
            do throws(StoreError) { return .success(try await body()) } catch {
                return .failure(error)
            }
        } onCancel: {
            hold.abandon()
        }
        return try result.get()
    }

    private func listBlocks(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        let message = try DNListBlocksRequest(parsing: request.message)
        let limit =
            message.limit == 0
            ? Limits.listedBlocks : min(Int(message.limit), Limits.listedBlocks)
        let page = try await store.blocks(
            in: ContainerID(message.container),
            replicaIndex: try Self.replicaIndex(message.replicaIndex),
            after: message.after == 0 ? nil : message.after, limit: limit)
        var response = DNListBlocksResponse()
        response.hasMore_p = page.hasMore
        response.blocks = page.records.map { record in
            var entry = DNListBlocksResponse.Entry()
            entry.local = record.id.localID
            entry.length = UInt64(record.length)
            entry.groupLength = UInt64(record.groupLength)
            entry.isEnded = record.isEnded
            return entry
        }
        return RPCReply(response.encoded)
    }

    private func status() async -> RPCReply {
        var response = DNStatusResponse()
        response.id = id.message
        if let cluster = store.cluster { response.cluster = cluster.message }
        response.volumes = await store.volumes().map(\.message)
        response.containers = UInt64(await store.report().count { $0.state != .lost })
        return RPCReply(response.encoded)
    }
}

extension VolumeReport {
    var message: DNVolume {
        var message = DNVolume()
        message.path = path
        message.capacity = UInt64(capacity)
        message.used = UInt64(used)
        message.available = UInt64(available)
        message.isFailed = isFailed
        message.reason = reason ?? ""
        message.isLeaving = isLeaving
        message.containers = UInt64(containers)
        message.reads = recent.reads.message
        message.writes = recent.writes.message
        message.syncs = recent.syncs.message
        let (seconds, attoseconds) = recent.standstill.components
        message.oldest = UInt64(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
        return message
    }
}

extension RecentLatency {
    var message: DNRecentLatency {
        var message = DNRecentLatency()
        message.count = count
        message.p50 = p50
        message.p99 = p99
        return message
    }
}
