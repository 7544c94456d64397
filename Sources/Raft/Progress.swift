/// How the leader replicates to one peer.
public enum ProgressState: UInt8, Sendable {
    /// The leader does not know where the logs match: one append at a time, then it waits for an
    /// answer or a heartbeat's.
    case probe
    /// The leader sends without waiting, as far as the window allows.
    case replicate
    /// A snapshot is under way, and nothing else is sent.
    case snapshot
}

/// What a leader knows of one member's log (Raft thesis, figure 3.1: nextIndex, matchIndex).
///
/// Invariant: `match < next`; entries between are in flight.
public struct Progress: Equatable, Sendable {
    /// Whose.
    public let peer: PeerID
    /// The last entry known to be on its medium.
    public internal(set) var match: LogIndex
    /// The next entry to send.
    public internal(set) var next: LogIndex
    /// The highest commit index sent.
    var sentCommit: LogIndex = 0
    /// How it is replicated to.
    public internal(set) var state = ProgressState.probe
    /// The index of the snapshot under way.
    public internal(set) var pendingSnapshot: LogIndex = 0
    /// Whether it was heard of since the leader last looked for a quorum.
    public internal(set) var recentActive = false
    /// Whether appends wait for an answer of any kind.
    var isFlowPaused = false
    /// Whether entries for it are being fetched from disk.
    public internal(set) var isFetching = false
    /// Whether it is a learner.
    public internal(set) var isLearner: Bool
    /// The latest read of which it answered a heartbeat.
    var acknowledgedRead: UInt64 = 0
    /// The latest leader's tick of which it answered a heartbeat, counted from 1.
    public internal(set) var acknowledgedTick: UInt64 = 0
    /// How often it acknowledged what no other voter but the leader had, since that was last
    /// looked at.
    var firstAcknowledgements = 0
    /// Appends in flight.
    var inflights: Inflights

    /// What is known at first: where to probe.
    init(
        peer: PeerID, match: LogIndex = 0, next: LogIndex, inflights: Inflights,
        isLearner: Bool = false, recentActive: Bool = false
    ) {
        self.peer = peer
        self.match = match
        self.next = next
        self.inflights = inflights
        self.isLearner = isLearner
        self.recentActive = recentActive
    }

    /// Appends in flight.
    public var inflightCount: Int { inflights.count }

    /// Whether the window is full.
    public var isInflightFull: Bool { inflights.isFull }

    /// Whether nothing may be sent until it answers.
    public var isPaused: Bool {
        switch state {
        case .probe, .replicate: isFlowPaused || isFetching
        case .snapshot: true
        }
    }

    private mutating func reset(to state: ProgressState) {
        isFlowPaused = false
        isFetching = false
        pendingSnapshot = 0
        self.state = state
        inflights.reset()
    }

    /// Begins to probe: after the snapshot if one was under way, else after the match.
    mutating func becomeProbe() {
        let sent = state == .snapshot ? pendingSnapshot : 0
        reset(to: .probe)
        next = max(match + 1, sent + 1)
        sentCommit = min(sentCommit, next - 1)
    }

    /// Begins to send without waiting, after the match.
    mutating func becomeReplicate() {
        reset(to: .replicate)
        next = match + 1
        sentCommit = min(sentCommit, next - 1)
    }

    /// A snapshot at `index` was sent.
    mutating func becomeSnapshot(at index: LogIndex) {
        reset(to: .snapshot)
        pendingSnapshot = index
        next = index + 1
        sentCommit = index
    }

    /// An append with `count` entries of `byteCount` bytes was sent.
    mutating func sentEntries(count: Int, byteCount: Int) {
        switch state {
        case .replicate:
            if count > 0 {
                next += LogIndex(count)
                inflights.add(lastIndex: next - 1, byteCount: byteCount)
            }
            // What overflows the window is a probe: wait for an answer.
            isFlowPaused = inflights.isFull
        case .probe:
            if count > 0 { isFlowPaused = true }
        case .snapshot:
            preconditionFailure("an append was sent to \(peer) while it gets a snapshot")
        }
    }

    /// Whether a commit index would tell the follower anything new.
    func canBumpCommit(to index: LogIndex) -> Bool {
        index > sentCommit && sentCommit < next - 1
    }

    /// An acknowledgement came, and the flow goes on if the window allows.
    ///
    /// - Returns: false if it says nothing new.
    mutating func update(match index: LogIndex) -> Bool {
        if index <= match { return false }
        match = index
        next = max(next, index + 1)
        isFlowPaused = false
        return true
    }

    /// A rejection of the append after `rejected` came, with the index where logs may match.
    ///
    /// - Returns: false if it is stale, which a reordered or repeated answer may be.
    mutating func decrease(rejected: LogIndex, hint: LogIndex) -> Bool {
        if state == .replicate {
            if rejected <= match { return false }
            next = match + 1
            sentCommit = min(sentCommit, next - 1)
            return true
        }
        // A probed peer has one append under way: an answer to any other is stale.
        if next - 1 != rejected { return false }
        next = max(min(rejected, hint + 1), match + 1)
        sentCommit = min(sentCommit, next - 1)
        isFlowPaused = false
        return true
    }
}

extension Progress: CustomStringConvertible {
    /// State, match, next and what is out of the ordinary, in one line.
    public var description: String {
        let name =
            switch state {
            case .probe: "StateProbe"
            case .replicate: "StateReplicate"
            case .snapshot: "StateSnapshot"
            }
        var text = "\(name) match=\(match) next=\(next)"
        if isLearner { text += " learner" }
        if isPaused { text += " paused" }
        if pendingSnapshot > 0 { text += " pendingSnap=\(pendingSnapshot)" }
        if !recentActive { text += " inactive" }
        if inflightCount > 0 {
            text += " inflight=\(inflightCount)"
            if isInflightFull { text += "[full]" }
        }
        return text
    }
}
