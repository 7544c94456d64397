import DequeModule
import Model
import Raft
import Reactor

/// What one member of a group decides: the Raft core with all that waits for it.
///
/// Messages, commands, reads, ticks, and the word of log and state on what is durable and applied
/// come in; ``advance()`` lets the core decide, and what is to be done then stands in ``effects``,
/// ``appends`` and ``applies``. What others may know of this member is its ``standing``: it is to be
/// made known before the messages among the effects leave.
///
/// Pure: it reads no clock, waits for nothing, and touches neither disk nor network. For one caller
/// at a time.
struct MemberCore<Storage: RaftStorage> {
    typealias Limits = RaftMemberLimits

    /// A command in the log whose entry is not applied.
    struct Proposed {
        var index: LogIndex
        var term: Term
        var command: any PendingCommand
    }

    let node: RawNode<Storage>
    let id: PeerID
    let electionTicks: Int

    private(set) var role = Role.follower
    /// The leader as far as known.
    private(set) var leader = PeerID.none
    /// The members in force, durably.
    private(set) var members: ConfState
    /// Whether this member is the only one that votes.
    private(set) var isSoleVoter = false
    /// The last entry whose changes can be read here, caches of them included: never ahead of
    /// what the state has applied.
    private(set) var readable: LogIndex
    /// The latest entry of which others were told that it is committed: they may have applied, and
    /// show, what comes up to it.
    private(set) var toldCommit: LogIndex = 0
    private(set) var proposed: Deque<Proposed> = []
    /// What is to be made durable.
    var appends: AppendQueue
    /// What is to be applied.
    private(set) var applies: Deque<Message> = []
    var reads: WaitingReads
    /// The change of members that somebody waits for.
    private(set) var changes = WaitingChanges()
    /// Whether log and state keep up, by the clock of the group.
    var pace = DiskPulse()
    var effects = MemberEffects()

    private var lease: ReadLease
    /// Whether a change of members is in force in the core and not durable yet.
    private var isChanging = false
    /// Whether an entry of this term is applied.
    private var isSure = false
    private var isEnded = false

    /// - Parameters:
    ///   - applied: the last entry that the state has applied.
    ///   - life: drawn at each start, see ``WaitingReads``.
    init(
        node: RawNode<Storage>, members: ConfState, applied: LogIndex, options: RaftMemberOptions,
        life: UInt64
    ) {
        self.node = node
        self.members = members
        id = options.id
        electionTicks = options.electionTicks
        readable = applied
        reads = WaitingReads(of: options.id, life: life)
        lease = ReadLease(tick: options.tick, electionTicks: options.electionTicks)
        appends = AppendQueue(written: (try? node.storage.initialState().0) ?? HardState())
        membersChanged(to: members)
    }

    // MARK: What others may know

    /// What this member is to the outside at this moment.
    var standing: MemberStanding {
        let isLeader = role == .leader && !isEnded
        let isLeading = isLeader && isSure
        var standing = MemberStanding(
            role: role, leader: leader,
            leadership: Leadership(term: node.term, isLeading: isLeading),
            isAlone: isLeading && isSoleVoter && !isChanging,
            isBehind: hasOthers && role == .leader && toldCommit > readable)
        if isLeading, let tick = node.leaseTick { standing.leaseEnd = lease.end(tick) }
        standing.needsClock = !isEnded && !(role == .leader && !hasOthers)
        return standing
    }

    /// Whether the group has other members, of any kind, or is about to.
    private var hasOthers: Bool { isChanging || !isSoleVoter || !members.learners.isEmpty }

    /// A leader's log may hold entries of earlier terms that were answered and are not applied
    /// here; when one of its own term is, they are.
    private mutating func noteWhetherSure() {
        isSure = (try? node.storage.term(of: readable)) == node.term
    }

    // MARK: What comes in

    /// Steps the core; what it refuses is as if it had been lost.
    @discardableResult
    func attempt(_ step: (RawNode<Storage>) throws(RaftError) -> Void) -> RaftError? {
        do throws(RaftError) {
            try step(node)
            return nil
        } catch {
            return error
        }
    }

    /// Takes a message of another member. If that shows that this one has lost what it acknowledged,
    /// the effects have a failure.
    mutating func step(_ message: Message) {
        let refusal = attempt { node throws(RaftError) in try node.step(message) }
        guard case .lostEntries(let committed, let last)? = refusal else { return }
        effects.failure = StoreError(
            .corrupt,
            "entries up to \(committed) were acknowledged here, but the log ends with \(last): it "
                + "has lost them. Remove the member and let it begin anew")
    }

