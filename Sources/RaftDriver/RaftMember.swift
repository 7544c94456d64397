import Model
import Raft
import RaftLog
import Reactor
import Synchronization

/// Carries messages to the other members of one group. Never waits; what cannot be sent is
/// dropped, as the core expects of a network.
public protocol RaftTransport: Sendable {
    func send(_ messages: [Message])

    /// `HOST:PORT` of another member, for whoever asks here what only that one answers; nil if it
    /// is not known.
    func address(of peer: PeerID) -> String?

    /// Takes a piece of a snapshot to another member; returns the offset of the next it wants.
    func deliver(_ request: SnapshotRequest, to peer: PeerID) async throws(StoreError) -> Int
}

/// One member of a group: its core, its part of the log, and what its entries are applied to.
///
/// ``MemberCore`` decides, this carries out. What comes in (commands, messages, ticks) waits in an
/// inbox that any thread may add to; one loop steps it all into the core, then does what the core
/// asks for: one loop makes entries durable, one applies what is committed, messages go to the
/// transport. While one write is synced the next gathers, so each sync serves all that waited.
///
/// An answered command is committed: durable on a majority, applied here, and never lost.
///
/// Isolated to its reactor.
public actor RaftMember {
    public typealias Limits = RaftMemberLimits

    /// What other threads hand over.
    struct Inbox {
        var commands: [any PendingCommand] = []
        var messages: [Message] = []
        /// Bytes of these messages, about.
        var messageBytes = 0
        /// Commands that are not answered yet, wherever they are, and their bytes.
        var outstanding = 0
        var outstandingBytes = 0
        var idle: UnsafeContinuation<Void, Never>?
        /// Why nothing can be proposed any more.
        var refusal: StoreError?
        /// Why nothing can be proposed for now: this leader lacks room, descriptors or memory.
        var shortage: StoreError?
        /// Whether the member is closed or has stopped: nothing more comes in.
        var isClosing = false
    }

    public nonisolated let reactor: Reactor
    public nonisolated let options: RaftMemberOptions
    let log: GroupLog
    let applier: any CommandApplier  // entered once a batch
    let transport: any RaftTransport  // entered once a round
    nonisolated let inbox = Mutex(Inbox())
    /// Whether this member leads a group of no other, and has applied an entry of its term: then
    /// whatever was answered can be read.
    nonisolated let isAlone = Atomic(false)
    /// Whether this member leads, for those who work only where it does.
    nonisolated let leading = Mutex(Leadership())
    /// The leader as far as known, for other threads.
    nonisolated let seenLeader = Mutex(PeerID.none)
    /// Nanoseconds of the monotonic clock until which what was answered can be read here without
    /// asking others; 0: not.
    nonisolated let leaseEnd = Atomic<UInt64>(0)
    /// Whether this leader knows of committed entries that cannot be read here yet, while others
    /// may have applied them: what was read there must not be missing here.
    nonisolated let isBehind = Atomic(false)
    nonisolated let measures = GroupMeasures()

    var core: MemberCore<GroupLog>
    /// What others were last told of this member.
    private var standing = MemberStanding()
    var snapshots: SnapshotStore
    /// Why the last snapshot could not be written or sent.
    nonisolated let snapshotError = Mutex<StoreError?>(nil)
    var idleAppender: UnsafeContinuation<Void, Never>?
    var idleApplier: UnsafeContinuation<Void, Never>?
    var loops: [Task<Void, Never>] = []
    var ticker: Task<Void, Never>?
    var isClosed = false
    /// Whether entries are being applied at this moment.
    var isApplying = false
    /// How many of the loops wait for room on a disk, descriptors or memory.
    var waitsForSpace = 0
    /// What they waited for last.
    var lack: StoreError?
    /// Why the member has stopped, if it was not closed.
    var failure: StoreError?
    /// Whether they have waited since all went well.
    var isShort = false
    /// The tick at which that began.
    var shortSince: UInt64 = 0
    /// Waits to send entries to those members who get them later.
    var rest: Task<Void, Never>?
    /// Fetches of entries that are only on disk, by follower.
    var fetching: Set<PeerID> = []

    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    init(
        node: RawNode<GroupLog>, log: GroupLog, applier: any CommandApplier,
        transport: any RaftTransport, snapshots: SnapshotStore, options: RaftMemberOptions,
        life: UInt64, on reactor: Reactor
    ) {
        self.log = log
        self.applier = applier
        self.transport = transport
        self.snapshots = snapshots
        self.options = options
        self.reactor = reactor
        core = MemberCore(
            node: node, members: log.confState.0, applied: applier.appliedIndex, options: options,
            life: life)
    }

    /// Starts a member on its part of a log that was opened, and what its entries were applied
    /// to before.
    ///
    /// - Parameter folder: where snapshots are on their way from and to others.
    /// - Throws: `corrupt` if log and state do not fit together, `invalidArgument` for options
    ///   that cannot be, `io`, `noSpace`.
    public static func start(
        log: GroupLog, applier: any CommandApplier, transport: any RaftTransport,
        snapshots folder: String, options: RaftMemberOptions, on reactor: Reactor,
        generator: sending some RandomNumberGenerator & Sendable
    ) async throws(StoreError) -> RaftMember {
        var snapshots = SnapshotStore(folder, group: log.id, on: reactor)
        try await snapshots.prepare()
        // Nothing is served here yet, and no leader known.
        applier.hurry(true)
        try await fit(log, applier, snapshots)
        for index in snapshots.received where index <= applier.appliedIndex {
            snapshots.received.remove(index)
            await snapshots.removeFile(index)
        }
        var generator = generator
        let life: UInt64 = generator.next()
        let node = try makeNode(log, options, applied: applier.appliedIndex, generator)
        let member = RaftMember(
            node: node, log: log, applier: applier, transport: transport, snapshots: snapshots,
            options: options, life: life, on: reactor)
        await member.begin()
        return member
    }

    private func begin() {
        loops = [
            Task(executorPreference: reactor) { await self.run() },
            Task(executorPreference: reactor) { await self.appendForever() },
            Task(executorPreference: reactor) { await self.applyForever() },
        ]
        publish()
        // Nobody else could: no need to wait for a timeout.
        if isSoleVoter { campaign() }
    }

    // MARK: What the core knows

    var node: RawNode<GroupLog> { core.node }
    var role: Role { core.role }
    /// The leader as far as known.
    var leader: PeerID { core.leader }
    /// The last entry whose changes can be read here, caches of them included.
    var readable: LogIndex { core.readable }
    /// Whether this member is the only one that votes.
    var isSoleVoter: Bool { core.isSoleVoter }

    /// Has this member try to become the leader now.
    public func campaign() {
        guard !isClosed else { return }
        node.campaign()
        carryOut()
    }

    // MARK: The loop

    private func run() async {
        while let (commands, messages) = await nextWork() {
            // Followers that ask how far they must have applied to answer a read.
            node.isLeaseHeld =
                messages.contains { $0.kind == .readIndex } && holdsLease
            for message in messages where !isClosed && isHere(message) {
                core.step(message)
                if let failure = core.effects.failure { stop(failure) }
            }
            node.isLeaseHeld = false
            if isClosed {
                let error = StoreError(.notLeader, "the group is closed")
                for command in commands { fail(command, inbox.withLock { $0.refusal } ?? error) }
            } else {
                core.propose(commands)
            }
            carryOut()
        }
    }

    /// What came in since the last time; suspends until there is something, nil at the end.
    private func nextWork() async -> (commands: [any PendingCommand], messages: [Message])? {
        while true {
            let (work, isClosing) = inbox.withLock { inbox in
                defer {
                    inbox.commands = []
                    inbox.messages = []
                    inbox.messageBytes = 0
                }
                return ((inbox.commands, inbox.messages), inbox.isClosing)
            }
            if isClosing {
                let error = StoreError(.notLeader, "the group is closed")
                for command in work.0 { fail(command, error) }
                return nil
            }
            if !work.0.isEmpty || !work.1.isEmpty { return work }
            await withUnsafeContinuation { continuation in
                let isNeeded = inbox.withLock { inbox in
                    guard inbox.commands.isEmpty, inbox.messages.isEmpty, !inbox.isClosing
                    else { return true }
                    inbox.idle = continuation
                    return false
                }
                if isNeeded { continuation.resume() }
            }
        }
    }

    /// Has the core decide, and does what it asks for, until it asks for nothing.
    func carryOut() {
        core.advance()
        // Before a word leaves by which another may be elected, or by which others learn of a commit.
        publish()
        perform()
        if !core.appends.isEmpty, let appender = idleAppender {
            idleAppender = nil
            appender.resume()
        }
        if !core.applies.isEmpty, let applier = idleApplier {
            idleApplier = nil
            applier.resume()
        }
        serveLaggards()
        writeSnapshotIfWanted()
        if rest == nil, !isClosed, node.hasRest {
            rest = Task(executorPreference: reactor) { await self.sendRest() }
        }
    }

    /// Tells other threads what this member is now, and keeps its clock.
    func publish() {
        let now = core.standing
        let before = standing
        guard now != before else { return }
        standing = now
        isAlone.store(now.isAlone, ordering: .releasing)
        isBehind.store(now.isBehind, ordering: .releasing)
        leaseEnd.store(now.leaseEnd?.nanoseconds ?? 0, ordering: .releasing)
        if now.leader != before.leader {
            seenLeader.withLock { $0 = now.leader }
            applier.hurry(now.leader == .none)
        }
        if now.needsClock != (ticker != nil) { keepClock(now.needsClock) }
        // Whether it has room matters to nobody now: the leader is to be asked.
        if now.role != .leader, before.role == .leader || now.leader != before.leader,
            !isSoleVoter
        {
            inbox.withLock { $0.shortage = nil }
        }
        guard now.leadership != before.leadership else { return }
        leading.withLock { $0 = now.leadership }
        // Terms pass without this member's leading: nobody need hear of them.
        if now.leadership.isLeading || before.leadership.isLeading {
            options.leadershipChanged?(now.leadership)
        }
    }

    private func keepClock(_ isNeeded: Bool) {
        ticker?.cancel()
        ticker = nil
        if isNeeded, !isClosed {
            ticker = Task(executorPreference: reactor) { await self.tickForever() }
        }
    }

    /// Does what the core wants done at once.
    private func perform() {
        let effects = core.effects.take()
        for notice in effects.notices { options.notice?(notice) }
        if !effects.messages.isEmpty { send(effects.messages) }
        for (command, refusal) in effects.failed { fail(command, error(refusal)) }
        for (waiter, refusal) in effects.reads {
            waiter.resume(
                returning: refusal.map { .failure(error($0)) } ?? .success(()))
        }
        for (waiter, result) in effects.changes { waiter.resume(returning: result) }
    }

    private func error(_ refusal: MemberRefusal) -> StoreError {
        switch refusal {
        case .notLeader: notLeader
        case .error(let error): error
        }
    }

    /// Sends what others have already to those members who get it later, when more has gathered.
    private func sendRest() async {
        do {
            try await reactor.sleep(for: options.restDelay)
        } catch {
            return
        }
        rest = nil
        guard !isClosed else { return }
        node.sendRest()
        carryOut()
    }

    /// Hands messages on; those that carry a snapshot follow when it has been streamed.
    private func send(_ messages: [Message]) {
        for message in messages where message.kind == .snapshot { stream(message) }
        transport.send(messages.filter { $0.kind != .snapshot })
    }

    /// What is answered to whoever asks what only the leader answers; with who that is, as far as
    /// is known.
    public nonisolated var notLeader: StoreError {
        let leader = seenLeader.withLock { $0 }
        let hint = leader == .none ? "no leader is known" : "member \(leader) leads"
        return StoreError(
            .notLeader, "member \(options.id) does not lead its group: \(hint)",
            leader: leader == .none ? nil : transport.address(of: leader))
    }

    // MARK: Other threads

    /// Has a command logged and applied; its proposer is told by its methods.
    ///
    /// Fails it with `overloaded` if too many wait, `notLeader` where this member does not lead,
    /// `connection` if leadership was lost on the way, which leaves it open whether it will be
    /// applied; `io` once the log or the tables have failed.
    public nonisolated func propose(_ command: any PendingCommand) {
        precondition(!command.bytes.isEmpty, "a command has bytes")
        let (refusal, idle) = inbox.withLock {
            inbox -> (StoreError?, UnsafeContinuation<Void, Never>?) in
            if let refusal = inbox.refusal ?? inbox.shortage { return (refusal, nil) }
            guard inbox.outstanding < Limits.waitingCommands,
                inbox.outstandingBytes + command.bytes.count <= Limits.waitingBytes
            else {
                return (
                    StoreError(
                        .overloaded, "\(inbox.outstanding) changes wait already: try again later"),
                    nil
                )
            }
            inbox.outstanding += 1
            inbox.outstandingBytes += command.bytes.count
            inbox.commands.append(command)
            defer { inbox.idle = nil }
            return (nil, inbox.idle)
        }
        if let refusal { command.fail(refusal) }
        idle?.resume()
    }

    /// Takes messages of other members. What is for another, or claims to come from this member
    /// itself, whose own words are not sent, is dropped; so is what is too much to wait.
    ///
    /// - Returns: false, and nothing is kept, once the member is closed or has stopped.
    @discardableResult
    public nonisolated func receive(_ messages: [Message]) -> Bool {
        let (isTaken, idle) = inbox.withLock {
            inbox -> (Bool, UnsafeContinuation<Void, Never>?) in
            guard !inbox.isClosing else { return (false, nil) }
            for message in messages where message.to == options.id && message.from != options.id {
                let size = RaftCodec.size(message)
                guard inbox.messages.count < Limits.waitingMessages,
                    inbox.messageBytes + size <= Limits.waitingMessageBytes
                        || inbox.messages.isEmpty
                else { break }
                inbox.messages.append(message)
                inbox.messageBytes += size
            }
            defer { inbox.idle = nil }
            return (true, inbox.idle)
        }
        idle?.resume()
        return isTaken
    }

    /// Messages of other members that wait to be stepped.
    nonisolated var waitingMessages: Int { inbox.withLock { $0.messages.count } }

    /// Commands that were proposed here and are not answered.
    nonisolated var waitingCommands: Int { inbox.withLock { $0.outstanding } }

    func fail(_ command: any PendingCommand, _ error: StoreError) {
        release([command])
        command.fail(error)
    }

    /// Commands have been answered, or are about to be: others may come in their place.
    func release(_ commands: some Sequence<any PendingCommand>) {
        inbox.withLock { inbox in
            for command in commands {
                inbox.outstanding -= 1
                inbox.outstandingBytes -= command.bytes.count
            }
        }
    }

    /// Lets nothing more in and fails what is not in the log yet.
    func refuse(_ error: StoreError) {
        let waiting = inbox.withLock { inbox in
            if inbox.refusal == nil { inbox.refusal = error }
            defer { inbox.commands = [] }
            return inbox.commands
        }
        for command in waiting { fail(command, error) }
    }

    /// The member cannot go on: everything that waits is failed, what is in the log already with
    /// an error that does not say that it was not made.
    func stop(_ error: StoreError) {
        if failure == nil, !isClosed, inbox.withLock({ $0.refusal }) == nil { failure = error }
        // Others may lead: what comes is theirs, and what was under way may be asked for again.
        let isAlone = isSoleVoter
        refuse(
            isAlone ? error : StoreError(.notLeader, "this member has stopped: \(error.message)"))
        let left = isAlone ? error.leavingOpen : error.leavingOpen(as: .connection)
        isClosed = true
        core.end(left, reads: isAlone ? .error(error) : .notLeader)
        publish()
        inbox.withLock { inbox in
            inbox.isClosing = true
            inbox.messages = []
            inbox.messageBytes = 0
        }
        perform()
        wakeLoops()
    }

    func wakeLoops() {
        idleAppender?.resume()
        idleAppender = nil
        idleApplier?.resume()
        idleApplier = nil
        let idle = inbox.withLock { inbox in
            defer { inbox.idle = nil }
            return inbox.idle
        }
        idle?.resume()
    }

    /// Lets no more commands in, waits for what is being written and applied, and ends. Commands
    /// that are in the log and not applied are failed with `connection`: they may take effect
    /// with the next start, or where the others have them.
    public func close() async {
        refuse(StoreError(.notLeader, "the group is closed"))
        let clock = ticker
        clock?.cancel()
        await drain()
        rest?.cancel()
        stop(StoreError(.notLeader, "the group is closed"))
        applier.interrupt()
        for loop in loops { await loop.value }
        loops = []
        await clock?.value
        await rest?.value
        await endSnapshots()
    }
}

extension StoreError {
    /// What the proposer of a command is told that is in the log when its member stops: it may
    /// have been made, or be made at the next start, and no other code may deny that.
    var leavingOpen: StoreError {
        switch code {
        case .io, .connection, .cancelled: self
        default: leavingOpen(as: .connection)
        }
    }

    func leavingOpen(as code: Code) -> StoreError {
        StoreError(
            code,
            "the change was under way when its member stopped, and may have been made: " + message)
    }
}
