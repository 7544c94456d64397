import Model
import Testing
import Wire

@testable import SCMCore

private let second: UInt64 = 1_000_000_000

/// A datanode as SCM hears it: what its volumes hold, and what it reports of that.
private struct FakeNode {
    var store: UInt64
    var epoch: UInt64
    var replicas: [ContainerID: SCMReplicaReport] = [:]
    /// Of a program from before stores and epochs were told.
    var isOld = false
}

/// SCM's state beside its tables, and datanodes that carry out what they are told.
private struct Rig {
    let tables = InMemoryTables()
    var state: SCMState
    var nodes: [FakeNode]
    var random = SystemRandomNumberGenerator()
    var index: UInt64 = 0
    var now: UInt64 = second

    init(nodes count: Int, areOld: Bool = false) throws {
        state = try SCMState(options: .init(), reading: tables, at: now)
        state.lead(in: 1, at: now)
        nodes = (0..<count).map {
            FakeNode(store: 100 + UInt64($0), epoch: 1 + UInt64($0), isOld: areOld)
        }
        for number in 0..<count {
            var command = SCMCommand()
            command.node.address = Self.address(number).message
            run(command)
        }
        for number in 0..<count { register(number) }
        state.updateSafeMode(at: now)
    }

    static func address(_ number: Int) -> DatanodeAddress {
        DatanodeAddress(
            id: Identity128(high: 7, low: UInt64(number)), host: "127.0.0.1", port: 1000 + number)
    }

    mutating func run(_ command: SCMCommand) {
        index += 1
        let answer = SCMStateMachine().apply(command, at: index, in: tables)
        for row in answer.rows { state.take(row, at: now) }
        state.noteProposed(command, answer)
    }

    static var volume: DNVolume {
        var volume = DNVolume()
        volume.capacity = 1 << 40
        volume.available = 1 << 39
        return volume
    }

    mutating func register(_ number: Int) {
        let node = nodes[number]
        _ = state.registered(
            Self.address(number), volumes: [Self.volume],
            replicas: Array(node.replicas.values), store: node.isOld ? 0 : node.store,
            epoch: node.isOld ? 0 : node.epoch, at: now)
    }

    /// A heartbeat in full.
    mutating func beat(_ number: Int) {
        let node = nodes[number]
        let isHeard = state.heard(
            Self.address(number).id, volumes: [Self.volume],
            replicas: Array(node.replicas.values), isFull: true, store: node.isOld ? 0 : node.store,
            epoch: node.isOld ? 0 : node.epoch, at: now)
        if !isHeard { register(number) }
    }

    /// The datanode starts again, its volumes as they were or emptied.
    mutating func restart(_ number: Int, wiped: Bool) {
        nodes[number].epoch += 1000
        if wiped {
            nodes[number].store += 1000
            nodes[number].replicas = [:]
        }
        nodes[number].replicas = nodes[number].replicas.filter { $0.value.state != .none }
        register(number)
    }

    /// SCM starts again from its tables; nothing is known of the nodes until they register.
    mutating func restartSCM() throws {
        state = try SCMState(options: .init(), reading: tables, run: index + 2, at: now)
        state.lead(in: index + 2, at: now)
        for number in nodes.indices { register(number) }
        state.leaveSafeMode()
    }

    /// Everything for so long that containers that are to be closed are: nodes report and do what
    /// they are told, SCM logs what is due.
    mutating func settle(silent: Set<Int> = []) {
        for _ in 0..<20 {
            now += second
            for number in nodes.indices where !silent.contains(number) {
                beat(number)
                for command in state.commands(for: Self.address(number).id, at: now) {
                    carryOut(command, on: number)
                }
            }
            log()
        }
    }

    mutating func log() {
        while let command = state.dueWitnesses() { run(command) }
        for command in state.dueStateChanges(at: now) { run(command) }
    }

    private mutating func carryOut(_ command: SCMDatanodeCommand, on number: Int) {
        guard case .closeContainer(let id) = command.command else { return }
        var replica = SCMReplicaReport()
        replica.container = id
        replica.state = .none
        nodes[number].replicas[ContainerID(id), default: replica].state =
            nodes[number].replicas[ContainerID(id)] == nil ? .none : .closed
    }