    /// Has commands logged; those that cannot be are failed.
    mutating func propose(_ commands: [any PendingCommand]) {
        guard !commands.isEmpty else { return }
        // Asked of the Raft core: a message that came with them may have made it step down.
        guard node.role == .leader else { return fail(commands, .notLeader) }
        let first = node.lastIndex + 1
        let entries = commands.map { Entry(data: $0.bytes) }
        let refusal = attempt { node throws(RaftError) in
            try node.propose(entries)
        }
        guard refusal == nil else {
            // While leadership is handed over the next leader is to be asked.
            let error =
                node.transferee != .none
                ? StoreError(.notLeader, "leadership is being handed over")
                : StoreError(
                    .overloaded, "the group takes no changes at the moment: try again later")
            return fail(commands, .error(error))
        }
        let term = node.term
        for (offset, command) in commands.enumerated() {
            proposed.append(
                Proposed(index: first + UInt64(offset), term: term, command: command))
        }
    }

    private mutating func fail(_ commands: [any PendingCommand], _ refusal: MemberRefusal) {
        for command in commands { effects.failed.append((command, refusal)) }
    }

    private mutating func failProposed(_ error: StoreError) {
        let lost = proposed
        proposed = []
        fail(lost.map(\.command), .error(error))
    }

    /// The group's clock ticked.
    ///
    /// - Parameter isShort: log or state wait for room, descriptors or memory.
    mutating func tick(at now: MonotonicTime, isShort: Bool) {
        pace.tick()
        let isStruggling =
            isShort || pace.isStalled(after: Limits.stallElections * electionTicks)
        if isStruggling, role == .leader { handOver() }
        // A member that could not apply what it would lead is slow to campaign: it does if no
        // other will.
        if !isStruggling || role == .leader || pace.ticks % UInt64(Limits.reluctance) == 0 {
            if role == .leader { lease.begin(node.leaderTicks + 1, at: now) }
            node.tick()
        }
        tickReads()
    }

    /// Gives leadership to the voter that is likeliest to be able to lead: this one's log or
    /// state has no room, or hangs. One after the other is asked, an election timeout each.
    private mutating func handOver() {
        guard pace.mayHandOver(every: 2 * electionTicks) else { return }
        let others = node.progress.filter {
            $0.peer != id && $0.recentActive && members.voters.contains($0.peer)
        }
        let target =
            others.filter { $0.peer != pace.lastTarget }.max { $0.match < $1.match }
            ?? others.first
        guard let target else { return }
        pace.handsOver(to: target.peer)
        effects.notices.append(
            "log or tables are full or hang: leadership is handed to member \(target.peer)")
        node.transferLeader(to: target.peer)
    }

    /// Some of what was to be written is durable: its answers may leave.
    mutating func isDurable(_ responses: [Message]) {
        for response in responses {
            if response.to == id {
                attempt { node throws(RaftError) in try node.step(response) }
            } else {
                effects.messages.append(response)
            }
        }
    }

    /// What is to be applied; it is for the caller to do so.
    mutating func takeApplies() -> [Message] {
        defer { applies = [] }
        return Array(applies)
    }

    /// All of `messages`, which were to be applied, is.
    mutating func isApplied(_ messages: [Message]) {
        for message in messages {
            for response in message.responses {
                attempt { node throws(RaftError) in try node.step(response) }
            }
        }
    }

    /// Entries up to `index` can be read from now on.
    mutating func isReadable(through index: LogIndex) {
        readable = index
        noteWhetherSure()
        readsMayGoOn()
    }

    // MARK: What the core decides

    /// Has the core decide, until it asks for nothing more.
    mutating func advance() {
        while !isEnded, node.hasReady {
            let ready = node.ready()
            if let state = ready.softState { roleChanged(state) }
            for state in ready.readStates { readConfirmed(state) }
            for message in ready.messages {
                switch message.to {
                case .appendThread: appends.add(message)
                case .applyThread: applies.append(message)
                default:
                    toldCommit = max(toldCommit, message.commit)
                    effects.messages.append(message)
                }
            }
        }
    }

    private mutating func roleChanged(_ state: SoftState) {
        let wasLeader = role == .leader
        role = state.role
        leader = state.leader
        noteWhetherSure()
        // What waits to be applied on one that led may wait for long: its disk may hang.
        if role != .leader { abandonReads(.notLeader, confirmedToo: wasLeader) }
        guard wasLeader, role != .leader else { return }
        lease.forget()
        let error = StoreError(
            .connection,
            "leadership was lost while the change was under way: it may have been made")
        failProposed(error)
        failChange(error)
    }

