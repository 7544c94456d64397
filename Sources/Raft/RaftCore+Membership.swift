extension RaftCore {
    /// Applies a committed change of members (Raft thesis, chapter 4; like etcd and unlike the
    /// thesis, when it is applied and not when it is appended).
    mutating func apply(_ change: ConfChangeV2) throws(ConfChangeRefusal) -> ConfState {
        let changer = ConfChanger(tracker: tracker, lastIndex: log.lastIndex)
        let joint = change.joint
        let changed: Tracker
        if change.leavesJoint {
            changed = try changer.leaveJoint()
        } else if joint.enters {
            changed = try changer.enterJoint(autoLeave: joint.autoLeave, change.changes)
        } else {
            changed = try changer.simple(change.changes)
        }
        tracker.config = changed.config
        tracker.progress = changed.progress
        deferred = []
        triedFrom = nil
        membersChanged()
        return tracker.config.confState
    }

    /// Acts on new members: steps down if this leader is no voter any more, commits what the
    /// new quorum has, and sends newcomers the log.
    private mutating func membersChanged() {
        guard role == .leader else { return }
        guard let own = tracker[id], !own.isLearner else {
            if configuration.stepDownOnRemoval { becomeFollower(term: term, leader: .none) }
            return
        }
        if advanceCommit() {
            releaseWaitingReads()
            broadcastAppend()
        } else {
            var shared = SharedEntries()
            for position in tracker.progress.indices where tracker.progress[position].peer != id {
                sendAppend(position, evenIfEmpty: false, &shared)
            }
        }
        // With fewer voters, reads may be confirmed already.
        confirmReads()
        if transferee != .none, !tracker.config.voters.contains(transferee) {
            transferee = .none
        }
    }
}
