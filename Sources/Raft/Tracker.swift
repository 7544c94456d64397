/// Voters and learners of a group, with the invariants of `checkInvariants`.
struct MemberConfig: Equatable, Sendable {
    /// The voters of both halves.
    var voters = JointConfig()
    /// Whether the leader leaves the joint configuration by itself.
    var autoLeave = false
    /// Ascending; none is a voter of either half.
    var learners: [PeerID] = []
    /// Ascending; outgoing voters that become learners on leaving the joint configuration.
    var learnersNext: [PeerID] = []

    /// The same as persisted.
    var confState: ConfState {
        ConfState(
            voters: voters.incoming.voters, learners: learners,
            votersOutgoing: voters.outgoing.voters, learnersNext: learnersNext,
            autoLeave: autoLeave)
    }
}

extension MemberConfig: CustomStringConvertible {
    /// As in `voters=(1 2 3)&&(1) learners=(4) learners_next=(5) autoleave`.
    var description: String {
        func list(_ peers: [PeerID]) -> String {
            "(" + peers.map(\.description).joined(separator: " ") + ")"
        }
        var text = "voters=\(voters)"
        if !learners.isEmpty { text += " learners=" + list(learners) }
        if !learnersNext.isEmpty { text += " learners_next=" + list(learnersNext) }
        if autoLeave { text += " autoleave" }
        return text
    }
}

/// The members, what the leader knows of each, and the votes of a candidate.
///
/// Members are few, so they are in one ascending array that is searched from the front.
struct Tracker: Equatable, Sendable {
    /// Who votes and who learns.
    var config = MemberConfig()
    /// Ascending by peer; one for each voter of either half and each learner.
    var progress: [Progress] = []
    private var votes: [(peer: PeerID, granted: Bool)] = []
    /// The window of each member, in appends.
    let maxInflightMessages: Int
    /// The window of each member, in bytes.
    let maxInflightBytes: Int

    /// A tracker of nobody.
    init(maxInflightMessages: Int, maxInflightBytes: Int) {
        self.maxInflightMessages = maxInflightMessages
        self.maxInflightBytes = maxInflightBytes
    }

    /// Votes do not count.
    static func == (a: Self, b: Self) -> Bool {
        a.config == b.config && a.progress == b.progress
    }

    /// An empty window of the configured size.
    var newInflights: Inflights {
        Inflights(capacity: maxInflightMessages, byteLimit: maxInflightBytes)
    }

    /// Where a peer's progress is.
    @inline(__always)
    func position(of peer: PeerID) -> Int? {
        for position in progress.indices where progress[position].peer == peer { return position }
        return nil
    }

    /// What is known of a peer, if it is a member.
    subscript(peer: PeerID) -> Progress? { position(of: peer).map { progress[$0] } }

    /// The highest index that a quorum has on its media.
    var committed: LogIndex {
        config.voters.committedIndex { peer in
            position(of: peer).map { progress[$0].match }
        }
    }

    /// Whether the group is a single voter, which needs nobody's consent.
    var isSingleton: Bool {
        !config.voters.isJoint && config.voters.incoming.voters.count == 1
    }

    /// Whether a quorum was heard of since the marks were last taken down.
    var isQuorumActive: Bool {
        config.voters.voteResult { peer in
            position(of: peer).map { progress[$0].recentActive } ?? false
        } == .won
    }

    /// Forgets all votes.
    mutating func resetVotes() { votes.removeAll(keepingCapacity: true) }

    /// Notes a vote; a second one of the same peer counts for nothing.
    mutating func recordVote(_ peer: PeerID, granted: Bool) {
        if !votes.contains(where: { $0.peer == peer }) { votes.append((peer, granted)) }
    }

    /// Whether a peer's vote is noted.
    func hasVoted(_ peer: PeerID) -> Bool { votes.contains { $0.peer == peer } }

    /// What the votes noted decide.
    var voteResult: VoteResult {
        config.voters.voteResult { peer in votes.first { $0.peer == peer }?.granted }
    }
}
