import DequeModule
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Transport
import Wire

/// The other members of one group, reached by calls over the native RPC.
///
/// Messages are posted: no answer comes, as those of the core are answers enough. Now and then a call
/// goes behind them, one at a time to each member, from whose answer it is known that all before it
/// arrived. Where there is no connection, or posts are not taken, the call carries them; where much is
/// not known to have arrived, they wait until it is. A call that fails loses its messages and those
/// posted since the last, as a network may; the core is told that the member was unreachable.
public final class RaftPeers: RaftTransport {
    public enum Limits {
        /// Bytes that wait for one member; more are dropped.
        public static let waitingBytes = 64 << 20
        /// Bytes that are posted to one member without its having answered a call behind them.
        public static let postedBytes = 4 << 20
        /// Between the answer to a call and the next one. Of a member that has gone without ending its
        /// connection is heard after this and `timeout`.
        public static let callInterval = Duration.milliseconds(500)
        /// How long a call may take.
        public static let timeout = Duration.seconds(5)
        /// How long a piece of a snapshot may take; the last one has the whole file checked.
        public static let snapshotTimeout = Duration.seconds(60)
    }

    private struct Peer {
        var channel: RPCChannel
        var waiting: Deque<Message> = []
        var waitingBytes = 0
        /// Whether a call is under way.
        var isSending = false
        /// Whether it carries messages: what is posted behind it could be taken before.
        var carries = false
        /// Bytes posted that are not known to have arrived.
        var posted = 0
        /// When the next messages go by a call.
        var nextCall = MonotonicTime(nanoseconds: 0)

        /// Where messages of so many bytes can be posted now; nil: not.
        func channel(for bytes: Int, at now: MonotonicTime) -> RPCChannel? {
            guard waiting.isEmpty, isSending ? !carries : now < nextCall,
                bytes <= RaftCodec.Limits.bytes, posted + bytes <= Limits.postedBytes
            else { return nil }
            return channel
        }
    }

    private struct State {
        var peers: [PeerID: Peer] = [:]
        /// Told of members that could not be reached.
        var member: RaftMember?
    }

    public let group: GroupID
    private let reactor: Reactor
    private let state = Mutex(State())

    public init(group: GroupID, on reactor: Reactor) {
        self.group = group
        self.reactor = reactor
    }

    /// Where a member is reached from now on. Messages to others are dropped.
    public func set(_ peer: PeerID, _ channel: RPCChannel) {
        state.withLock { state in
            if state.peers[peer] == nil {
                state.peers[peer] = Peer(channel: channel)
            } else {
                state.peers[peer]?.channel = channel
            }
        }
    }

    /// Tells `member` when a call to another one failed.
    public func report(to member: RaftMember) { state.withLock { $0.member = member } }

    func channel(_ peer: PeerID) -> RPCChannel? { state.withLock { $0.peers[peer]?.channel } }

    public func address(of peer: PeerID) -> String? { channel(peer)?.address }

    public func send(_ messages: [Message]) {
        guard let first = messages.first?.to else { return }
        let others = messages.contains { $0.to != first }
        send(others ? messages.filter { $0.to == first } : messages, to: first)
        if others { send(messages.filter { $0.to != first }) }
    }

    private func send(_ messages: [Message], to id: PeerID) {
        let bytes = messages.reduce(0) { $0 + RaftCodec.size($1) }
        let channel = state.withLock { state in
            state.peers[id]?.channel(for: bytes, at: reactor.now())
        }
        if let channel, messages.count <= RaftCodec.Limits.messages {
            let envelope = RaftCodec.encode(messages, of: group)
            if channel.post(RaftMethod.messages.rawValue, envelope) {
                state.withLock { $0.peers[id]?.posted += bytes }
                return
            }
        }
        enqueue(messages, to: id, mayPost: channel != nil)
    }

    /// Has messages go with the next call.
    ///
    /// - Parameter mayPost: they would have been posted, if there were a connection.
    private func enqueue(_ messages: [Message], to id: PeerID, mayPost: Bool) {
        let (begins, lost) = state.withLock { state -> (Bool, RaftMember?) in
            guard var peer = state.peers.removeValue(forKey: id) else { return (false, nil) }
            defer { state.peers[id] = peer }
            // There was one, and nobody knows what came through it.
            let isLost = mayPost && peer.posted > 0
            if isLost { peer.posted = 0 }
            for message in messages {
                let size = RaftCodec.size(message)
                guard peer.waitingBytes + size <= Limits.waitingBytes else { continue }
                peer.waiting.append(message)
                peer.waitingBytes += size
            }
            let begins = !peer.isSending && !peer.waiting.isEmpty
            if begins { peer.isSending = true }
            return (begins, isLost ? state.member : nil)
        }
        if begins { Task(executorPreference: reactor) { await self.sendWaiting(to: id) } }
        if let lost { Task(executorPreference: reactor) { await lost.unreachable(id) } }
    }

