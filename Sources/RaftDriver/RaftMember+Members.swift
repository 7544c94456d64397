import Model
import Raft
import RaftLog
import Reactor
import Synchronization

// Changes of the group's members, and the clock that a group of several needs.

/// Those who wait for a change of members to take effect. One at a time, as the core has it.
struct WaitingChanges {
    var index: LogIndex = 0
    var waiter: CheckedContinuation<Result<ConfState, StoreError>, Never>?
}

extension RaftMember {
    /// The members in force.
    public var members: ConfState { log.confState.0 }

    /// Changes the members, through a joint configuration where more than one voter changes, and
    /// returns when the change is in force here.
    ///
    /// - Throws: `notReady` where this member does not lead, `overloaded` while another change is
    ///   on its way, `connection` if leadership was lost meanwhile, `invalidArgument` for a
    ///   change that would leave no voter.
    public func change(_ change: ConfChangeV2) async throws(StoreError) -> ConfState {
        guard role == .leader else { throw notLeader }
        guard changes.waiter == nil else {
            throw StoreError(.overloaded, "the members are being changed already: try again later")
        }
        let result: Result<ConfState, StoreError> = await withCheckedContinuation { waiter in
            let refusal = attempt { node throws(RaftError) in
                try node.proposeConfChange(change)
            }
            if refusal != nil {
                waiter.resume(
                    returning: .failure(
                        StoreError(
                            .overloaded, "the group takes no change of members at the moment")))
                return
            }
            changes = WaitingChanges(index: node.lastIndex, waiter: waiter)
            carryOut()
        }
        return try result.get()
    }

    func failChanges(_ error: StoreError) {
        changes.waiter?.resume(returning: Result.failure(error))
        changes.waiter = nil
    }

    /// Takes a committed change of the members into force. Durable before any later entry is
    /// applied, because a restart begins with the members of the log and the index of the state.
    func change(_ entry: Entry) async -> Bool {
        let (known, knownIndex) = log.confState
        var state = known
        // At a restart the log may know the members already, with entries left to apply.
        if entry.index > knownIndex {
            guard let change = decoded(entry) else { return false }
            do throws(ConfChangeRefusal) {
                state = try node.applyConfChange(change)
            } catch {
                // All members leave it out.
                failChanges(StoreError(.invalidArgument, "the members stay as they are: \(error)"))
                return true
            }
            do throws(StoreError) {
                try await whenItCan { () async throws(StoreError) in
                    try await log.setConfState(state, at: entry.index)
                }
            } catch {
                stop(error)
                return false
            }
            groupChanged()
        }
        if let waiter = changes.waiter, entry.index >= changes.index {
            changes.waiter = nil
            waiter.resume(returning: .success(state))
        }
        return true
    }

    /// The change that a committed entry holds; nil, and the member has stopped, if it cannot be
    /// read: another member may have taken it into force.
    private func decoded(_ entry: Entry) -> ConfChangeV2? {
        do throws(ConfChangeError) {
            return try ConfChangeV2(entry: entry)
        } catch {
            stop(StoreError(.corrupt, "entry \(entry.index) is no change of members: \(error)"))
            return nil
        }
    }

    /// Takes note of who is a member, or of a role: starts or stops the clock, which only the
    /// leader of a group of one does without.
    func groupChanged() {
        isAlone.store(role == .leader && isSoleVoter, ordering: .releasing)
        if role == .leader, isSoleVoter, log.confState.0.learners.isEmpty {
            ticker?.cancel()
            ticker = nil
        } else if ticker == nil, !isClosed {
            ticker = Task(executorPreference: reactor) { await self.tickForever() }
        }
    }

    /// Whether this member is the only one that votes.
    var isSoleVoter: Bool {
        let state = log.confState.0
        return state.voters == [options.id] && state.votersOutgoing.isEmpty
    }

    private func tickForever() async {
        var next = reactor.now()
        while !Task.isCancelled, !isClosed {
            next = next.advanced(by: options.tick)
            // After a pause of the process its clock goes on from now: elections are due when
            // time has passed here, not all at once.
            if next < reactor.now() { next = reactor.now() }
            do {
                try await reactor.sleep(until: next)
            } catch {
                return
            }
            node.tick()
            tickReads()
            carryOut()
        }
    }

    /// Hands leadership to another member, if it can be reached; done when `role` says so.
    public func transferLeadership(to peer: PeerID) {
        node.transferLeader(to: peer)
        carryOut()
    }

    /// A message to another member was lost: the core sends less until it answers again.
    func unreachable(_ peer: PeerID) {
        guard !isClosed else { return }
        node.reportUnreachable(peer)
        carryOut()
    }

    /// This member's view of the group.
    public var state: (role: Role, leader: PeerID, term: Term, applied: LogIndex) {
        (role, leader, node.term, applier.appliedIndex)
    }
}