    mutating func allocate(_ text: String = "rs-3-2-1024k") throws -> BlockGroup {
        let replication = try ReplicationConfig(text)
        while true {
            switch state.allocate(replication, count: 1, at: now, using: &random) {
            case .groups(let groups): return groups[0]
            case .refused(let error): throw error
            case .needs(let command): run(command)
            }
        }
    }

    func number(of group: BlockGroup, index: Int) -> Int {
        nodes.indices.first { Self.address($0).id == group.nodes[index - 1]?.id } ?? -1
    }

    /// A writer puts bytes on `indexes`: a node makes the replica only if it may. Returns the
    /// indexes that refused.
    mutating func write(_ group: BlockGroup, to indexes: [Int]) -> [Int] {
        indexes.filter { index in
            let number = number(of: group, index: index)
            let id = group.blockID.containerID
            let known = nodes[number].replicas[id]
            if known?.state == SCMReplicaState.none || known?.state == .closed { return true }
            guard known == nil else { return false }
            guard group.permission(at: index - 1) == nodes[number].epoch || nodes[number].isOld
            else { return true }
            var replica = SCMReplicaReport()
            replica.container = id.rawValue
            replica.replicaIndex = UInt32(index)
            replica.blocks = 1
            nodes[number].replicas[id] = replica
            return false
        }
    }

    func info(_ id: ContainerID) -> SCMContainerInfo {
        var request = SCMStatusRequest()
        request.containers = true
        request.container = id.rawValue
        return state.report(request, at: now).containers[0]
    }

    mutating func close(_ id: ContainerID) {
        var command = SCMCommand()
        command.containerState.id = id.rawValue
        command.containerState.state = .containerClosing
        run(command)
        settle()
    }
}

