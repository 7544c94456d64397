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
    /// What datanodes have confirmed and the log does not say yet.
    private var confirmed: [DatanodeID: [UInt64]] = [:]
    private var isConfirming = false
    /// What the last look found, so that a change is told once: whether disks are full, and how
    /// datanodes are.
    private var wasFull = false
    private var told: [DatanodeID: SCMState.NodeState] = [:]

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
        directory: String, as member: (identity: MemberIdentity, channels: ChannelPool)? = nil,
        reactor: Reactor, options: Options,
        random: some RandomNumberGenerator & Sendable, logger: Logger
    ) async throws(StoreError) -> StorageContainerManager {
        var settings = MetadataGroupOptions()
        settings.member.notice = { logger.warning("\($0)") }
        let group: MetadataGroup<SCMStateMachine>
        if let member {
            group = try await MetadataGroup.open(
                directory: directory, as: member.identity, reactor: reactor,
                stateMachine: SCMStateMachine(), channels: member.channels, options: settings)
        } else {
            group = try await MetadataGroup.open(
                directory: directory, role: "scm", reactor: reactor,
                stateMachine: SCMStateMachine(), options: settings)
        }
        let stateOptions = options.state
        var random = random
        let term = UInt64.random(in: 1...UInt64.max, using: &random)
        let state = try await group.read { tables throws(StoreError) in
            try SCMState(options: stateOptions, reading: tables, term: term)
        }
        let manager = StorageContainerManager(
            group: group, state: state, options: options, random: random, logger: logger)
        try await manager.nameCluster()
        return manager
    }

    /// Looks after the members of its group.
    ///
    /// - Parameters:
    ///   - identity: this member's.
    ///   - address: `HOST:PORT` where it is reached.
    public nonisolated func keeper(
        as identity: MemberIdentity, address: String, channels: ChannelPool
    ) -> GroupKeeper {
        GroupKeeper(group, as: identity, address: address, channels: channels) { [logger] in
            logger.notice("\($0)")
        }
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
            let now = reactor.now().nanoseconds
            state.noteTime(now)
            state.updateSafeMode(at: now)
            noteState()
            noteRoom(at: now)
            noteNodes(at: now)
            if wasInSafeMode, !state.isInSafeMode { logger.info("left safe mode") }
            await logWitnesses()
            await closeContainers()
        }
    }

    /// Tells when datanodes fall silent, and when they are heard of again.
    private func noteNodes(at now: UInt64) {
        for (id, node) in state.nodes where node.lastHeartbeat != nil {
            let found = state.state(of: id, at: now)
            guard told.updateValue(found, forKey: id) != found else { continue }
            switch found {
            case .healthy: logger.info("datanode \(node.address) is healthy")
            case .stale, .dead: logger.warning("datanode \(node.address) is \(found)")
            }
        }
    }

    /// Tells when disks become full, and when there is room again.
    private func noteRoom(at now: UInt64) {
        let full = state.fullNodes(at: now)
        let room = state.healthyNodes(at: now, excluding: []).count
        measures.full.set(full.count)
        if full.isEmpty == wasFull {
            wasFull = !full.isEmpty
            if wasFull {
                let names = full.prefix(8).compactMap { state.nodes[$0]?.address.description }
                    .joined(separator: ", ")
                let more = full.count > 8 ? ", …" : ""
                logger.warning(
                    "\(full.count) datanodes are full, \(room) can be written to: \(names)\(more)")
            } else {
                logger.info("all \(room) datanodes have room again")
            }
        }
    }

    private func noteState() {
        measures.healthy.set(healthyDatanodes)
        measures.known.set(state.nodes.count)
        measures.containers.set(state.containers.count)
        measures.safeMode.set(state.isInSafeMode ? 1 : 0)
        measures.pendingDeletions.set(state.pendingDeletions)
    }

    /// Has the log say which replicas have been reported for the first time. What cannot be logged
    /// now is at the next tick.
    private func logWitnesses() async {
        while let command = state.dueWitnesses() {
            do throws(StoreError) {
                try await change(command)
            } catch {
                logger.error("cannot log which replicas there are: \(error)")
                return
            }
        }
    }

    private func closeContainers() async {
        for command in state.dueStateChanges(at: reactor.now().nanoseconds) {
            do throws(StoreError) {
                try await change(command)
                logger.info(
                    "container \(command.containerState.id) is \(command.containerState.state)")
                guard command.containerState.state == .containerDeleted else { continue }
                let gone = state.deletions(ofGone: ContainerID(command.containerState.id))
                for (node, numbers) in gone { confirm(numbers, by: node) }
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
        state.apply(command, at: index, now: reactor.now().nanoseconds)
    }

    private func exclusively<R: Sendable>(
        _ body: () async throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        // Looked at once more where the continuation is kept: the call may leave the actor for a
        // moment, in which the one who is waited for can end without seeing who waits.
        while isChanging {
            await withCheckedContinuation { changer in
                if isChanging { changers.append(changer) } else { changer.resume() }
            }
        }
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
        state.noteTime(reactor.now().nanoseconds)
        switch method {
        case .register:
            return RPCReply(try await register(SCMRegisterRequest(parsing: message)).encoded)
        case .heartbeat:
            return RPCReply(heartbeat(try SCMHeartbeatRequest(parsing: message)).encoded)
        case .allocate:
            let request = try SCMAllocateRequest(parsing: message)
            let groups = try await allocate(
                ReplicationConfig(request.replication), count: Int(request.count),
                excluding: ExcludeList(
                    nodes: Set(request.excluding.map { Identity128($0) }),
                    containers: Set(request.excludingContainers.map { ContainerID($0) })))
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
        case .closings:
            let request = try SCMClosingsRequest(parsing: message)
            return RPCReply(state.closings(request, at: reactor.now().nanoseconds).encoded)
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
            store: request.store, epoch: request.epoch, at: reactor.now().nanoseconds)
        state.updateSafeMode(at: reactor.now().nanoseconds)
        logger.info("datanode \(address) registered with \(request.replicas.count) replicas")
        let lost = state.lostReplicas(of: address.id, at: reactor.now().nanoseconds)
        if lost > 0 {
            logger.error(
                "datanode \(address) lacks \(lost) replicas that it had or may have had")
        }
        var response = SCMRegisterResponse()
        response.cluster = cluster.message
        let (seconds, attoseconds) = options.heartbeat.components
        response.heartbeatMilliseconds = UInt32(
            seconds * 1000 + attoseconds / 1_000_000_000_000_000)
        return response
    }

    /// Answers from memory alone: a datanode that waited for SCM's disk would be late with its next
    /// heartbeat.
    private func heartbeat(_ request: SCMHeartbeatRequest) -> SCMHeartbeatResponse {
        let id = Identity128(request.id)
        let now = reactor.now().nanoseconds
        var response = SCMHeartbeatResponse()
        guard
            state.heard(
                id, volumes: request.volumes, replicas: request.replicas, isFull: request.isFull,
                store: request.store, epoch: request.epoch, at: now)
        else {
            var command = SCMDatanodeCommand()
            command.registerAgain = true
            response.commands = [command]
            return response
        }
        state.heard(
            id, failed: request.failedCommands, unreclaimed: request.unreclaimedBlocks, at: now)
        let absent = state.heard(id, absent: request.absentCommands, at: now)
        confirm(request.doneCommands + absent, by: id)
        response.commands = state.commands(for: id, at: now)
        return response
    }

    /// Has the log say what datanodes have deleted. Should SCM die before that, they are told again
    /// when they register.
    private func confirm(_ numbers: [UInt64], by id: DatanodeID) {
        guard !numbers.isEmpty else { return }
        confirmed[id, default: []] += numbers
        guard !isConfirming else { return }
        isConfirming = true
        Task(executorPreference: reactor) { await self.logConfirmed() }
    }

    private func logConfirmed() async {
        defer { isConfirming = false }
        while let (id, numbers) = confirmed.popFirst() {
            var command = SCMCommand()
            command.deletedOn.node = id.message
            command.deletedOn.transactions = numbers
            do throws(StoreError) {
                try await change(command)
            } catch {
                logger.warning("deletions stay listed until \(id) registers again: \(error)")
            }
        }
    }

    /// `count` new block groups; see `SCMState.allocate`.
    public func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList
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
        _ replication: ReplicationConfig, _ count: Int, _ excluding: ExcludeList
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
        if let error = state.deletionError() { throw error }
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