    public func deliver(
        _ request: SnapshotRequest, to peer: PeerID
    ) async throws(StoreError) -> Int {
        guard let channel = channel(peer) else {
            throw StoreError(.connection, "it is not known where member \(peer) is")
        }
        let reply = try await channel.call(
            RaftMethod.snapshotPiece.rawValue, request.encoded, payload: request.piece?.payload,
            timeout: Limits.snapshotTimeout)
        var reader = RaftByteReader(reply.message)
        let next: UInt64 = try reader.number()
        guard next <= UInt64(request.header.size) else {
            throw StoreError(.badRequest, "member \(peer) wants byte \(next) of a snapshot")
        }
        return Int(next)
    }

    private func sendWaiting(to id: PeerID) async {
        while let (channel, messages, bytes) = next(to: id) {
            var envelope = RaftCodec.encode(messages, of: group)
            let isPosted = channel.post(RaftMethod.messages.rawValue, envelope)
            if isPosted { envelope = RaftCodec.encode([], of: group) }
            let posted = state.withLock { state in
                state.peers[id]?.carries = !isPosted
                if isPosted { state.peers[id]?.posted += bytes }
                return state.peers[id]?.posted ?? 0
            }
            do throws(StoreError) {
                _ = try await channel.call(
                    RaftMethod.messages.rawValue, envelope, timeout: Limits.timeout)
                ended(to: id) { $0.posted -= min(posted, $0.posted) }
            } catch {
                ended(to: id) { $0.posted = 0 }
                // What was lost on a link that was cut is sent again later and later: on a new
                // connection there is no such wait once the link is back.
                if error.code == .deadlineExceeded { await channel.close() }
                let member = state.withLock { $0.member }
                if error.code == .conflict { await member?.superseded(error) }
                await member?.unreachable(id)
            }
        }
    }

    /// A call has ended.
    private func ended(to id: PeerID, _ body: (inout Peer) -> Void) {
        let next = reactor.now().advanced(by: Limits.callInterval)
        state.withLock { state in
            guard var peer = state.peers.removeValue(forKey: id) else { return }
            peer.nextCall = next
            peer.carries = false
            body(&peer)
            state.peers[id] = peer
        }
    }

    /// As much as goes into one envelope, and its bytes; nil if nothing waits.
    private func next(to id: PeerID) -> (RPCChannel, [Message], bytes: Int)? {
        state.withLock { state in
            guard var peer = state.peers.removeValue(forKey: id) else { return nil }
            defer { state.peers[id] = peer }
            guard !peer.waiting.isEmpty else {
                peer.isSending = false
                return nil
            }
            var messages: [Message] = []
            var bytes = 0
            while let message = peer.waiting.first, messages.count < RaftCodec.Limits.messages {
                let size = RaftCodec.size(message)
                if !messages.isEmpty, bytes + size > RaftCodec.Limits.bytes { break }
                bytes += size
                messages.append(message)
                peer.waiting.removeFirst()
            }
            peer.waitingBytes -= bytes
            return (peer.channel, messages, bytes)
        }
    }
}

/// Takes messages and snapshots of groups from their other members.
///
/// A group is found by its name, so that one server serves all groups of a process.
public final class RaftService: RPCHandler {
    private let members = Mutex<[GroupID: RaftMember]>([:])
    /// Groups in whose place others were made, and which.
    private let former = Mutex<[GroupID: GroupID]>([:])

    public init() {}

    /// Members of `groups` that were thought to be lost are told that `group` took their place.
    func replace(_ groups: [GroupID], by group: GroupID) {
        former.withLock { former in for old in groups { former[old] = group } }
    }

    public func add(_ member: RaftMember, of group: GroupID) {
        members.withLock { $0[group] = member }
    }

    public func remove(_ group: GroupID) {
        members.withLock { _ = $0.removeValue(forKey: group) }
    }

    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = RaftMethod(rawValue: request.method) else {
            throw StoreError(
                .unsupported, "there is no Raft method 0x\(String(request.method, radix: 16))")
        }
        switch method {
        case .messages:
            let (group, messages) = try RaftCodec.decode(request.message)
            guard try member(group).receive(messages) else {
                throw StoreError(.notReady, "the member of group \(group) here has stopped")
            }
            return RPCReply()
        case .snapshotPiece:
            let piece = try SnapshotRequest(decoding: request.message, payload: request.payload)
            let next = try await member(piece.header.group).receive(piece)
            var reply: [UInt8] = []
            reply.appendLittleEndian(UInt64(next))
            return RPCReply(reply)
        case .status, .invite, .addMember, .removeMember, .transferLeadership:
            throw StoreError(.unsupported, "\(method) is asked of the role of a group")
        }
    }

    /// Takes messages that are not answered. What is refused is lost: the next call, which comes
    /// soon, is told why.
    public func take(_ post: RPCRequest) {
        guard post.method == RaftMethod.messages.rawValue else { return }
        do throws(StoreError) {
            let (group, messages) = try RaftCodec.decode(post.message)
            try member(group).receive(messages)
        } catch {
            return
        }
    }

    private func member(_ group: GroupID) throws(StoreError) -> RaftMember {
        guard let member = members.withLock({ $0[group] }) else {
            if let next = former.withLock({ $0[group] }) {
                throw StoreError(
                    .conflict,
                    "group \(group) was given up when its majority was lost, and group \(next) made "
                        + "in its place: move the directory of this member away, start it again, and "
                        + "have it added anew")
            }
            throw StoreError(.notReady, "there is no member of group \(group) here")
        }
        return member
    }
}
