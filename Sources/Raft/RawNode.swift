/// One member of one group: the core, and the loop by which it is driven.
///
///     var node = try RawNode(configuration: ..., storage: ..., randomTimeout: ...)
///     node.tick()                       // at equal intervals
///     try node.step(message)            // as messages come
///     try node.propose(data)
///     while node.hasReady {
///         let ready = node.ready()      // persist, send, apply: see `Ready`
///         node.advance()                // with synchronous writes
///     }
///
/// A class, since a member is one whoever holds it, and asking it costs no copy of it. Not for
/// use from several threads.
public final class RawNode<Storage: RaftStorage> {
    /// The state machine.
    var core: RaftCore
    /// The storage it reads.
    public let storage: Storage

    /// Starts a member from what its storage holds.
    ///
    /// - Parameter randomTimeout: draws a number from a range, evenly; election timeouts.
    public init(
        configuration: Configuration, storage: Storage,
        randomTimeout: @escaping (ClosedRange<Int>) -> Int
    ) throws(RaftStartError) {
        core = try RaftCore(
            configuration: configuration, storage: storage, randomTimeout: randomTimeout)
        self.storage = storage
    }

    /// The settings.
    public var configuration: Configuration { core.configuration }

    /// Whether ``ready()`` has anything to say. A handful of comparisons.
    public var hasReady: Bool { core.checkReady() }

    /// What is to be done now. It must all be done, in the order that ``Ready`` tells.
    ///
    /// - Precondition: with synchronous writes, the one before was followed by ``advance()``.
    public func ready() -> Ready { core.ready() }

    /// The work of the last Ready is done: written, sent and applied.
    ///
    /// - Precondition: writes are synchronous.
    public func advance() { core.advance() }

    /// The last entry of the log, durable or not.
    public var lastIndex: LogIndex { core.log.lastIndex }

    /// The latest term the member has seen.
    public var term: Term { core.term }

    /// What the member is at this moment; ``Ready/softState`` tells it later.
    public var role: Role { core.role }

    /// Whom leadership is being transferred to.
    public var transferee: PeerID { core.transferee }

    /// The clock ticked.
    public func tick() { core.tick() }

    /// A leader's ticks in its term. A heartbeat bears the number of the next.
    public var leaderTicks: UInt64 { core.leaderTicks }
    /// Whether the lease that ``leaseTick`` gives is not over, by the clock of whoever keeps it: to
    /// be true only while messages are stepped that came before it was looked at. Read indexes are
    /// then given without a round of messages.
    public var isLeaseHeld: Bool {
        get { core.isLeaseHeld }
        set { core.isLeaseHeld = newValue }
    }

    /// The latest of these numbers that a quorum has answered. Each who did refuses its vote for the
    /// least election timeout, in its ticks, from when it had the heartbeat. nil while there is none,
    /// where a forced election may be under way, or where ``Configuration/keepsLease`` is not set.
    public var leaseTick: UInt64? { core.checkLeaseTick() }

    /// Campaigns now, whatever the timeout; but not while a lease binds this member.
    public func campaign() {
        // The only voter holds off nobody.
        if core.grantedLease > 0, !core.tracker.isSingleton { return }
        core.hup(core.configuration.preVote ? .preElection : .election)
    }

    /// Proposes a command.
    ///
    /// - Throws: `proposalDropped`; propose again when there is a leader.
    public func propose(_ data: [UInt8]) throws(RaftError) {
        try propose([Entry(data: data)])
    }

    /// Proposes entries that are appended together or not at all: one append a peer for all of
    /// them.
    ///
    /// - Precondition: there is at least one.
    public func propose(_ entries: consuming [Entry]) throws(RaftError) {
        precondition(!entries.isEmpty, "a proposal without an entry")
        if core.role == .leader {
            if let error = core.accept(entries) { throw error }
        } else {
            try core.step(Message(.propose, from: core.id, entries: entries))
        }
    }

    /// Proposes a change of one member.
    public func proposeConfChange(_ change: ConfChange) throws(RaftError) {
        try propose([Entry(kind: .confChange, data: change.encoded)])
    }

    /// Proposes a change of members. A leader that finds it does not go with the configuration
    /// in force appends an empty entry in its place.
    public func proposeConfChange(_ change: ConfChangeV2) throws(RaftError) {
        try propose([Entry(kind: .confChangeV2, data: change.encoded)])
    }

    /// Whether entries wait to be sent to members who get them later, see
    /// ``Configuration/sendsQuorumFirst``: ``sendRest()`` is to be called, when it suits the driver.
    /// Until then they do not have them, and those whom the leader sends to first must not fail.
    public var hasRest: Bool { core.configuration.sendsQuorumFirst && core.checkRest() }

    /// Sends entries to those members who have waited for them.
    public func sendRest() { core.sendRest() }

