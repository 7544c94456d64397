import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Transport
import Wire

/// Looks after the members of a group where it leads: has their addresses in the log, gives a vote
/// to learners that have caught up, and changes members when it is asked to. On every member it
/// says what is known of the group.
///
/// Thread-safe.
public final class GroupKeeper: Sendable {
    enum Limits {
        /// Between looks at the members, where one is catching up and else.
        static let interval = Duration.milliseconds(100)
        static let quietInterval = Duration.milliseconds(500)
        /// Looks between looks at the room on its disk.
        static let looksBetweenSpace = 10
        /// A learner that lacks no more entries than these has caught up.
        static let lag: LogIndex = 1000
        /// How long a member may take to accept an invitation.
        static let inviteTimeout = Duration.seconds(5)
        /// How long a member is asked again where nobody listens: that nobody did a moment ago is
        /// remembered for longer than one takes to start.
        static let invitePatience = Duration.milliseconds(600)
        /// How long a change of the members is waited for.
        static let changeTimeout = Duration.seconds(10)
        /// How long one that was asked to lead may take: an election timeout or two.
        static let transferTimeout = Duration.seconds(2)
    }

    private let engine: MetadataEngine
    let identity: MemberIdentity
    private let address: String
    private let channels: ChannelPool
    private let notice: @Sendable (String) -> Void
    private let loop = Mutex<Task<Void, Never>?>(nil)
    /// The room on the file system of the member's files, and whether it is being looked at.
    private let space = Mutex<(status: FileSystemStatus?, isLooking: Bool)>((nil, false))
    /// One change at a time.
    private let isChanging = Atomic(false)

    private var reactor: Reactor { engine.reactor }

    /// - Parameters:
    ///   - address: `HOST:PORT` where this member is reached.
    ///   - notice: told what is changed.
    public init<Machine: StateMachine>(
        _ group: MetadataGroup<Machine>, as identity: MemberIdentity, address: String,
        channels: ChannelPool, notice: @escaping @Sendable (String) -> Void
    ) {
        engine = group.engine
        self.identity = identity
        self.address = address
        self.channels = channels
        self.notice = notice
    }

    var member: RaftMember { engine.member }
    var group: GroupID { identity.group }

    public func start() {
        loop.withLock { loop in
            guard loop == nil else { return }
            loop = Task(executorPreference: reactor) { await self.look() }
        }
    }

    /// Begins nothing more. A change that waits for its log ends with the group.
    public func cancel() { loop.withLock { $0 }?.cancel() }

    /// Waits for the end, once the group is closed.
    public func stop() async {
        cancel()
        await loop.withLock { $0 }?.value
    }

    // MARK: What is known

    /// The group as this member sees it.
    public func status() async -> GroupStatusResponse {
        let view = await member.view
        let book = engine.book.rows
        var response = GroupStatusResponse()
        response.group = identity.group.message
        response.cluster = identity.cluster
        response.peer = view.peer.rawValue
        response.term = view.term
        response.appliedIndex = view.applied
        response.leader = view.leader.rawValue
        let learners = Set(view.members.learners + view.members.learnersNext)
        for peer in view.members.peers.sorted() {
            var row = GroupMember()
            row.peer = peer.rawValue
            row.name = book[peer]?.name ?? ""
            row.address = book[peer]?.address ?? ""
            row.role =
                peer == view.leader ? .leader : learners.contains(peer) ? .learner : .follower
            if peer == view.peer {
                row.appliedIndex = view.applied
                row.lastIndex = view.last
                row.isReachable = true
            } else if let other = view.others.first(where: { $0.peer == peer }) {
                row.lastIndex = other.match
                row.isReachable = other.isActive
                row.snapshotBytes = UInt64(other.snapshot?.size ?? 0)
                row.snapshotBytesSent = UInt64(other.snapshot?.sent ?? 0)
            }
            response.members.append(row)
        }
        var health = view.health
        if health == .well, let status = space.withLock({ $0.status }) {
            health = MemberHealth(status, of: engine.directory)
        }
        response.disk = health.disk
        response.diskReason = health.reason
        response.formerGroups = identity.formerGroups.map(\.message)
        return response
    }

