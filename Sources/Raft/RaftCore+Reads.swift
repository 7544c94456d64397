extension RaftCore {
    /// Takes a request for a read index, of its own or a follower's (Raft thesis, section 6.4).
    ///
    /// - Returns: false if too many wait, and this one was dropped.
    mutating func read(_ message: Message) -> Bool {
        guard message.entries.count == 1, reads.count < Limits.pendingReads else { return false }
        let request = ReadRequest(
            from: message.from, context: message.entries[0].data, index: log.committed)
        // Before that this leader may not know all that its predecessors committed.
        if hasCommittedInTerm {
            start(request)
        } else {
            reads.waiting.append(request)
        }
        return true
    }

    /// The term's first entry is committed: reads that waited for it begin.
    mutating func releaseWaitingReads() {
        if reads.waiting.isEmpty || !hasCommittedInTerm { return }
        let waiting = reads.waiting
        reads.waiting = []
        for request in waiting { start(request) }
    }

    private mutating func start(_ request: ReadRequest) {
        var request = request
        request.index = log.committed
        let isAlone = tracker.isSingleton && tracker.config.voters.incoming.contains(id)
        if isAlone || checkLease() {
            answer(request)
        } else {
            reads.append(request)
            broadcastHeartbeat()
        }
    }

    private mutating func answer(_ request: ReadRequest) {
        if request.from == .none || request.from == id {
            readStates.append(ReadState(index: request.index, context: request.context))
        } else {
            // It waits for what it has not been told is committed, or does not have yet.
            if configuration.tellsCommitLate, let position = tracker.position(of: request.from),
                tracker.progress[position].sentCommit < request.index
            {
                sendAppend(position)
            }
            send(
                Message(
                    .readIndexResponse, to: request.from, index: request.index,
                    entries: [Entry(data: request.context)]))
        }
    }

    /// What heartbeats carry: nothing unless reads wait or a lease is kept.
    var heartbeatContext: [UInt8] {
        guard let latest = reads.latest ?? (configuration.grantsLeases ? 0 : nil) else { return [] }
        return HeartbeatContext(read: latest, tick: leaderTicks + 1).encoded
    }

    /// A member answered a heartbeat of this term.
    mutating func acknowledgeHeartbeat(_ context: [UInt8], _ position: Int) {
        // Of a read that was not asked, or of a tick to come, nobody can have heard.
        guard let context = HeartbeatContext(decoding: context),
            context.read <= reads.issued, context.tick <= leaderTicks + 1
        else { return }
        let progress = tracker.progress[position]
        tracker.progress[position].acknowledgedRead = max(
            progress.acknowledgedRead, context.read)
        tracker.progress[position].acknowledgedTick = max(
            progress.acknowledgedTick, context.tick)
        confirmReads()
    }

    /// Answers the reads that a quorum has confirmed.
    mutating func confirmReads() {
        guard reads.latest != nil else { return }
        let number = tracker.config.voters.committedIndex { peer in
            peer == id ? .max : tracker[peer]?.acknowledgedRead
        }
        for request in reads.confirm(through: number) { answer(request) }
    }

    /// The latest of a leader's ticks, counted from 1, of which a quorum has answered a heartbeat;
    /// nil while none has, or where a forced election may be under way.
    ///
    /// Mutating in name only, so that asking does not copy the core.
    mutating func checkLeaseTick() -> UInt64? {
        guard role == .leader, configuration.grantsLeases, !isLeaseBroken, transferee == .none
        else { return nil }
        let tick = tracker.config.voters.committedIndex { peer in
            peer == id ? .max : tracker[peer]?.acknowledgedTick
        }
        // 0 is no acknowledgement.
        return tick > 0 ? tick : nil
    }

    /// Whether a quorum of members holds off other candidates (Raft thesis, section 6.4.1).
    ///
    /// Each reset its election timer at or after the tick in which the heartbeat it answered was
    /// sent, and refuses its vote for the least election timeout from then. The lease ends by
    /// ``Configuration/leaseMarginTicks`` earlier, and with the first forced election.
    private mutating func checkLease() -> Bool {
        guard let tick = checkLeaseTick() else { return false }
        if isLeaseHeld { return true }
        guard configuration.readOnlyOption == .leaseBased else { return false }
        let age = leaderTicks + 1 - min(tick, leaderTicks + 1)
        return age + UInt64(configuration.leaseMarginTicks) <= UInt64(configuration.electionTick)
    }
}
