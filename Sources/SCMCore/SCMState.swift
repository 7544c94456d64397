import Model
import Wire

/// What SCM knows: the containers and deletions of its tables, and what datanodes report.
///
/// A pure state machine: time comes in with each event (nanoseconds of a monotonic clock), and
/// what must be logged comes out as commands. Not thread-safe.
public struct SCMState: Sendable {
    public struct Options: Sendable {
        /// A datanode that was not heard of for so long gets no new blocks.
        public var staleAfterNanoseconds: UInt64 = 5_000_000_000
        /// A datanode that was not heard of for so long does not count as holding its replicas.
        public var deadAfterNanoseconds: UInt64 = 15_000_000_000
        /// A container is closed when one of its replicas holds so many bytes.
        public var containerSize = 5 << 30
        /// Share of it at which closing begins, in percent.
        public var closeAtPercent = 90
        /// Open containers for each replication in use.
        public var openContainers = 3
        /// Datanodes that must have registered before safe mode ends.
        public var minimumDatanodes = 1
        /// Place groups on d + 1 … d + p − 1 nodes when no more are healthy.
        public var allowsDegradedGroups = true
        /// Bytes a volume must have free to be given new containers.
        public var minimumFreeBytes = 256 << 20
        /// How long a container that takes no new blocks stays open on its datanodes, for writers
        /// that were given one before.
        public var closeDelayNanoseconds: UInt64 = 10_000_000_000

        public init() {}
    }

    public struct Node: Sendable {
        public var address: DatanodeAddress
        /// nil: not heard of since SCM started.
        public var lastHeartbeat: UInt64?
        public var volumes: [DNVolume] = []
        public var replicas: [ContainerID: SCMReplicaReport] = [:]
        /// Those of them that are not closed, and can be.
        var openReplicas: Set<ContainerID> = []
        /// Containers whose replica it reports as lost.
        var lost: Set<ContainerID> = []
        /// Containers of which it has no replica, and makes none as long as its epoch lasts.
        var retired: Set<ContainerID> = []
        /// Stands for what its volumes hold; 0: it does not say, as those of before.
        public internal(set) var store: UInt64 = 0
        /// Names the permissions to make replicas that it takes.
        public internal(set) var epoch: UInt64 = 0
        /// Deleted blocks whose space has not been given back.
        public var unreclaimedBlocks: UInt64 = 0

        mutating func report(_ replica: SCMReplicaReport) {
            let id = ContainerID(replica.container)
            openReplicas.remove(id)
            lost.remove(id)
            retired.remove(id)
            switch replica.state {
            case .none:
                replicas[id] = nil
                retired.insert(id)
            case .lost:
                replicas[id] = nil
                lost.insert(id)
            case .open, .closing:
                replicas[id] = replica
                openReplicas.insert(id)
            case .closed, .unhealthy, .UNRECOGNIZED: replicas[id] = replica
            }
        }

        mutating func forgetReplicas() {
            replicas = [:]
            openReplicas = []
            lost = []
            retired = []
        }
    }

    public enum NodeState: Sendable { case healthy, stale, dead }

    public struct Container: Sendable {
        public var id: ContainerID
        public var pipeline: PipelineID
        public var replication: ReplicationConfig
        /// By replica index; nil where nothing was placed.
        public var nodes: [DatanodeID?]
        public var state: SCMContainerState
        public var corrupt: Set<Int> = []
        /// Replica indexes (from 1) that no byte of any block fell to when it was closed.
        public var empty: Set<Int> = []
        /// Replica indexes that were reported once: from then on absence is loss.
        public internal(set) var witnessed: Set<Int> = []
        /// By replica index: the stores of the nodes when it was made; 0 where not known, and
        /// empty for a container from before they were noted.
        var stores: [UInt64] = []

        public var isDegraded: Bool { nodes.contains { $0 == nil } }
    }