    // MARK: Looking after it

    private func look() async {
        var looks = 0
        while !Task.isCancelled {
            if looks % Limits.looksBetweenSpace == 0 { lookAtSpace() }
            looks += 1
            let isQuiet = await member.members.learners.isEmpty
            do throws(CancellationError) {
                try await reactor.sleep(for: isQuiet ? Limits.quietInterval : Limits.interval)
            } catch {
                return
            }
            guard isLeading else { continue }
            do throws(StoreError) {
                try await keepBook()
                try await promote()
            } catch {
                // Leadership was lost, or another change is on its way: there is a next time.
                continue
            }
        }
    }

    /// Nobody waits for it: on a disk that hangs it may take for ever.
    private func lookAtSpace() {
        let isFree = space.withLock { space in
            defer { space.isLooking = true }
            return !space.isLooking
        }
        guard isFree else { return }
        Task(executorPreference: reactor) {
            let status = try? await self.reactor.fileSystemStatus(self.engine.directory)
            self.space.withLock { space in
                space.status = status ?? space.status
                space.isLooking = false
            }
        }
    }

    private var isLeading: Bool { member.leading.withLock { $0.isLeading } }

    /// Has the log say where this member is, and where those are that only settings tell of; and
    /// forget who is no member any more.
    private func keepBook() async throws(StoreError) {
        guard !address.isEmpty, await entriesDue() != nil else { return }
        // One that is being added is written down before it is a member: looked at once more where
        // nobody is.
        try await exclusively { () async throws(StoreError) in
            guard let (set, gone) = await self.entriesDue() else { return }
            try await self.write(set, removing: gone)
        }
    }

    /// What the book lacks, and whom it has too many; nil if it is as it should be.
    private func entriesDue() async -> (set: [KnownMember], gone: [PeerID])? {
        let logged = engine.book.logged
        let peers = await member.members.peers
        var set: [KnownMember] = []
        let own = KnownMember(
            peer: identity.peer, name: identity.name, address: address, part: .voter)
        if logged[identity.peer] != own { set.append(own) }
        for known in identity.members
        where known.peer != own.peer && peers.contains(known.peer) && logged[known.peer] == nil {
            set.append(known)
        }
        let gone = logged.keys.filter { !peers.contains($0) }.sorted()
        return set.isEmpty && gone.isEmpty ? nil : (set, gone)
    }

    private func write(
        _ members: [KnownMember], removing gone: [PeerID] = []
    ) async throws(StoreError) {
        let change = ConfChangeV2(
            changes: [ConfChangeSingle(.updatePeer, identity.peer)],
            context: MemberBook.context(setting: members, removing: gone))
        _ = try await member.change(change)
    }

    /// Gives a vote to a learner that has caught up.
    private func promote() async throws(StoreError) {
        guard Self.ready(await member.view) != nil else { return }
        try await exclusively { () async throws(StoreError) in
            guard let peer = Self.ready(await self.member.view) else { return }
            _ = try await self.member.change(
                ConfChangeV2(changes: [ConfChangeSingle(.addVoter, peer)]))
            self.notice("\(self.name(of: peer)) has caught up and votes")
        }
    }

    /// A learner that lacks next to nothing.
    private static func ready(_ view: MemberView) -> PeerID? {
        view.others.first { other in
            view.members.learners.contains(other.peer) && other.isActive
                && other.match + Limits.lag >= view.last
        }?.peer
    }

    private func name(of peer: PeerID) -> String {
        engine.book.rows[peer]?.name ?? "member \(peer)"
    }

    // MARK: Changes that are asked for

