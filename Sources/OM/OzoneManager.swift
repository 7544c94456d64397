import Logging
import MetadataStore
import Model
import OMCore
import RaftDriver
import Reactor
import Synchronization
import Telemetry
import Transport
import Wire

/// The Ozone Manager: answers for names, and hands out the blocks that keys are written to.
///
/// A change is prepared here, where clock, random numbers and SCM may be asked; what was found
/// is frozen into a command; the command goes through the group's log and is applied there.
/// Questions are answered from a snapshot of the tables.
///
/// Thread-safe; calls may come from any executor.
public final class OzoneManager: Sendable {
    public struct Options: Sendable {
        /// For buckets that are created without a replication of their own.
        public var defaultReplication: ReplicationConfig
        /// How long an open key may stay open.
        public var openKeyAge = Duration.seconds(24 * 3600)
        /// The same for a key that was reserved: short, written by who reserved it or not at all,
        /// and the more of them are left the busier its bucket is. Long enough for 1 MiB that
        /// comes with 600 bytes a second.
        public var reservedKeyAge = Duration.seconds(1800)
        /// How long an upload in parts may stay in progress.
        public var uploadAge = Duration.seconds(7 * 24 * 3600)
        /// How long the blocks of a deleted key stay, for readers that have just looked it up;
        /// and how long a hold on them lasts that a reader does not renew.
        public var deletionDelay = Duration.seconds(60)
        /// How often deleted blocks are looked for.
        public var deletionInterval = Duration.seconds(1)
        /// How often open keys and uploads that are too old are looked for.
        public var expiryInterval = Duration.seconds(600)
        /// How often SCM is asked which containers take no new blocks any more.
        public var closingsInterval = Duration.milliseconds(250)
        /// How long counting the keys of an old bucket rests after each command.
        public var countingInterval = Duration.milliseconds(50)
        public var group = MetadataGroupOptions()
        /// Records kept in memory, in bytes.
        public var cacheBytes = 64 << 20

        public init(defaultReplication: ReplicationConfig) {
            self.defaultReplication = defaultReplication
        }
    }

    public enum Limits {
        /// Block groups that come with a key when it is opened; a longer one asks for more.
        public static let firstGroups = 4
        /// Deleted blocks given to SCM at once: so many, and the rest of a record.
        public static let deletionBatch = 4000
        /// Records of deleted blocks looked at at once.
        public static let deletionRecords = 4096
        /// Requests of one look that SCM may refuse; what is left then waits for the next walk.
        public static let refusals = 32
        /// Bytes that a block group takes in an answer beside its nodes, about.
        static let groupBytes = 64
        /// Bytes that a node takes in an answer beside its names, about.
        static let addressBytes = 40
    }

    let group: MetadataGroup<OMStateMachine>
    let blocks: any BlockAllocator  // called once for many blocks
    let options: Options
    let now: @Sendable () -> Timestamp
    private let clock = Mutex(LogClock())
    let logger: Logger
    let leases: GroupLeases
    let places: ContainerPlaces
    let users: UserCache
    /// Nanoseconds of a clock that nobody sets.
    let uptime: @Sendable () -> UInt64
    let measures = OMMeasures()
    let holds: Mutex<BlockHolds>
    let schedule: Mutex<DeletionSchedule>
    /// Whether there may be uploads of buckets that were deleted.
    let mayHaveOrphans = Atomic<Bool>(true)
    private let generator: Mutex<any RandomNumberGenerator & Sendable>
    private let loops = Mutex<[Task<Void, Never>]>([])

    private init(
        group: MetadataGroup<OMStateMachine>, blocks: any BlockAllocator, options: Options,
        users: UserCache,
        clock: @escaping @Sendable () -> Timestamp, uptime: @escaping @Sendable () -> UInt64,
        generator: any RandomNumberGenerator & Sendable, logger: Logger
    ) {
        self.group = group
        self.blocks = blocks
        self.options = options
        self.users = users
        now = clock
        self.uptime = uptime
        let grace = Self.nanoseconds(options.deletionDelay)
        holds = Mutex(BlockHolds(grace: grace))
        schedule = Mutex(DeletionSchedule(grace: grace))
        self.generator = Mutex(generator)
        self.logger = logger
        leases = GroupLeases(blocks: blocks, reactor: group.reactor)
        places = ContainerPlaces(blocks: blocks, reactor: group.reactor)
    }

