import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Wire

/// What a member has, for who must choose one to go on with when the majority of its group is lost
/// for good: that with the latest term, and of these the one with the last entry.
public struct RecoverySurvey: Sendable, Equatable {
    public var name: String
    public var cluster: String
    /// The group that has lost its majority, and the member's number in it.
    public var group: GroupID
    public var peer: PeerID
    /// Whose votes count, as far as it knows.
    public var configuration: ConfState
    /// Term and index of the last entry in its log.
    public var lastTerm: Term
    public var lastIndex: LogIndex
    /// The last entry of which it knew that a majority had it.
    public var commit: LogIndex
    /// The members as it knows them, by name, and which of them vote.
    public var members: [KnownMember]
    /// A recovery was begun here and has not ended.
    public var isBegun: Bool
    /// It is the only member that votes: it has its majority, and nothing to recover.
    public var isAlone: Bool

    public init(
        name: String, cluster: String, group: GroupID, peer: PeerID, configuration: ConfState,
        lastTerm: Term, lastIndex: LogIndex, commit: LogIndex, members: [KnownMember],
        isBegun: Bool, isAlone: Bool
    ) {
        self.name = name
        self.cluster = cluster
        self.group = group
        self.peer = peer
        self.configuration = configuration
        self.lastTerm = lastTerm
        self.lastIndex = lastIndex
        self.commit = commit
        self.members = members
        self.isBegun = isBegun
        self.isAlone = isAlone
    }

    /// Whether the group could go on with those of `others` that are members of it, and with this
    /// one, unless a recovery has begun here: then it is none any more.
    public func hasMajority(with others: Set<PeerID>) -> Bool {
        var there = others.subtracting([peer])
        if !isBegun { there.insert(peer) }
        return [configuration.voters, configuration.votersOutgoing].allSatisfy { voters in
            voters.isEmpty || 2 * voters.count(where: there.contains) > voters.count
        }
    }
}

/// Makes a new group of what one member has, when the others are lost for good: the same state,
/// another name, another number, and this one alone.
///
/// The lost ones cannot vote in it, nor it in theirs: messages name their group. All that is in the
/// log is applied, also what no majority may have had: it may have been acknowledged. The new log
/// begins far behind the old one's end, in a term far beyond, so that what others had acknowledged
/// and is lost shares no index, and no number that is made from one, with what comes now.
///
/// Durable step by step, each repeatable: first the identity says that a recovery is on its way
/// (nothing but the recovery starts from then on), then the old log is applied, the new one made,
/// the tables brought up to it, the identity changed, and the old log removed. A crash leaves the
/// old member, one whose recovery is to be run again, or the new group.
///
/// The role must not run: whoever calls this holds the lock of its directory.
public struct GroupRecovery<Machine: StateMachine>: Sendable {
    public typealias Limits = GroupRecoveryLimits

    private let directory: String
    private let address: String
    private let identity: MemberIdentity
    private let store: MetadataStore
    private let log: SharedLog
    private let machine: SessionMachine<Machine>
    private let reactor: Reactor

    /// Opens log and tables of the member that `identity` names, without starting it.
    ///
    /// - Parameter address: where the member will be reached.
    /// - Throws: `invalidArgument` if it has never been a member, `corrupt` if its log is lost, `io`.
    public static func open(
        directory: String, as identity: MemberIdentity, address: String, stateMachine: Machine,
        log options: SharedLog.Options = .init(), on reactor: Reactor
    ) async throws(StoreError) -> GroupRecovery {
        guard identity.isBegun else {
            throw StoreError(
                .invalidArgument,
                "\(identity.name) in \(directory) was never a member of its group: it has nothing "
                    + "to go on with")
        }
        let machine = SessionMachine(stateMachine, clock: SessionClock { reactor.now() })
        let store = try await MetadataStore.open(
            path: "\(directory)/metadata.db", role: identity.role,
            tables: machine.tables + GroupTable.all, format: machine.format)
        do throws(StoreError) {
            let log = try await SharedLog.open(
                directory: "\(directory)/log", on: reactor, options: options)
            guard log.group(identity.group) != nil || log.group(identity.next?.group) != nil else {
                try await log.close()
                throw StoreError(
                    .corrupt,
                    "the log of \(identity.name) in \(directory) is lost: with its tables alone "
                        + "nothing says what they lack. Take the directory of another member")
            }
            return GroupRecovery(
                directory: directory, address: address, identity: identity, store: store, log: log,
                machine: machine, reactor: reactor)
        } catch {
            try? await store.close()
            throw error
        }
    }

