/// The state machine of one member of one group (Raft thesis, chapters 3, 4 and 6).
///
/// Pure: a message or a tick in; messages and changes of state out. It reads no clock, does no
/// I/O beyond ``RaftStorage``, and draws its election timeouts from the source it was given.
/// ``RawNode`` is its face; the members here are for the extensions beside it, by what they are
/// about: elections, steps of each role, replication, membership, reads.
struct RaftCore {
    /// The settings.
    let configuration: Configuration
    /// This member.
    let id: PeerID
    private let randomTimeout: (ClosedRange<Int>) -> Int

    /// The latest term seen; persisted.
    var term: Term = 0
    /// Who got this member's vote in it; persisted.
    var vote = PeerID.none
    /// What this member is doing in it.
    var role = Role.follower
    /// Who leads it, as far as known.
    var leader = PeerID.none
    /// The log.
    var log: LogView
    /// The members, and what a leader or candidate knows of them.
    var tracker: Tracker

    /// Messages that may leave at once.
    var messages: [Message] = []
    /// Messages that may leave once all that is unstable now is durable: votes and
    /// acknowledgements, to others and to this member itself (Raft thesis, section 3.8).
    var messagesAfterAppend: [Message] = []
    /// Reads that may be served.
    var readStates: [ReadState] = []
    /// Reads that wait.
    var reads = ReadQueue()

    /// Leader and role as of the last Ready.
    var previousSoftState = SoftState()
    /// Term, vote and commit index as of the last Ready.
    var previousHardState = HardState()
    /// What is stepped when the work of the last Ready is done.
    var stepsOnAdvance: [Message] = []

    /// Whom leadership is being transferred to.
    var transferee = PeerID.none
    /// No change of members may be proposed until this entry is applied: the last change in the
    /// log is at or before it (Raft thesis, section 4.1).
    var pendingConfIndex: LogIndex = 0
    /// Bytes of data in a leader's log that are not applied; an estimate from below.
    var uncommittedSize = 0

    /// A leader's members that get entries later than others, see ``Configuration/sendsQuorumFirst``.
    var deferred: [PeerID] = []
    /// The last entry when they were sent what there was.
    var restSentAt: LogIndex = 0
    /// While entries go to all, to see who acknowledges first: the last entry when that began.
    var triedFrom: LogIndex?
    /// How often those who get entries later are sent them until that is looked at again.
    var restsUntilTrial = 0

    /// Ticks since the leader was heard, a vote was given or this role began.
    var electionElapsed = 0
    /// A leader's ticks since its last heartbeats.
    var heartbeatElapsed = 0
    /// The election timeout drawn for this role.
    var randomizedElectionTimeout = 0
    /// A leader's ticks in its term.
    var leaderTicks: UInt64 = 0
    /// Set by who keeps the clock, for the messages stepped meanwhile: the lease of ``leaseTick``
    /// is not over.
    var isLeaseHeld = false
    /// Whether a forced election may be under way, which no lease holds off.
    var isLeaseBroken = false
    /// Ticks for which this member holds off candidates, having answered a leader that reads by
    /// its lease, or having restarted and perhaps done so before.
    var grantedLease = 0

    /// Starts a member as follower, with what its storage holds.
    init(
        configuration: Configuration, storage: any RaftStorage,
        randomTimeout: @escaping (ClosedRange<Int>) -> Int
    ) throws(RaftStartError) {
        do { try configuration.validate() } catch { throw .configuration(error) }
        self.configuration = configuration
        id = configuration.id
        self.randomTimeout = randomTimeout
        log = LogView(storage: storage, maxApplyingSize: configuration.maxCommittedSizePerReady)
        tracker = Tracker(
            maxInflightMessages: configuration.maxInflightMessages,
            maxInflightBytes: configuration.maxInflightBytes)
        let state: HardState
        let members: ConfState
        do { (state, members) = try storage.initialState() } catch { throw .storage(error) }
        let changer = ConfChanger(tracker: tracker, lastIndex: log.lastIndex)
        do { tracker = try changer.restore(members) } catch { throw .members(error) }
        if !state.isEmpty {
            if state.commit > log.lastIndex {
                throw .lostEntries(committed: state.commit, last: log.lastIndex)
            }
            log.load(committed: max(state.commit, log.committed))
            term = state.term
            vote = state.vote
            if configuration.grantsLeases {
                grantedLease = configuration.electionTick
            }
        }
        if configuration.applied > log.applied {
            if configuration.applied > log.lastIndex {
                throw .appliedBeyondLog(applied: configuration.applied, last: log.lastIndex)
            }
            // The commit index need not be durable when entries are applied, so what is applied
            // may be ahead of it; being applied, it was committed.
            log.load(committed: max(log.committed, configuration.applied))
            log.applied(to: configuration.applied, size: 0)
        }
        becomeFollower(term: term, leader: .none)
        previousSoftState = softState
        previousHardState = hardState
    }