@Suite("absence is loss")
struct AbsenceTests {
    @Test("a replica that was reported and is gone is missing at once, and never logged as empty")
    func witnessed() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 2, 3, 4, 5]).isEmpty)
        for number in 0..<5 { rig.beat(number) }
        rig.log()
        #expect(rig.info(id).witnessedIndexes == [1, 2, 3, 4, 5])
        rig.restart(rig.number(of: group, index: 3), wiped: true)
        #expect(rig.info(id).missingIndexes == [3])
        // No more groups there, and nothing to be read from it.
        for _ in 0..<20 {
            let other = try rig.allocate()
            #expect(other.blockID.containerID != id)
        }
        #expect(rig.state.places(of: id, at: rig.now)?[2] == nil)
        // It is closed, without the replica that is lost.
        rig.settle()
        #expect(rig.info(id).state == .containerClosed)
        #expect(rig.info(id).emptyIndexes.isEmpty && rig.info(id).missingIndexes == [3])
        try rig.restartSCM()
        #expect(rig.info(id).emptyIndexes.isEmpty && rig.info(id).missingIndexes == [3])
    }

    @Test("a replica that was made and lost before it was ever reported does not count as empty")
    func lostUnseen() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 2, 3, 4, 5]).isEmpty)
        let victim = rig.number(of: group, index: 2)
        for number in 0..<5 where number != victim { rig.beat(number) }
        // SCM may die too: what it has not logged it does not know.
        rig.restart(victim, wiped: true)
        try rig.restartSCM()
        #expect(rig.info(id).missingIndexes == [2])
        #expect(rig.write(group, to: [2]) == [2], "a permission of an earlier epoch")
        rig.close(id)
        #expect(rig.info(id).state == .containerClosed)
        #expect(rig.info(id).emptyIndexes.isEmpty && rig.info(id).missingIndexes == [2])
    }

    @Test("indexes that nothing fell to are empty, however often nodes start again")
    func empty() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 4, 5]).isEmpty)
        for number in 0..<5 { rig.beat(number) }
        rig.log()
        let restarted = rig.number(of: group, index: 2)
        rig.restart(restarted, wiped: false)
        #expect(rig.info(id).missingIndexes.isEmpty)
        // Groups of before carry the permission of an epoch that is over; new ones another.
        #expect(rig.write(group, to: [2]) == [2])
        var later = group
        repeat { later = try rig.allocate() } while later.blockID.containerID != id
        #expect(later.permission(at: 0) == 0, "there is one")
        #expect(later.permission(at: 1) == rig.nodes[restarted].epoch)
        rig.close(id)
        #expect(rig.info(id).state == .containerClosed)
        #expect(rig.info(id).emptyIndexes == [2, 3] && rig.info(id).missingIndexes.isEmpty)
        #expect(rig.write(later, to: [2]) == [2], "a container that was closed gets no replica")
    }

    @Test("an index is logged as empty only once its node has promised to make none")
    func retired() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 4, 5]).isEmpty)
        var command = SCMCommand()
        command.containerState.id = id.rawValue
        command.containerState.state = .containerClosing
        rig.run(command)
        rig.now += 20 * second
        for number in 0..<5 {
            rig.nodes[number].replicas[id]?.state = .closed
            rig.beat(number)
        }
        rig.log()
        #expect(rig.info(id).state == .containerClosing)
        let second = rig.number(of: group, index: 2)
        let told = rig.state.commands(for: Rig.address(second).id, at: rig.now)
        #expect(told.map(\.closeContainer) == [id.rawValue])
        // A cell comes before the node hears of it: then there is a replica.
        #expect(rig.write(group, to: [2]).isEmpty)
        rig.settle()
        #expect(rig.info(id).state == .containerClosed)
        #expect(rig.info(id).emptyIndexes == [3] && rig.info(id).missingIndexes.isEmpty)
    }

    @Test("a container that never held a block is forgotten once no node can make a replica of it")
    func neverWritten() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        rig.close(id)
        #expect(rig.info(id).state == .containerDeleted)
        #expect(rig.write(group, to: [1, 2]) == [1, 2])
    }

    @Test("a container all of whose replicas are lost is closed with all of them missing")
    func allLost() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 2, 3, 4, 5]).isEmpty)
        for number in 0..<5 { rig.beat(number) }
        rig.log()
        for number in 0..<5 { rig.restart(number, wiped: true) }
        rig.settle()
        #expect(rig.info(id).state == .containerClosed)
        #expect(rig.info(id).missingIndexes == [1, 2, 3, 4, 5])
    }

    @Test("a replica that its node reports as lost is missing, and back when it is reported again")
    func reportedAsLost() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 2, 3, 4, 5]).isEmpty)
        let number = rig.number(of: group, index: 4)
        // Not even heard of before: its volume failed at once.
        rig.nodes[number].replicas[id]?.state = .lost
        for number in 0..<5 { rig.beat(number) }
        rig.log()
        #expect(rig.info(id).missingIndexes == [4] && rig.info(id).witnessedIndexes.count == 5)
        rig.nodes[number].replicas[id]?.state = .open
        rig.beat(number)
        #expect(rig.info(id).missingIndexes.isEmpty)
    }

    @Test("a replica of another index than the node's place does not count")
    func wrongIndex() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 2, 3, 4, 5]).isEmpty)
        for number in 0..<5 { rig.beat(number) }
        rig.log()
        let number = rig.number(of: group, index: 4)
        rig.nodes[number].replicas[id]?.replicaIndex = 2
        rig.beat(number)
        #expect(rig.info(id).missingIndexes == [4])
    }

    @Test("witnesses of many containers are logged with one command, and none once known")
    func batches() throws {
        var rig = try Rig(nodes: 5)
        var groups: [BlockGroup] = []
        for _ in 0..<3 { groups.append(try rig.allocate()) }
        for group in groups { #expect(rig.write(group, to: [1, 2, 3, 4, 5]).isEmpty) }
        for number in 0..<5 { rig.beat(number) }
        let containers = Set(groups.map(\.blockID.containerID.rawValue))
        let command = try #require(rig.state.dueWitnesses())
        #expect(Set(command.witnessed.containers.map(\.container)) == containers)
        rig.run(command)
        for number in 0..<5 { rig.beat(number) }
        #expect(rig.state.dueWitnesses() == nil)
    }

    @Test("with datanodes and records of before everything goes on; then what is closed is known")
    func upgrade() throws {
        var rig = try Rig(nodes: 5, areOld: true)
        let group = try rig.allocate()
        let id = group.blockID.containerID
        #expect(rig.write(group, to: [1, 4, 5]).isEmpty)
        rig.settle()
        // Rows as they were written before there were stores and witnesses.
        func strip(_ id: ContainerID) throws {
            let row = try #require(rig.tables.get(SCMTable.containers, SCMTable.key(id.rawValue)))
            var record = try SCMContainerRecord(parsing: row)
            record.stores = []
            record.witnessedIndexes = []
            rig.tables.put(SCMTable.containers, SCMTable.key(id.rawValue), record.encoded)
        }
        try strip(id)
        for number in 0..<5 { rig.nodes[number].isOld = false }
        try rig.restartSCM()
        #expect(rig.info(id).missingIndexes.isEmpty)
        rig.settle()
        #expect(rig.info(id).state == .containerClosed, "nothing can be made in it any more")
        #expect(rig.info(id).emptyIndexes == [2, 3] && rig.info(id).missingIndexes.isEmpty)
        try strip(id)
        try rig.restartSCM()
        #expect(rig.info(id).witnessedIndexes == [1, 4, 5])
        rig.restart(rig.number(of: group, index: 4), wiped: true)
        #expect(rig.info(id).missingIndexes == [4])
        let other = try rig.allocate()
        #expect(!other.permissions.contains(0) && other.permissions.count == 5)
    }

    @Test("a heartbeat of another store than registered makes the node register again")
    func otherStore() throws {
        var rig = try Rig(nodes: 1)
        rig.nodes[0].store += 1
        let isHeard = rig.state.heard(
            Rig.address(0).id, volumes: [], replicas: [], isFull: false,
            store: rig.nodes[0].store, epoch: 5, at: rig.now)
        #expect(!isHeard)
    }
}

