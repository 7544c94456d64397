/// How an election begins.
enum Campaign {
    /// Tried first, without raising the term (Raft thesis, section 9.6).
    case preElection
    /// By timeout, or after a pre-election was won.
    case election
    /// Asked for by the leader, which no lease holds off (section 3.10).
    case transfer
}

/// The context of a vote request that no lease refuses.
private let transferContext: [UInt8] = Array("CampaignTransfer".utf8)

extension RaftCore {
    /// One tick of the clock. For a follower that hears its leader, a few integers.
    mutating func tick() {
        if grantedLease > 0 { grantedLease -= 1 }
        electionElapsed += 1
        if role == .leader {
            tickLeader()
        } else if electionElapsed >= randomizedElectionTimeout, isPromotable {
            electionElapsed = 0
            hup(configuration.preVote ? .preElection : .election)
        }
    }

    private mutating func tickLeader() {
        heartbeatElapsed += 1
        leaderTicks += 1
        if electionElapsed >= configuration.electionTick {
            electionElapsed = 0
            if configuration.checkQuorum { checkQuorum() }
            // A transfer that took an election timeout has failed: lead on.
            if role == .leader { transferee = .none }
            leaveJointByItself()
        }
        if role == .leader, heartbeatElapsed >= configuration.heartbeatTick {
            heartbeatElapsed = 0
            broadcastHeartbeat()
        }
        guard role == .leader else { return }
        if configuration.sendsQuorumFirst, deferred.isEmpty, triedFrom == nil { chooseQuorum() }
        if configuration.tellsCommitLate { tellCommit() }
    }

    /// Steps down unless a quorum was heard of since the last look (Raft thesis, section 6.2).
    mutating func checkQuorum() {
        if !tracker.isQuorumActive { becomeFollower(term: term, leader: .none) }
        for position in tracker.progress.indices where tracker.progress[position].peer != id {
            tracker.progress[position].recentActive = false
        }
    }

    /// Campaigns, if this member may.
    mutating func hup(_ campaign: Campaign) {
        if role == .leader || !isPromotable || hasUnappliedConfChange { return }
        self.campaign(campaign)
    }

    /// Whether a committed change of members waits to be applied: until then this member does
    /// not know who votes.
    private var hasUnappliedConfChange: Bool { hasUnappliedConfChange(through: log.committed) }

    /// Whether a change of members up to `index` is not applied. If the entries must be fetched
    /// first, it may be so.
    func hasUnappliedConfChange(through index: LogIndex) -> Bool {
        var next = log.applied + 1
        while next <= index {
            let page: [Entry]
            do {
                page = try log.slice(next, index + 1, maxSize: log.maxApplyingSize)
            } catch {
                return true
            }
            if page.contains(where: { $0.kind != .normal }) { return true }
            next += LogIndex(page.count)
        }
        return false
    }

    private mutating func campaign(_ campaign: Campaign) {
        let electionTerm: Term
        let request: MessageKind
        if campaign == .preElection {
            becomePreCandidate()
            request = .preVote
            electionTerm = term + 1
        } else {
            becomeCandidate()
            request = .vote
            electionTerm = term
        }
        let index = log.lastIndex
        let logTerm = log.lastTerm
        for peer in tracker.config.voters.all {
            if peer == id {
                // Its own vote counts once it is durable, like any other.
                let kind: MessageKind = request == .vote ? .voteResponse : .preVoteResponse
                send(Message(kind, to: id, term: electionTerm))
            } else {
                send(
                    Message(
                        request, to: peer, term: electionTerm, logTerm: logTerm, index: index,
                        context: campaign == .transfer ? transferContext : []))
            }
        }
    }

    /// Whether a vote request is to be ignored: a leader was heard of within the least election
    /// timeout (Raft thesis, section 4.2.3).
    ///
    /// A lease that was granted holds whatever this member has learnt since, a later term
    /// included. Without leases the rule only keeps the peace, and it is enough to look whether
    /// the leader is still believed in when the request is of a later term.
    func ignoresVoteRequest(_ message: Message) -> Bool {
        if message.context == transferContext || !configuration.checkQuorum { return false }
        if grantedLease > 0 { return true }
        return message.term > term && leader != .none
            && electionElapsed < configuration.electionTick
    }

    /// Answers a request for a vote (Raft thesis, section 3.6.1; for a pre-vote, 9.6).
    ///
    /// Learners vote too: one that was promoted may be needed before it learns of it.
    mutating func answerVote(_ message: Message) {
        let isPreVote = message.kind == .preVote
        let mayVote =
            vote == message.from || (vote == .none && leader == .none)
            || (isPreVote && message.term > term)
        let response: MessageKind = isPreVote ? .preVoteResponse : .voteResponse
        if mayVote, log.isUpToDate(index: message.index, term: message.logTerm) {
            // The request's term, not this member's: the candidate would ignore an older one.
            send(Message(response, to: message.from, term: message.term))
            if !isPreVote {
                electionElapsed = 0
                vote = message.from
            }
        } else {
            var rejection = Message(response, to: message.from, term: term, reject: true)
            if !isPromotable, let known = log.term(of: log.committed), known > 0 {
                rejection.commit = log.committed
                rejection.logTerm = known
            }
            send(rejection)
            if isPreVote { campaignInPlace(of: message) }
        }
    }

    /// Campaigns itself after it refused a pre-vote for want of entries that it has, if it has heard of
    /// no leader for the least election timeout either: where entries reach some members later, who
    /// notices first that the leader is gone may be one that cannot follow it.
    private mutating func campaignInPlace(of message: Message) {
        guard configuration.sendsQuorumFirst, role == .follower, message.term > term,
            electionElapsed >= configuration.electionTick,
            !log.isUpToDate(index: message.index, term: message.logTerm)
        else { return }
        // Of many who refuse the same request not all at once.
        if tracker.config.voters.all.count > 3 {
            let soon = randomizedElectionTimeout - draw(1...3)
            electionElapsed = max(electionElapsed, soon)
            return
        }
        hup(.preElection)
        if role == .preCandidate { electionElapsed = 0 }
    }

    /// Learns from a rejected vote what is committed.
    ///
    /// A member that was voted out may have the longer log, and the vote of it alone may be
    /// missing to a candidate that does not know yet that it is out. Such a member cannot
    /// campaign itself, so no one ever would be elected; but what it knows to be committed shows
    /// the candidate who votes now. (Etcd's core knows no way out but to start with three.)
    private mutating func learnCommit(_ message: Message) {
        guard message.reject, message.commit > log.committed,
            log.matches(message.commit, term: message.logTerm)
        else { return }
        log.commit(to: message.commit)
        // Its votes were asked of members that may be none any more, as it may be itself.
        if hasUnappliedConfChange { becomeFollower(term: term, leader: .none) }
    }

    /// Counts a vote for this candidate.
    mutating func countVote(_ message: Message) {
        learnCommit(message)
        guard role != .follower else { return }
        tracker.recordVote(message.from, granted: !message.reject)
        switch tracker.voteResult {
        case .pending: return
        case .lost: becomeFollower(term: term, leader: .none)
        case .won where role == .preCandidate: campaign(.election)
        case .won where !tracker.hasVoted(id):
            // With asynchronous writes a quorum may answer before this member's own term and vote
            // are durable. If it led now and crashed, it could win the same term again and fill it
            // with other entries. Its own vote, which comes once they are durable, decides.
            return
        case .won:
            becomeLeader()
            broadcastAppend()
        }
    }
}
