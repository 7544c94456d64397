/// What a member knows, for operators and tests, without what a leader knows of its peers.
public struct BasicStatus: Equatable, Sendable {
    /// The member.
    public var id: PeerID
    /// Term, vote and commit index.
    public var hardState: HardState
    /// Leader and role.
    public var softState: SoftState
    /// The last entry that is applied.
    public var applied: LogIndex
    /// The first entry of the log.
    public var firstIndex: LogIndex
    /// The last entry of the log.
    public var lastIndex: LogIndex
    /// Whom leadership is being transferred to.
    public var transferee: PeerID
}

/// What a member knows.
public struct Status: Equatable, Sendable {
    /// The member itself.
    public var basic: BasicStatus
    /// The members of the group.
    public var members: ConfState
    /// What it knows of each member, ascending; empty unless it leads.
    public var progress: [Progress]

    /// Whether a peer votes, in either half of the configuration.
    public func isVoter(_ peer: PeerID) -> Bool {
        members.voters.contains(peer) || members.votersOutgoing.contains(peer)
    }
}

extension RawNode {
    /// What the member knows of itself.
    public var basicStatus: BasicStatus {
        BasicStatus(
            id: core.id, hardState: core.hardState, softState: core.softState,
            applied: core.log.applied, firstIndex: core.log.firstIndex,
            lastIndex: core.log.lastIndex, transferee: core.transferee)
    }

    /// What the member knows.
    public var status: Status {
        Status(
            basic: basicStatus, members: core.tracker.config.confState,
            progress: core.role == .leader ? core.tracker.progress : [])
    }

    /// What a leader knows of its peers, ascending.
    public var progress: [Progress] { core.tracker.progress }
}
