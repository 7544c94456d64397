import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Transport
import Wire

/// What a role that is a member of a group serves on its port: messages of the other members, what
/// is asked about the group, and the role's own requests once it is there.
///
/// It can serve before the role is there: a member without files waits so for its invitation.
public final class GroupService: RPCHandler {
    private struct State {
        /// Made by an invitation.
        var invited: MemberIdentity?
        var isInviting = false
        /// It has no files.
        var isWaiting = false
        var waiter: UnsafeContinuation<MemberIdentity, Never>?
        var keeper: GroupKeeper?
        var role: (any RPCHandler)?
    }

    private let place: GroupPlace
    private let directory: String
    private let reactor: Reactor
    private let raft = RaftService()
    private let state = Mutex(State())

    /// - Parameter directory: where the files of the member are to be, should it be invited.
    public init(_ place: GroupPlace, directory: String, on reactor: Reactor) {
        self.place = place
        self.directory = directory
        self.reactor = reactor
    }

    // MARK: Before the role is there

    /// Waits until another member has invited this one, which has no files. What it is then is on
    /// stable media.
    public func invitation() async -> MemberIdentity {
        await withUnsafeContinuation { waiter in
            let invited = state.withLock { state in
                state.isWaiting = state.invited == nil
                if state.isWaiting { state.waiter = waiter }
                return state.invited
            }
            if let invited { waiter.resume(returning: invited) }
        }
    }

    private func invite(_ request: GroupInviteRequest) async throws(StoreError) -> PeerID {
        if let keeper = state.withLock({ $0.keeper }) {
            return try keeper.answer(request)
        }
        let (known, isWaiting, isMine) = state.withLock { state in
            defer { if state.isWaiting { state.isInviting = true } }
            return (state.invited, state.isWaiting, !state.isInviting)
        }
        if let known { return try known.answer(request) }
        // It has files, and reads them: what it is, it says when it has.
        guard isWaiting else { throw absent }
        guard isMine else {
            throw StoreError(.overloaded, "another invitation is being taken: try again")
        }
        defer { state.withLock { $0.isInviting = false } }
        var generator = SystemRandomNumberGenerator()
        let identity = try MemberIdentity.invited(place, request, using: &generator)
        try await identity.store(in: directory, on: reactor)
        let waiter = state.withLock { state in
            state.invited = identity
            state.isWaiting = false
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: identity)
        return identity.peer
    }

    /// The role is there.
    public func open(_ keeper: GroupKeeper, serving role: any RPCHandler) {
        raft.add(keeper.member, of: keeper.group)
        raft.replace(keeper.identity.formerGroups, by: keeper.group)
        state.withLock { state in
            state.keeper = keeper
            state.role = role
        }
    }

    // MARK: Requests

    private static func isOfGroup(_ method: UInt16) -> Bool { RaftMethod(rawValue: method) != nil }

    private var role: (any RPCHandler)? { state.withLock { $0.role } }

    private var absent: StoreError {
        StoreError(
            .notLeader,
            state.withLock { $0.isWaiting }
                ? "\(place.name) has no files and waits to be added to its group: apus admin "
                    + "\(place.role) add \(place.name) \(place.address)"
                : "\(place.name) is being started")
    }

    public func authorize(
        method: UInt16, token: [UInt8], peer: PeerIdentity
    ) throws(StoreError) {
        guard !Self.isOfGroup(method) else { return }
        try role?.authorize(method: method, token: token, peer: peer)
    }

    public func prepare(_ request: inout RPCRequest) -> any RPCHandler {
        guard !Self.isOfGroup(request.method), let role else { return self }
        return role.prepare(&request)
    }

    public func conclude(_ request: RPCRequest, _ outcome: RPCOutcome) {
        guard !Self.isOfGroup(request.method) else { return }
        role?.conclude(request, outcome)
    }

    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = RaftMethod(rawValue: request.method) else { throw absent }
        switch method {
        case .messages, .snapshotPiece: return try await raft.handle(request)
        case .status: return RPCReply(try await keeper().status().encoded)
        case .invite:
            var response = GroupInviteResponse()
            response.peer = try await invite(GroupInviteRequest(parsing: request.message)).rawValue
            return RPCReply(response.encoded)
        case .addMember: try await keeper().add(GroupAddRequest(parsing: request.message))
        case .removeMember: try await keeper().remove(GroupRemoveRequest(parsing: request.message))
        case .transferLeadership:
            try await keeper().transfer(GroupTransferRequest(parsing: request.message))
        }
        return RPCReply()
    }

    /// Messages of other members; of the role's, what it takes itself.
    public func take(_ post: RPCRequest) {
        if Self.isOfGroup(post.method) { raft.take(post) } else { role?.take(post) }
    }

    private func keeper() throws(StoreError) -> GroupKeeper {
        guard let keeper = state.withLock({ $0.keeper }) else { throw absent }
        return keeper
    }
}

extension GroupKeeper {
    /// What is answered to an invitation by who is a member already.
    func answer(_ request: GroupInviteRequest) throws(StoreError) -> PeerID {
        try identity.answer(request)
    }
}

extension MemberIdentity {
    /// What is answered to an invitation by who has this identity: its number, if it is meant.
    func answer(_ request: GroupInviteRequest) throws(StoreError) -> PeerID {
        guard GroupID(request.group) == group, request.role == role, request.name == name else {
            throw StoreError(
                .invalidArgument,
                "the member here is \(name) of group \(group), invited was \(request.name) of "
                    + "group \(GroupID(request.group)): to have it join another group move its "
                    + "directory away first")
        }
        return peer
    }
}
