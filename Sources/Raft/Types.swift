/// A period of at most one leader, counted up from 0 (Raft thesis, section 3.3).
///
/// A plain integer, as in the paper: terms are compared and counted, and never mixed with
/// anything of another type but by their argument labels.
public typealias Term = UInt64

/// The place of an entry in the log, counted from 1; 0 is the place before the first entry.
public typealias LogIndex = UInt64

/// Names a member of a group, or one of the two threads that write for it.
public struct PeerID: RawRepresentable, Hashable, Comparable, Sendable {
    /// The number of the peer; 0 names nobody.
    public var rawValue: UInt64

    /// Wraps a number.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Wraps a number.
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// Nobody: no leader is known, no vote was cast.
    public static let none = PeerID(0)
    /// The address of writes to the log under asynchronous storage writes.
    public static let appendThread = PeerID(UInt64.max)
    /// The address of entries to apply under asynchronous storage writes.
    public static let applyThread = PeerID(UInt64.max - 1)

    /// Whether the name is one of the two storage threads of the same machine.
    public var isStorageThread: Bool { self == .appendThread || self == .applyThread }

    /// The order of the numbers.
    public static func < (a: PeerID, b: PeerID) -> Bool { a.rawValue < b.rawValue }
}

extension PeerID: ExpressibleByIntegerLiteral, CustomStringConvertible {
    /// Wraps a literal, so that configurations read as in the paper.
    public init(integerLiteral value: UInt64) { rawValue = value }

    /// The number, or the name of the storage thread.
    public var description: String {
        switch self {
        case .appendThread: "AppendThread"
        case .applyThread: "ApplyThread"
        default: String(rawValue)
        }
    }
}

/// What a member is doing in its term (Raft thesis, figure 3.3; pre-candidate: section 9.6).
public enum Role: UInt8, Sendable {
    /// Answers, and waits to hear of a leader.
    case follower
    /// Asks for votes.
    case candidate
    /// Replicates its log.
    case leader
    /// Asks whether it would get votes.
    case preCandidate
}

/// What a member must find again after a crash (Raft thesis, figure 3.1, persistent state).
///
/// `commit` is persisted too, though the paper does not ask for it: it lets a restarted member
/// apply at once what it knew to be committed.
public struct HardState: Equatable, Sendable {
    /// The latest term the member has seen.
    public var term: Term
    /// The candidate that got its vote in that term.
    public var vote: PeerID
    /// The highest entry known to be committed.
    public var commit: LogIndex

    /// A state; the empty one is that of a member that never started.
    public init(term: Term = 0, vote: PeerID = .none, commit: LogIndex = 0) {
        self.term = term
        self.vote = vote
        self.commit = commit
    }

    /// Whether nothing was ever persisted.
    public var isEmpty: Bool { term == 0 && vote == .none && commit == 0 }
}

/// What needs no persistence: who leads, and what this member is.
public struct SoftState: Equatable, Sendable {
    /// The leader of the term, as far as known.
    public var leader: PeerID
    /// This member's role.
    public var role: Role

    /// A state.
    public init(leader: PeerID = .none, role: Role = .follower) {
        self.leader = leader
        self.role = role
    }
}

/// The answer to a request for a read index (Raft thesis, section 6.4): once `index` is
/// applied, the state machine may be read.
public struct ReadState: Equatable, Sendable {
    /// The commit index at the time the request was confirmed.
    public var index: LogIndex
    /// The request's own bytes, by which its caller knows it.
    public var context: [UInt8]

    /// An answer.
    public init(index: LogIndex, context: [UInt8]) {
        self.index = index
        self.context = context
    }
}
