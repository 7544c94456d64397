import Raft

/// How much of a snapshot its receiver has.
public struct SnapshotProgress: Sendable, Equatable {
    public var sent: Int
    public var size: Int
}

/// The snapshot that other members are given: whether one is to be written, who is being given it,
/// who still needs it or what follows on it, and when it is taken back.
///
/// Pure: told what happens, asked what is due. Its file is the affair of ``SnapshotStore``.
struct SnapshotOffer {
    /// The last entry of the one that is offered.
    private(set) var index: LogIndex?
    /// Whether one is being written.
    private(set) var isWriting = false
    /// To whom it is being sent.
    private(set) var receivers: Set<PeerID> = []
    /// How far they are.
    var progress: [PeerID: SnapshotProgress] = [:]
    /// Whether somebody cannot take the offered one: who was no member yet when it was written, or
    /// has part of a newer one of an earlier leader. There must be a new one, once nobody is being
    /// given this.
    var isOutdated = false

    /// Who has not got all of the one that is offered: it goes on with it when it can be reached.
    private var unserved: Set<PeerID> = []
    /// Who has got one whole, and has not caught up from there yet: its log's end as far as it is
    /// known, and ticks since it was heard of. It takes the tables over in its time, and needs the
    /// entries behind them then.
    private var installing: [PeerID: (end: LogIndex, silent: Int)] = [:]
    /// While one is being written: its index will not be below this.
    private var writtenFrom: LogIndex?
    /// Ticks since anybody was being given it.
    private var idleTicks = 0
    /// While one is being written: the members, each from the entry on after which they are right.
    private var members: [(state: ConfState, index: LogIndex)] = []

    // MARK: Writing

    /// Whether a snapshot is to be written now that one at `wanted` or later is asked for.
    func mustWrite(_ wanted: LogIndex?) -> Bool {
        guard let wanted, !isWriting, receivers.isEmpty else { return false }
        return index.map { $0 < wanted } ?? true
    }

    /// One begins to be written, with these members in force and all up to `readable` applied.
    mutating func beginWriting(_ members: (ConfState, index: LogIndex), from readable: LogIndex) {
        isWriting = true
        writtenFrom = readable
        self.members = [(members.0, members.index)]
    }

    /// The members changed, perhaps while a snapshot is being written.
    mutating func membersChanged(to state: ConfState, at index: LogIndex) {
        if isWriting { members.append((state, index)) }
    }

    /// The members that the snapshot which is being written must name: those after its last entry.
    /// nil if they are not known, because the log begins behind it meanwhile.
    func members(at index: LogIndex) -> ConfState? { members.last { $0.index <= index }?.state }

    /// It is written, or is not.
    mutating func endWriting() {
        isWriting = false
        writtenFrom = nil
        members = []
    }

    /// One whose last entry is `index` is to be had from now on.
    mutating func offer(_ index: LogIndex) { self.index = index }

    /// It is not any more.
    mutating func withdraw() {
        index = nil
        unserved = []
        isOutdated = false
    }

    // MARK: Sending

    /// Begins to send it to a member; false if that is under way.
    mutating func begin(_ peer: PeerID) -> Bool { receivers.insert(peer).inserted }

    /// A member is being given it, and goes on with what it has of it.
    mutating func isNeeded(by peer: PeerID) { unserved.insert(peer) }

    /// It was sent whole, or not.
    mutating func end(_ peer: PeerID, isDelivered: Bool) {
        receivers.remove(peer)
        progress[peer] = nil
        idleTicks = 0
        guard isDelivered else { return }
        unserved.remove(peer)
        installing[peer] = (index ?? 0, 0)
    }

    /// Whether it is to be taken back: all who asked for it have it, or nobody should.
    func isDone(isLeader: Bool) -> Bool {
        receivers.isEmpty && !isWriting && (unserved.isEmpty || isOutdated || !isLeader)
    }

    /// The group's clock ticked. Who was not reached for `patience` ticks is not waited for any more;
    /// nor is anybody by who does not lead. True when it is to be taken back for that.
    mutating func tick(isLeader: Bool, patience: Int) -> Bool {
        guard index != nil, receivers.isEmpty, !isWriting else { return false }
        idleTicks += 1
        if isLeader, idleTicks < patience { return false }
        idleTicks = 0
        unserved = []
        return true
    }

    // MARK: What is needed of the log

    /// Whether nobody is being given one, or was lately.
    var isIdle: Bool { index == nil && writtenFrom == nil && installing.isEmpty }

    /// The entries behind this one are still needed by somebody; nil: by nobody.
    var needed: LogIndex? {
        let ends = [writtenFrom, index, installing.values.map(\.end).min()]
        return ends.compactMap { $0 }.min()
    }

    /// Looks how far those are who have got a snapshot. Until they have caught up with the log, which
    /// ends with `last`, they need what is behind; unless nothing is heard of them for `patience`
    /// ticks.
    ///
    /// - Parameter known: what a leader knows of a member; nil if it is none, or another leads.
    mutating func lookAtInstalling(
        last: LogIndex, patience: Int,
        known: (PeerID) -> (match: LogIndex, isActive: Bool)?
    ) {
        for (peer, before) in installing {
            installing[peer] = nil
            guard let (match, isActive) = known(peer) else { continue }
            let silent = isActive ? 0 : before.silent + 1
            guard silent < patience,
                match < before.end || match + RaftMemberLimits.caughtUp < last
            else { continue }
            installing[peer] = (max(before.end, match), silent)
        }
    }

    /// Nobody is waited for any more that has got one.
    mutating func forgetInstalling() { installing = [:] }
}
