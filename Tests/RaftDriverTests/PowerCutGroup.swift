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

/// Commands are `client (1), number (4)`; each is kept under the index of its entry, which is the
/// answer, and counted. So the tables are the whole history, in its order.
struct History: StateMachine {
    static let commands = MetadataTable(1)
    static let counts = MetadataTable(2)
    /// Bytes behind each command, so that a snapshot has many pages.
    var padding = 0
    /// How many of the latest entries are kept, so that the tables do not grow.
    var kept = UInt64.max

    var tables: [MetadataTable] { [Self.commands, Self.counts] }
    func encode(_ command: [UInt8]) -> [UInt8] { [1] + command }
    func decode(_ bytes: [UInt8]) -> [UInt8] { Array(bytes.dropFirst()) }

    func apply(
        _ command: [UInt8], at index: UInt64, in transaction: some MetadataTransaction
    ) -> UInt64 {
        var key: [UInt8] = []
        key.appendBigEndian(index)
        transaction.put(
            Self.commands, key, command + Array(repeating: command[0], count: padding))
        if index > kept {
            var old: [UInt8] = []
            old.appendBigEndian(index - kept)
            transaction.delete(Self.commands, old)
        }
        // Of all, and of the client: what it reads is of its own making.
        for counter in [[0xFF], [command[0]]] as [[UInt8]] {
            var count: [UInt8] = []
            let before = transaction.get(Self.counts, counter)?.bigEndian(at: 0) ?? UInt64(0)
            count.appendBigEndian(before + 1)
            transaction.put(Self.counts, counter, count)
        }
        return index
    }

    /// What is in the tables.
    struct Contents: Equatable, Sendable {
        var commands: [UInt64: [UInt8]] = [:]
        var counts: [[UInt8]: [UInt8]] = [:]

        init(_ tables: StoredTables) {
            tables.scan(History.commands, from: []) { key, value in
                commands[key.bigEndian(at: 0)] = Array(value.prefix(5))
                return true
            }
            tables.scan(History.counts, from: []) { key, value in
                counts[key] = value
                return true
            }
        }
    }
}

/// Members of one group in one process, each with files, a reactor for them and power of its own.
final class PowerCutGroup: Sendable {
    /// A member while its power is on.
    final class Running: Sendable {
        let reactor: Reactor
        let faults: FaultInjector
        let disk: TablesDisk
        let isServing = Atomic(false)
        private let opened = Mutex<MetadataGroup<History>?>(nil)

        /// nil until it is opened.
        var group: MetadataGroup<History>? {
            get { opened.withLock { $0 } }
            set { opened.withLock { $0 = newValue } }
        }

        init(_ directory: String, seed: UInt64) throws {
            faults = FaultInjector(seed: seed, losesFolders: true)
            reactor = try Reactor.start(.init(backend: .faulty(faults)))
            disk = TablesDisk(directory, seed: ~seed, faults: faults)
        }
    }

    final class Node: Sendable {
        let link: CuttableLink
        let directory: String
        private let power = Mutex<Running?>(nil)

        /// nil while it is without power.
        var running: Running? {
            get { power.withLock { $0 } }
            set { power.withLock { $0 = newValue } }
        }
        var group: MetadataGroup<History>? { running?.group }

        init(_ id: PeerID, in directory: String) throws {
            self.directory = "\(directory)/member-\(id)"
            link = try CuttableLink(id, of: GroupOfThree.name)
        }

        var id: PeerID { link.id }
        var cut: CuttableLink.Cut { link.cut }
    }

    let nodes: [Node]
    let machine: History
    private let options: MetadataGroupOptions

    init(_ directory: String, machine: History = History(), options: MetadataGroupOptions) throws {
        self.machine = machine
        self.options = options
        nodes = try (1...3).map { try Node(PeerID($0 as UInt64), in: directory) }
        CuttableLink.connect(nodes.map(\.link))
    }

    /// Puts a member on what its disk holds. `prepare` may plan a cut first. Throws what opening
    /// throws: then the power is on all the same, for `cutPower` to end it.
    func start(
        _ node: Node, seed: UInt64, _ prepare: (Running) -> Void = { _ in }
    ) async throws {
        try FileManager.default.createDirectory(
            atPath: node.directory, withIntermediateDirectories: true)
        let running = try Running(node.directory, seed: seed)
        node.running = running
        prepare(running)
        var options = options
        options.group = GroupOfThree.name
        options.voters = nodes.map(\.id)
        options.member = RaftMemberOptions(id: node.id)
        options.member.tick = .milliseconds(20)
        let group = try await MetadataGroup.open(
            directory: node.directory, role: "test", reactor: running.reactor,
            stateMachine: machine, options: options,
            transport: node.link.transport,
            generator: SplitMix64(state: seed))
        running.group = group
        node.cut.isCut = false
        node.link.attach(group.engine.member)
    }

    /// Takes the power from a member, if nothing has yet, and leaves its files as the cut could
    /// have left them.
    func cutPower(_ node: Node) async throws {
        guard let running = node.running else { return }
        node.cut.isCut = true
        node.link.detach()
        running.disk.cut()
        try? await running.group?.close()
        running.reactor.stop()
        running.faults.applyCrash()
        try running.disk.applyCut()
        node.running = nil
    }

    /// Ends a member in peace.
    func stop(_ node: Node) async throws {
        guard let running = node.running else { return }
        node.link.detach()
        try await running.group?.close()
        running.reactor.stop()
        running.disk.end()
        node.running = nil
    }

    func end() async {
        for node in nodes {
            try? await cutPower(node)
            await node.link.end()
        }
    }

    /// Who leads; nil if nobody says so.
    func leader() async -> Node? {
        for node in nodes where !node.cut.isCut {
            guard let running = node.running, !running.disk.isDown, let group = running.group
            else { continue }
            if await group.engine.member.state.role == .leader { return node }
        }
        return nil
    }

    /// Proposes until a leader has taken the command. What it says of its index; nil if it is not
    /// known what became of it.
    func propose(_ command: [UInt8], _ isDone: () -> Bool = { false }) async throws -> UInt64? {
        for _ in 0..<3000 where !isDone() {
            if let group = await leader()?.group {
                do throws(StoreError) {
                    return try await group.propose(command)
                } catch {
                    // Only these two say that it was not made, and never will be.
                    guard error.code == .notLeader || error.code == .overloaded else { return nil }
                }
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        if isDone() { return nil }
        throw StoreError(.deadlineExceeded, "no leader took the command")
    }

    /// Waits until all members have applied the same, the entry at `index` with it.
    func converge(_ index: UInt64) async throws {
        for _ in 0..<3000 {
            let applied = nodes.map { $0.group?.appliedIndex ?? 0 }
            if applied.allSatisfy({ $0 == applied[0] && $0 >= index }) { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        var states: [String] = []
        for node in nodes {
            guard let member = node.group?.engine.member else { continue }
            let error =
                member.inbox.withLock { $0.refusal?.message }
                ?? member.snapshotError.withLock { $0?.message }
            states.append("member \(node.id): \(await member.state), \(error ?? "no error")")
        }
        throw StoreError(.deadlineExceeded, "the members do not come together: \(states)")
    }

    func contents(_ node: Node) async throws -> History.Contents? {
        try await node.group?.engine.store.read { History.Contents($0) }
    }
}
