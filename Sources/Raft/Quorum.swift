/// What the votes cast so far decide.
enum VoteResult: Equatable, Sendable {
    /// Enough voters have yet to answer that either could happen.
    case pending
    /// A quorum refused, or too many for a quorum to agree.
    case lost
    /// A quorum agreed.
    case won
}

/// A set of voters of which any majority is a quorum (Raft thesis, section 3.2).
struct MajorityConfig: Equatable, Sendable {
    /// The voters, ascending and each once.
    private(set) var voters: [PeerID]

    /// Voters in any order, each counted once.
    init(_ voters: some Sequence<PeerID> = []) {
        self.voters = Array(Set(voters)).sorted()
    }

    /// Whether nobody votes.
    var isEmpty: Bool { voters.isEmpty }

    /// O(voters), which are few.
    func contains(_ peer: PeerID) -> Bool { voters.contains(peer) }

    /// Adds a voter, if it is not there.
    mutating func insert(_ peer: PeerID) { voters.insertSorted(peer) }

    /// Takes a voter out, if it is there.
    mutating func remove(_ peer: PeerID) { voters.removeSorted(peer) }

    /// The highest index that a majority has acknowledged; a voter without an answer has 0.
    ///
    /// An empty configuration commits everything, so that joined with another it has no say.
    /// O(n²) for n voters, without allocation for up to 16.
    @inline(__always)
    func committedIndex(_ acknowledged: (PeerID) -> LogIndex?) -> LogIndex {
        let count = voters.count
        if count == 0 { return .max }
        if count == 1 { return acknowledged(voters[0]) ?? 0 }
        return withUnsafeTemporaryAllocation(of: LogIndex.self, capacity: count) { sorted in
            // Insertion sort, descending: a handful of integers.
            for (filled, voter) in voters.enumerated() {
                let index = acknowledged(voter) ?? 0
                var place = filled
                while place > 0, sorted[place - 1] < index {
                    sorted[place] = sorted[place - 1]
                    place -= 1
                }
                sorted[place] = index
            }
            return sorted[count / 2]
        }
    }

    /// What the votes decide; nil is a vote not cast. An empty configuration agrees.
    func voteResult(_ vote: (PeerID) -> Bool?) -> VoteResult {
        if voters.isEmpty { return .won }
        var granted = 0
        var missing = 0
        for voter in voters {
            switch vote(voter) {
            case true?: granted += 1
            case nil: missing += 1
            case false?: continue
            }
        }
        let quorum = voters.count / 2 + 1
        if granted >= quorum { return .won }
        return granted + missing >= quorum ? .pending : .lost
    }
}

/// Two sets of voters of which both must agree while the members change (Raft thesis, section
/// 4.3); outside a joint configuration the outgoing set is empty.
struct JointConfig: Equatable, Sendable {
    /// The voters from now on.
    var incoming: MajorityConfig
    /// The voters up to now, while both must agree.
    var outgoing: MajorityConfig

    /// Two halves; the outgoing one empty outside joint configurations.
    init(incoming: MajorityConfig = MajorityConfig(), outgoing: MajorityConfig = MajorityConfig()) {
        self.incoming = incoming
        self.outgoing = outgoing
    }

    /// Whether both halves must agree.
    var isJoint: Bool { !outgoing.isEmpty }

    /// All voters of either half, ascending.
    var all: [PeerID] {
        if !isJoint { return incoming.voters }
        return MajorityConfig(incoming.voters + outgoing.voters).voters
    }

    /// Whether a peer votes in either half.
    func contains(_ peer: PeerID) -> Bool {
        incoming.contains(peer) || outgoing.contains(peer)
    }

    /// The highest index that a majority of each half has acknowledged.
    @inline(__always)
    func committedIndex(_ acknowledged: (PeerID) -> LogIndex?) -> LogIndex {
        let index = incoming.committedIndex(acknowledged)
        return isJoint ? min(index, outgoing.committedIndex(acknowledged)) : index
    }

    /// Won if both halves are, lost if one is.
    func voteResult(_ vote: (PeerID) -> Bool?) -> VoteResult {
        switch (incoming.voteResult(vote), outgoing.voteResult(vote)) {
        case (let a, let b) where a == b: a
        case (.lost, _), (_, .lost): .lost
        default: .pending
        }
    }
}

extension [PeerID] {
    /// Puts a peer in its place unless it is there.
    mutating func insertSorted(_ peer: PeerID) {
        let place = firstIndex { $0 >= peer } ?? count
        if place == count || self[place] != peer { insert(peer, at: place) }
    }

    /// Takes a peer out if it is there.
    mutating func removeSorted(_ peer: PeerID) {
        if let place = firstIndex(of: peer) { remove(at: place) }
    }
}

extension MajorityConfig: CustomStringConvertible {
    /// The voters as `(1 2 3)`.
    var description: String {
        "(" + voters.map(\.description).joined(separator: " ") + ")"
    }
}

extension JointConfig: CustomStringConvertible {
    /// The halves as `(1 2 3)&&(1)`, or the one.
    var description: String {
        isJoint ? "\(incoming)&&\(outgoing)" : incoming.description
    }
}