    /// Opens the metadata in `directory`, making it if it is absent. Nothing runs in the
    /// background before `start()`.
    ///
    /// - Parameters:
    ///   - member: whose files the directory has, and how the others of its group are reached; nil:
    ///     of a group of one that names nobody.
    ///   - clock: the time that goes into commands; the wall clock outside of tests.
    ///   - uptime: nanoseconds of a clock that nobody sets; the reactor's outside of tests.
    ///   - generator: where upload IDs come from; the system's outside of tests.
    public static func open(
        directory: String, as member: (identity: MemberIdentity, channels: ChannelPool)? = nil,
        reactor: Reactor, blocks: some BlockAllocator, options: Options,
        clock: @escaping @Sendable () -> Timestamp,
        uptime: @escaping @Sendable () -> UInt64 = { MonotonicTime.now().nanoseconds },
        generator: some RandomNumberGenerator & Sendable, logger: Logger
    ) async throws(StoreError) -> OzoneManager {
        let users = UserCache()
        let machine = OMStateMachine { users.removeAll() }
        var settings = options.group
        settings.cache = .init(tables: OMStateMachine.cachedTables, bytes: options.cacheBytes)
        settings.member.notice = { logger.warning("\($0)") }
        let hook = LeadershipHook()
        settings.member.leadershipChanged = { hook.call($0) }
        let group: MetadataGroup<OMStateMachine>
        if let member {
            group = try await MetadataGroup.open(
                directory: directory, as: member.identity, reactor: reactor, stateMachine: machine,
                channels: member.channels, options: settings)
        } else {
            group = try await MetadataGroup.open(
                directory: directory, role: "om", reactor: reactor, stateMachine: machine,
                options: settings)
        }
        logger.info("\(group.start)")
        let manager = OzoneManager(
            group: group, blocks: blocks, options: options, users: users, clock: clock,
            uptime: uptime, generator: generator, logger: logger)
        hook.set { [weak manager] leadership in manager?.leadershipChanged(leadership) }
        return manager
    }

    /// Whether requests are answered here.
    var leads: Bool { group.leadership.isLeading }

    /// Looks after the members of its group.
    ///
    /// - Parameters:
    ///   - identity: this member's.
    ///   - address: `HOST:PORT` where it is reached.
    public func keeper(
        as identity: MemberIdentity, address: String, channels: ChannelPool
    ) -> GroupKeeper {
        GroupKeeper(group, as: identity, address: address, channels: channels) { [logger] in
            logger.notice("\($0)")
        }
    }

    /// This member begins to lead, or leads no more. What is only in memory was another's business
    /// meanwhile.
    private func leadershipChanged(_ leadership: Leadership) {
        guard leadership.isLeading else {
            logger.notice("leads no more: term \(leadership.term)")
            return
        }
        logger.notice("leads from term \(leadership.term) on")
        leases.invalidate(nil)
        // Readers told another leader what they hold. They tell this one within a grace, before
        // which nothing is handed over.
        let grace = Self.nanoseconds(options.deletionDelay)
        schedule.withLock { $0 = DeletionSchedule(grace: grace) }
        mayHaveOrphans.store(true, ordering: .relaxed)
    }

    /// Index of the last command whose changes can be read.
    public var appliedIndex: UInt64 { group.appliedIndex }

    /// Starts the loops that expire what was left open and have deleted blocks deleted.
    public func start() {
        let reactor = group.reactor
        loops.withLock { loops in
            guard loops.isEmpty else { return }
            loops = [
                Task(executorPreference: reactor) { await self.deleteBlocksForever() },
                Task(executorPreference: reactor) { await self.expireForever() },
                Task(executorPreference: reactor) { await self.watchClosings() },
                Task(executorPreference: reactor) { await self.countOldBuckets() },
            ]
        }
    }

    /// Stops the loops and closes the metadata.
    public func close() async throws(StoreError) {
        let running = loops.withLock { loops in
            defer { loops = [] }
            return loops
        }
        for loop in running { loop.cancel() }
        for loop in running { await loop.value }
        try await group.close()
    }

    /// Drops block groups held in advance that have a place on one of `nodes`, or all of them if
    /// it is nil. To be called when SCM tells that nodes are gone, or have come back.
    public func invalidateLeases(excluding nodes: Set<DatanodeID>?) async {
        leases.invalidate(nodes.map { ExcludeList(nodes: $0) })
    }

    // MARK: Requests

    /// Answers one request; both are encoded messages of om.proto.
    ///
    /// - Parameters:
    ///   - context: for whom the request is, and until when.
    ///   - call: of a change, what tells it from others: it is carried out once, and a repeat gets
    ///     the first answer. Without one each attempt is a change of its own.
    public func handle(
        method: OMMethod, message: [UInt8], context: IOContext = .client, call: CallID? = nil
    ) async throws(StoreError) -> [UInt8] {
        guard let call, method.isChange else {
            return try await carryOut(method, message, context, nil)
        }
        guard call.isRepeat else { return try await carryOut(method, message, context, call) }
        return try await answerAgain(method, message, context, call)
    }

    /// No switch over methods has a default: one that is new must say what it does.
    func carryOut(
        _ method: OMMethod, _ message: [UInt8], _ context: IOContext, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        switch method.subject {
        case .user(let method): try await handle(method, message, call)
        case .bucket(let method): try await handle(method, message, call)
        case .key(let method): try await handle(method, message, context, call)
        case .upload(let method): try await handle(method, message, call)
        }
    }

