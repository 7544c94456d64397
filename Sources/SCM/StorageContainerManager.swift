import Logging
import Model
import RaftDriver
import Reactor
import SCMCore
import Telemetry
import Transport
import Wire

/// The Storage Container Manager: knows datanodes and containers, gives out block groups, and
/// tells datanodes what to do.
///
/// Isolated to its reactor. What must survive goes through the group's log first and into the
/// state in memory after; what datanodes report is kept in memory alone.
public actor StorageContainerManager: RPCHandler {
    public struct Options: Sendable {
        public var state = SCMState.Options()
        public var heartbeat = Duration.seconds(1)
        /// How often containers and safe mode are looked at.
        public var tick = Duration.milliseconds(500)
        public init() {}
    }

    private let reactor: Reactor
    let group: MetadataGroup<SCMStateMachine>
    let measures = SCMMeasures()
    private let options: Options
    private let logger: Logger
    private var state: SCMState
    private var random: any RandomNumberGenerator & Sendable
    private var loop: Task<Void, Never>?
    /// One change of the state at a time: what is decided must be logged before the next.
    private var isChanging = false
    private var changers: [CheckedContinuation<Void, Never>] = []
    private var closing: Set<ContainerID> = []

    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    private init(
        group: MetadataGroup<SCMStateMachine>, state: SCMState, options: Options,
        random: any RandomNumberGenerator & Sendable, logger: Logger
    ) {
        self.group = group
        reactor = group.reactor
        self.state = state
        self.options = options
        self.random = random
        self.logger = logger
    }

    /// Opens SCM's metadata in `directory`, making it and a cluster ID if they are absent.
    public static func open(
        directory: String, reactor: Reactor, options: Options,
        random: some RandomNumberGenerator & Sendable, logger: Logger
    ) async throws(StoreError) -> StorageContainerManager {
        let group = try await MetadataGroup.open(
            directory: directory, role: "scm", reactor: reactor, stateMachine: SCMStateMachine())
        let stateOptions = options.state
        let state = try await group.read { tables throws(StoreError) in
            try SCMState(options: stateOptions, reading: tables)
        }
        let manager = StorageContainerManager(
            group: group, state: state, options: options, random: random, logger: logger)
        try await manager.nameCluster()
        return manager
    }

    private func nameCluster() async throws(StoreError) {
        guard state.cluster == nil else { return }
        var command = SCMCommand()
        command.cluster.id = ClusterID.random(using: &random).message
        try await change(command)
    }

    public var cluster: ClusterID? { state.cluster }
    public var isInSafeMode: Bool { state.isInSafeMode }
    public var healthyDatanodes: Int {
        state.healthyNodes(at: reactor.now().nanoseconds, excluding: []).count
    }

    /// Starts the loop that watches over containers and safe mode.
    public func start() {
        guard loop == nil else { return }
        loop = Task(executorPreference: reactor) { await self.watch() }
    }

    public func close() async throws(StoreError) {
        loop?.cancel()
        await loop?.value
        try await group.close()
    }

    private func watch() async {
        while !Task.isCancelled {
            do {
                try await reactor.sleep(for: options.tick)
            } catch {
                return
            }
            let wasInSafeMode = state.isInSafeMode
            state.updateSafeMode(at: reactor.now().nanoseconds)
            noteState()
            if wasInSafeMode, !state.isInSafeMode { logger.info("left safe mode") }
            await closeContainers()
        }
    }

    private func noteState() {
        measures.healthy.set(healthyDatanodes)
        measures.known.set(state.nodes.count)
        measures.containers.set(state.containers.count)
        measures.safeMode.set(state.isInSafeMode ? 1 : 0)
    }

    private func closeContainers() async {
        for command in state.dueStateChanges(at: reactor.now().nanoseconds) {
            do throws(StoreError) {
                try await change(command)
                logger.info(
                    "container \(command.containerState.id) is \(command.containerState.state)")
            } catch {
                logger.error("cannot log a container's state: \(error)")
            }
        }
    }

    /// Logs a command, then takes it into the state.
    private func change(_ command: SCMCommand) async throws(StoreError) {
        guard let index = try await group.propose(command) else {
            throw StoreError(.internal, "SCM's log refused a command it had made")
        }
        state.apply(command, at: index)
    }

    private func exclusively<R: Sendable>(
        _ body: () async throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        while isChanging { await withCheckedContinuation { changers.append($0) } }
        isChanging = true
        defer {
            isChanging = false
            let waiting = changers
            changers = []
            for changer in waiting { changer.resume() }
        }
        return try await body()
    }

    // MARK: Requests

    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = SCMMethod(rawValue: request.method) else {
            throw StoreError(
                .unsupported, "SCM has no method 0x\(String(request.method, radix: 16))")
        }
        let message = request.message
        switch method {
        case .register:
            return RPCReply(try await register(SCMRegisterRequest(parsing: message)).encoded)
        case .heartbeat:
            return RPCReply(try await heartbeat(SCMHeartbeatRequest(parsing: message)).encoded)
        case .allocate:
            let request = try SCMAllocateRequest(parsing: message)
            let groups = try await allocate(
                ReplicationConfig(request.replication), count: Int(request.count),
                excluding: Set(request.excluding.map { Identity128($0) }))
            var response = SCMGroupsResponse()
            response.groups = groups.map(\.message)
            return RPCReply(response.encoded)
        case .locate: return RPCReply(locate(try SCMLocateRequest(parsing: message)).encoded)
        case .deleteBlocks:
            try await deleteBlocks(SCMDeleteBlocksRequest(parsing: message))
            return RPCReply()
        case .reportCorrupt:
            reportCorrupt(try SCMReportCorruptRequest(parsing: message))
            return RPCReply()
        case .status: return RPCReply(status(try SCMStatusRequest(parsing: message)).encoded)
        case .closeContainer:
            try await closeContainer(ContainerID(DNContainerRequest(parsing: message).container))
            return RPCReply()
        case .safeMode:
            if try SCMSafeModeRequest(parsing: message).exit { state.leaveSafeMode() }
            return RPCReply(status(SCMStatusRequest()).encoded)
        }
    }

    private func register(
        _ request: SCMRegisterRequest
    ) async throws(StoreError) -> SCMRegisterResponse {
        guard let address = try DatanodeAddress(request.address), let cluster = state.cluster else {
            throw StoreError(.badRequest, "a datanode registers with its identity")
        }
        if request.hasCluster, Identity128(request.cluster) != cluster {
            throw StoreError(
                .invalidArgument,
                "datanode \(address) belongs to cluster \(Identity128(request.cluster)), "
                    + "this is cluster \(cluster); point it at its own SCM or give it empty volumes"
            )
        }
        if state.nodes[address.id]?.address != address {
            var command = SCMCommand()
            command.node.address = request.address
            try await change(command)
        }
        state.registered(
            address.id, volumes: request.volumes, replicas: request.replicas,
            at: reactor.now().nanoseconds)
        state.updateSafeMode(at: reactor.now().nanoseconds)
        logger.info("datanode \(address) registered with \(request.replicas.count) replicas")
        var response = SCMRegisterResponse()
        response.cluster = cluster.message
        let (seconds, attoseconds) = options.heartbeat.components
        response.heartbeatMilliseconds = UInt32(
            seconds * 1000 + attoseconds / 1_000_000_000_000_000)
        return response
    }

    private func heartbeat(
        _ request: SCMHeartbeatRequest
    ) async throws(StoreError) -> SCMHeartbeatResponse {
        let id = Identity128(request.id)
        var response = SCMHeartbeatResponse()
        guard
            state.heard(
                id, volumes: request.volumes, replicas: request.replicas, isFull: request.isFull,
                at: reactor.now().nanoseconds)
        else {
            var command = SCMDatanodeCommand()
            command.registerAgain = true
            response.commands = [command]
            return response
        }
        if !request.doneCommands.isEmpty {
            var command = SCMCommand()
            command.deletedOn.node = request.id
            command.deletedOn.transactions = request.doneCommands
            try await change(command)
        }
        response.commands = state.commands(for: id)
        return response
    }

    /// `count` new block groups; see `SCMState.allocate`.
    public func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: Set<DatanodeID>
    ) async throws(StoreError) -> [BlockGroup] {
        try await exclusively { () async throws(StoreError) in
            while true {
                let allocation = self.decide(replication, count, excluding)
                switch allocation {
                case .groups(let groups): return groups
                case .refused(let error): throw error
                case .needs(let command): try await self.change(command)
                }
            }
        }
    }

    private func decide(
        _ replication: ReplicationConfig, _ count: Int, _ excluding: Set<DatanodeID>
    ) -> SCMState.Allocation {
        var generator = AnyGenerator(base: random)
        defer { random = generator.base }
        return state.allocate(
            replication, count: count, excluding: excluding, at: reactor.now().nanoseconds,
            using: &generator)
    }

    private func locate(_ request: SCMLocateRequest) -> SCMLocateResponse {
        let now = reactor.now().nanoseconds
        var response = SCMLocateResponse()
        response.places = request.containers.compactMap { number in
            guard let nodes = state.places(of: ContainerID(number), at: now) else { return nil }
            var place = SCMLocateResponse.Place()
            place.container = number
            place.nodes = nodes.map { $0?.message ?? WireAddress() }
            return place
        }
        return response
    }

    private func deleteBlocks(_ request: SCMDeleteBlocksRequest) async throws(StoreError) {
        guard !request.blocks.isEmpty else { return }
        var command = SCMCommand()
        command.deleteBlocks.blocks = request.blocks
        try await change(command)
    }

    private func reportCorrupt(_ request: SCMReportCorruptRequest) {
        let block = BlockID(request.block)
        logger.error(
            "corrupt replica \(request.replicaIndex) of \(block): \(request.reason)")
        state.markCorrupt(block.containerID, index: Int(request.replicaIndex))
    }

    private func closeContainer(_ id: ContainerID) async throws(StoreError) {
        guard let container = state.containers[id] else {
            throw StoreError(.noSuchContainer, "there is no container \(id)")
        }
        guard container.state == .containerOpen else { return }
        var command = SCMCommand()
        command.containerState.id = id.rawValue
        command.containerState.state = .containerClosing
        try await change(command)
    }

    private func status(_ request: SCMStatusRequest) -> SCMStatusResponse {
        state.report(request, at: reactor.now().nanoseconds)
    }
}

/// Lets a generator of any type be passed as one of a certain type.
private struct AnyGenerator: RandomNumberGenerator {
    var base: any RandomNumberGenerator & Sendable
    mutating func next() -> UInt64 { base.next() }
}