    /// What there is to go on with.
    public func survey() async throws(StoreError) -> RecoverySurvey {
        guard let group = log.group(identity.next?.group) ?? log.group(identity.group),
            let (state, members) = try? group.initialState()
        else { throw StoreError(.corrupt, "the log in \(directory) knows nothing of its group") }
        // What the log has told of members goes before what the settings said once.
        var book = MemberBook(identity.members).rows
        book.merge(try await knownMembers()) { _, logged in logged }
        let voters = Set(members.voters).union(members.votersOutgoing)
        let own = [identity.peer, identity.next?.peer]
        let known = members.peers.sorted().map { peer in
            let part: KnownMember.Part = voters.contains(peer) ? .voter : .learner
            let name = own.contains(peer) ? identity.name : book[peer]?.name
            return KnownMember(
                peer: peer, name: name ?? "member \(peer)",
                address: book[peer]?.address ?? "", part: part)
        }
        return RecoverySurvey(
            name: identity.name, cluster: identity.cluster, group: identity.group,
            peer: identity.peer, configuration: members,
            lastTerm: (try? group.term(of: group.lastIndex)) ?? state.term,
            lastIndex: group.lastIndex, commit: state.commit, members: known,
            isBegun: identity.next != nil, isAlone: isAlone)
    }

    /// Whether the member has its majority by itself. In a joint configuration those that are being
    /// left have a say too.
    private var isAlone: Bool {
        guard identity.next == nil, let members = log.group(identity.group)?.confState.0 else {
            return false
        }
        return members.voters == [identity.peer] && members.votersOutgoing.isEmpty
    }

    /// Makes the new group; returns its only member's identity.
    ///
    /// - Throws: `invalidArgument` where this member alone votes, `corrupt` if log and tables do not fit
    ///   together, after both of which it is what it was; `unavailable` while another process reads the tables,
    ///   `noSpace`, `io`, `corrupt`, after any of which it can be run again.
    public func run(
        using generator: inout some RandomNumberGenerator
    ) async throws(StoreError) -> MemberIdentity {
        try await checkFit()
        let (group, peer) = try await begin(using: &generator)
        let made = try await newLog(group, peer)
        try await raiseTables(to: made.firstIndex - 1, peer)
        var next = identity
        next.formerGroups.append(identity.group)
        next.group = group
        next.peer = peer
        next.founders = [peer]
        next.members = [
            KnownMember(peer: peer, name: identity.name, address: address, part: .voter)
        ]
        next.next = nil
        next.isAssumed = false
        try await removeSnapshots()
        try await next.store(in: directory, on: reactor)
        if log.group(identity.group) != nil { try await log.remove(identity.group) }
        return next
    }

    /// Ends it, whatever was done.
    public func close() async throws(StoreError) {
        var failure: StoreError?
        do throws(StoreError) { try await log.close() } catch { failure = error }
        try await store.close()
        if let failure { throw failure }
    }

    // MARK: Steps

    /// Refuses a member whose log and tables do not fit together while it still is one of its old
    /// group: another may be better to go on with.
    private func checkFit() async throws(StoreError) {
        guard identity.next == nil, let old = log.group(identity.group) else { return }
        let (applier, snapshots) = try await parts(of: old)
        try await RaftMember.fit(old, applier, snapshots)
        _ = try await knownMembers()
    }

    /// What a member of the old group has beside its log.
    private func parts(
        of old: GroupLog
    ) async throws(StoreError) -> (TablesApplier, SnapshotStore) {
        var snapshots = SnapshotStore("\(directory)/snapshots", group: old.id, on: reactor)
        try await snapshots.prepare()
        let applier = TablesApplier(
            store: store, replay: ReplayedCommands(machine), log: old,
            book: MemberBook(identity.members), options: MetadataGroupOptions(), on: reactor)
        try await applier.resetMachine()
        return (applier, snapshots)
    }

    /// The members that the tables name.
    private func knownMembers() async throws(StoreError) -> [PeerID: KnownMember] {
        try await store.readStored { tables throws(StoreError) in
            try MemberBook.rows(in: tables)
        }
    }

    /// Returns when what is applied up to `index` survives a power cut: the log that could bring it
    /// back is given up next.
    private func makeDurable(through index: LogIndex) async throws(StoreError) {
        for attempt in 1...Limits.checkpoints {
            if let durable = try await store.checkpoint(), durable >= index { return }
            guard attempt < Limits.checkpoints else { break }
            do throws(CancellationError) {
                try await reactor.sleep(for: Limits.checkpointRetry)
            } catch {
                throw StoreError(.cancelled, "the recovery was cancelled")
            }
        }
        throw StoreError(
            .unavailable,
            "the tables in \(directory) cannot be made durable while another process reads them: "
                + "end it, and run the recovery again")
    }

