/// Why a change of the members cannot be applied to the configuration in force. The members
/// stay as they are.
public enum ConfChangeRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    /// A joint configuration must be left before another is entered.
    case alreadyJoint
    /// A group without a voter has no outgoing half.
    case noVoterToJoin
    /// There is no joint configuration to leave.
    case notJoint
    /// A joint configuration must be left before a single change.
    case simpleWhileJoint
    /// Majorities before and after might not meet.
    case moreThanOneVoter
    /// A group keeps at least one voter.
    case removedAllVoters

    /// The rule that was broken.
    public var description: String {
        switch self {
        case .alreadyJoint: "config is already joint"
        case .noVoterToJoin: "can't make a zero-voter config joint"
        case .notJoint: "can't leave a non-joint config"
        case .simpleWhileJoint: "can't apply simple config change in joint config"
        case .moreThanOneVoter: "more than one voter changed without entering joint config"
        case .removedAllVoters: "removed all voters"
        }
    }
}

/// Computes the members after a change (Raft thesis, chapter 4), without applying it.
struct ConfChanger {
    /// The members and their progress before.
    var tracker: Tracker
    /// The leader's last index, from which new members are probed.
    var lastIndex: LogIndex

    /// Enters a joint configuration: the voters so far become the outgoing half, and the changes
    /// act on the incoming one (section 4.3).
    func enterJoint(
        autoLeave: Bool, _ changes: [ConfChangeSingle]
    ) throws(ConfChangeRefusal) -> Tracker {
        var after = tracker
        if after.config.voters.isJoint { throw .alreadyJoint }
        if after.config.voters.incoming.isEmpty { throw .noVoterToJoin }
        after.config.voters.outgoing = after.config.voters.incoming
        try apply(changes, to: &after)
        after.config.autoLeave = autoLeave
        return after.checked
    }

    /// Leaves the joint configuration: the incoming half decides alone, members of the outgoing
    /// one alone are gone, and those that wait to become learners do.
    func leaveJoint() throws(ConfChangeRefusal) -> Tracker {
        var after = tracker
        if !after.config.voters.isJoint { throw .notJoint }
        for peer in after.config.learnersNext {
            after.config.learners.insertSorted(peer)
            if let position = after.position(of: peer) {
                after.progress[position].isLearner = true
            }
        }
        after.config.learnersNext = []
        let outgoing = after.config.voters.outgoing
        after.config.voters.outgoing = MajorityConfig()
        for peer in outgoing.voters
        where !after.config.voters.contains(peer) && !after.config.learners.contains(peer) {
            after.progress.removeAll { $0.peer == peer }
        }
        after.config.autoLeave = false
        return after.checked
    }

    /// Applies changes of which at most one adds or removes a voter, so that the majorities
    /// before and after overlap (section 4.1).
    func simple(_ changes: [ConfChangeSingle]) throws(ConfChangeRefusal) -> Tracker {
        var after = tracker
        if after.config.voters.isJoint { throw .simpleWhileJoint }
        try apply(changes, to: &after)
        let before = Set(tracker.config.voters.incoming.voters)
        let changed = before.symmetricDifference(after.config.voters.incoming.voters)
        if changed.count > 1 { throw .moreThanOneVoter }
        return after.checked
    }

    private func apply(
        _ changes: [ConfChangeSingle], to after: inout Tracker
    ) throws(ConfChangeRefusal) {
        for change in changes where change.peer != .none {
            switch change.kind {
            case .addVoter: makeVoter(change.peer, in: &after)
            case .addLearner: makeLearner(change.peer, in: &after)
            case .removePeer: remove(change.peer, from: &after)
            case .updatePeer: continue
            }
        }
        if after.config.voters.incoming.isEmpty { throw .removedAllVoters }
    }

    private func makeVoter(_ peer: PeerID, in after: inout Tracker) {
        guard let position = after.position(of: peer) else {
            add(peer, isLearner: false, to: &after)
            return
        }
        after.progress[position].isLearner = false
        after.config.learners.removeSorted(peer)
        after.config.learnersNext.removeSorted(peer)
        after.config.voters.incoming.insert(peer)
    }

