import ContainerFormat
import Model
import Reactor
import Synchronization

// Two replicas of one container on one datanode: that of a disk which was taken out is rebuilt on
// another one, and then the disk comes back. A creation that failed halfway may leave one as well. The
// store uses one of them; which is decided when it is opened, for no disk comes back before that.
//
// What counts goes before what is being rebuilt, what is closed before what is not, what is whole before
// what is damaged; of two that are closed and whole the one whose journal was written last is the one
// that was rebuilt while the other was away. Deletions that the other one knows are carried out in the
// one that is used: they were confirmed, and are not said again. Then the other one is moved aside, if
// the one that is used is closed and whole and of the same index. Otherwise it may have what nobody else
// has: it is left where it is, not used, as one that could not be opened, and a problem says so. One that
// is being rebuilt has nothing that counts.

/// How much a replica is to be preferred to another one of its container.
struct ReplicaStanding: Comparable, Sendable {
    enum Stage: Int, Sendable, Comparable {
        /// Its volume is out.
        case out
        case recovering, openDamaged, open, closedDamaged, closed

        static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    }

    var stage: Stage
    /// Of one that is being rebuilt: a later order's goes first.
    var token: UInt64
    /// When it was written last. Of open ones it says nothing: the one to which more was ever written
    /// goes first, which stays so whatever is deleted.
    var writtenAt: Int64
    var tail: Int
    var blocks: Int

    static func < (a: Self, b: Self) -> Bool {
        (a.stage, a.token, a.writtenAt, a.tail, a.blocks)
            < (b.stage, b.token, b.writtenAt, b.tail, b.blocks)
    }
}

extension Container {
    /// As the replica was found when the store was opened.
    var standing: ReplicaStanding {
        state.withLock { state in
            let stage: ReplicaStanding.Stage =
                if volume.failure != nil {
                    .out
                } else if state.recovery != nil {
                    .recovering
                } else if state.isClosed {
                    state.damage == nil ? .closed : .closedDamaged
                } else {
                    state.damage == nil ? .open : .openDamaged
                }
            let isClosed = stage >= .closedDamaged
            return ReplicaStanding(
                stage: stage, token: state.recovery ?? 0, writtenAt: isClosed ? foundAt : 0,
                tail: state.tail, blocks: state.blockCount + state.deleted.count)
        }
    }
}

extension ContainerStore {
    /// Sees to a replica of a container of which another one is used. What goes wrong is a problem of its
    /// volume; the next start tries again.
    func settle(twin: Container) async {
        guard let used = state.withLock({ $0.containers[twin.id] }) else { return }
        func tell(_ what: String) {
            twin.volume.noteProblem(
                twin.volume.dataPath(twin.id),
                "\(twin.name) is also on \(used.volume.path), where it is used; \(what)")
        }
        do throws(StoreError) {
            try used.volume.check()
            let deleted = twin.state.withLock { $0.deleted }.sorted()
            try await used.delete(
                deleted.map { BlockID(containerID: twin.id, localID: $0) }, cache: cache)
            let isOfNoUse =
                twin.standing.stage == .recovering
                || used.standing.stage == .closed && used.header == twin.header
            guard isOfNoUse else {
                leaveAlone(twin)
                return tell("this one is not used")
            }
            try await twin.moveAside(cache: cache)
            tell("this one was moved to \(twin.volume.keptPath)")
        } catch {
            leaveAlone(twin)
            tell("this one is not used, and could not be seen to: \(error.message)")
        }
    }

    /// Has nothing made in the place of a replica that is not used, as of one that could not be opened.
    private func leaveAlone(_ twin: Container) {
        let charged = twin.state.withLock { $0.charged }
        twin.charge(-charged)
        twin.volume.withState { _ = $0.unusable.insert(twin.id) }
    }
}