    /// Takes a message of a peer or of a storage thread.
    ///
    /// - Throws: what was wrong with it, see ``RaftError``.
    public func step(_ message: Message) throws(RaftError) {
        guard message.isWithinLimits else { throw .outOfRange }
        if message.kind.isLocal, !message.from.isStorageThread { throw .stepLocal }
        if message.kind.isResponse, !message.from.isStorageThread, message.from != core.id,
            core.tracker.position(of: message.from) == nil
        {
            throw .stepPeerNotFound
        }
        try core.step(message)
    }

    /// Applies a committed change of members; called for each entry that is one, before
    /// ``advance()`` or before its answer is stepped.
    ///
    /// - Returns: the members from now on, to be persisted with the state machine.
    /// - Throws: why it cannot be; the same on all members, who all leave it out.
    @discardableResult
    public func applyConfChange(
        _ change: ConfChangeV2
    ) throws(ConfChangeRefusal) -> ConfState {
        try core.apply(change)
    }

    /// Asks the leader to hand over to another voter. It shows when that one leads; after an
    /// election timeout without, the leader leads on.
    public func transferLeader(to peer: PeerID) {
        stepLocally(Message(.transferLeader, from: peer))
    }

    /// Makes a follower forget its leader, so that it grants pre-votes at once: for when it is
    /// known by other means that the leader is gone. Without effect with lease-based reads.
    public func forgetLeader() { stepLocally(Message(.forgetLeader)) }

    /// Asks for a read index; the answer comes in ``Ready/readStates`` with the context. It is
    /// lost if leadership changes: ask again after a while.
    ///
    /// - Throws: `readDropped` if no leader is known, or too many wait.
    public func readIndex(context: [UInt8]) throws(RaftError) {
        try core.step(Message(.readIndex, entries: [Entry(data: context)]))
    }

    /// The last message to a peer was probably not delivered.
    public func reportUnreachable(_ peer: PeerID) {
        stepLocally(Message(.unreachable, from: peer))
    }

    /// How the sending of a snapshot ended.
    public enum SnapshotStatus: Sendable {
        case finished, failed
    }

    /// A snapshot was delivered to a peer, or was not. To be told of every snapshot sent, since
    /// nothing else is sent to its receiver meanwhile.
    public func reportSnapshot(_ peer: PeerID, _ status: SnapshotStatus) {
        stepLocally(Message(.snapshotStatus, from: peer, reject: status == .failed))
    }

    /// Entries that the storage had to fetch are there: for a peer, or with this member's own
    /// name those to apply next. See ``fetching``.
    public func entriesFetched(for peer: PeerID) { core.entriesFetched(for: peer) }

    /// Who waits for entries to be fetched, this member itself among them if those to apply do.
    public var fetching: [PeerID] {
        var waiting = core.tracker.progress.filter(\.isFetching).map(\.peer)
        if core.log.isFetching { waiting.append(core.id) }
        return waiting
    }

    /// The first entry that one of them waits for.
    ///
    /// - Precondition: `peer` is a member.
    public func fetchStart(for peer: PeerID) -> LogIndex {
        if peer == core.id { return core.log.applying + 1 }
        guard let position = core.tracker.position(of: peer) else {
            preconditionFailure("entries are fetched for members")
        }
        return core.tracker.progress[position].next
    }

    /// Whether anyone does; cheap.
    public var isFetching: Bool {
        core.log.isFetching || core.tracker.progress.contains(where: \.isFetching)
    }

    /// Steps what cannot be refused.
    private func stepLocally(_ message: Message) {
        do {
            try core.step(message)
        } catch {
            preconditionFailure("a \(message.kind) was refused: \(error)")
        }
    }

    /// Starts a new group on an empty log: each peer's addition is an entry, committed at once.
    /// Every member of the group must be started with the same peers in the same order.
    ///
    /// - Precondition: the log is empty, and there is at least one peer.
    public func bootstrap(_ peers: [(peer: PeerID, context: [UInt8])]) {
        precondition(!peers.isEmpty, "a group has at least one member")
        precondition(core.log.lastIndex == 0, "only an empty log begins a group")
        core.previousHardState = HardState()
        core.becomeFollower(term: 1, leader: .none)
        var entries: [Entry] = []
        for (offset, peer) in peers.enumerated() {
            let change = ConfChange(.addVoter, peer.peer, context: peer.context)
            entries.append(
                Entry(
                    term: 1, index: LogIndex(offset) + 1, kind: .confChange,
                    data: change.encoded))
        }
        core.log.append(entries)
        core.log.commit(to: LogIndex(entries.count))
        // Applied now as well as when the entries are, so that a member can campaign at once:
        // adding a voter twice is adding it once.
        for peer in peers {
            do {
                _ = try core.apply(ConfChange(.addVoter, peer.peer).v2)
            } catch {
                preconditionFailure("a first member was refused: \(error)")
            }
        }
    }
}