    /// A voter of the outgoing half stays one until the joint configuration is left, since no
    /// peer may be both.
    private func makeLearner(_ peer: PeerID, in after: inout Tracker) {
        guard let position = after.position(of: peer) else {
            add(peer, isLearner: true, to: &after)
            return
        }
        if after.progress[position].isLearner { return }
        let kept = after.progress[position]
        remove(peer, from: &after)
        if after.position(of: peer) == nil { after.insert(kept) }
        if after.config.voters.outgoing.contains(peer) {
            after.config.learnersNext.insertSorted(peer)
        } else if let position = after.position(of: peer) {
            after.progress[position].isLearner = true
            after.config.learners.insertSorted(peer)
        }
    }

    private func remove(_ peer: PeerID, from after: inout Tracker) {
        guard after.position(of: peer) != nil else { return }
        after.config.voters.incoming.remove(peer)
        after.config.learners.removeSorted(peer)
        after.config.learnersNext.removeSorted(peer)
        // The outgoing half still needs it.
        if !after.config.voters.outgoing.contains(peer) {
            after.progress.removeAll { $0.peer == peer }
        }
    }

    private func add(_ peer: PeerID, isLearner: Bool, to after: inout Tracker) {
        if isLearner {
            after.config.learners.insertSorted(peer)
        } else {
            after.config.voters.incoming.insert(peer)
        }
        // Active at first, so that a leader that looks for a quorum does not step down before
        // the newcomer had a chance to answer. Probed from the leader's last entry: a guess that
        // costs a rejection at most.
        after.insert(
            Progress(
                peer: peer, match: 0, next: max(lastIndex, 1), inflights: after.newInflights,
                isLearner: isLearner, recentActive: true))
    }
}

extension ConfChanger {
    /// The tracker of a persisted configuration, built by the very changes that led there: the
    /// outgoing voters first, then the incoming configuration over them.
    func restore(_ state: ConfState) throws(ConfChangeRefusal) -> Tracker {
        var outgoing: [ConfChangeSingle] = []
        for peer in state.votersOutgoing { outgoing.append(ConfChangeSingle(.addVoter, peer)) }
        var incoming: [ConfChangeSingle] = []
        for peer in state.votersOutgoing { incoming.append(ConfChangeSingle(.removePeer, peer)) }
        for peer in state.voters { incoming.append(ConfChangeSingle(.addVoter, peer)) }
        for peer in state.learners { incoming.append(ConfChangeSingle(.addLearner, peer)) }
        for peer in state.learnersNext { incoming.append(ConfChangeSingle(.addLearner, peer)) }

        var step = self
        if outgoing.isEmpty {
            for change in incoming { step.tracker = try step.simple([change]) }
            return step.tracker
        }
        for change in outgoing { step.tracker = try step.simple([change]) }
        return try step.enterJoint(autoLeave: state.autoLeave, incoming)
    }
}

extension Tracker {
    /// Puts a progress in its place.
    fileprivate mutating func insert(_ new: Progress) {
        let place = progress.firstIndex { $0.peer > new.peer } ?? progress.count
        progress.insert(new, at: place)
    }

    /// Itself, once its invariants are seen to hold.
    fileprivate var checked: Tracker {
        let config = config
        for peer in config.voters.all + config.learners + config.learnersNext {
            precondition(position(of: peer) != nil, "member \(peer) has no progress")
        }
        for peer in config.learnersNext {
            precondition(
                config.voters.outgoing.contains(peer),
                "\(peer) waits to become a learner and is no outgoing voter")
            precondition(
                self[peer]?.isLearner == false, "\(peer) is a learner before its time")
        }
        for peer in config.learners {
            precondition(!config.voters.contains(peer), "\(peer) is a learner and a voter")
            precondition(self[peer]?.isLearner == true, "learner \(peer) is not marked as one")
        }
        if !config.voters.isJoint {
            precondition(
                config.learnersNext.isEmpty && !config.autoLeave,
                "a configuration that is not joint has nothing to leave")
        }
        return self
    }
}
