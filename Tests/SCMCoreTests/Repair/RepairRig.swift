import Chance
import Model
import Testing
import Wire

@testable import SCMCore

let oneSecond: UInt64 = 1_000_000_000

/// A datanode that does what it is told of repairs, as slowly as it is told to.
struct FakeDatanode {
    struct Work {
        var order: SCMDatanodeCommand.Reconstruct
        var secondsLeft: Int
    }

    var isUp = true
    /// Takes orders and does nothing.
    var isStuck = false
    var replicas: [ContainerID: SCMReplicaReport] = [:]
    var work: [ContainerID: Work] = [:]
    var free: UInt64 = 1 << 39
    /// What it has not reported yet.
    var news: [ContainerID: SCMReplicaReport] = [:]
    var isRegistered = false
    /// Deletions by number, as it was told, and how it answers: done if it has a replica.
    var told: [UInt64: ContainerID] = [:]
    var removed: [ContainerID] = []
    /// Containers whose files that cannot be opened it was told to move aside.
    var moved: [ContainerID] = []
}

/// SCM's state beside its tables, with datanodes that rebuild and remove replicas.
struct RepairRig {
    var tables = InMemoryTables()
    var state: SCMState
    var nodes: [FakeDatanode]
    var random = SeededGenerator(seed: 1)
    var index: UInt64 = 0
    var term: UInt64 = 1
    var now: UInt64 = oneSecond
    let racks: Int
    var volumes = 1
    /// Bytes of a replica that is rebuilt.
    var moveSize: UInt64 = 1 << 30
    /// How long a datanode takes to rebuild a replica.
    var seconds = 3
    /// Commands that were proposed, in order.
    var log: [SCMCommand] = []
    /// Repairs that were put into place, by target.
    var received: [DatanodeID: Int] = [:]

    static func options(repairAfter seconds: UInt64 = 0) -> SCMState.Options {
        var options = SCMState.Options()
        options.repairAfterNanoseconds = seconds * oneSecond
        // These datanodes heal nothing: what is damaged is rebuilt with the next tick but one.
        options.healPatienceNanoseconds = 0
        return options
    }

    init(nodes count: Int, racks: Int = 1, options: SCMState.Options = Self.options()) throws {
        self.racks = racks
        nodes = Array(repeating: FakeDatanode(), count: count)
        state = try SCMState(options: options, reading: tables, at: now)
        state.lead(in: term, at: now)
        state.caughtUp(in: term)
        for number in 0..<count {
            var command = SCMCommand()
            command.node.address = address(number).message
            run(command)
        }
        for number in 0..<count { beat(number) }
        state.updateSafeMode(at: now)
    }

    func address(_ number: Int) -> DatanodeAddress {
        DatanodeAddress(
            id: Self.id(number), host: "127.0.0.1", port: 1000 + number,
            rack: "/rack\(number % racks)")
    }

    static func id(_ number: Int) -> DatanodeID { Identity128(high: 7, low: UInt64(number)) }

    func number(_ id: DatanodeID) -> Int { Int(id.low) }

    @discardableResult
    mutating func run(_ command: SCMCommand) -> SCMAnswer {
        index += 1
        log.append(command)
        let answer = SCMStateMachine().apply(command, at: index, in: tables)
        for row in answer.rows { state.take(row, at: now) }
        state.noteProposed(command, answer)
        return answer
    }

    /// Another member leads, which has heard what this one has.
    mutating func changeLeader(catchesUp: Bool = true) throws {
        term += 1
        state = try SCMState(options: state.options, reading: tables, run: term, at: now)
        for number in nodes.indices { nodes[number].isRegistered = false }
        state.lead(in: term, at: now)
        if catchesUp { state.caughtUp(in: term) }
        for number in nodes.indices where nodes[number].isUp { beat(number) }
        state.leaveSafeMode()
    }

    // MARK: Containers

    static func report(
        _ id: ContainerID, _ index: Int, _ state: SCMReplicaState = .closed, bytes: UInt64 = 1 << 30
    ) -> SCMReplicaReport {
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.replicaIndex = UInt32(index)
        replica.state = state
        replica.usedBytes = bytes
        replica.blocks = 7
        return replica
    }

    /// A closed container whose replicas are on nodes by number; nil: on none. Not reported yet.
    mutating func addContainer(
        _ number: UInt64, on places: [Int?], _ text: String = "rs-3-2-1024k", empty: [Int] = []
    ) throws -> ContainerID {
        let id = ContainerID(number)
        var creation = SCMCommand.CreateContainer()
        creation.id = number
        creation.pipeline = number
        creation.replication = try ReplicationConfig(text).message
        creation.nodes = places.map { $0.map { address($0).message } ?? WireAddress() }
        creation.stores = places.map { $0 == nil ? 0 : 100 }
        run(SCMCommand(.createContainer(creation)))
        var witnessed = SCMCommand.Witnessed()
        var replicas = SCMCommand.Witnessed.Replicas()
        replicas.container = number
        for (place, node) in places.enumerated() where !empty.contains(place + 1) {
            guard let node else { continue }
            replicas.indexes.append(UInt32(place + 1))
            put(Self.report(id, place + 1), on: node)
        }
        witnessed.containers = [replicas]
        run(SCMCommand(.witnessed(witnessed)))
        var change = SCMCommand.ContainerStateChange()
        change.id = number
        change.from = .containerOpen
        change.state = .containerClosed
        change.emptyIndexes = empty.map { UInt32($0) }
        run(SCMCommand(.containerState(change)))
        return id
    }