    /// Notes that a recovery is on its way, and what the new group and its member will be.
    private func begin(
        using generator: inout some RandomNumberGenerator
    ) async throws(StoreError) -> (group: GroupID, peer: PeerID) {
        if let next = identity.next { return next }
        guard !isAlone else {
            throw StoreError(
                .invalidArgument,
                "\(identity.name) is the only member of its group already that votes: start it")
        }
        let group = GroupID(high: generator.next(), low: generator.next())
        let first = MemberIdentity.Limits.firstDrawn
        let peer = PeerID(.random(in: first...(1 << 62), using: &generator))
        var marked = identity
        marked.next = (group, peer)
        try await marked.store(in: directory, on: reactor)
        return (group, peer)
    }

    /// Applies what is in the old log, and makes the new one behind its end.
    private func newLog(_ id: GroupID, _ peer: PeerID) async throws(StoreError) -> GroupLog {
        if let made = log.group(id) { return made }
        guard let old = log.group(identity.group) else {
            throw StoreError(.corrupt, "the log in \(directory) knows nothing of its group")
        }
        let (applier, snapshots) = try await parts(of: old)
        try await RaftMember.fit(old, applier, snapshots)
        while applier.appliedIndex < old.lastIndex {
            try await applyNext(of: old, applier)
        }
        try await applier.end()
        try await makeDurable(through: old.lastIndex)
        guard let (state, _) = try? old.initialState() else {
            throw StoreError(.corrupt, "the log in \(directory) has no state")
        }
        return try await log.create(
            id, confState: ConfState(voters: [peer]), index: old.lastIndex + Limits.indexGap,
            term: state.term + Limits.termGap)
    }

    private func applyNext(
        of old: GroupLog, _ applier: TablesApplier
    ) async throws(StoreError) {
        let first = applier.appliedIndex + 1
        let entries: [Entry]
        do {
            try await old.fetch(from: first, to: old.lastIndex + 1, maxSize: 4 << 20)
            entries = try old.entries(from: first, to: old.lastIndex + 1, maxSize: 4 << 20)
        } catch {
            throw StoreError(
                .corrupt, "entry \(first) of the log in \(directory) cannot be read: \(error)")
        }
        let commands = entries.prefix(RaftMemberLimits.appliedAtOnce).map { entry in
            guard entry.kind != .normal else {
                return CommittedCommand(index: entry.index, bytes: entry.data)
            }
            let book = (try? ConfChangeV2(entry: entry)).flatMap { MemberBook.change(in: $0) }
            return CommittedCommand(index: entry.index, bytes: [], book: book)
        }
        try await applier.apply(commands)
    }

    /// Has the tables be those of the new log's beginning: they name this member alone, and give
    /// none of the numbers again that may have been given by who is lost.
    private func raiseTables(to index: LogIndex, _ peer: PeerID) async throws(StoreError) {
        if store.appliedIndex < index {
            let machine = machine
            var change = GroupBookChange()
            change.set = [
                KnownMember(peer: peer, name: identity.name, address: address, part: .voter).message
            ]
            let known = try await knownMembers()
            change.removed = known.keys.filter { $0 != peer }.map(\.rawValue).sorted()
            let own = change
            try await store.apply(1, through: index) { _, tables in
                MemberBook.apply(own, in: tables)
                machine.recovered(in: tables)
            }
        }
        try await makeDurable(through: index)
    }

    /// Those of the old group: nobody will ask for them.
    private func removeSnapshots() async throws(StoreError) {
        let folder = "\(directory)/snapshots"
        do throws(IOError) {
            guard try await reactor.status(folder) != nil else { return }
            for name in try await reactor.list(folder) {
                try await reactor.remove("\(folder)/\(name)")
            }
        } catch {
            throw StoreError(error)
        }
    }
}

/// Bounds of a recovery.
public enum GroupRecoveryLimits {
    /// How far behind the last entry that is known the new log begins: more than the lost members
    /// can have had beyond it.
    public static let indexGap: LogIndex = 1_000_000_000
    /// How far beyond the last known term the new one is.
    public static let termGap: Term = 1_000_000
    /// How often the tables are tried to be made durable while another process reads them, and
    /// after what pause.
    static let checkpoints = 5
    static let checkpointRetry = Duration.milliseconds(200)
}

extension SharedLog {
    /// The group of this name, if there is a name and the log has it.
    fileprivate nonisolated func group(_ id: GroupID?) -> GroupLog? { id.flatMap { group($0) } }
}