    public let options: Options
    public internal(set) var cluster: ClusterID?
    public internal(set) var nodes: [DatanodeID: Node] = [:]
    public internal(set) var containers: [ContainerID: Container] = [:]
    var deletions = PendingDeletions()
    var closings: ContainerClosings
    /// Containers that are being closed or removed.
    var inTransition: Set<ContainerID> = []
    /// Indexes that were reported and are not logged as witnessed.
    var unlogged: [ContainerID: Set<Int>] = [:]
    /// Containers that something was reported of since they were looked at.
    var changed: Set<ContainerID> = []
    /// When the state was used last; see `noteTime`.
    var lastUse: UInt64?
    /// Local IDs below this may be in use.
    var reservedLocalIDs: UInt64 = 1
    var nextLocalID: UInt64 = 1
    var nextContainerID: UInt64 = 1
    var openByReplication: [ReplicationConfig: [ContainerID]] = [:]
    var turn = 0
    public internal(set) var isInSafeMode = true

    /// The state that the tables hold.
    ///
    /// Throws `corrupt` with the table and the key of a row that cannot be read. Without it SCM
    /// would give numbers out again that stand for bytes on disks.
    /// - Parameter term: tells this run of SCM from others.
    public init(
        options: Options, reading tables: some MetadataReader, term: UInt64 = 1
    ) throws(StoreError) {
        self.options = options
        closings = ContainerClosings(term: term)
        try SCMRows.value(SCMTable.clusterKey, in: tables) { row throws(StoreError) in
            cluster = Identity128(try WireIdentity(parsing: row))
        }
        try SCMRows.value(SCMTable.localIDKey, in: tables) { row throws(StoreError) in
            reservedLocalIDs = try SCMRows.number(row)
            nextLocalID = reservedLocalIDs
        }
        try SCMRows.each(of: SCMTable.nodes, in: tables) { _, row throws(StoreError) in
            guard let address = try DatanodeAddress(WireAddress(parsing: row)) else {
                throw StoreError(.corrupt, "a datanode without an identity")
            }
            nodes[address.id] = Node(address: address)
        }
        try SCMRows.each(of: SCMTable.containers, in: tables) { key, row throws(StoreError) in
            let record = try SCMContainerRecord(parsing: row)
            guard try SCMRows.number(key) == record.id else {
                throw StoreError(.corrupt, "the record of container \(record.id)")
            }
            try add(record)
        }
        try SCMRows.each(of: SCMTable.deletions, in: tables) { key, row throws(StoreError) in
            deletions.add(try SCMDeletionRecord(parsing: row), number: try SCMRows.number(key))
        }
    }

    private mutating func add(_ record: SCMContainerRecord) throws(StoreError) {
        let replication = try record.checkedReplication()
        var container = Container(
            id: ContainerID(record.id), pipeline: PipelineID(record.pipeline),
            replication: replication,
            nodes: record.nodes.map { $0.hasID ? Identity128($0.id) : nil }, state: record.state,
            empty: Set(record.emptyIndexes.map { Int($0) }))
        container.stores = record.stores
        container.witnessed = Set(record.witnessedIndexes.map { Int($0) })
        container.believeOldRecord()
        containers[container.id] = container
        nextContainerID = max(nextContainerID, record.id + 1)
        if record.state == .containerOpen {
            openByReplication[replication, default: []].append(container.id)
        }
        noteTransition(of: container.id, record.state)
    }

    private mutating func noteTransition(of id: ContainerID, _ state: SCMContainerState) {
        switch state {
        case .containerClosing, .containerDeleting: inTransition.insert(id)
        case .containerOpen, .containerClosed, .containerDeleted, .UNRECOGNIZED:
            inTransition.remove(id)
            changed.insert(id)
            closings.forget(id)
        }
    }

    // MARK: Commands

