/// What a message asks for or tells.
///
/// The paper's RPCs are pairs here (`append` and `appendResponse`, and so on), since a core
/// without I/O sends and forgets. `hup`, `beat`, `checkQuorum`, `unreachable` and
/// `snapshotStatus` never travel: the core or its driver steps them locally.
public enum MessageKind: UInt8, CaseIterable, Sendable {
    /// Local: the election timeout elapsed, or a campaign was asked for.
    case hup
    /// Local: it is time for heartbeats.
    case beat
    /// Entries to append; a follower forwards it to its leader.
    case propose
    /// AppendEntries (Raft thesis, figure 3.1).
    case append
    /// Its answer: `index` matches, or was rejected with `rejectHint` and `logTerm`.
    case appendResponse
    /// RequestVote.
    case vote
    /// Its answer.
    case voteResponse
    /// InstallSnapshot.
    case snapshot
    /// An AppendEntries that appends nothing and probes nothing; carries a read's context.
    case heartbeat
    /// Its answer.
    case heartbeatResponse
    /// Local: the last message to `from` was probably lost.
    case unreachable
    /// Local: the snapshot sent to `from` arrived (`reject` false) or did not.
    case snapshotStatus
    /// Local: the leader looks whether it still hears a quorum.
    case checkQuorum
    /// Leadership should go to `from`; a follower forwards it.
    case transferLeader
    /// The leader asks its successor to campaign at once (Raft thesis, section 3.10).
    case timeoutNow
    /// A read index is asked for; a follower forwards it.
    case readIndex
    /// Its answer to a follower.
    case readIndexResponse
    /// RequestVote for an election that is only tried (Raft thesis, section 9.6).
    case preVote
    /// Its answer.
    case preVoteResponse
    /// To ``PeerID/appendThread``: entries, hard state and snapshot to make durable.
    case storageAppend
    /// From there: they are durable.
    case storageAppendResponse
    /// To ``PeerID/applyThread``: committed entries to apply.
    case storageApply
    /// From there: they are applied.
    case storageApplyResponse
    /// Local: the follower no longer believes in its leader.
    case forgetLeader
}

/// One message between members, or between a core and what drives it.
///
/// One struct for all kinds, as in etcd's core, so that a network layer needs one codec; which
/// fields a kind uses is said beside ``MessageKind`` and in docs/internals/raft.md.
public struct Message: Equatable, Sendable {
    /// What it is.
    public var kind: MessageKind
    /// The receiver.
    public var to: PeerID
    /// The sender.
    public var from: PeerID
    /// The sender's term; 0 for local messages and proposals.
    public var term: Term
    /// The term of the entry at `index`.
    public var logTerm: Term
    /// The index before `entries`, the index that matches, or that of a read.
    public var index: LogIndex
    /// Entries to append or apply.
    public var entries: [Entry]
    /// The sender's commit index, cut to what the receiver is known to have in heartbeats.
    public var commit: LogIndex
    /// The vote to persist, in ``MessageKind/storageAppend``.
    public var vote: PeerID
    /// A snapshot to install or persist.
    public var snapshot: Snapshot?
    /// Whether an answer is no.
    public var reject: Bool
    /// With a rejected append: an index at which the logs may still match.
    public var rejectHint: LogIndex
    /// Bytes that come back with the answer: a read's, or the word of a forced election.
    public var context: [UInt8]
    /// Messages to send or step once this one is durable or applied.
    public var responses: [Message]

    /// A message; whatever is left out is zero.
    public init(
        _ kind: MessageKind, to: PeerID = .none, from: PeerID = .none, term: Term = 0,
        logTerm: Term = 0, index: LogIndex = 0, entries: [Entry] = [], commit: LogIndex = 0,
        vote: PeerID = .none, snapshot: Snapshot? = nil, reject: Bool = false,
        rejectHint: LogIndex = 0, context: [UInt8] = [], responses: [Message] = []
    ) {
        self.kind = kind
        self.to = to
        self.from = from
        self.term = term
        self.logTerm = logTerm
        self.index = index
        self.entries = entries
        self.commit = commit
        self.vote = vote
        self.snapshot = snapshot
        self.reject = reject
        self.rejectHint = rejectHint
        self.context = context
        self.responses = responses
    }

    /// The hard state to persist that a ``MessageKind/storageAppend`` carries, if it has changed.
    public var hardState: HardState? {
        let state = HardState(term: term, vote: vote, commit: commit)
        return state.isEmpty ? nil : state
    }
}

extension MessageKind {
    /// Whether the message comes from this machine: from its driver or a storage thread.
    var isLocal: Bool {
        switch self {
        case .hup, .beat, .unreachable, .snapshotStatus, .checkQuorum, .storageAppend,
            .storageAppendResponse, .storageApply, .storageApplyResponse:
            true
        default: false
        }
    }

    /// Whether a message of the kind may come from another machine. All others are words of a member
    /// to itself: taken from a peer, they would forge what its own medium or driver says.
    public var travels: Bool { !isLocal && self != .forgetLeader }

    /// Whether the message answers another and is dropped unless its sender is a member.
    var isResponse: Bool {
        switch self {
        case .appendResponse, .voteResponse, .heartbeatResponse, .unreachable,
            .readIndexResponse, .preVoteResponse, .storageAppendResponse,
            .storageApplyResponse:
            true
        default: false
        }
    }
}

extension Message {
    /// Whether terms and indexes are such that counting on from them is safe, whoever sent them.
    var isWithinLimits: Bool {
        let metadata = snapshot?.metadata ?? SnapshotMetadata()
        return max(
            max(term, logTerm, index), max(commit, rejectHint), max(metadata.index, metadata.term)
        ) <= Limits.largestNumber
    }
}