    /// Takes a member in, in the place of one of the same name: as a learner, which votes once it
    /// has caught up.
    func add(_ request: GroupAddRequest) async throws(StoreError) {
        guard isLeading else { throw member.notLeader }
        _ = try GroupPlace.number(of: request.name, identity.role)
        let place = try HostPort(request.address)
        let peers = await member.members.peers
        let book = engine.book.rows.values.filter { peers.contains($0.peer) }
        if let other = book.first(where: {
            $0.address == place.description && $0.name != request.name
        }) {
            throw StoreError(
                .invalidArgument, "\(place) is the address of \(other.name) already")
        }
        let peer = try await invite(request.name, at: place, book)
        let added = KnownMember(
            peer: peer, name: request.name, address: place.description, part: .learner)
        try await exclusively { () async throws(StoreError) in
            let view = await self.member.view
            let isMember = view.members.peers.contains(peer)
            // Whoever had the name has lost its files, or will not come back.
            let old = self.engine.book.rows.values.filter {
                $0.name == request.name && $0.peer != peer && view.members.peers.contains($0.peer)
            }.map(\.peer)
            try await self.whenHeard { (now) throws(StoreError) in
                try self.check(
                    leaving: view.members.voters.filter { !old.contains($0) }, in: now)
            }
            try await self.whenFree { () async throws(StoreError) in try await self.write([added]) }
            guard !isMember else { return }
            let change = ConfChangeV2(
                changes: [ConfChangeSingle(.addLearner, peer)]
                    + old.map { ConfChangeSingle(.removePeer, $0) })
            try await self.whenFree { () async throws(StoreError) in
                _ = try await self.member.change(change)
            }
        }
        notice("\(request.name) at \(place) is a learner, and votes when it has caught up")
    }

    /// Has the process at `place` be the member `name`; returns the number that it has drawn.
    private func invite(
        _ name: String, at place: HostPort, _ book: [KnownMember]
    ) async throws(StoreError) -> PeerID {
        var invitation = GroupInviteRequest()
        invitation.group = identity.group.message
        invitation.cluster = identity.cluster
        invitation.role = identity.role
        invitation.name = name
        invitation.founders = identity.founders.map(\.rawValue)
        invitation.members = book.map(\.message)
        invitation.formerGroups = identity.formerGroups.map(\.message)
        let channel = channels.channel(host: place.host, port: place.port, on: reactor)
        let deadline = reactor.now().advanced(by: Limits.invitePatience)
        while true {
            do throws(StoreError) {
                let reply = try await channel.call(
                    RaftMethod.invite.rawValue, invitation.encoded, timeout: Limits.inviteTimeout)
                return PeerID(try GroupInviteResponse(parsing: reply.message).peer)
            } catch {
                guard error.code == .connection, reactor.now() < deadline else {
                    // Not an answer of this member's, by which its caller would ask another.
                    let isOfMember = error.code == .connection || error.code == .notLeader
                    throw StoreError(
                        isOfMember ? .unavailable : error.code,
                        "\(name) at \(place): \(error.message)")
                }
            }
            do throws(CancellationError) { try await reactor.sleep(for: .milliseconds(50)) } catch {
                throw StoreError(.cancelled, "the call was cancelled")
            }
        }
    }

    /// Throws where `voters` would have no majority that answers.
    private func check(leaving voters: [PeerID], in view: MemberView) throws(StoreError) {
        let active = voters.filter { voter in
            voter == view.peer || view.others.contains { $0.peer == voter && $0.isActive }
        }
        guard active.count * 2 <= voters.count else { return }
        throw StoreError(
            .unavailable,
            "the group would have \(voters.count) voters of which \(active.count) can be reached, "
                + "and could do nothing: bring others back or add one first")
    }

    /// Takes a member out. Refused where those that are left and can be reached are no majority.
    func remove(_ request: GroupRemoveRequest) async throws(StoreError) {
        guard isLeading else { throw member.notLeader }
        try await exclusively { () async throws(StoreError) in
            let view = await self.member.view
            let peer = try self.peer(named: request.name, in: view)
            let left = view.members.voters.filter { $0 != peer }
            guard !left.isEmpty else {
                throw StoreError(
                    .invalidArgument,
                    "\(request.name) is the only member that votes: it must stay")
            }
            try await self.whenHeard { (view) throws(StoreError) in
                try self.check(leaving: left, in: view)
            }
            try await self.whenFree { () async throws(StoreError) in
                _ = try await self.member.change(
                    ConfChangeV2(changes: [ConfChangeSingle(.removePeer, peer)]))
            }
        }
        notice("\(request.name) is no member any more")
    }

