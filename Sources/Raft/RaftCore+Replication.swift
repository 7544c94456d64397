extension RaftCore {
    /// Entries that several peers need next, read from the log once.
    struct SharedEntries {
        var start: LogIndex = 0
        var entries: [Entry] = []
    }

    /// Appends a leader's own entries, and acknowledges them to itself once they are durable.
    ///
    /// - Returns: false if that would exceed the limit of uncommitted data; nothing was appended.
    mutating func appendOwn(_ proposed: consuming [Entry]) -> Bool {
        let size = proposed.dataSize
        // A log with nothing uncommitted takes an entry of any size, and entries without data
        // are always taken: those of a new leader and of leaving a joint configuration.
        if uncommittedSize > 0, size > 0,
            size > configuration.maxUncommittedSize - uncommittedSize
        {
            return false
        }
        uncommittedSize += size
        var next = log.lastIndex
        for position in proposed.indices {
            next += 1
            proposed[position].term = term
            proposed[position].index = next
        }
        log.append(proposed)
        send(Message(.appendResponse, to: id, index: next))
        return true
    }

    /// Advances the commit index to what a quorum has, if that is of this term (Raft thesis,
    /// section 3.6.2).
    ///
    /// - Returns: whether it moved.
    mutating func advanceCommit() -> Bool {
        let index = tracker.committed
        guard index > log.committed, log.term(of: index) == term else { return false }
        log.commit(to: index)
        return true
    }

    /// Sends every other member what it lacks, and the commit index.
    mutating func broadcastAppend() {
        var shared = SharedEntries()
        for position in tracker.progress.indices where tracker.progress[position].peer != id {
            sendAppend(position, evenIfEmpty: true, &shared)
        }
    }

    /// Sends what was proposed: to all, or to those whom a quorum needs.
    mutating func broadcastEntries() {
        guard configuration.sendsQuorumFirst, !deferred.isEmpty else { return broadcastAppend() }
        var shared = SharedEntries()
        for position in tracker.progress.indices
        where tracker.progress[position].peer != id && !mayWait(position) {
            sendAppend(position, evenIfEmpty: true, &shared)
        }
    }

    /// Whether a member is one of those who get entries later, and does not lack so many that it
    /// would fall behind.
    func mayWait(_ position: Int) -> Bool {
        let progress = tracker.progress[position]
        return deferred.contains(progress.peer) && progress.state == .replicate
            && progress.peer != transferee
            && log.lastIndex < progress.next + Limits.deferredEntries
    }

    /// Whether entries wait to be sent to those who get them later, or it is to be decided who does.
    ///
    /// Mutating in name only, so that asking does not copy the core.
    mutating func checkRest() -> Bool {
        guard role == .leader else { return false }
        if let triedFrom { return log.lastIndex > triedFrom }
        return !deferred.isEmpty
            && tracker.progress.contains { progress in
                progress.next <= log.lastIndex && deferred.contains(progress.peer)
                    && progress.state == .replicate && !progress.isPaused
            }
    }

    /// Sends them, and decides anew who gets entries later: those without whom the others and this
    /// member are a quorum. Who has not acknowledged what was there the last time is not counted
    /// on for it.
    mutating func sendRest() {
        guard role == .leader, configuration.sendsQuorumFirst else { return }
        var shared = SharedEntries()
        for position in tracker.progress.indices
        where deferred.contains(tracker.progress[position].peer) {
            while sendAppend(position, evenIfEmpty: false, &shared) {}
        }
        chooseQuorum()
        restSentAt = log.lastIndex
    }

    /// Decides who gets entries later; nobody as long as no quorum is sure to answer. Now and then
    /// entries go to all for a while, and those are counted on who acknowledge first.
    mutating func chooseQuorum() {
        let voters = tracker.config.voters
        let needed = voters.incoming.voters.count / 2
        guard !voters.isJoint, voters.contains(id), tracker.progress.count - 1 > needed else {
            deferred = []
            triedFrom = nil
            return
        }
        let others = tracker.progress.filter { $0.peer != id }
        let isSettled =
            !deferred.isEmpty && deferred.allSatisfy { tracker[$0] != nil }
            && others.count - deferred.count == needed
            && others.allSatisfy {
                deferred.contains($0.peer) || !$0.isLearner && $0.match >= restSentAt
            }
        if isSettled {
            // Where nobody else is needed there is nobody to choose.
            guard needed > 0 else { return }
            restsUntilTrial -= 1
            if restsUntilTrial <= 0 { tryAll() }
            return
        }
        if triedFrom != nil, others.allSatisfy({ $0.firstAcknowledgements == 0 }) { return }
        triedFrom = nil
        let able = others.filter {
            !$0.isLearner && $0.state == .replicate && $0.recentActive
        }
        let ranked = able.sorted {
            ($0.firstAcknowledgements, $0.match) > ($1.firstAcknowledgements, $1.match)
        }
        let first = ranked.prefix(needed).map(\.peer)
        deferred =
            first.count < needed ? [] : others.map(\.peer).filter { !first.contains($0) }
        for position in tracker.progress.indices {
            tracker.progress[position].firstAcknowledgements = 0
        }
    }

    /// Sends entries to all from here on, to see who acknowledges first.
    private mutating func tryAll() {
        restsUntilTrial = Limits.restsBetweenTrials
        triedFrom = log.lastIndex
        deferred = []
    }

    /// A member acknowledged entries: it is noted whether it was the first.
    mutating func noteFirst(_ position: Int) {
        let acknowledged = tracker.progress[position]
        guard acknowledged.peer != id, !acknowledged.isLearner else { return }
        let isFirst = tracker.progress.allSatisfy { other in
            other.peer == id || other.peer == acknowledged.peer || other.isLearner
                || other.match < acknowledged.match
        }
        if isFirst { tracker.progress[position].firstAcknowledgements += 1 }
    }

    /// Tells those who would not hear of it otherwise what is committed.
    mutating func tellCommit() {
        for position in tracker.progress.indices
        where tracker.progress[position].peer != id
            && tracker.progress[position].state == .replicate
            && tracker.progress[position].canBumpCommit(to: log.committed)
        {
            sendAppend(position)
        }
    }

    /// Sends a member entries for as long as its window has room.
    mutating func fillWindow(_ position: Int) {
        var shared = SharedEntries()
        while sendAppend(position, evenIfEmpty: false, &shared) {}
    }

    /// Sends one member what it lacks, and the commit index.
    mutating func sendAppend(_ position: Int) {
        var shared = SharedEntries()
        sendAppend(position, evenIfEmpty: true, &shared)
    }

    /// Sends a member the next entries, as far as flow control allows; a snapshot in place of
    /// entries that are compacted.
    ///
    /// - Returns: whether anything was sent.
    @discardableResult
    mutating func sendAppend(
        _ position: Int, evenIfEmpty: Bool, _ shared: inout SharedEntries
    ) -> Bool {
        if tracker.progress[position].isPaused { return false }
        let next = tracker.progress[position].next
        guard let previousTerm = log.term(of: next - 1) else { return sendSnapshot(position) }
        var entries: [Entry] = []
        // With a full window an empty append still goes: answered either way, it frees the
        // window, should all that is in flight have been lost.
        if tracker.progress[position].state != .replicate
            || !tracker.progress[position].isInflightFull
        {
            do {
                entries = try self.entries(from: next, &shared)
            } catch .temporarilyUnavailable {
                tracker.progress[position].isFetching = true
                return false
            } catch {
                return sendSnapshot(position)
            }
        }
        if entries.isEmpty, !evenIfEmpty { return false }
        let committed = log.committed
        tracker.progress[position].sentEntries(count: entries.count, byteCount: entries.dataSize)
        tracker.progress[position].sentCommit = committed
        send(
            Message(
                .append, to: tracker.progress[position].peer, logTerm: previousTerm,
                index: next - 1, entries: entries, commit: committed))
        return true
    }

    private func entries(
        from next: LogIndex, _ shared: inout SharedEntries
    ) throws(StorageError) -> [Entry] {
        if shared.start == next { return shared.entries }
        let entries = try log.entries(from: next, maxSize: configuration.maxSizePerMessage)
        shared = SharedEntries(start: next, entries: entries)
        return entries
    }

    /// Sends a snapshot, if the member is alive and one is to be had.
    private mutating func sendSnapshot(_ position: Int) -> Bool {
        guard tracker.progress[position].recentActive else { return false }
        let peer = tracker.progress[position].peer
        let snapshot: Snapshot
        do {
            snapshot = try log.snapshot(for: peer)
        } catch {
            // It is being made: the next heartbeat's answer asks again.
            return false
        }
        precondition(!snapshot.isEmpty, "a compacted log has a snapshot")
        tracker.progress[position].becomeSnapshot(at: snapshot.metadata.index)
        send(Message(.snapshot, to: peer, snapshot: snapshot))
        return true
    }

    /// Sends every other member a heartbeat, which also asks it to confirm what waits to be read.
    mutating func broadcastHeartbeat() {
        let context = heartbeatContext
        for position in tracker.progress.indices where tracker.progress[position].peer != id {
            // No commit index beyond what the member is known to have.
            let commit = min(tracker.progress[position].match, log.committed)
            tracker.progress[position].sentCommit = commit
            send(
                Message(
                    .heartbeat, to: tracker.progress[position].peer, commit: commit,
                    context: context))
        }
    }

    /// Entries for a member, or with this member's own name the entries to apply next, were
    /// fetched.
    mutating func entriesFetched(for peer: PeerID) {
        if peer == id { log.isFetching = false }
        guard let position = tracker.position(of: peer), tracker.progress[position].isFetching
        else { return }
        tracker.progress[position].isFetching = false
        guard role == .leader else { return }
        sendAppend(position)
    }
}
