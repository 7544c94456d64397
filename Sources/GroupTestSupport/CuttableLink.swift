import Model
import Raft
import RaftDriver
import RaftLog
import Reactor
import Synchronization
import Transport

/// What connects a member of a group to the others in tests: a server and sockets of its own, and a
/// switch that cuts it off. While it is off its server refuses calls, and it makes none.
public final class CuttableLink: Sendable {
    /// Whether it is cut off.
    public final class Cut: Sendable {
        private let state = Mutex(false)
        public var isCut: Bool {
            get { state.withLock { $0 } }
            set { state.withLock { $0 = newValue } }
        }
    }

    public let id: PeerID
    public let cut = Cut()
    /// Of the sockets.
    public let reactor: Reactor
    public let server: RPCServer
    private let group: GroupID
    private let service = RaftService()
    private let peers: RaftPeers

    /// Serves at once, on a reactor of its own.
    public init(_ id: PeerID, of group: GroupID) throws {
        self.id = id
        self.group = group
        reactor = try Reactor.start()
        server = try RPCServer(
            host: "127.0.0.1", port: 0, name: "member \(id)", reactors: [reactor],
            handler: CuttableService(service: service, cut: cut))
        server.start()
        peers = RaftPeers(group: group, on: reactor)
    }

    /// Has each of `links` know where the others are.
    public static func connect(_ links: [CuttableLink]) {
        for link in links {
            for other in links where other.id != link.id {
                link.peers.set(
                    other.id,
                    RPCChannel(
                        .remote(host: "127.0.0.1", port: other.server.port),
                        name: "member \(link.id)", on: link.reactor))
            }
        }
    }

    /// `member` takes what is sent to it, and hears of others that cannot be reached.
    public func attach(_ member: RaftMember) {
        peers.report(to: member)
        service.add(member, of: group)
    }

    /// There is no member any more.
    public func detach() { service.remove(group) }

    /// Ends server and sockets.
    public func end() async {
        await server.stop()
        reactor.stop()
    }

    public var transport: some RaftTransport { CuttableTransport(peers: peers, cut: cut) }
}

private struct CuttableService: RPCHandler {
    let service: RaftService
    let cut: CuttableLink.Cut

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        if cut.isCut { throw StoreError(.connection, "the link is cut") }
        return try await service.handle(request)
    }

    func take(_ post: RPCRequest) {
        if !cut.isCut { service.take(post) }
    }
}

private struct CuttableTransport: RaftTransport {
    let peers: RaftPeers
    let cut: CuttableLink.Cut

    func send(_ messages: [Message]) {
        if !cut.isCut { peers.send(messages) }
    }

    func address(of peer: PeerID) -> String? { peers.address(of: peer) }

    func deliver(_ request: SnapshotRequest, to peer: PeerID) async throws(StoreError) -> Int {
        if cut.isCut { throw StoreError(.connection, "the link is cut") }
        return try await peers.deliver(request, to: peer)
    }
}
