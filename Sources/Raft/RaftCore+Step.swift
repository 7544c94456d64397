extension RaftCore {
    /// Takes a message.
    ///
    /// - Throws: if it was a proposal or a read that was dropped, or showed damage.
    mutating func step(_ message: Message) throws(RaftError) {
        if message.kind == .vote || message.kind == .preVote, ignoresVoteRequest(message) {
            return
        }
        if message.term > term {
            stepHigherTerm(message)
        } else if message.term < term, message.term != 0 {
            stepLowerTerm(message)
            return
        }
        switch message.kind {
        case .hup:
            hup(configuration.preVote ? .preElection : .election)
        case .storageAppendResponse:
            if message.index != 0 {
                log.unstable.stable(to: message.index, term: message.logTerm)
            }
            if let snapshot = message.snapshot { appliedSnapshot(snapshot) }
        case .storageApplyResponse:
            guard let last = message.entries.last else { return }
            applied(to: last.index, size: message.entries.totalSize)
            uncommittedSize = max(0, uncommittedSize - message.entries.dataSize)
        case .vote, .preVote:
            answerVote(message)
        default:
            switch role {
            case .leader: try stepLeader(message)
            case .follower: try stepFollower(message)
            case .candidate, .preCandidate: try stepCandidate(message)
            }
        }
    }

    /// Adopts a later term (Raft thesis, section 3.3), unless the message only asks.
    private mutating func stepHigherTerm(_ message: Message) {
        switch message.kind {
        case .preVote:
            break
        case .preVoteResponse where !message.reject:
            // The term of the election that was tried, and not yet this member's.
            break
        case .append, .heartbeat, .snapshot:
            becomeFollower(term: message.term, leader: message.from)
        default:
            becomeFollower(term: message.term, leader: .none)
        }
    }

    /// Whether this member may campaign and would ask a peer for its vote, who so learns of this
    /// member's term. It would not if it is a learner, or out, or does not know the peer yet.
    private func campaignsAt(_ peer: PeerID) -> Bool {
        isPromotable && tracker.config.voters.contains(peer)
    }

    private mutating func stepLowerTerm(_ message: Message) {
        switch message.kind {
        case .append, .heartbeat:
            // A leader that is behind. With check-quorum or pre-vote this member's own vote
            // requests may be ignored, so it could stay stuck in its later term: telling the
            // leader makes it step down and elect anew. So could a member whose campaigns do not
            // reach that leader.
            if configuration.checkQuorum || configuration.preVote || !campaignsAt(message.from) {
                send(Message(.appendResponse, to: message.from))
            }
        case .vote where !campaignsAt(message.from):
            // Neither would a candidate ever learn of the later term.
            send(Message(.voteResponse, to: message.from, term: term, reject: true))
        case .preVote:
            // Answered, lest a group in which pre-vote is being turned on deadlocks.
            send(Message(.preVoteResponse, to: message.from, term: term, reject: true))
        case .storageAppendResponse:
            // Entries written in an earlier term may have been replaced since (see
            // `storageAppendResponse`). A snapshot is committed state whatever the term.
            if let snapshot = message.snapshot { appliedSnapshot(snapshot) }
        default:
            return
        }
    }

    /// Entries up to `index` are applied.
    mutating func applied(to index: LogIndex, size: Int) {
        let index = max(index, log.applied)
        log.applied(to: index, size: size)
        leaveJointByItself()
    }

    /// In a joint configuration that leaves itself, a leader proposes to leave it once the entry
    /// that entered it is applied. If that is dropped, as while leadership is being transferred,
    /// the next entry applied or the next election timeout tries again.
    mutating func leaveJointByItself() {
        if role == .leader, tracker.config.autoLeave, log.applied >= pendingConfIndex {
            _ = accept([Entry(kind: .confChangeV2)])
        }
    }

    private mutating func appliedSnapshot(_ snapshot: Snapshot) {
        log.unstable.stableSnapshot(at: snapshot.metadata.index)
        applied(to: snapshot.metadata.index, size: 0)
    }
}

// MARK: - Candidates

extension RaftCore {
    /// Takes a message of this term, or a local one, as candidate or pre-candidate.
    mutating func stepCandidate(_ message: Message) throws(RaftError) {
        switch message.kind {
        case .propose:
            throw .proposalDropped
        case .readIndex:
            if message.from == .none || message.from == id { throw .readDropped }
        case .append, .heartbeat, .snapshot:
            // Someone else won this term.
            becomeFollower(term: message.term, leader: message.from)
            try stepFollower(message)
        case .voteResponse where role == .candidate, .preVoteResponse where role == .preCandidate:
            countVote(message)
        default:
            return
        }
    }
}

