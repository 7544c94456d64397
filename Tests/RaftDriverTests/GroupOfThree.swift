import Eventually
import Foundation
import GroupTestSupport
import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Transport

@testable import RaftDriver

/// Commands are `[key, bytes…]`: the bytes are appended to the key's value, which is the answer.
struct Appending: StateMachine {
    static let table = MetadataTable(1)

    /// How often the tables were replaced.
    let resets = Resets()

    var tables: [MetadataTable] { [Self.table] }
    func encode(_ command: [UInt8]) -> [UInt8] { [1] + command }
    func decode(_ bytes: [UInt8]) -> [UInt8] { Array(bytes.dropFirst()) }

    func apply(
        _ command: [UInt8], at index: UInt64, in transaction: some MetadataTransaction
    ) -> [UInt8] {
        let key = [command[0]]
        let value = (transaction.get(Self.table, key) ?? []) + command.dropFirst()
        transaction.put(Self.table, key, value)
        return value
    }
}

extension Appending {
    final class Resets: Sendable {
        private let mutex = Mutex(0)
        var count: Int { mutex.withLock { $0 } }
        func add() { mutex.withLock { $0 += 1 } }
    }

    func reset(from tables: some MetadataReader) { resets.add() }
}

/// Members of one group in one process: files of their own, sockets between them.
final class GroupOfThree: Sendable {
    final class Node: Sendable {
        let link: CuttableLink
        private let running = Mutex<MetadataGroup<Appending>?>(nil)

        /// nil while it is down.
        var group: MetadataGroup<Appending>? {
            get { running.withLock { $0 } }
            set { running.withLock { $0 = newValue } }
        }

        init(_ id: PeerID, of group: GroupID) throws {
            link = try CuttableLink(id, of: group)
        }

        var id: PeerID { link.id }
        var cut: CuttableLink.Cut { link.cut }
        var reactor: Reactor { link.reactor }
        var member: RaftMember? { group?.engine.member }
    }

    static let name = GroupID(high: 7, low: 9)
    let directory: String
    private let known = Mutex<[Node]>([])
    private let options: MetadataGroupOptions
    var nodes: [Node] { known.withLock { $0 } }
    private let voters: [PeerID]

    init(
        _ directory: String, count: Int = 3, options: MetadataGroupOptions? = nil
    ) throws {
        self.directory = directory
        voters = (1...count).map { PeerID(UInt64($0)) }
        self.options =
            options ?? MetadataGroupOptions(log: .init(segmentSize: 256 << 10))
        for id in voters {
            let node = try Node(id, of: Self.name)
            known.withLock { $0.append(node) }
        }
        connect()
    }

    private func connect() { CuttableLink.connect(nodes.map(\.link)) }

    /// A node that is no member yet.
    func addNode() throws -> Node {
        let node = try Node(PeerID(UInt64(nodes.count) + 1), of: Self.name)
        known.withLock { $0.append(node) }
        connect()
        return node
    }

    func start(_ node: Node, voters: [PeerID]? = nil) async throws {
        var options = options
        options.group = Self.name
        options.voters = voters ?? self.voters
        options.member = RaftMemberOptions(id: node.id)
        options.member.tick = .milliseconds(20)
        let group = try await MetadataGroup.open(
            directory: "\(directory)/member-\(node.id)", role: "test", reactor: node.reactor,
            stateMachine: Appending(), options: options,
            transport: node.link.transport)
        node.link.attach(group.engine.member)
        node.group = group
    }

    func startAll() async throws {
        for node in nodes { try await start(node) }
    }

    /// Takes a node down as a crash of its process would seem to the others: what is in its log
    /// is on its disk.
    func stop(_ node: Node) async throws {
        node.link.detach()
        try await node.group?.close()
        node.group = nil
    }

    func end() async {
        for node in nodes {
            try? await stop(node)
            await node.link.end()
        }
    }

    /// Waits for a leader that is running and not cut off.
    func leader() async throws -> Node {
        for _ in 0..<2000 {
            for node in nodes where !node.cut.isCut {
                if let member = node.member, await member.state.role == .leader { return node }
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw StoreError(.deadlineExceeded, "no leader for 20 s")
    }

    /// Proposes on whoever leads until it is answered. A command whose outcome is not known is
    /// not proposed again.
    func propose(_ command: [UInt8]) async throws -> [UInt8]? {
        for _ in 0..<200 {
            let node = try await leader()
            guard let group = node.group else { continue }
            do throws(StoreError) {
                return try await group.propose(command)
            } catch {
                if error.code == .connection { return nil }
                guard error.code == .notLeader else { throw error }
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw StoreError(.deadlineExceeded, "no leader took the command")
    }

    /// Waits until all that run and are not cut off have applied the same.
    func converge() async throws {
        for _ in 0..<1000 {
            let running = nodes.filter { $0.group != nil && !$0.cut.isCut }
            let applied = Set(running.compactMap { $0.group?.appliedIndex })
            if applied.count == 1 { return }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw StoreError(.deadlineExceeded, "the members do not come together")
    }

    /// Stops a node and waits until `leader` knows: it offers a member that it takes for a live one
    /// a snapshot as soon as the log lacks what that member needs next.
    func stop(_ node: Node, noticedBy leader: Node) async throws {
        try await stop(node)
        try await eventually("the leader notices that a member is gone") {
            await leader.member?.isHeard(node.id) == false
        }
    }

    /// The value of a key in the tables of one node, as they are.
    func value(_ key: UInt8, on node: Node) async throws -> [UInt8] {
        guard let group = node.group else { return [] }
        return try await group.engine.store.read { $0.get(Appending.table, [key]) } ?? []
    }
}

extension RaftMember {
    /// Whether the core takes a member for a live one.
    func isHeard(_ peer: PeerID) -> Bool {
        node.progress.contains { $0.peer == peer && $0.recentActive }
    }
}
