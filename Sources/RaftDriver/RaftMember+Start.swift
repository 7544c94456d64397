import Model
import Raft
import RaftLog
import Reactor
import Synchronization

// How the log and the state fit together when a member starts.

extension RaftMember {
    /// Brings log and state together as the core wants to find them.
    ///
    /// The state may be ahead of the commit index in the log, which is written with the next
    /// batch only: what is applied was committed. It may be behind the log's first entry if a
    /// crash came between the log's taking a snapshot and the state's: then the snapshot's file is
    /// there and is installed now.
    static func fit(
        _ log: GroupLog, _ applier: any CommandApplier, _ snapshots: SnapshotStore
    ) async throws(StoreError) {
        let first = log.firstIndex
        if applier.appliedIndex + 1 < first {
            guard snapshots.received.contains(first - 1) else {
                throw StoreError(
                    .corrupt,
                    "the log begins with entry \(first), but the state has applied only "
                        + "\(applier.appliedIndex), and no snapshot of \(first - 1) is there")
            }
            try await applier.installSnapshot(
                from: snapshots.path(first - 1), index: first - 1)
        }
        let applied = applier.appliedIndex
        guard applied <= log.lastIndex else {
            throw StoreError(
                .corrupt,
                "the log ends with entry \(log.lastIndex), but the state has applied \(applied)")
        }
        guard var (state, _) = try? log.initialState() else {
            throw StoreError(.corrupt, "the log of group \(log.id) has no state")
        }
        if state.commit < applied {
            state.commit = applied
            try await log.append(entries: [], hardState: state)
        }
    }

    static func makeNode(
        _ log: GroupLog, _ options: RaftMemberOptions, applied: LogIndex,
        _ generator: sending some RandomNumberGenerator & Sendable
    ) throws(StoreError) -> RawNode<GroupLog> {
        var generator = generator
        do throws(RaftStartError) {
            return try RawNode<GroupLog>(
                configuration: options.configuration(applied: applied), storage: log,
                randomTimeout: { Int.random(in: $0, using: &generator) })
        } catch {
            throw StoreError(.invalidArgument, "the member cannot start: \(error)")
        }
    }

    /// Returns when a member that is alone has applied all that is in its log: whatever was
    /// answered before a restart can be read then. At once in a group of several.
    func untilReplayed() async throws(StoreError) {
        guard isSoleVoter else { return }
        while role != .leader || readable < node.lastIndex {
            if let refusal = inbox.withLock({ $0.refusal ?? $0.shortage }) { throw refusal }
            // Not before committed changes of the members are applied, says the core.
            if role == .follower { campaign() }
            do throws(CancellationError) {
                try await reactor.sleep(for: .milliseconds(1))
            } catch {
                throw StoreError(.cancelled, "the start was cancelled")
            }
        }
    }

    /// Reads entries for those who wait for them: followers that are far behind, and after a
    /// start what is still to be applied.
    func serveLaggards() {
        guard !isClosed, node.isFetching else { return }
        for peer in node.fetching where fetching.insert(peer).inserted {
            let start = node.fetchStart(for: peer)
            Task(executorPreference: reactor) { await self.fetch(from: start, for: peer) }
        }
    }

    private func fetch(from start: LogIndex, for peer: PeerID) async {
        do throws(StoreError) {
            if start <= log.lastIndex {
                try await whenItCan { () async throws(StoreError) in
                    try await log.fetch(from: start, to: log.lastIndex + 1, maxSize: 4 << 20)
                }
            }
        } catch {
            // Compacted meanwhile: the core finds out and sends a snapshot. Anything else is the
            // log's failure.
            if error.code != .preconditionFailed {
                stop(error)
                return
            }
        }
        fetching.remove(peer)
        guard !isClosed else { return }
        node.entriesFetched(for: peer)
        carryOut()
    }
}
