import Model
import Raft
import RaftLog
import Reactor
import Synchronization

extension RaftMember {
    /// Returns when everything that was answered anywhere in the group before the call can be
    /// read here. At once in a group of one, and on a leader that has its lease. Elsewhere the leader
    /// is asked how far that goes.
    ///
    /// - Throws: `notLeader` if there is no leader, or it could not be confirmed as such.
    public nonisolated func readBarrier() async throws(StoreError) {
        if mayReadAlone {
            if !isBehind.load(ordering: .acquiring) { return }
            if try await untilReadable() { return }
        }
        try await confirmRead()
    }

    /// Whether no other member can have committed anything that this one does not know of.
    private nonisolated var mayReadAlone: Bool {
        isAlone.load(ordering: .acquiring) || holdsLease
    }

    /// Whether nobody else can lead yet.
    nonisolated var holdsLease: Bool {
        let end = leaseEnd.load(ordering: .acquiring)
        return end > 0 && reactor.now().nanoseconds < end
    }

    /// Waits until what others may have applied by now can be read here. False if this member must
    /// ask others after all.
    private func untilReadable() async throws(StoreError) -> Bool {
        guard !isClosed, mayReadAlone else { return false }
        if core.toldCommit <= core.readable { return true }
        try await wait { $0.readWhatIsTold($1) }
        return true
    }

    /// Has the core take a read, and waits until it may go on.
    private func wait(
        _ take: (inout MemberCore<GroupLog>, WaitingReads.Waiter) -> Void
    ) async throws(StoreError) {
        guard core.takesReads else { throw Self.tooManyReads }
        let result: Result<Void, StoreError> = await withCheckedContinuation { waiter in
            take(&core, waiter)
            carryOut()
        }
        try result.get()
    }

    private static var tooManyReads: StoreError {
        StoreError(.overloaded, "too many reads wait already: try again later")
    }

    private func confirmRead() async throws(StoreError) {
        guard !isClosed else { throw StoreError(.notLeader, "the group is closed") }
        guard leader != .none else { throw notLeader }
        try await wait { $0.read($1) }
    }
}
