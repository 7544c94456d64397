/// The members of a group as the log has decided them (Raft thesis, chapter 4).
///
/// `votersOutgoing` is empty outside joint configurations. Equality is by value and order; the
/// core always gives them in ascending order.
public struct ConfState: Equatable, Sendable {
    /// The voters; in a joint configuration those of the incoming half.
    public var voters: [PeerID]
    /// Members that get the log and do not vote.
    public var learners: [PeerID]
    /// The voters of the outgoing half of a joint configuration.
    public var votersOutgoing: [PeerID]
    /// Outgoing voters that become learners when the joint configuration is left.
    public var learnersNext: [PeerID]
    /// Whether the leader leaves the joint configuration by itself once it is committed.
    public var autoLeave: Bool

    /// A configuration.
    public init(
        voters: [PeerID] = [], learners: [PeerID] = [], votersOutgoing: [PeerID] = [],
        learnersNext: [PeerID] = [], autoLeave: Bool = false
    ) {
        self.voters = voters
        self.learners = learners
        self.votersOutgoing = votersOutgoing
        self.learnersNext = learnersNext
        self.autoLeave = autoLeave
    }
}

/// The place of a snapshot in the log, and the members as of then.
public struct SnapshotMetadata: Equatable, Sendable {
    /// The configuration as of `index`.
    public var confState: ConfState
    /// The last entry the snapshot holds.
    public var index: LogIndex
    /// That entry's term.
    public var term: Term

    /// The metadata of a snapshot.
    public init(confState: ConfState = ConfState(), index: LogIndex = 0, term: Term = 0) {
        self.confState = confState
        self.index = index
        self.term = term
    }
}

/// The state machine as of an index, in place of the log up to there (Raft thesis, chapter 5).
///
/// `data` is opaque to the core: the state itself, or the name of a snapshot that is streamed
/// beside the messages.
public struct Snapshot: Equatable, Sendable {
    /// The place in the log.
    public var metadata: SnapshotMetadata
    /// The state, or how to get it.
    public var data: [UInt8]

    /// A snapshot.
    public init(metadata: SnapshotMetadata = SnapshotMetadata(), data: [UInt8] = []) {
        self.metadata = metadata
        self.data = data
    }

    /// Whether it stands for no entry at all.
    public var isEmpty: Bool { metadata.index == 0 }
}
