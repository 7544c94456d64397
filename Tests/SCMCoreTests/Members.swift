import Chance
import Model
import Synchronization
import Testing
import Wire

@testable import SCMCore

/// A clock that goes on when it is told to.
final class SetClock: Sendable {
    private let state = Mutex<UInt64>(1_000_000_000)
    var now: UInt64 { state.withLock { $0 } }
    func advance(by nanoseconds: UInt64) { state.withLock { $0 += nanoseconds } }
}

/// What the tables tell, as a state has it in memory.
struct Followed: Hashable {
    var cluster: ClusterID?
    var nodes: [DatanodeID: DatanodeAddress]
    var containers: [ContainerID: SCMState.Container]
    var open: [ReplicationConfig: [ContainerID]]
    var inTransition: Set<ContainerID>
    var nextContainer: UInt64
    var reserved: UInt64
    var deletions: [UInt64: Set<DatanodeID>]
    var deletedBlocks: Int
    var waiting: [DatanodeID: Int]
    var members: ContainerMembers
    var operations: [DatanodeID: SCMState.Operation]

    init(_ state: SCMState) {
        cluster = state.cluster
        members = state.members
        operations = state.operations
        nodes = state.nodes.mapValues(\.address)
        containers = state.containers.mapValues { container in
            var container = container
            container.corrupt = []
            return container
        }
        open = state.openByReplication.filter { !$0.value.isEmpty }
        inTransition = state.inTransition
        nextContainer = state.nextContainerID
        reserved = state.reservedLocalIDs
        deletions = state.deletions.all
        deletedBlocks = state.deletions.blocks + state.deletions.parkedBlocks
        waiting = Dictionary(
            uniqueKeysWithValues: state.nodes.keys.map { ($0, state.deletions.count(of: $0)) })
    }
}

/// Members of a group whose log is an array: each has tables and memory of its own, and applies the
/// log as far as it is told to.
///
/// Harsher than Raft: a member may propose whatever it likes, also when another leads, or when
/// it has not applied what was logged before. What commands bear must be enough to refuse them.
struct Members {
    struct Member {
        var tables = InMemoryTables()
        var memory: SCMMemory
        var machine: SCMStateMachine
        var applied = 0
        /// Own entries of this life, which it is told the answers of.
        var own: Set<Int> = []
    }

    let clock = SetClock()
    var members: [Member] = []
    var log: [SCMCommand] = []
    var random: SeededGenerator
    private var runs: UInt64 = 1
    private var options = SCMState.Options()

    init(count: Int = 3, seed: UInt64 = 1, options: SCMState.Options = .init()) {
        random = SeededGenerator(seed: seed)
        self.options = options
        for _ in 0..<count { members.append(makeMember(InMemoryTables())) }
    }

    private mutating func makeMember(_ tables: InMemoryTables) -> Member {
        runs += 1
        let memory = SCMMemory(options: options, run: runs, clock: { [clock] in clock.now })
        return Member(tables: tables, memory: memory, machine: SCMStateMachine(memory: memory))
    }

    static func address(_ number: Int, port: Int = 1000) -> DatanodeAddress {
        DatanodeAddress(
            id: Identity128(high: 7, low: UInt64(number)), host: "127.0.0.1", port: port + number)
    }

    static var volume: DNVolume {
        var volume = DNVolume()
        volume.capacity = 1 << 40
        volume.available = 1 << 39
        return volume
    }

    func state(of member: Int) -> SCMState {
        members[member].memory.withState { state, _ in state }
    }

    // MARK: The log

    /// Appends a command that `member` has decided.
    mutating func propose(_ command: SCMCommand, by member: Int) throws {
        let machine = members[member].machine
        log.append(try machine.decode(machine.encode(command)))
        members[member].own.insert(log.count - 1)
    }

    /// Has `member` apply the next entries; returns the answers to its own.
    @discardableResult
    mutating func apply(_ member: Int, atMost count: Int = .max) -> [SCMAnswer] {
        var answers: [SCMAnswer] = []
        let end = min(log.count, count == .max ? .max : members[member].applied + count)
        while members[member].applied < end {
            let place = members[member].applied
            let index = UInt64(place + 1)
            let (command, machine) = (log[place], members[member].machine)
            let answer = machine.apply(command, at: index, in: members[member].tables)
            machine.applied(command, answer: answer, at: index)
            members[member].applied += 1
            if members[member].own.contains(place) {
                members[member].memory.withState { state, _ in
                    state.noteProposed(command, answer)
                }
                answers.append(answer)
            }
        }
        return answers
    }

    /// Proposes and has the proposer apply everything; returns the answer.
    mutating func run(_ command: SCMCommand, by member: Int = 0) throws -> SCMAnswer {
        try propose(command, by: member)
        return try #require(apply(member).last)
    }

    /// Begins anew with the tables as they are.
    mutating func restart(_ member: Int) throws {
        let before = members[member]
        members[member] = makeMember(before.tables)
        members[member].applied = before.applied
        try members[member].machine.reset(from: before.tables)
    }

    /// The tables of `source`, which has applied more, take the place of those of `member`.
    mutating func installSnapshot(on member: Int, from source: Int) throws {
        guard members[source].applied > members[member].applied else { return }
        members[member].tables = InMemoryTables(copying: members[source].tables)
        members[member].applied = members[source].applied
        try members[member].machine.reset(from: members[member].tables)
    }

    // MARK: Datanodes

    /// Has datanodes registered by the log and heard by all members.
    mutating func addNodes(_ count: Int) throws {
        for number in 0..<count {
            var change = SCMCommand.Node()
            change.address = Self.address(number).message
            try propose(SCMCommand(.node(change)), by: 0)
        }
        for member in members.indices {
            apply(member)
            for number in 0..<count { register(number, with: member) }
            members[member].memory.withState { state, now in state.updateSafeMode(at: now) }
        }
    }

    func register(_ number: Int, with member: Int, replicas: [SCMReplicaReport] = []) {
        _ = members[member].memory.withState { state, now in
            state.registered(
                Self.address(number), volumes: [Self.volume], replicas: replicas,
                store: 100 + UInt64(number), epoch: 1 + UInt64(number), at: now)
        }
    }

    /// Groups, or nil where something is logged first.
    mutating func allocate(
        _ text: String = "rs-3-2-1024k", count: Int = 1, by member: Int
    ) throws -> [BlockGroup]? {
        let replication = try ReplicationConfig(text)
        var generator = random
        defer { random = generator }
        let allocation = members[member].memory.withState { state, now in
            state.allocate(replication, count: count, at: now, using: &generator)
        }
        switch allocation {
        case .groups(let groups): return groups
        case .refused: return nil
        case .needs(let command):
            try propose(command, by: member)
            return nil
        }
    }
}