    /// A node has a replica from now on, and says so with its next heartbeat.
    mutating func put(_ replica: SCMReplicaReport, on number: Int) {
        let id = ContainerID(replica.container)
        nodes[number].replicas[id] = replica
        nodes[number].news[id] = replica
    }

    mutating func lose(_ id: ContainerID, on number: Int) {
        nodes[number].replicas[id] = nil
        nodes[number].news[id] = Self.report(id, 0, .lost)
    }

    // MARK: Datanodes

    func volumes(of number: Int) -> [DNVolume] {
        var volume = DNVolume()
        volume.capacity = 1 << 40
        volume.available = nodes[number].free
        return Array(repeating: volume, count: volumes)
    }

    mutating func beat(_ number: Int) {
        guard nodes[number].isRegistered else {
            let replicas = Array(nodes[number].replicas.values) + recovering(number)
            nodes[number].news = [:]
            nodes[number].isRegistered = state.registered(
                address(number), volumes: volumes(of: number), replicas: replicas, store: 100,
                epoch: 1, at: now)
            return
        }
        let news = Array(nodes[number].news.values) + recovering(number)
        nodes[number].news = [:]
        let isHeard = state.heard(
            Self.id(number), volumes: volumes(of: number), replicas: news, isFull: false,
            store: 100, epoch: 1, at: now)
        #expect(isHeard)
    }

    private func recovering(_ number: Int) -> [SCMReplicaReport] {
        guard !nodes[number].isStuck else { return [] }
        return nodes[number].work.values.map { work in
            var replica = Self.report(
                ContainerID(work.order.container), Int(work.order.replicaIndex), .recovering,
                bytes: UInt64(100_000 - work.secondsLeft))
            replica.token = work.order.token
            return replica
        }
    }

    /// One second: nodes report and do what they are told, SCM decides.
    mutating func tick() {
        now += oneSecond
        state.noteTime(now)
        for number in nodes.indices where nodes[number].isUp {
            work(number)
            beat(number)
            for command in state.commands(for: Self.id(number), at: now) {
                carryOut(command, on: number)
            }
        }
        decide()
    }

    mutating func tick(_ count: Int) { for _ in 0..<count { tick() } }

    mutating func decide() {
        if let ends = state.dueRepairEnds(at: now) {
            for end in ends.endRepairs.ends where !end.isGivenUp {
                let container = state.containers[ContainerID(end.container)]
                if let repair = container?.repairs.first(where: { $0.token == end.token }) {
                    received[repair.node, default: 0] += 1
                }
            }
            run(ends)
        }
        if let starts = state.dueRepairStarts(at: now, using: &random) { run(starts) }
        if let due = state.dueOperations(at: now, wall: wall) { run(due) }
        for (node, numbers) in state.takeDeparted() { confirm(numbers, by: node) }
    }

    mutating func confirm(_ numbers: [UInt64], by node: DatanodeID) {
        var change = SCMCommand.DeletedOn()
        change.node = node.message
        change.transactions = numbers
        run(SCMCommand(.deletedOn(change)))
    }

    private mutating func work(_ number: Int) {
        guard !nodes[number].isStuck else { return }
        for (id, work) in nodes[number].work {
            guard work.secondsLeft <= 1 else {
                nodes[number].work[id]!.secondsLeft -= 1
                continue
            }
            nodes[number].work[id] = nil
            put(Self.report(id, Int(work.order.replicaIndex), bytes: moveSize), on: number)
            nodes[number].free -= moveSize
        }
    }

    private mutating func carryOut(_ command: SCMDatanodeCommand, on number: Int) {
        switch command.command {
        case .reconstruct(let order):
            let id = ContainerID(order.container)
            #expect(nodes[number].replicas[id] == nil, "it has one of the container's")
            if let known = nodes[number].work[id]?.order.token, known >= order.token { return }
            nodes[number].work[id] = .init(order: order, secondsLeft: seconds)
        case .removeReplica(let removal):
            let id = ContainerID(removal.container)
            if removal.token != 0 {
                if nodes[number].work[id]?.order.token == removal.token {
                    nodes[number].work[id] = nil
                    nodes[number].news[id] = Self.report(id, 0, .none)
                }
                return
            }
            if removal.replicaIndex == 0 {
                nodes[number].moved.append(id)
                nodes[number].news[id] = Self.report(id, 0, .none)
            }
            guard nodes[number].replicas[id]?.replicaIndex == removal.replicaIndex else { return }
            nodes[number].free += nodes[number].replicas[id]?.usedBytes ?? 0
            nodes[number].replicas[id] = nil
            nodes[number].news[id] = Self.report(id, 0, .none)
            nodes[number].removed.append(id)
        case .deleteBlocks(let deletion):
            nodes[number].told[command.number] = ContainerID(deletion.blocks[0].container)
        default: return
        }
    }

    // MARK: What is so

    func container(_ id: ContainerID) -> SCMState.Container { state.containers[id]! }

    /// Who has the places, by number.
    func places(_ id: ContainerID) -> [Int?] { container(id).nodes.map { $0.map { number($0) } } }

    /// Who rebuilds which index.
    func repairs(_ id: ContainerID) -> [Int: Int] {
        Dictionary(uniqueKeysWithValues: container(id).repairs.map { ($0.index, number($0.node)) })
    }
}