// MARK: - Followers

extension RaftCore {
    /// Takes a message of this term, or a local one, as follower.
    mutating func stepFollower(_ message: Message) throws(RaftError) {
        switch message.kind {
        case .propose:
            if leader == .none || configuration.disableProposalForwarding {
                throw .proposalDropped
            }
            forward(message)
        case .readIndex:
            if leader != .none {
                forward(message)
            } else if message.from == .none || message.from == id {
                throw .readDropped
            }
        case .transferLeader:
            if leader != .none { forward(message) }
        case .append:
            heard(from: message.from)
            try handleAppend(message)
        case .heartbeat:
            heard(from: message.from)
            if configuration.grantsLeases {
                grantedLease = configuration.electionTick
            }
            if message.commit > log.lastIndex {
                throw .lostEntries(committed: message.commit, last: log.lastIndex)
            }
            log.commit(to: message.commit)
            send(Message(.heartbeatResponse, to: message.from, context: message.context))
        case .snapshot:
            heard(from: message.from)
            handleSnapshot(message)
        case .forgetLeader:
            // A lease that this member granted binds it.
            if !configuration.grantsLeases { leader = .none }
        case .timeoutNow:
            hup(.transfer)
        case .readIndexResponse:
            guard message.entries.count == 1 else { return }
            readStates.append(
                ReadState(index: message.index, context: message.entries[0].data))
        default:
            return
        }
    }

    private mutating func forward(_ message: Message) {
        var message = message
        message.to = leader
        message.term = 0
        send(message)
    }

    private mutating func heard(from leader: PeerID) {
        electionElapsed = 0
        self.leader = leader
    }

    /// AppendEntries (Raft thesis, figure 3.1). A rejection hints at the last place where the
    /// logs may match, so that a leader probes at most once a term.
    private mutating func handleAppend(_ message: Message) throws(RaftError) {
        guard follows(message) else { throw .malformedAppend }
        if message.index < log.committed {
            send(Message(.appendResponse, to: message.from, index: log.committed))
            return
        }
        let matched = log.append(
            after: message.index, term: message.logTerm, message.entries,
            committed: message.commit)
        if let matched {
            send(Message(.appendResponse, to: message.from, index: matched))
            return
        }
        let hint = log.conflict(upTo: min(message.index, log.lastIndex), term: message.logTerm)
        send(
            Message(
                .appendResponse, to: message.from, logTerm: hint.term, index: message.index,
                reject: true, rejectHint: hint.index))
    }

    /// Whether the entries of an append are a piece of a log: without gaps from the index that it
    /// names, and in terms that never go back, up to the leader's (Raft thesis, section 3.5).
    private func follows(_ message: Message) -> Bool {
        var index = message.index
        var logTerm = message.logTerm
        for entry in message.entries {
            index += 1
            guard entry.index == index, entry.term >= logTerm, entry.term <= term else {
                return false
            }
            logTerm = entry.term
        }
        return true
    }

    /// InstallSnapshot (Raft thesis, figure 5.3).
    private mutating func handleSnapshot(_ message: Message) {
        let snapshot = message.snapshot ?? Snapshot()
        let index = restore(snapshot) ? log.lastIndex : log.committed
        send(Message(.appendResponse, to: message.from, index: index))
    }

    /// Replaces log and members by a snapshot.
    ///
    /// - Returns: false if it brings nothing new, or is not for this member.
    private mutating func restore(_ snapshot: Snapshot) -> Bool {
        let metadata = snapshot.metadata
        if metadata.index <= log.committed { return false }
        // Changes of members that are handed out and not applied yet would be applied to the
        // members of the snapshot, which has them already. The leader sends it again.
        if hasUnappliedConfChange(through: log.applying) { return false }
        let members = metadata.confState
        guard
            members.voters.contains(id) || members.learners.contains(id)
                || members.votersOutgoing.contains(id)
        else { return false }
        if log.matches(metadata.index, term: metadata.term) {
            // The log has it all, and only the commit index is news.
            log.commit(to: metadata.index)
            return false
        }
        let empty = Tracker(
            maxInflightMessages: tracker.maxInflightMessages,
            maxInflightBytes: tracker.maxInflightBytes)
        let restored: Tracker
        do {
            restored = try ConfChanger(tracker: empty, lastIndex: metadata.index).restore(members)
        } catch {
            return false
        }
        log.restore(snapshot)
        tracker = restored
        return true
    }
}