    /// The command that was proposed here as this entry, which is committed. Commands whose place
    /// another leader's entries took are failed: they will never be applied.
    mutating func takeProposed(_ entry: Entry) -> (any PendingCommand)? {
        while let first = proposed.first, first.index <= entry.index {
            proposed.removeFirst()
            if first.index == entry.index, first.term == entry.term { return first.command }
            fail(
                [first.command],
                .error(
                    StoreError(
                        .notLeader, "another leader took over before the change was made")))
        }
        return nil
    }

    // MARK: Changes of members

    /// Proposes a change of members. Who waits for it is answered when it is in force, or will
    /// not be.
    mutating func propose(_ change: ConfChangeV2, _ waiter: WaitingChanges.Waiter) {
        let refusal = attempt { node throws(RaftError) in try node.proposeConfChange(change) }
        if let refusal {
            effects.changes.append((waiter, .failure(Self.refused(refusal))))
        } else {
            changes.wait(waiter, at: node.lastIndex)
        }
    }

    private static func refused(_ refusal: RaftError) -> StoreError {
        guard case .malformedConfChange(let reason) = refusal else {
            return StoreError(.overloaded, "the group takes no change of members at the moment")
        }
        return StoreError(.invalidArgument, "the members cannot be changed so: \(reason)")
    }

    private mutating func failChange(_ error: StoreError) {
        if let waiter = changes.take() { effects.changes.append((waiter, .failure(error))) }
    }

    /// Entry `index`, which is committed, is no change of members. If one was proposed there, the
    /// core put an empty entry in its place, because it does not go with the members in force:
    /// another is not applied yet, or a joint configuration not left.
    mutating func isNoChange(_ index: LogIndex) {
        guard index == changes.index else { return }
        failChange(
            StoreError(
                .overloaded,
                "the members stay as they are: an earlier change of them was not finished, try "
                    + "again later"))
    }

    /// Who waits for the change that is entry `index`, and is told how it went, also if that ends
    /// this leadership.
    mutating func takeChange(at index: LogIndex) -> WaitingChanges.Waiter? {
        index == changes.index ? changes.take() : nil
    }

    /// Takes a committed change of members into force; the members from now on, which are to be made
    /// durable.
    mutating func apply(_ change: ConfChangeV2) throws(ConfChangeRefusal) -> ConfState {
        let state = try node.applyConfChange(change)
        // The core acts on the new members from now on: others may have a say.
        isChanging = true
        return state
    }

    /// These members are in force, durably.
    mutating func membersChanged(to state: ConfState) {
        members = state
        isChanging = false
        isSoleVoter = state.voters == [id] && state.votersOutgoing.isEmpty
        noteWhetherSure()
    }

    // MARK: Ending

    /// Nothing is decided any more: what waits is failed, what is in the log already with an error
    /// that does not say that it was not made.
    mutating func end(_ left: StoreError, reads refusal: MemberRefusal) {
        isEnded = true
        failProposed(left)
        failChange(left)
        abandonReads(refusal, confirmedToo: true)
    }
}

/// Why a command or a read came to nothing.
enum MemberRefusal: Sendable {
    /// Another member is to be asked; whoever asked is told which.
    case notLeader
    case error(StoreError)
}

/// What a member is to the outside.
struct MemberStanding: Equatable {
    var role = Role.follower
    /// The leader as far as known.
    var leader = PeerID.none
    /// Whether it leads, for those who work only where it does.
    var leadership = Leadership()
    /// Whether it leads a group of no other, and has applied an entry of its term: then whatever
    /// was answered can be read.
    var isAlone = false
    /// Whether this leader knows of committed entries that cannot be read here yet, while others
    /// may have applied them: what was read there must not be missing here.
    var isBehind = false
    /// Until when what was answered can be read here without asking others.
    var leaseEnd: MonotonicTime?
    /// Only the leader of a group of one does without.
    var needsClock = false
}

/// What a member's core wants done. The order is that in which it is to be done.
struct MemberEffects {
    /// Why the member cannot go on.
    var failure: StoreError?
    /// For whoever runs it.
    var notices: [String] = []
    /// To other members.
    var messages: [Message] = []
    /// Commands that will not be applied from here.
    var failed: [(command: any PendingCommand, refusal: MemberRefusal)] = []
    /// Reads that may go on (nil), or not.
    var reads: [(waiter: WaitingReads.Waiter, refusal: MemberRefusal?)] = []
    /// Changes of members that are in force, or will not be.
    var changes: [(waiter: WaitingChanges.Waiter, result: Result<ConfState, StoreError>)] = []

    /// What there is; nothing is left.
    mutating func take() -> MemberEffects {
        defer { self = MemberEffects() }
        return self
    }
}
