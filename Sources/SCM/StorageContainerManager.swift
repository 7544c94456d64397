import Logging
import Model
import RaftDriver
import Reactor
import SCMCore
import Telemetry
import Transport
import Wire

/// A member of the Storage Container Manager: knows datanodes and containers, gives out block
/// groups, and tells datanodes what to do.
///
/// Every member hears datanodes and follows the log; what is decided is decided by the one that
/// leads, logged, and taken into memory by all. `SCMMemory` has the state, which the group's
/// machine changes as well; this is isolated to the group's reactor, on which all of it happens but
/// the reading of tables.
public actor StorageContainerManager: RPCHandler {
    public struct Options: Sendable {
        public var state = SCMState.Options()
        public var heartbeat = Duration.seconds(1)
        /// How often containers and safe mode are looked at.
        public var tick = Duration.milliseconds(500)
        /// The cluster that this is to be, or is; nil: one is drawn where there is none.
        public var cluster: ClusterID?
        /// The time of day, for what ends at a time that an operator named.
        public var wallClock: @Sendable () -> Timestamp = {
            let unix = MonotonicTime.unixOffset() &+ MonotonicTime.now().nanoseconds
            return Timestamp(milliseconds: Int64(unix / 1_000_000))
        }
        public init() {}
    }

    enum Limits {
        /// How often a change is decided anew because others came before it.
        static let decisions = 64
    }

    let reactor: Reactor
    /// The log and the tables, for whoever serves its messages or changes its members.
    public nonisolated let group: MetadataGroup<SCMStateMachine>
    let measures = SCMMeasures()
    let options: Options
    let logger: Logger
    nonisolated let memory: SCMMemory
    var random: any RandomNumberGenerator & Sendable
    private var loop: Task<Void, Never>?
    /// One decision at a time that must be logged: others would be made for nothing.
    var isChanging = false
    var changers: [CheckedContinuation<Void, Never>] = []
    /// What datanodes have confirmed and the log does not say yet.
    var confirmed: [DatanodeID: [UInt64]] = [:]
    var isConfirming = false
    /// What the last look found, so that a change is told once: whether disks are full, and how
    /// datanodes are.
    private var wasFull = false
    private var told: [DatanodeID: SCMState.NodeState] = [:]
    /// Datanodes that were refused for having another one's identity, each told once.
    var doubles: Set<DatanodeAddress> = []

    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    private init(
        group: MetadataGroup<SCMStateMachine>, memory: SCMMemory, options: Options,
        random: any RandomNumberGenerator & Sendable, logger: Logger
    ) {
        self.group = group
        reactor = group.reactor
        self.memory = memory
        self.options = options
        self.random = random
        self.logger = logger
    }

    /// Opens a member's metadata in `directory`, making it if it is absent. The member that first
    /// leads names the cluster; of a group of one, before this returns.
    ///
    /// - Parameters:
    ///   - member: whose files the directory has, and how the others of its group are reached; nil:
    ///     `settings` and `transport` say so.
    ///   - settings: how the group is kept; alone, as member 1, where nothing else is said.
    ///   - transport: how the other members are reached.
    /// - Throws: `invalidArgument` if the tables are another cluster's than `options.cluster`;
    ///   what `MetadataGroup.open` throws.
    public static func open(
        directory: String, as member: (identity: MemberIdentity, channels: ChannelPool)? = nil,
        reactor: Reactor, options: Options,
        group settings: MetadataGroupOptions = MetadataGroupOptions(),
        transport: some RaftTransport = NoTransport(),
        random: some RandomNumberGenerator & Sendable, logger: Logger
    ) async throws(StoreError) -> StorageContainerManager {
        var settings = settings
        if settings.member.notice == nil {
            settings.member.notice = { logger.warning("\($0)") }
        }
        var random = random
        let memory = SCMMemory(
            options: options.state, run: UInt64.random(in: 1...UInt64.max, using: &random),
            clock: { reactor.now().nanoseconds })
        let machine = SCMStateMachine(memory: memory)
        let group: MetadataGroup<SCMStateMachine>
        if let member {
            group = try await MetadataGroup.open(
                directory: directory, as: member.identity, reactor: reactor, stateMachine: machine,
                channels: member.channels, options: settings)
        } else {
            group = try await MetadataGroup.open(
                directory: directory, role: "scm", reactor: reactor, stateMachine: machine,
                options: settings, transport: transport)
        }
        let manager = StorageContainerManager(
            group: group, memory: memory, options: options, random: random, logger: logger)
        do throws(StoreError) {
            if let wanted = options.cluster, let found = manager.cluster, wanted != found {
                throw StoreError(
                    .invalidArgument,
                    "\(directory) belongs to cluster \(found), not to \(wanted), which the "
                        + "settings name; give this SCM a directory of its own")
            }
            if group.leadership.isLeading { try await manager.nameCluster() }
        } catch {
            try? await group.close()
            throw error
        }
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

    /// `HOST:PORT` of all members, as far as this one knows; without those that say only that they
    /// listen at every address.
    var addresses: [String] {
        group.roster.map(\.address).filter { address in
            guard let host = try? HostPort(address).host else { return false }
            return host != "0.0.0.0" && host != "::"
        }
    }

    private func nameCluster() async throws(StoreError) {
        guard cluster == nil else { return }
        var change = SCMCommand.Cluster()
        change.id = (options.cluster ?? ClusterID.random(using: &random)).message
        _ = try await self.change(SCMCommand(.cluster(change)))
    }

    /// Nil: none was named as far as this member knows.
    public nonisolated var cluster: ClusterID? { memory.withState { state, _ in state.cluster } }
    public nonisolated var isInSafeMode: Bool {
        memory.withState { state, _ in state.isInSafeMode }
    }
    public nonisolated var healthyDatanodes: Int {
        memory.withState { state, now in state.healthyNodes(at: now, excluding: []).count }
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
            look()
            guard takesLead() else { continue }
            do throws(StoreError) {
                try await nameCluster()
            } catch {
                logger.error("cannot log the cluster's identity: \(error)")
            }
            await logWitnesses()
            await closeContainers()
            await repair()
            await endOperations()
            await logConfirmed()
        }
    }

    /// Whether this member leads, and in which term; its state knows of it.
    func standing() -> Leadership {
        let leadership = group.leadership
        memory.withState { state, now in
            if leadership.isLeading {
                state.lead(in: leadership.term, at: now)
            } else {
                state.follow()
            }
        }
        return leadership
    }

    /// Whether this member leads.
    func takesLead() -> Bool { standing().isLeading }

    /// To be called first by what only the leader does or answers.
    ///
    /// - Throws: `notLeader` where this member does not lead. One that lost leadership may not know
    ///   it yet: what it proposes is refused then, and what must not be stale waits for a
    ///   barrier besides.
    func lead() throws(StoreError) {
        guard takesLead() else { throw group.notLeader }
    }

    private func look() {
        let (hasLeft, full, room, nodes) = memory.withState { state, now in
            let wasInSafeMode = state.isInSafeMode
            state.noteTime(now)
            state.updateSafeMode(at: now)
            let room = state.healthyNodes(at: now, excluding: [])
            let full = state.fullNodes(at: now)
            measures.healthy.set(room.count)
            measures.known.set(state.nodes.count)
            measures.full.set(full.count)
            measures.containers.set(state.containers.count)
            measures.safeMode.set(state.isInSafeMode ? 1 : 0)
            measures.pendingDeletions.set(state.pendingDeletions)
            measures.note(state.repairCounts)
            measures.note(state.slowDiskCounts)
            let nodes = state.nodes.compactMap { id, node in
                node.lastHeartbeat == nil
                    ? nil : (id: id, address: node.address, state: state.state(of: id, at: now))
            }
            return (
                wasInSafeMode && !state.isInSafeMode,
                full.compactMap { state.nodes[$0]?.address }, room.count, nodes
            )
        }
        if hasLeft { logger.info("left safe mode") }
        note(full: full, room: room)
        for (id, address, state) in nodes { note(id, address, state) }
    }

    /// Tells when datanodes fall silent, and when they are heard of again.
    private func note(_ id: DatanodeID, _ address: DatanodeAddress, _ found: SCMState.NodeState) {
        guard told.updateValue(found, forKey: id) != found else { return }
        switch found {
        case .healthy: logger.info("datanode \(address) is healthy")
        case .stale, .dead, .unheard: logger.warning("datanode \(address) is \(found)")
        }
    }

    /// Tells when disks become full, and when there is room again.
    private func note(full: [DatanodeAddress], room: Int) {
        guard full.isEmpty == wasFull else { return }
        wasFull = !full.isEmpty
        if wasFull {
            let names = full.prefix(8).map(\.description).joined(separator: ", ")
            let more = full.count > 8 ? ", …" : ""
            logger.warning(
                "\(full.count) datanodes are full, \(room) can be written to: \(names)\(more)")
        } else {
            logger.info("all \(room) datanodes have room again")
        }
    }

    /// Has the log say which replicas have been reported for the first time. What cannot be logged
    /// now is at the next tick.
    private func logWitnesses() async {
        while let command = memory.withState({ state, _ in state.dueWitnesses() }) {
            do throws(StoreError) {
                guard case .changed(let rows) = try await change(command), !rows.isEmpty
                else { return }
            } catch {
                logger.error("cannot log which replicas there are: \(error)")
                return
            }
        }
    }

    private func closeContainers() async {
        var isLogged = true
        for command in memory.withState({ state, now in state.dueStateChanges(at: now) }) {
            let id = ContainerID(command.containerState.id)
            // One that leads no more has nothing to decide; it looks again if it does.
            let answer = isLogged ? await log(command) : nil
            isLogged = answer != nil
            guard case .changed? = answer else {
                memory.withState { state, _ in state.lookAgain(at: id) }
                continue
            }
            logger.info("container \(id) is \(command.containerState.state)")
            guard command.containerState.state == .containerDeleted else { continue }
            let gone = memory.withState { state, _ in state.deletions(ofGone: id) }
            for (node, numbers) in gone { confirm(numbers, by: node) }
        }
    }

    /// Nil, with a word in the log, if it could not be proposed.
    private func log(_ command: SCMCommand) async -> SCMAnswer? {
        do throws(StoreError) {
            return try await change(command)
        } catch {
            logger.error("cannot log a container's state: \(error)")
            return nil
        }
    }

    /// Logs a command and returns what it did. The state has taken it then, as on every member.
    ///
    /// - Parameter call: names the change where it is decided from the request alone.
    func change(
        _ command: SCMCommand, for call: CallID? = nil
    ) async throws(StoreError) -> SCMAnswer {
        let answer = try await group.propose(command, for: call)
        memory.withState { state, _ in state.noteProposed(command, answer) }
        return answer
    }

    // MARK: Requests

    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = SCMMethod(rawValue: request.method) else {
            throw StoreError(
                .unsupported, "SCM has no method 0x\(String(request.method, radix: 16))")
        }
        let message = request.message
        memory.withState { state, now in state.noteTime(now) }
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
                    containers: Set(request.excludingContainers.map { ContainerID($0) }),
                    degradedGroups: request.whole))
            var response = SCMGroupsResponse()
            response.groups = groups.map(\.message)
            return RPCReply(response.encoded)
        case .locate:
            return RPCReply(try await locate(SCMLocateRequest(parsing: message)).encoded)
        case .deleteBlocks:
            try await deleteBlocks(SCMDeleteBlocksRequest(parsing: message), request.call)
            return RPCReply()
        case .reportCorrupt:
            try reportCorrupt(SCMReportCorruptRequest(parsing: message))
            return RPCReply()
        case .status:
            return RPCReply(try await status(SCMStatusRequest(parsing: message)).encoded)
        case .closeContainer:
            try await closeContainer(ContainerID(DNContainerRequest(parsing: message).container))
            return RPCReply()
        case .safeMode:
            let request = try SCMSafeModeRequest(parsing: message)
            try lead()
            if request.exit { memory.withState { state, _ in state.leaveSafeMode() } }
            return RPCReply(try await status(SCMStatusRequest()).encoded)
        case .closings:
            return RPCReply(try closings(SCMClosingsRequest(parsing: message)).encoded)
        case .operate:
            return RPCReply(try await operate(SCMOperateRequest(parsing: message)).encoded)
        case .balance:
            return RPCReply(try await balance(SCMBalanceRequest(parsing: message)).encoded)
        case .safety:
            _ = try SCMSafetyRequest(parsing: message)
            return RPCReply(try await safety().encoded)
        }
    }
}