    /// Takes a command that has been logged and applied to the tables at `index`.
    /// - Parameter now: the present time of the clock that events are told with.
    public mutating func apply(_ command: SCMCommand, at index: UInt64, now: UInt64) {
        switch command.command {
        case .cluster(let change): if cluster == nil { cluster = Identity128(change.id) }
        case .createContainer(let change):
            do throws(StoreError) {
                try add(change.record)
            } catch {
                preconditionFailure("container \(change.id) was given out with \(error)")
            }
        case .containerState(let change):
            let id = ContainerID(change.id)
            guard let container = containers[id] else { return }
            containers[id]?.state = change.state
            if change.state == .containerClosed {
                containers[id]?.empty = Set(change.emptyIndexes.map { Int($0) })
            }
            if container.state == .containerOpen, change.state != .containerOpen {
                openByReplication[container.replication]?.removeAll { $0 == id }
                closings.add(id, at: now)
            }
            noteTransition(of: id, change.state)
        case .witnessed(let change): noteWitnessed(change)
        case .reserveNumbers(let change):
            reservedLocalIDs = max(reservedLocalIDs, change.localIdsUntil)
        case .deleteBlocks(let change):
            for (offset, group) in SCMDeletions.byContainer(change.blocks).enumerated() {
                guard let container = containers[ContainerID(group.container)] else { continue }
                var record = SCMContainerRecord()
                record.nodes = container.nodes.map { id in
                    var address = WireAddress()
                    if let id { address.id = id.message }
                    return address
                }
                deletions.add(
                    SCMDeletions.record(group.blocks, record),
                    number: SCMDeletions.number(commandIndex: index, offset: offset))
            }
        case .deletedOn(let change):
            let node = Identity128(change.node)
            for number in change.transactions { deletions.confirm(number, by: node) }
        case .node(let change):
            guard let address = try? DatanodeAddress(change.address) else { return }
            nodes[address.id, default: Node(address: address)].address = address
        case nil: break
        }
    }

    // MARK: Nodes

    public func state(of id: DatanodeID, at now: UInt64) -> NodeState {
        guard let last = nodes[id]?.lastHeartbeat else { return .dead }
        let age = now - min(now, last)
        if age > options.deadAfterNanoseconds { return .dead }
        return age > options.staleAfterNanoseconds ? .stale : .healthy
    }

    /// What a datanode says of itself, in full. It must have been logged by `.node` before.
    public mutating func registered(
        _ id: DatanodeID, volumes: [DNVolume], replicas: [SCMReplicaReport], store: UInt64 = 0,
        epoch: UInt64 = 0, at now: UInt64
    ) {
        deletions.startOver(id)
        nodes[id]?.store = store
        _ = heard(
            id, volumes: volumes, replicas: replicas, isFull: true, store: store, epoch: epoch,
            at: now)
    }

    /// A heartbeat. False if the node is not known since SCM started, or is not as it registered:
    /// it must register.
    /// - Parameters:
    ///   - isFull: what is not among `replicas` is not there any more.
    ///   - store: stands for what the node's volumes hold; 0: not told.
    ///   - epoch: names the permissions that it takes.
    public mutating func heard(
        _ id: DatanodeID, volumes: [DNVolume], replicas: [SCMReplicaReport], isFull: Bool,
        store: UInt64 = 0, epoch: UInt64 = 0, at now: UInt64
    ) -> Bool {
        guard nodes[id] != nil, isFull || nodes[id]?.lastHeartbeat != nil,
            nodes[id]?.store == store
        else { return false }
        nodes[id]?.lastHeartbeat = now
        nodes[id]?.volumes = volumes
        nodes[id]?.epoch = epoch
        if isFull {
            if let before = nodes[id]?.replicas.keys { changed.formUnion(before) }
            nodes[id]?.forgetReplicas()
        }
        for replica in replicas {
            nodes[id]?.report(replica)
            changed.insert(ContainerID(replica.container))
            noteReported(replica, by: id)
        }
        return true
    }

    /// What a heartbeat tells of deletions: commands that node `id` could not carry out, and the
    /// deleted blocks whose space it has not given back.
    public mutating func heard(
        _ id: DatanodeID, failed: [UInt64], unreclaimed: UInt64, at now: UInt64
    ) {
        nodes[id]?.unreclaimedBlocks = unreclaimed
        for number in failed { deletions.fail(number, by: id, at: now) }
    }

    /// Why no more deletions are taken now, if so: too many wait for datanodes.
    public func deletionError() -> StoreError? {
        guard deletions.blocks >= PendingDeletions.Limits.blocks else { return nil }
        return StoreError(
            .overloaded,
            "\(deletions.blocks) deleted blocks wait for datanodes to confirm them; see "
                + "`apus admin datanode list`")
    }