    private func handle(
        _ method: OMMethod.OfUsers, _ message: [UInt8], _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        switch method {
        case .createUser:
            let request = try OMCreateUserRequest(parsing: message)
            try RequestRules.check(request.user)
            return try await propose(.createUser(request.user), for: call)
        case .deleteUser:
            let request = try OMDeleteUserRequest(parsing: message)
            return try await propose(.deleteUser(request.name), for: call)
        case .userByAccessKey:
            let request = try OMUserByAccessKeyRequest(parsing: message)
            return try await user(accessKeyID: request.accessKeyID).encoded
        case .userByName:
            let request = try OMUserByNameRequest(parsing: message)
            var response = OMUserResponse()
            let found = try await read { reads throws(StoreError) in
                try reads.user(named: request.name)
            }
            if let found { response.user = found }
            return response.encoded
        case .listUsers:
            let request = try OMListUsersRequest(parsing: message)
            return try await read { reads throws(StoreError) in try reads.users(request) }.encoded
        }
    }

    private func user(accessKeyID: String) async throws(StoreError) -> OMUserResponse {
        var response = OMUserResponse()
        // What is in memory is as old as what was applied here: a user that another member was
        // told to delete must not be found.
        try await group.readBarrier()
        let (known, generation) = users.find(accessKeyID)
        if let known {
            response.user = known
            return response
        }
        let found = try await read { reads throws(StoreError) in
            try reads.user(accessKeyID: accessKeyID)
        }
        if let found {
            users.insert(found, generation: generation)
            response.user = found
        }
        return response
    }

    private func handle(
        _ method: OMMethod.OfBuckets, _ message: [UInt8], _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        switch method {
        case .createVolume:
            return try await propose(
                .createVolume(OMCreateVolumeRequest(parsing: message)), for: call)
        case .deleteVolume:
            return try await propose(
                .deleteVolume(OMDeleteVolumeRequest(parsing: message)), for: call)
        case .listVolumes:
            let request = try OMListVolumesRequest(parsing: message)
            return try await read { reads throws(StoreError) in
                try reads.volumes(request)
            }.encoded
        case .createBucket:
            return try await createBucket(OMCreateBucketRequest(parsing: message), call)
        case .deleteBucket:
            let answer = try await propose(
                .deleteBucket(OMBucketRequest(parsing: message)), for: call)
            mayHaveOrphans.store(true, ordering: .relaxed)
            return answer
        case .bucket:
            let request = try OMBucketRequest(parsing: message)
            return try await read { reads throws(StoreError) in
                try reads.bucket(request)
            }.encoded
        case .listBuckets:
            let request = try OMListBucketsRequest(parsing: message)
            return try await read { reads throws(StoreError) in
                try reads.buckets(request)
            }.encoded
        }
    }

    private func createBucket(
        _ request: OMCreateBucketRequest, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        var command = OMCreateBucketCommand()
        command.bucket = request.bucket
        command.user = request.user
        command.layout = request.layout
        command.replication = options.defaultReplication.message
        if request.hasReplication {
            try await checkPlaceable(request.replication)
            command.replication = request.replication
        }
        return try await propose(.createBucket(command), for: call)
    }

    // MARK: The way into and out of the tables

    /// Logs and applies a command; returns the message that answers it, or throws its error.
    func propose(
        _ body: OMCommand.OneOf_Body, for call: CallID? = nil
    ) async throws(StoreError) -> [UInt8] {
        try await answer(body, for: call).encoded()
    }

    /// Logs and applies a command; throws its error.
    func answer(
        _ body: OMCommand.OneOf_Body, for call: CallID? = nil
    ) async throws(StoreError) -> OMAnswer {
        var command = OMCommand()
        command.time = now().milliseconds
        command.logTime = try await logTime()
        command.body = body
        command.version = OMFormat.command
        let answer = try await group.propose(command, for: call)
        if case .refused(let error) = answer { throw error }
        return answer
    }

    /// Other leaders have logged so late a time.
    func observe(logged: Int64) { clock.withLock { $0.observe(logged: logged) } }

    /// The time that decides, milliseconds since 1970: see `LogClock`. The first call asks the log
    /// how late it is.
    func logTime() async throws(StoreError) -> Int64 {
        let wall = now().milliseconds
        let passed = uptime()
        if let time = clock.withLock({ $0.read(wall: wall, uptime: passed) }) { return time }
        let logged = try await read { reads in reads.logTime }
        return clock.withLock { clock in
            clock.begin(logged: logged, wall: wall, uptime: passed)
            return clock.read(wall: wall, uptime: passed) ?? wall
        }
    }

    /// Answers from a snapshot of the tables.
    func read<R: Sendable>(
        _ body: @Sendable @escaping (OMReads) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        try await group.read { tables throws(StoreError) in try body(OMReads(tables)) }
    }

    func randomIdentity() -> Identity128 {
        generator.withLock { generator in
            Identity128(high: generator.next(), low: generator.next())
        }
    }
}