    /// Hands leadership to a member; returns when it leads.
    func transfer(_ request: GroupTransferRequest) async throws(StoreError) {
        guard isLeading else { throw member.notLeader }
        let view = await member.view
        let peer = try peer(named: request.name, in: view)
        guard view.members.voters.contains(peer) else {
            throw StoreError(.invalidArgument, "\(request.name) does not vote, and cannot lead")
        }
        guard peer != view.peer else { return }
        // Nothing can be changed while it is tried.
        try await whenHeard { (view) throws(StoreError) in
            guard let other = view.others.first(where: { $0.peer == peer }), other.isActive,
                other.match + Limits.lag >= view.last
            else {
                throw StoreError(
                    .unavailable,
                    "\(request.name) does not answer, or has not caught up: it cannot take over")
            }
        }
        await member.transferLeadership(to: peer)
        let deadline = reactor.now().advanced(by: Limits.transferTimeout)
        while member.seenLeader.withLock({ $0 }) != peer {
            guard reactor.now() < deadline else {
                throw StoreError(
                    .unavailable, "\(request.name) did not take over in time: is it well?")
            }
            do throws(CancellationError) { try await reactor.sleep(for: .milliseconds(20)) } catch {
                throw StoreError(.cancelled, "the call was cancelled")
            }
        }
    }

    private func peer(named name: String, in view: MemberView) throws(StoreError) -> PeerID {
        let rows = engine.book.rows.values.filter { view.members.peers.contains($0.peer) }
        guard let found = rows.first(where: { $0.name == name }) else {
            throw StoreError(
                .invalidArgument,
                "there is no member \(name): there are "
                    + rows.map(\.name).sorted().joined(separator: ", "))
        }
        return found.peer
    }

    /// Runs `body` unless another change is at work.
    private func exclusively(
        _ body: () async throws(StoreError) -> Void
    ) async throws(StoreError) {
        var waits = 0
        while isChanging.exchange(true, ordering: .acquiring) {
            waits += 1
            guard waits < 200 else {
                throw StoreError(.overloaded, "the members are being changed: try again later")
            }
            do throws(CancellationError) { try await reactor.sleep(for: .milliseconds(20)) } catch {
                throw StoreError(.cancelled, "the call was cancelled")
            }
        }
        defer { isChanging.store(false, ordering: .releasing) }
        try await body()
    }

    /// Looks again for a moment where `check` does not find who is needed: one that has just begun
    /// to lead has not heard of the others yet.
    private func whenHeard(
        _ check: (MemberView) throws(StoreError) -> Void
    ) async throws(StoreError) {
        let deadline = reactor.now().advanced(by: Limits.transferTimeout)
        while true {
            do throws(StoreError) { return try check(await member.view) } catch {
                guard isLeading else { throw member.notLeader }
                guard reactor.now() < deadline else { throw error }
            }
            do throws(CancellationError) { try await reactor.sleep(for: .milliseconds(20)) } catch {
                throw StoreError(.cancelled, "the call was cancelled")
            }
        }
    }

    /// Tries again while a change before this one is not finished.
    private func whenFree(
        _ body: () async throws(StoreError) -> Void
    ) async throws(StoreError) {
        let deadline = reactor.now().advanced(by: Limits.changeTimeout)
        while true {
            do throws(StoreError) { return try await body() } catch {
                guard error.code == .overloaded, reactor.now() < deadline else { throw error }
            }
            do throws(CancellationError) { try await reactor.sleep(for: .milliseconds(20)) } catch {
                throw StoreError(.cancelled, "the call was cancelled")
            }
        }
    }
}

extension ConfState {
    /// All members, of both halves of a joint configuration.
    var peers: Set<PeerID> {
        Set(voters).union(votersOutgoing).union(learners).union(learnersNext)
    }
}
