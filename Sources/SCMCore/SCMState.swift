import Model
import Wire

/// What SCM knows: the containers and deletions of its tables, and what datanodes report.
///
/// Each member of SCM's group has one. What the tables hold comes row by row, in the order of the
/// log (`SCMState+Rows`), and is the same everywhere; what datanodes say is what this member heard.
/// Decisions are made from both, by the member that leads (`SCMState+Leading`).
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
        /// Open containers for each replication in use, at least. There are more while so much is
        /// written that a replica of one would take more than `bytesPerOpenReplica`, up to one for
        /// each replica's disk.
        public var openContainers = 3
        /// Bytes a second that a replica of an open container takes before another one is opened.
        public var bytesPerOpenReplica: UInt64 = 8 << 20
        /// Datanodes that must have registered before safe mode ends.
        public var minimumDatanodes = 1
        /// Place groups on d + 1 … d + p − 1 nodes when no more are healthy.
        public var allowsDegradedGroups = true
        /// Bytes a volume must have free to be given new containers.
        public var minimumFreeBytes = 256 << 20
        /// How long a container that takes no new blocks stays open on its datanodes, for writers
        /// that were given one before.
        public var closeDelayNanoseconds: UInt64 = 10_000_000_000
        /// How long after its death a node's replicas are rebuilt elsewhere: most that die come back.
        public var repairAfterNanoseconds: UInt64 = 300_000_000_000
        /// A damaged replica that its node does not heal for so long is rebuilt elsewhere.
        public var healPatienceNanoseconds: UInt64 = 60_000_000_000
        /// Replicas that a node rebuilds at a time, for each of its disks.
        public var repairsPerTarget = 2
        /// Replicas being rebuilt at a time that may read from one node, for each of its disks.
        public var repairsPerSource = 8
        /// A repair that its node has not begun for so long is given up.
        public var repairStartNanoseconds: UInt64 = 120_000_000_000
        /// A repair that was begun and of which nothing new is reported for so long is given up.
        public var repairStallNanoseconds: UInt64 = 1_800_000_000_000
        /// Replicas beyond those that reading needs that a container keeps in service while others of
        /// it are in maintenance.
        public var maintenanceRedundancy = 1
        /// Failures of a disk in a year, which the time to a loss is computed from.
        public var diskFailuresPerYear = 0.02
        /// Local IDs reserved with one command beyond those that are wanted.
        var localIDsPerReservation = Limits.localIDsPerReservation

        public init() {}
    }

    public struct Node: Sendable {
        /// Where it registered, as logged; of a newcomer, as it says.
        public var address: DatanodeAddress
        /// Where it says that it is, to this member; nil: it did not register here.
        var claimed: DatanodeAddress?
        /// nil: not heard of since this member began to listen.
        public var lastHeartbeat: UInt64?
        /// Which one that was, as this member counts those of all nodes.
        var beat: UInt64 = 0
        public var volumes: [DNVolume] = []
        public internal(set) var replicas: [ContainerID: Replica] = [:]
        /// Replicas that it is rebuilding. They count for nothing.
        var recovering: [ContainerID: Rebuilding] = [:]
        /// Those of `replicas` that are not closed, and can be.
        var openReplicas: Set<ContainerID> = []
        /// Containers whose replica it reports as lost.
        var lost: Set<ContainerID> = []
        /// Those of `lost` of which it has files that cannot be opened; of the others the disk is out.
        var unusable: Set<ContainerID> = []
        /// Containers of which it has no replica, and makes none as long as its epoch lasts.
        var retired: Set<ContainerID> = []
        /// Stands for what its volumes hold; 0: it does not say, as those of before.
        public internal(set) var store: UInt64 = 0
        /// Names the permissions to make replicas that it takes.
        public internal(set) var epoch: UInt64 = 0
        /// Deleted blocks whose space has not been given back.
        public var unreclaimedBlocks: UInt64 = 0

        /// Volumes that can be given something.
        var usableVolumes: [DNVolume] { volumes.filter { !$0.isFailed && !$0.isLeaving } }

        mutating func report(_ replica: SCMReplicaReport) {
            let id = ContainerID(replica.container)
            openReplicas.remove(id)
            lost.remove(id)
            unusable.remove(id)
            retired.remove(id)
            recovering[id] = nil
            switch replica.state {
            case .none:
                replicas[id] = nil
                retired.insert(id)
            case .lost:
                replicas[id] = nil
                lost.insert(id)
                if replica.replicaIndex == 0 { unusable.insert(id) }
            case .open, .closing:
                replicas[id] = Replica(replica)
                openReplicas.insert(id)
            case .closed, .unhealthy, .UNRECOGNIZED: replicas[id] = Replica(replica)
            case .recovering:
                replicas[id] = nil
                recovering[id] = Rebuilding(replica)
            }
        }

        mutating func forgetReplicas() {
            replicas = [:]
            recovering = [:]
            openReplicas = []
            lost = []
            unusable = []
            retired = []
        }
    }

    public enum NodeState: Sendable {
        case healthy, stale, dead
        /// Not heard of yet, by a member that does not listen for long enough to call it dead.
        case unheard
    }

    public struct Container: Hashable, Sendable {
        public var id: ContainerID
        public var pipeline: PipelineID
        public var replication: ReplicationConfig
        /// By replica index; nil where nothing was placed.
        public var nodes: [DatanodeID?]
        public var state: SCMContainerState
        public var corrupt: ReplicaIndexes = []
        /// Replica indexes (from 1) that no byte of any block fell to when it was closed.
        public var empty: ReplicaIndexes = []
        /// Replica indexes that were reported once: from then on absence is loss.
        public internal(set) var witnessed: ReplicaIndexes = []
        /// By replica index: the stores of the nodes when it was made; 0 where not known, and
        /// empty for a container from before they were noted.
        var stores: [UInt64] = []
        /// Replicas that are being rebuilt.
        public internal(set) var repairs: [Repair] = []
        /// By replica index: the orders that put the replicas where they are; 0, or empty, where they
        /// were made.
        var orders: [UInt64] = []

        public var isDegraded: Bool { nodes.contains { $0 == nil } }
    }

    public let options: Options
    /// Tells this run of SCM from others.
    let run: UInt64
    public internal(set) var cluster: ClusterID?
    public internal(set) var nodes: [DatanodeID: Node] = [:]
    /// Datanodes that have registered here and are not logged as far as this member knows.
    var newcomers: [DatanodeID: Node] = [:]
    public internal(set) var containers: [ContainerID: Container] = [:]
    var deletions = PendingDeletions(isTelling: false)
    var closings: ContainerClosings
    /// Containers that are being closed or removed.
    var inTransition: Set<ContainerID> = []
    /// How much is written to open containers.
    var ingest = IngestMeter()
    /// Datanodes that are not in service.
    public internal(set) var operations: [DatanodeID: Operation] = [:]
    /// Whether replicas are moved from fuller nodes to emptier ones.
    public internal(set) var balance = SCMBalance()
    /// Which containers each node has to do with, by the tables.
    var members = ContainerMembers()
    /// What is missing and waits for being repaired, as the member knows that leads.
    var repairs = RepairQueue()
    /// Whether this member, which leads, has applied all that was logged before it did.
    var hasCaughtUp = false
    /// Replicas that are reported by nodes whose they are not, or may not be.
    var strays = StrayReplicas()
    /// Containers that are in no table, or not yet, as far as this member has applied the log; and the
    /// nodes that reported replicas of them, some of which may be gone.
    var unknown: [ContainerID: Set<DatanodeID>] = [:]
    /// Deletions that wait for nodes that have nothing of the container any more.
    var departed: [DatanodeID: [UInt64]] = [:]
    /// Heartbeats and registrations that this member has heard.
    var beats: UInt64 = 0
    /// Indexes that were reported and are not logged as witnessed.
    var unlogged: [ContainerID: ReplicaIndexes] = [:]
    /// Containers that something was reported of since they were looked at.
    var changed: Set<ContainerID> = []
    /// Those that are to be looked at again though nothing may be reported of them, once all of
    /// `again` were.
    var waiting: Set<ContainerID> = []
    var again: Set<ContainerID> = []
    /// Which disks are slow, by what this member hears.
    var disks = DiskHealth()
    /// When the state was used last; see `noteTime`.
    var lastUse: UInt64?
    /// Since when this member hears datanodes.
    var listeningSince: UInt64
    /// The term in which this member leads, if it does.
    var leadingTerm: UInt64?
    /// Local IDs below this may be in use.
    var reservedLocalIDs: UInt64 = 1
    /// Local IDs that only this member gives out: it had them reserved in the term that it leads
    /// in.
    var ownLocalIDs: Range<UInt64> = 0..<0
    var nextContainerID: UInt64 = 1
    var openByReplication: [ReplicationConfig: [ContainerID]] = [:]
    var turn = 0
    public internal(set) var isInSafeMode = true

    /// The state of an SCM without tables.
    ///
    /// - Parameters:
    ///   - run: tells this run of SCM from others.
    ///   - now: when it begins to listen to datanodes.
    public init(options: Options, run: UInt64 = 1, at now: UInt64) {
        self.options = options
        self.run = run
        listeningSince = now
        closings = ContainerClosings(term: run)
    }

    // MARK: Nodes

    public func state(of id: DatanodeID, at now: UInt64) -> NodeState {
        let last = nodes[id]?.lastHeartbeat
        let age = now - min(now, last ?? listeningSince)
        if age > options.deadAfterNanoseconds { return .dead }
        guard last != nil else { return .unheard }
        return age > options.staleAfterNanoseconds ? .stale : .healthy
    }

    /// What a datanode says of itself, in full. False if nothing is kept, for too many register
    /// that are not logged.
    ///
    /// It is logged by `.node`, where this member leads before this is called. Where that is not
    /// known yet, the datanode counts nowhere, but what it says is kept until it is.
    public mutating func registered(
        _ address: DatanodeAddress, volumes: [DNVolume], replicas: [SCMReplicaReport],
        store: UInt64 = 0, epoch: UInt64 = 0, at now: UInt64
    ) -> Bool {
        let id = address.id
        if nodes[id] == nil {
            guard newcomers[id] != nil || newcomers.count < Limits.newcomers else { return false }
            newcomers[id] = Node(address: address)
        }
        deletions.startOver(id)
        change(id) { node in
            node.store = store
            node.claimed = address
        }
        return heard(
            id, volumes: volumes, replicas: replicas, isFull: true, store: store, epoch: epoch,
            at: now)
    }

    /// Whether node `id`, which may have registered here, has not been logged as it is: the leader
    /// that it registered with may have died before, and one that leads now has to.
    public func mustBeLogged(_ id: DatanodeID) -> Bool {
        guard let node = nodes[id] else { return true }
        return node.claimed.map { $0 != node.address } ?? false
    }

    /// Changes what is known of a datanode, be it logged or not.
    private mutating func change(_ id: DatanodeID, _ body: (inout Node) -> Void) {
        if nodes[id] != nil {
            body(&nodes[id]!)
        } else if newcomers[id] != nil {
            body(&newcomers[id]!)
        }
    }

    /// A heartbeat. False if the node is not known since this member began to listen, or is not as
    /// it registered: it must register.
    /// - Parameters:
    ///   - isFull: what is not among `replicas` is not there any more.
    ///   - store: stands for what the node's volumes hold; 0: not told.
    ///   - epoch: names the permissions that it takes.
    public mutating func heard(
        _ id: DatanodeID, volumes: [DNVolume], replicas: [SCMReplicaReport], isFull: Bool,
        store: UInt64 = 0, epoch: UInt64 = 0, at now: UInt64
    ) -> Bool {
        // Not the node itself, whose replicas would be copied when it is changed.
        let isKnown = nodes[id] != nil || newcomers[id] != nil
        let registered = nodes[id]?.store ?? newcomers[id]?.store
        let wasHeard = (nodes[id]?.lastHeartbeat ?? newcomers[id]?.lastHeartbeat) != nil
        guard isKnown, registered == store, isFull || wasHeard else { return false }
        beats += 1
        let beats = beats
        if isFull {
            strays.forget(id)
            if let before = nodes[id]?.replicas.keys { changed.formUnion(before) }
            if leadingTerm != nil { repairs.look(at: members.containers(of: id)) }
        }
        if leadingTerm != nil { noteNews(replicas, of: id) }
        for replica in replicas where replica.state == .open {
            noteGrowth(of: replica, on: id, at: now)
        }
        change(id) { node in
            node.lastHeartbeat = now
            node.beat = beats
            node.volumes = volumes
            node.epoch = epoch
            if isFull { node.forgetReplicas() }
            for replica in replicas { node.report(replica) }
        }
        disks.heard(id, volumes, at: now)
        for replica in replicas {
            changed.insert(ContainerID(replica.container))
            noteReported(
                ContainerID(replica.container), replica.state, index: replica.replicaIndex, by: id)
        }
        return true
    }

    private mutating func noteGrowth(
        of replica: SCMReplicaReport, on id: DatanodeID, at now: UInt64
    ) {
        let number = ContainerID(replica.container)
        guard let container = containers[number] else { return }
        // Of one that was not known all may be old.
        let before = nodes[id]?.replicas[number]?.usedBytes ?? replica.usedBytes
        guard replica.usedBytes > before else { return }
        ingest.note(replica.usedBytes - before, of: container.replication, at: now)
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
        commands += deletions(for: id)
        commands += repairCommands(for: id, at: now) + healCommands(for: id, at: now)
        let rebuilt = members.repairs(on: id)
        return commands + deletions.commands(for: id, holding: rebuilt, at: now)
    }

    /// Has node `id` remove what it has of containers that are being removed.
    private func deletions(for id: DatanodeID) -> [SCMDatanodeCommand] {
        transitions(of: id, to: .containerDeleting).compactMap { container in
            guard let replica = nodes[id]?.replicas[container.id] else { return nil }
            var command = SCMDatanodeCommand()
            if replica.state == .unhealthy {
                // It had no block when this began; its node refuses to say so of what is damaged.
                command.removeReplica.container = container.id.rawValue
                command.removeReplica.replicaIndex = replica.replicaIndex
            } else {
                command.deleteContainer = container.id.rawValue
            }
            return command
        }
    }

    /// Containers in `state`, on the way from one to another, that node `id` has to do with, in order.
    func transitions(of id: DatanodeID, to state: SCMContainerState) -> [Container] {
        let own = members.containers(of: id)
        let both =
            own.count < inTransition.count
            ? own.filter { inTransition.contains($0) } : inTransition.filter { own.contains($0) }
        return both.sorted().compactMap { containers[$0] }.filter { $0.state == state }
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
        // Opening the tables took its time, in which nobody could be heard either.
        if lastUse == nil { listeningSince = now }
        guard let lastUse, now > lastUse + Limits.standstillNanoseconds else { return }
        listeningSince += now - lastUse
        for id in nodes.keys { nodes[id]!.lastHeartbeat? += now - lastUse }
        for id in newcomers.keys { newcomers[id]!.lastHeartbeat? += now - lastUse }
    }

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
            // Of a node not heard of yet the record is all there is.
            return state(of: node, at: now) == .dead ? nil : known.address
        }
    }

    /// A reader found the replica damaged that `node` has; nil: whoever has the place. Nothing is
    /// noted of a node that has the place no more.
    public mutating func markCorrupt(_ id: ContainerID, index: Int, on node: DatanodeID? = nil) {
        guard let container = containers[id], index >= 1, index <= container.nodes.count,
            node == nil || container.nodes[index - 1] == node
        else { return }
        containers[id]?.corrupt.insert(index)
        if leadingTerm != nil { repairs.look(at: id) }
    }
}
