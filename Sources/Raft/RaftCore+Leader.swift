extension RaftCore {
    /// Takes a message of this term, or a local one, as leader.
    mutating func stepLeader(_ message: Message) throws(RaftError) {
        switch message.kind {
        case .beat:
            broadcastHeartbeat()
            return
        case .checkQuorum:
            checkQuorum()
            return
        case .propose:
            if let error = accept(message.entries) { throw error }
            return
        case .readIndex:
            if !read(message), message.from == .none || message.from == id { throw .readDropped }
            return
        default: break
        }
        guard let position = tracker.position(of: message.from) else { return }
        switch message.kind {
        case .appendResponse:
            tracker.progress[position].recentActive = true
            if message.reject {
                handleRejection(message, position)
            } else {
                handleAcknowledgement(message, position)
            }
        case .heartbeatResponse: handleHeartbeatResponse(message, position)
        case .snapshotStatus: handleSnapshotStatus(message, position)
        case .unreachable:
            // What was sent without waiting is probably lost.
            if tracker.progress[position].state == .replicate {
                tracker.progress[position].becomeProbe()
            }
        case .transferLeader: transfer(to: message.from, position)
        default: return
        }
    }

    /// Appends proposals and sends them out.
    ///
    /// - Returns: why they were dropped, if they were.
    mutating func accept(_ proposed: consuming [Entry]) -> RaftError? {
        precondition(!proposed.isEmpty, "a proposal without an entry")
        guard role == .leader, tracker.position(of: id) != nil, transferee == .none else {
            return .proposalDropped
        }
        var pending = pendingConfIndex
        let last = log.lastIndex
        for position in proposed.indices where proposed[position].kind != .normal {
            let change: ConfChangeV2
            do {
                change = try ConfChangeV2(entry: proposed[position])
            } catch {
                return .malformedConfChange(error)
            }
            if refuses(change, pending: pending) {
                // An empty entry in its place: the proposer finds its change not applied.
                proposed[position] = Entry()
            } else {
                pending = last + LogIndex(position) + 1
            }
        }
        guard appendOwn(proposed) else { return .proposalDropped }
        let isChange = pending > last
        pendingConfIndex = pending
        if isChange { broadcastAppend() } else { broadcastEntries() }
        return nil
    }

    /// Whether a change of members does not go with the configuration in force, as far as this
    /// leader knows it: one at a time, and a joint one is left before the next begins.
    private func refuses(_ change: ConfChangeV2, pending: LogIndex) -> Bool {
        if configuration.disableConfChangeValidation { return false }
        let isJoint = tracker.config.voters.isJoint
        return pending > log.applied || isJoint != change.changes.isEmpty
    }

    /// A member rejected an append. The leader looks for the last place where the logs may
    /// match, given that the member has `logTerm` at `rejectHint`: no entry of the leader's with
    /// a later term can be there.
    private mutating func handleRejection(_ message: Message, _ position: Int) {
        var hint = message.rejectHint
        if message.logTerm > 0 {
            hint = log.conflict(upTo: hint, term: message.logTerm).index
        }
        if tracker.progress[position].decrease(rejected: message.index, hint: hint) {
            if tracker.progress[position].state == .replicate {
                tracker.progress[position].becomeProbe()
            }
            sendAppend(position)
        }
    }

    /// A member has the log up to `index`.
    private mutating func handleAcknowledgement(_ message: Message, _ position: Int) {
        // Of what this leader never had, nobody can say that it matches.
        guard message.index <= log.lastIndex else { return }
        // An acknowledgement that says nothing new still ends a probe.
        let isNew = tracker.progress[position].update(match: message.index)
        if isNew, triedFrom != nil { noteFirst(position) }
        let progress = tracker.progress[position]
        if !isNew, progress.match != message.index || progress.state != .probe { return }
        switch progress.state {
        case .probe:
            tracker.progress[position].becomeReplicate()
        case .snapshot where progress.match + 1 >= log.firstIndex:
            // Whatever snapshot it was, the log goes on from here.
            tracker.progress[position].becomeProbe()
            tracker.progress[position].becomeReplicate()
        case .snapshot:
            break
        case .replicate:
            tracker.progress[position].inflights.free(through: message.index)
        }
        let before = log.committed
        if advanceCommit() {
            releaseWaitingReads()
            // Who has not heard that a change of members is committed does not know who votes: if
            // this leader died now, the others might wait for one who is gone.
            let isChange = before < pendingConfIndex && pendingConfIndex <= log.committed
            if !configuration.tellsCommitLate || isChange { broadcastAppend() }
        } else if message.from != id, !configuration.tellsCommitLate,
            tracker.progress[position].canBumpCommit(to: log.committed)
        {
            sendAppend(position)
        }
        if message.from == id { return }
        if !mayWait(position) { fillWindow(position) }
        if message.from == transferee, tracker.progress[position].match == log.lastIndex {
            sendTimeoutNow(to: message.from)
        }
    }

    private mutating func handleHeartbeatResponse(_ message: Message, _ position: Int) {
        tracker.progress[position].recentActive = true
        tracker.progress[position].isFlowPaused = false
        if tracker.progress[position].match < log.lastIndex
            || tracker.progress[position].state == .probe
        {
            sendAppend(position)
        }
        acknowledgeHeartbeat(message.context, position)
    }

    private mutating func handleSnapshotStatus(_ message: Message, _ position: Int) {
        guard tracker.progress[position].state == .snapshot else { return }
        // One that failed must not be probed after.
        if message.reject { tracker.progress[position].pendingSnapshot = 0 }
        tracker.progress[position].becomeProbe()
        // Wait for the member's own word, or for a heartbeat's answer before the next attempt.
        tracker.progress[position].isFlowPaused = true
    }

    /// Transfers leadership: no proposals are taken from now on, the member catches up, and is
    /// told to campaign at once (Raft thesis, section 3.10).
    private mutating func transfer(to peer: PeerID, _ position: Int) {
        if tracker.progress[position].isLearner || transferee == peer { return }
        transferee = .none
        if peer == id { return }
        electionElapsed = 0
        transferee = peer
        if tracker.progress[position].match == log.lastIndex {
            sendTimeoutNow(to: peer)
        } else {
            sendAppend(position)
        }
    }

    private mutating func sendTimeoutNow(to peer: PeerID) {
        isLeaseBroken = true
        send(Message(.timeoutNow, to: peer))
    }
}
