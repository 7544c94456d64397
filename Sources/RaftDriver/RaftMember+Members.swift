import Model
import Raft
import RaftLog
import Reactor
import Synchronization

// Changes of the group's members, and the clock that a group of several needs.

/// Those who wait for a change of members to take effect. One at a time, as the core has it.
struct WaitingChanges {
    typealias Waiter = CheckedContinuation<Result<ConfState, StoreError>, Never>

    /// Where the change stands in the log; 0 if none is waited for.
    private(set) var index: LogIndex = 0
    private var waiter: Waiter?

    var isEmpty: Bool { waiter == nil }

    /// Waits for the change that was proposed as entry `index`.
    mutating func wait(_ waiter: Waiter, at index: LogIndex) {
        precondition(self.waiter == nil, "one change of members at a time")
        self.waiter = waiter
        self.index = index
    }

    /// Who waits; nobody does afterwards.
    mutating func take() -> Waiter? {
        defer {
            waiter = nil
            index = 0
        }
        return waiter
    }
}

extension RaftMember {
    /// The members in force.
    public var members: ConfState { log.confState.0 }

    /// Changes the members, through a joint configuration where more than one voter changes, and
    /// returns when the change is in force here.
    ///
    /// - Throws: `notLeader` where this member does not lead, or has stopped; `overloaded` while
    ///   another change is on its way or a joint configuration is being left; `connection` if
    ///   leadership was lost meanwhile; `invalidArgument` for a change that would leave no voter,
    ///   or that cannot be logged.
    public func change(_ change: ConfChangeV2) async throws(StoreError) -> ConfState {
        if let refusal = inbox.withLock({ $0.refusal }) { throw refusal }
        guard role == .leader else { throw notLeader }
        guard core.changes.isEmpty else {
            throw StoreError(.overloaded, "the members are being changed already: try again later")
        }
        guard change.changes.count <= Raft.Limits.changesPerConfChange else {
            throw StoreError(
                .invalidArgument,
                "\(change.changes.count) changes of members at once: at most "
                    + "\(Raft.Limits.changesPerConfChange)")
        }
        let result: Result<ConfState, StoreError> = await withCheckedContinuation { waiter in
            core.propose(change, waiter)
            carryOut()
        }
        return try result.get()
    }

    /// Takes a committed change of the members into force. Durable before any later entry is
    /// applied, because a restart begins with the members of the log and the index of the state.
    func change(_ entry: Entry) async -> Bool {
        // Who waits for this very change is told how it went, also if it ends this leadership.
        let waiter = core.takeChange(at: entry.index)
        let result = await take(entry)
        switch result {
        case .success(let state): waiter?.resume(returning: .success(state))
        case .failure(let error): waiter?.resume(returning: .failure(error.reason))
        }
        if case .failure(let error) = result { return !error.hasStopped }
        return true
    }

    /// Why a change did not come into force, and whether the member has stopped over it.
    private struct ChangeFailure: Error {
        var reason: StoreError
        var hasStopped: Bool
    }

    private func take(_ entry: Entry) async -> Result<ConfState, ChangeFailure> {
        let (known, knownIndex) = log.confState
        var state = known
        // At a restart the log may know the members already, with entries left to apply.
        if entry.index > knownIndex {
            let change: ConfChangeV2
            do throws(ConfChangeError) {
                change = try ConfChangeV2(entry: entry)
            } catch {
                // Another member may have taken it into force.
                return .failure(
                    stopped(
                        StoreError(
                            .corrupt, "entry \(entry.index) is no change of members: \(error)")))
            }
            do throws(ConfChangeRefusal) {
                state = try core.apply(change)
            } catch {
                // All members leave it out.
                return .failure(
                    ChangeFailure(
                        reason: StoreError(
                            .invalidArgument, "the members stay as they are: \(error)"),
                        hasStopped: false))
            }
            publish()
            do throws(StoreError) {
                try await whenItCan { () async throws(StoreError) in
                    try await log.setConfState(state, at: entry.index)
                }
            } catch {
                return .failure(stopped(error))
            }
            core.membersChanged(to: state)
            snapshots.offer.membersChanged(to: state, at: entry.index)
            publish()
        }
        return .success(state)
    }

    private func stopped(_ error: StoreError) -> ChangeFailure {
        stop(error)
        return ChangeFailure(reason: error.leavingOpen, hasStopped: true)
    }

    func tickForever() async {
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
            tick()
        }
    }

    /// The group's clock ticked.
    func tick() {
        guard !isClosed else { return }
        core.tick(at: reactor.now(), isShort: waitsForSpace > 0)
        tickSnapshots()
        carryOut()
    }

    /// Hands leadership to another member, if it can be reached; done when `role` says so.
    public func transferLeadership(to peer: PeerID) {
        guard !isClosed else { return }
        node.transferLeader(to: peer)
        carryOut()
    }

    /// A message to another member was lost: the core sends less until it answers again.
    public func unreachable(_ peer: PeerID) {
        guard !isClosed else { return }
        node.reportUnreachable(peer)
        carryOut()
    }

    /// Another group was made in the place of this one, while this member was thought to be lost:
    /// it must neither vote nor lead any more.
    func superseded(_ error: StoreError) {
        guard !isClosed else { return }
        options.notice?("this member stops: \(error.message)")
        stop(error)
    }

    /// This member's view of the group.
    public var state: (role: Role, leader: PeerID, term: Term, applied: LogIndex) {
        (role, leader, node.term, applier.appliedIndex)
    }
}