    /// Deleted blocks that not all datanodes have confirmed.
    public var pendingDeletions: Int { deletions.blocks }

    /// What node `id` is to do, given what it reported and what it has been told before.
    public mutating func commands(for id: DatanodeID, at now: UInt64) -> [SCMDatanodeCommand] {
        guard let node = nodes[id] else { return [] }
        var commands: [SCMDatanodeCommand] = []
        for container in node.openReplicas.sorted() {
            guard let known = containers[container], known.state != .containerOpen,
                closings.mayClose(container, delay: options.closeDelayNanoseconds, at: now)
            else { continue }
            var command = SCMDatanodeCommand()
            command.closeContainer = container.rawValue
            commands.append(command)
        }
        commands += retirements(for: id, at: now)
        for container in inTransition where containers[container]?.state == .containerDeleting {
            guard node.replicas[container] != nil else { continue }
            var command = SCMDatanodeCommand()
            command.deleteContainer = container.rawValue
            commands.append(command)
        }
        return commands + deletions.commands(for: id, at: now)
    }

    /// What a watcher of closings has not heard.
    public mutating func closings(
        _ request: SCMClosingsRequest, at now: UInt64
    ) -> SCMClosingsResponse {
        closings.answer(request, at: now)
    }

    /// Told whenever something is asked or looked at. Time in which nothing was, though it is
    /// looked at several times a second, SCM itself stood still (a process stopped, a machine
    /// asleep): nobody could be heard, so it says nothing against anybody.
    public mutating func noteTime(_ now: UInt64) {
        defer { lastUse = now }
        guard let lastUse, now > lastUse + Limits.standstillNanoseconds else { return }
        for id in nodes.keys { nodes[id]!.lastHeartbeat? += now - lastUse }
    }

    // MARK: Safe mode

    /// Why SCM is in safe mode, or nil once it may leave it.
    public func safeModeReason(at now: UInt64) -> String? {
        let heard = nodes.values.count { $0.lastHeartbeat != nil }
        guard heard >= options.minimumDatanodes else {
            return "\(heard) of at least \(options.minimumDatanodes) datanodes have registered"
        }
        // Others may never have held a block, and so have no replica.
        let expected = containers.values.filter { $0.state == .containerClosed }
        let complete = expected.count { knownReplicas($0) >= $0.replication.minimumReplicas }
        guard complete * 100 >= expected.count * 99 else {
            return "\(complete) of \(expected.count) containers have enough replicas reported"
        }
        return nil
    }

    /// Replicas that were reported, or are known to be empty.
    private func knownReplicas(_ container: Container) -> Int {
        container.nodes.indices.count { place in
            guard let id = container.nodes[place], let node = nodes[id],
                node.lastHeartbeat != nil, node.replicas[container.id] != nil
            else { return container.empty.contains(place + 1) }
            return true
        }
    }

    public mutating func updateSafeMode(at now: UInt64) {
        if isInSafeMode, safeModeReason(at: now) == nil { isInSafeMode = false }
    }

    public mutating func leaveSafeMode() { isInSafeMode = false }

    // MARK: Looking up

    /// The nodes of a container by replica index, at the addresses they last registered with;
    /// nil where nothing was placed, the node is dead, or has lost the replica.
    public func places(of id: ContainerID, at now: UInt64) -> [DatanodeAddress?]? {
        guard let container = containers[id] else { return nil }
        return container.nodes.enumerated().map { place, node in
            guard let node, let known = nodes[node] else {
                return nil
            }
            if presence(of: place, in: container, at: now) == .lost { return nil }
            // Right after a start nobody has been heard of yet; then the record is all there is.
            if known.lastHeartbeat == nil { return isInSafeMode ? known.address : nil }
            return state(of: node, at: now) == .dead ? nil : known.address
        }
    }

    public mutating func markCorrupt(_ id: ContainerID, index: Int) {
        guard let container = containers[id], index >= 1, index <= container.nodes.count else {
            return
        }
        containers[id]?.corrupt.insert(index)
    }
}
