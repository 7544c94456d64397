import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Transport
import Wire

extension MetadataGroup {
    /// Opens the files of the member that `identity` names, reaching the others over `channels`.
    ///
    /// - Throws: as `open`; `corrupt` if the member has lost its log.
    public static func open(
        directory: String, as identity: MemberIdentity, reactor: Reactor, stateMachine: Machine,
        channels: ChannelPool, options: MetadataGroupOptions = MetadataGroupOptions(),
        generator: sending some RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
    ) async throws(StoreError) -> MetadataGroup {
        try identity.checkWhole(in: directory)
        var options = options
        options.identity = identity
        options.group = identity.group
        options.member.id = identity.peer
        options.voters = identity.founders
        let peers = RaftPeers(group: identity.group, on: reactor)
        for member in identity.members { peers.set(member, over: channels, on: reactor) }
        let group = try await open(
            directory: directory, role: identity.role, reactor: reactor,
            stateMachine: stateMachine, options: options, transport: peers, generator: generator)
        peers.report(to: group.engine.member)
        let own = identity.peer
        group.engine.book.onAddress { peer, address in
            guard peer != own else { return }
            peers.set(
                KnownMember(peer: peer, name: "", address: address, part: .voter), over: channels,
                on: reactor)
        }
        if !identity.isBegun || identity.isAssumed {
            var begun = identity
            begun.isBegun = true
            do throws(StoreError) {
                try await begun.store(in: directory, on: reactor)
            } catch {
                try? await group.close()
                throw error
            }
        }
        return group
    }

    /// What this member knows of its group's members, by name.
    public var roster: [KnownMember] {
        let peers = engine.members.peers
        return engine.book.rows.values.filter { peers.contains($0.peer) }
            .sorted { $0.name < $1.name }
    }
}

extension RaftPeers {
    /// Reaches `member` at its address, if that is one.
    func set(_ member: KnownMember, over channels: ChannelPool, on reactor: Reactor) {
        guard let place = try? HostPort(member.address) else { return }
        set(member.peer, channels.channel(host: place.host, port: place.port, on: reactor))
    }
}

/// What a member knows of itself and, if it leads, of the others.
public struct MemberView: Sendable {
    /// What a leader knows of another member.
    public struct Other: Sendable {
        public var peer: PeerID
        /// The last entry that is known to be in its log.
        public var match: LogIndex
        /// It was heard of lately.
        public var isActive: Bool
        /// Of the snapshot that it is being given: its bytes, and how many of them are there.
        public var snapshot: SnapshotProgress?
    }

    public var peer: PeerID
    public var role: Role
    /// `none` if none is known.
    public var leader: PeerID
    public var term: Term
    public var applied: LogIndex
    /// The last entry of the log.
    public var last: LogIndex
    public var members: ConfState
    /// Empty unless it leads.
    public var others: [Other]
    public var health: MemberHealth
}

extension RaftMember {
    /// What this member knows now.
    public var view: MemberView {
        MemberView(
            peer: options.id, role: role, leader: leader, term: node.term,
            applied: applier.appliedIndex, last: node.lastIndex, members: log.confState.0,
            others: role != .leader
                ? []
                : node.progress.filter { $0.peer != options.id }.map {
                    .init(
                        peer: $0.peer, match: $0.match,
                        // Heartbeats are told apart only where leases are kept.
                        isActive: !options.usesLease
                            ? $0.recentActive
                            : $0.acknowledgedTick + UInt64(2 * options.electionTicks)
                                >= node.leaderTicks && $0.acknowledgedTick > 0,
                        snapshot: snapshots.offer.progress[$0.peer])
                }, health: health)
    }
}
