import Raft

/// Whether a member leads its group, as those are told who work only where it does.
public struct Leadership: Hashable, Sendable {
    /// The term that the member is in. What a leader orders elsewhere bears it, so that the orders
    /// of an earlier one are told from it.
    public var term: Term
    /// It leads, and has applied everything that was answered before its term. It may have lost
    /// leadership without knowing: what it proposes then is refused.
    public var isLeading: Bool

    public init(term: Term = 0, isLeading: Bool = false) {
        self.term = term
        self.isLeading = isLeading
    }
}

/// A member of a group, as its members know it.
public struct KnownMember: Hashable, Sendable {
    public enum Part: String, Hashable, Sendable {
        case voter, learner
    }

    public var peer: PeerID
    /// What people call it, as `om1`.
    public var name: String
    /// `HOST:PORT`; empty where it is not known.
    public var address: String
    public var part: Part

    public init(peer: PeerID, name: String, address: String, part: Part) {
        self.peer = peer
        self.name = name
        self.address = address
        self.part = part
    }
}