@Suite("deletions of lost replicas")
struct LostDeletionTests {
    private func delete(_ group: BlockGroup) -> SCMCommand {
        var command = SCMCommand()
        command.deleteBlocks.blocks = [group.blockID.message]
        return command
    }

    @Test("without a replica ever made it is done; where one is lost it is kept until it is back")
    func parked() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate()
        #expect(rig.write(group, to: [1, 4, 5]).isEmpty)
        for number in 0..<5 { rig.beat(number) }
        rig.log()
        let lost = rig.number(of: group, index: 4)
        let unmade = rig.number(of: group, index: 2)
        let kept = rig.nodes[lost].replicas
        rig.restart(lost, wiped: true)
        rig.run(delete(group))
        func told(_ number: Int) -> [UInt64] {
            rig.state.commands(for: Rig.address(number).id, at: rig.now)
                .filter { !$0.deleteBlocks.blocks.isEmpty }.map(\.number)
        }
        let number = try #require(told(lost).first)
        #expect(told(unmade) == [number])
        let doneUnmade = rig.state.heard(Rig.address(unmade).id, absent: [number], at: rig.now)
        #expect(doneUnmade == [number])
        let doneLost = rig.state.heard(Rig.address(lost).id, absent: [number], at: rig.now)
        #expect(doneLost.isEmpty)
        for other in 0..<5 where other != lost {
            var done = SCMCommand()
            done.deletedOn.node = Rig.address(other).id.message
            done.deletedOn.transactions = [number]
            rig.run(done)
        }
        // It waits for nobody else: none of the room of others is taken, and it is not told.
        #expect(rig.state.pendingDeletions == 0)
        rig.now += 100 * second
        rig.register(lost)
        #expect(told(lost).isEmpty)
        // The disk is put back.
        rig.nodes[lost].replicas = kept
        rig.register(lost)
        #expect(rig.state.pendingDeletions == 1)
        #expect(told(lost) == [number])
    }

    @Test("what is kept aside is bounded, and given up beyond")
    func bounded() throws {
        var pending = PendingDeletions()
        let limit = PendingDeletions.Limits.parkedBlocks
        let node = Identity128(high: 1, low: 1)
        for number in 1...3 as ClosedRange<UInt64> {
            var record = SCMDeletionRecord()
            record.blocks = (0..<UInt64(limit / 2)).map {
                BlockID(containerID: ContainerID(number), localID: $0).message
            }
            record.waiting = [node.message]
            pending.add(record, number: number)
        }
        let parked = (1...3 as ClosedRange<UInt64>).map { pending.park($0, by: node) }
        #expect(parked == [true, true, false])
        #expect(pending.blocks == limit / 2 && pending.parkedBlocks == limit / 2 * 2)
        pending.confirm(1, by: node)
        #expect(pending.parkedBlocks == limit / 2)
        pending.unpark(ContainerID(2), by: node)
        #expect(pending.parkedBlocks == 0 && pending.blocks == limit / 2 * 2)
    }
}