    /// Leader and role.
    var softState: SoftState { SoftState(leader: leader, role: role) }

    /// What is to be persisted, as of now.
    var hardState: HardState { HardState(term: term, vote: vote, commit: log.committed) }

    /// Whether this member may campaign: a voter, and no snapshot waits to be installed.
    var isPromotable: Bool {
        guard let own = tracker[id] else { return false }
        return !own.isLearner && !log.hasPendingSnapshot
    }

    /// Whether the log is committed up to an entry of this term, before which a leader knows
    /// neither the commit index of its predecessors nor may serve reads.
    var hasCommittedInTerm: Bool { log.term(of: log.committed) == term }
}

extension RaftCore {
    /// Forgets everything that belongs to the term that ends.
    private mutating func reset(term new: Term) {
        if term != new {
            term = new
            vote = .none
        }
        leader = .none
        electionElapsed = 0
        heartbeatElapsed = 0
        resetElectionTimeout()
        transferee = .none
        tracker.resetVotes()
        let last = log.lastIndex
        for position in tracker.progress.indices {
            let peer = tracker.progress[position].peer
            tracker.progress[position] = Progress(
                peer: peer, match: peer == id ? last : 0, next: last + 1,
                inflights: tracker.newInflights,
                isLearner: tracker.progress[position].isLearner)
        }
        pendingConfIndex = 0
        uncommittedSize = 0
        reads = ReadQueue()
        leaderTicks = 0
        isLeaseBroken = false
        deferred = []
        restSentAt = 0
        triedFrom = nil
        restsUntilTrial = Limits.restsBetweenTrials
    }

    /// Draws a number of ticks.
    func draw(_ range: ClosedRange<Int>) -> Int { randomTimeout(range) }

    /// Draws the next election timeout (Raft thesis, section 3.4).
    private mutating func resetElectionTimeout() {
        let least = configuration.electionTick
        let drawn = draw(least...2 * least - 1)
        precondition(
            drawn >= least && drawn < 2 * least,
            "the source drew \(drawn) from \(least)...\(2 * least - 1)")
        randomizedElectionTimeout = drawn
    }

    /// Follows in a term, a leader if one is known.
    mutating func becomeFollower(term: Term, leader: PeerID) {
        reset(term: term)
        self.leader = leader
        role = .follower
    }

    /// Begins an election in the next term, with its own vote.
    mutating func becomeCandidate() {
        precondition(role != .leader, "a leader does not campaign")
        reset(term: term + 1)
        vote = id
        role = .candidate
    }

    /// Changes neither term nor vote: an election that is only tried disturbs nobody.
    mutating func becomePreCandidate() {
        precondition(role != .leader, "a leader does not campaign")
        tracker.resetVotes()
        leader = .none
        role = .preCandidate
    }

    /// Leads, having won the election, and appends an entry of its term.
    mutating func becomeLeader() {
        precondition(role == .candidate, "only a candidate becomes leader, not a \(role)")
        reset(term: term)
        leader = id
        role = .leader
        guard let own = tracker.position(of: id) else {
            preconditionFailure("a leader is a member when it is elected")
        }
        tracker.progress[own].becomeReplicate()
        tracker.progress[own].recentActive = true
        // There may be a change of members anywhere in what is not applied. Looking would cost
        // more than waiting until all of it is.
        pendingConfIndex = log.lastIndex
        // An entry of its own term, without which nothing before could be committed (Raft
        // thesis, section 3.6.2). It has no data, so no limit refuses it.
        let accepted = appendOwn([Entry()])
        precondition(accepted, "an entry without data is never refused")
    }

    /// Queues a message: at once, or after what is unstable now is durable.
    mutating func send(_ message: Message) {
        var message = message
        if message.from == .none { message.from = id }
        switch message.kind {
        case .vote, .voteResponse, .preVote, .preVoteResponse:
            precondition(message.term != 0, "a \(message.kind) says which term it is for")
        case .propose, .readIndex:
            // Forwarded as if they were local: the leader's term may have moved on.
            precondition(message.term == 0, "a \(message.kind) has no term")
        default:
            precondition(message.term == 0, "the term of a \(message.kind) is set here")
            message.term = term
        }
        switch message.kind {
        case .appendResponse, .voteResponse, .preVoteResponse:
            messagesAfterAppend.append(message)
        default:
            precondition(message.to != id, "a \(message.kind) to oneself")
            messages.append(message)
        }
    }
}
