import Chance
import Model
import Testing
import Wire

@testable import SCMCore

private let second: UInt64 = 1_000_000_000

/// SCM's state beside its tables: each command goes to both.
private struct Rig {
    var tables = InMemoryTables()
    var state: SCMState
    var random = SeededGenerator(seed: 1)
    var index: UInt64 = 0
    var now: UInt64 = second

    init(nodes: Int, racks: Int = 1, options: SCMState.Options = .init()) throws {
        state = try SCMState(options: options, reading: tables, at: now)
        state.lead(in: 1, at: now)
        for number in 0..<nodes {
            var command = SCMCommand()
            command.node.address = Self.address(number, racks: racks).message
            run(command)
        }
        for number in 0..<nodes { beat(number, racks: racks) }
        state.updateSafeMode(at: now)
    }

    static func address(_ number: Int, racks: Int = 1) -> DatanodeAddress {
        DatanodeAddress(
            id: Identity128(high: 7, low: UInt64(number)), host: "127.0.0.1", port: 1000 + number,
            rack: "/rack\(number % racks)")
    }

    mutating func run(_ command: SCMCommand) {
        index += 1
        let answer = SCMStateMachine().apply(command, at: index, in: tables)
        for row in answer.rows { state.take(row, at: now) }
        state.noteProposed(command, answer)
    }

    /// SCM starts again from its tables, and leads.
    mutating func restart() throws {
        state = try SCMState(options: state.options, reading: tables, at: now)
        state.lead(in: 2, at: now)
    }

    static var volume: DNVolume {
        var volume = DNVolume()
        volume.capacity = 1 << 40
        volume.available = 1 << 39
        return volume
    }

    mutating func beat(_ number: Int, racks: Int = 1, replicas: [SCMReplicaReport] = []) {
        _ = state.heard(
            Self.address(number, racks: racks).id, volumes: [Self.volume], replicas: replicas,
            isFull: state.nodes[Self.address(number, racks: racks).id]?.lastHeartbeat == nil,
            at: now)
    }

    mutating func allocate(
        _ text: String, count: Int = 1, excluding: ExcludeList = .none
    ) throws -> [BlockGroup] {
        let replication = try ReplicationConfig(text)
        while true {
            switch state.allocate(
                replication, count: count, excluding: excluding, at: now, using: &random)
            {
            case .groups(let groups): return groups
            case .refused(let error): throw error
            case .needs(let command): run(command)
            }
        }
    }
}

@Suite("SCM state")
struct SCMStateTests {
    @Test("a group is on as many different nodes as it has cells, and numbers are never reused")
    func allocation() throws {
        var rig = try Rig(nodes: 12)
        var seen: Set<UInt64> = []
        for _ in 0..<200 {
            for group in try rig.allocate("rs-6-3-1024k", count: 3) {
                #expect(Set(group.nodes.compactMap(\.?.id)).count == 9)
                #expect(seen.insert(group.blockID.localID).inserted)
            }
        }
        // A restart must not give a number out again.
        var again = rig
        try again.restart()
        for number in 0..<12 { again.beat(number) }
        again.state.updateSafeMode(at: again.now)
        for group in try again.allocate("rs-6-3-1024k", count: 50) {
            #expect(seen.insert(group.blockID.localID).inserted)
        }
    }

    @Test("racks are filled evenly")
    func racks() throws {
        var rig = try Rig(nodes: 12, racks: 3)
        for _ in 0..<20 {
            let group = try rig.allocate("rs-6-3-1024k")[0]
            let perRack = Dictionary(grouping: group.nodes.compactMap { $0 }, by: \.rack)
            #expect(perRack.values.map(\.count) == [3, 3, 3])
        }
    }

    @Test("a replication wider than the cluster is refused with the numbers")
    func tooWide() throws {
        var rig = try Rig(nodes: 5)
        #expect(throws: StoreError.self) { try rig.allocate("rs-6-3-1024k", count: 0) }
        do {
            _ = try rig.allocate("rs-6-3-1024k")
            Issue.record("a nine-wide group on five nodes")
        } catch let error as StoreError {
            #expect(error.code == .cannotPlace)
            #expect(error.message.contains("needs 9 datanodes") && error.message.contains("has 5"))
        }
    }

    @Test("with one node down groups have an empty place; with too many they are refused")
    func degraded() throws {
        var rig = try Rig(nodes: 5)
        let whole = try rig.allocate("rs-3-2-1024k")[0]
        #expect(!whole.nodes.contains(nil))
        rig.now += 6 * second
        for number in 0..<4 { rig.beat(number) }
        let degraded = try rig.allocate("rs-3-2-1024k")[0]
        #expect(degraded.nodes.compactMap { $0 }.count == 4)
        #expect(!degraded.nodes.contains { $0?.id == Rig.address(4).id })
        rig.now += 6 * second
        for number in 0..<3 { rig.beat(number) }
        #expect(throws: StoreError.self) { try rig.allocate("rs-3-2-1024k") }
        // All back: whole groups again, and the degraded container is to be closed.
        for number in 0..<5 { rig.beat(number) }
        let again = try rig.allocate("rs-3-2-1024k")[0]
        #expect(!again.nodes.contains(nil))
        let changes = rig.state.dueStateChanges(at: rig.now)
        #expect(changes.contains { $0.containerState.id == degraded.blockID.containerID.rawValue })
    }

    @Test("excluded nodes are avoided")
    func exclusion() throws {
        var rig = try Rig(nodes: 6)
        for number in 0..<6 {
            let group = try rig.allocate(
                "rs-3-2-1024k", excluding: ExcludeList(nodes: [Rig.address(number).id]))[0]
            #expect(!group.nodes.contains { $0?.id == Rig.address(number).id })
            #expect(!group.nodes.contains(nil))
        }
    }

    @Test("a container closes when a node of it is dead, and is closed when its replicas are")
    func closing() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        rig.now += 16 * second
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .open
        for number in 0..<4 { rig.beat(number, replicas: [replica]) }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosing)
        func isToldToClose() -> Bool {
            rig.state.commands(for: Rig.address(0).id, at: rig.now)
                .contains { $0.closeContainer == id.rawValue }
        }
        #expect(!isToldToClose(), "writers may have a group in it")
        rig.now += 10 * second
        for number in 0..<4 { rig.beat(number) }
        #expect(isToldToClose())
        replica.state = .closed
        for number in 0..<4 { rig.beat(number, replicas: [replica]) }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosed)
        // The same is read back from the tables.
        #expect(
            try SCMState(options: .init(), reading: rig.tables).containers[id]?.state
                == .containerClosed)
    }

    @Test("a replica that asks to be closed is, gets no more blocks, and does not count as closed")
    func asksToBeClosed() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        for number in 0..<5 { rig.beat(number, replicas: [replica]) }
        replica.state = .closing
        rig.beat(2, replicas: [replica])
        for _ in 0..<20 {
            #expect(try rig.allocate("rs-3-2-1024k")[0].blockID.containerID != id)
        }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosing)
        rig.now += 10 * second
        replica.state = .closed
        for number in [0, 1, 3, 4] { rig.beat(number, replicas: [replica]) }
        rig.beat(2)
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty)
        #expect(
            rig.state.commands(for: Rig.address(2).id, at: rig.now)
                .contains { $0.closeContainer == id.rawValue })
        rig.beat(2, replicas: [replica])
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosed)
    }

    @Test("a container that never held a block is forgotten, and does not hold up safe mode")
    func neverWritten() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        rig.now += 16 * second
        for number in 0..<4 { rig.beat(number) }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosing)
        // One node is silent: it might hold a replica.
        do {
            let changes = rig.state.dueStateChanges(at: rig.now)
            #expect(changes.isEmpty)
        }
        rig.beat(4)
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerDeleted)
        try rig.restart()
        rig.beat(0)
        #expect(rig.state.safeModeReason(at: rig.now) == nil)
    }

    @Test("a full container is closed")
    func full() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.usedBytes = 5 << 30
        rig.beat(0, replicas: [replica])
        let changes = rig.state.dueStateChanges(at: rig.now)
        #expect(changes.map(\.containerState.id) == [id.rawValue])
    }

    @Test("a deletion waits for every node of the container, across a restart")
    func deletion() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate("rs-3-2-1024k")[0]
        var command = SCMCommand()
        command.deleteBlocks.blocks = [group.blockID.message]
        rig.run(command)
        for number in 0..<5 {
            let commands = rig.state.commands(for: Rig.address(number).id, at: rig.now)
            #expect(commands.map(\.deleteBlocks.blocks) == [[group.blockID.message]])
            var done = SCMCommand()
            done.deletedOn.node = Rig.address(number).id.message
            done.deletedOn.transactions = commands.map(\.number)
            rig.run(done)
            let more = rig.state.commands(for: Rig.address(number).id, at: rig.now)
            #expect(more.isEmpty)
            try rig.restart()
        }
        #expect(rig.tables.dump(SCMTable.deletions).isEmpty)
    }

    @Test("safe mode lasts until datanodes and their replicas have been heard of")
    func safeMode() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        var command = SCMCommand()
        command.containerState.id = id.rawValue
        command.containerState.state = .containerClosed
        rig.run(command)
        try rig.restart()
        #expect(throws: StoreError.self) { try rig.allocate("rs-3-2-1024k") }
        #expect(rig.state.places(of: id, at: rig.now)?.contains(nil) == false)
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .closed
        // The nodes that are not heard of are dead then.
        rig.now += 16 * second
        for number in 0..<2 { rig.beat(number, replicas: [replica]) }
        rig.state.updateSafeMode(at: rig.now)
        #expect(rig.state.isInSafeMode)
        rig.beat(2, replicas: [replica])
        rig.state.updateSafeMode(at: rig.now)
        #expect(!rig.state.isInSafeMode)
        #expect(rig.state.places(of: id, at: rig.now)?.compactMap { $0 }.count == 3)
    }

    @Test("replicas that no byte fell to are noted at the close, and do not hold up safe mode")
    func emptyReplicas() throws {
        var rig = try Rig(nodes: 9)
        let group = try rig.allocate("rs-6-3-1024k")[0]
        let id = group.blockID.containerID
        rig.now += 16 * second
        // Keys of one cell: index 1 and the parity have replicas, one node is silent.
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .closed
        let holders = Set([1, 7, 8, 9].map { group.nodes[$0 - 1]!.id })
        let silent = group.nodes[1]!.id
        for number in 0..<9 where Rig.address(number).id != silent {
            rig.beat(
                number, replicas: holders.contains(Rig.address(number).id) ? [replica] : [])
        }
        for _ in 0..<2 {
            for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        }
        #expect(rig.state.containers[id]?.state == .containerClosed)
        #expect(rig.state.containers[id]?.empty == [3, 4, 5, 6])
        // The same after a restart: four replicas and four empty ones are enough for six.
        try rig.restart()
        #expect(rig.state.containers[id]?.empty == [3, 4, 5, 6])
        for number in 0..<9 {
            let node = Rig.address(number).id
            guard holders.contains(node), node != group.nodes[8]!.id else { continue }
            rig.beat(number, replicas: [replica])
        }
        #expect(rig.state.safeModeReason(at: rig.now) == nil)
    }

    @Test("a node that is late for some seconds closes no container; nothing new is placed there")
    func late() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        rig.now += 10 * second
        for number in 0..<4 { rig.beat(number) }
        do {
            let changes = rig.state.dueStateChanges(at: rig.now)
            #expect(changes.isEmpty)
        }
        let other = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        #expect(other != id)
        rig.beat(4)
        let later = try rig.allocate("rs-3-2-1024k", count: 30)
        #expect(later.contains { $0.blockID.containerID == id })
    }

    @Test("time in which SCM itself stood still is held against no datanode")
    func standstill() throws {
        var rig = try Rig(nodes: 5)
        _ = try rig.allocate("rs-3-2-1024k")
        rig.state.noteTime(rig.now)
        rig.now += 100 * second
        rig.state.noteTime(rig.now)
        #expect(rig.state.healthyNodes(at: rig.now, excluding: []).count == 5)
        do {
            let changes = rig.state.dueStateChanges(at: rig.now)
            #expect(changes.isEmpty)
        }
        // While it runs, silence counts.
        for _ in 0..<20 {
            rig.now += second
            rig.state.noteTime(rig.now)
        }
        #expect(rig.state.healthyNodes(at: rig.now, excluding: []).isEmpty)
    }

    @Test("a closed container whose last block was deleted is removed, unless one comes after all")
    func emptied() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .closed
        replica.blocks = 1
        func beat(_ numbers: Range<Int>) {
            for number in numbers { rig.beat(number, replicas: [replica]) }
        }
        func change() {
            for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        }
        beat(0..<5)
        for _ in 0..<3 { change() }
        #expect(rig.state.containers[id]?.state == .containerClosed)
        replica.blocks = 0
        beat(0..<4)
        change()
        #expect(rig.state.containers[id]?.state == .containerClosed, "one replica has a block")
        // All are empty, but one node has not been heard of for a while: it may know more.
        beat(4..<5)
        rig.now += 6 * second
        beat(0..<4)
        change()
        #expect(rig.state.containers[id]?.state == .containerClosed)
        rig.beat(4)
        change()
        #expect(rig.state.containers[id]?.state == .containerDeleting)
        let told = rig.state.commands(for: Rig.address(1).id, at: rig.now)
        #expect(told.map(\.deleteContainer) == [id.rawValue])
        // The same after a restart, from the tables.
        try rig.restart()
        beat(0..<5)
        rig.state.leaveSafeMode()
        #expect(rig.state.containers[id]?.state == .containerDeleting)
        // Replicas go one by one: those of the indexes that know all blocks may be the first.
        var partly = rig
        partly.tables = InMemoryTables(copying: rig.tables)
        for place in [0, 3, 4] {
            let node = try #require(partly.state.containers[id]?.nodes[place])
            _ = partly.state.heard(
                node, volumes: [Rig.volume], replicas: [], isFull: true, at: partly.now)
        }
        for command in partly.state.dueStateChanges(at: partly.now) { partly.run(command) }
        #expect(partly.state.containers[id]?.state == .containerDeleting)
        // One of those that are left is found damaged: it has no block for that.
        var damaged = replica
        damaged.state = .unhealthy
        partly.beat(1, replicas: [damaged])
        for command in partly.state.dueStateChanges(at: partly.now) { partly.run(command) }
        #expect(partly.state.containers[id]?.state == .containerDeleting)
        var late = rig
        late.tables = InMemoryTables(copying: rig.tables)
        replica.state = .open
        replica.blocks = 1
        late.beat(2, replicas: [replica])
        for command in late.state.dueStateChanges(at: late.now) { late.run(command) }
        #expect(late.state.containers[id]?.state == .containerClosing)
        for number in 0..<5 {
            _ = rig.state.heard(
                Rig.address(number).id, volumes: [Rig.volume], replicas: [], isFull: true,
                at: rig.now)
        }
        change()
        #expect(rig.state.containers[id]?.state == .containerDeleted)
    }

    @Test("full disks are told as such, at once and by number; room again is used")
    func fullDisks() throws {
        var rig = try Rig(nodes: 5)
        _ = try rig.allocate("rs-3-2-1024k")
        var volume = Rig.volume
        volume.available = 100 << 20
        for number in 0..<5 {
            _ = rig.state.heard(
                Rig.address(number).id, volumes: [volume], replicas: [], isFull: false,
                at: rig.now)
        }
        do {
            _ = try rig.allocate("rs-3-2-1024k")
            Issue.record("a group on full disks")
        } catch let error as StoreError {
            #expect(error.code == .noSpace)
            #expect(error.message.contains("0 have that, 5 are full"), "\(error.message)")
        }
        for number in 0..<5 { rig.beat(number) }
        let again = try rig.allocate("rs-3-2-1024k")
        #expect(again.count == 1)
    }

    @Test("a retry gets a group outside of the containers that failed, or that a node has closed")
    func excludedContainers() throws {
        var rig = try Rig(nodes: 5)
        var failed: Set<ContainerID> = []
        for _ in 0..<8 {
            let group = try rig.allocate(
                "rs-3-2-1024k", excluding: ExcludeList(containers: failed))[0]
            #expect(failed.insert(group.blockID.containerID).inserted)
        }
        var replica = SCMReplicaReport()
        replica.state = .closed
        for id in failed {
            replica.container = id.rawValue
            rig.beat(3, replicas: [replica])
        }
        let fresh = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        #expect(!failed.contains(fresh))
    }

    @Test("a row that cannot be read keeps SCM from starting, with its table and key")
    func unreadableRows() throws {
        let rows: [(MetadataTable, [UInt8], [UInt8], String)] = [
            (SCMTable.containers, SCMTable.key(1), [0xFF], "table 65 at key 0000000000000001"),
            (SCMTable.containers, SCMTable.key(1), [], "table 65 at key 0000000000000001"),
            (SCMTable.containers, [1], [0xFF], "table 65 at key 01"),
            (SCMTable.deletions, SCMTable.key(258), [0xFF], "table 66 at key 0000000000000102"),
            (SCMTable.deletions, [7, 7], [], "table 66 at key 0707"),
            (SCMTable.nodes, SCMTable.key(3), [0xFF], "table 67 at key 0000000000000003"),
            (SCMTable.nodes, SCMTable.key(3), [], "table 67 at key 0000000000000003"),
            (SCMTable.values, SCMTable.clusterKey, [0xFF], "table 64 at key 636c7573746572"),
            (SCMTable.values, SCMTable.localIDKey, [1, 2], "table 64 at key 6c6f63616c"),
        ]
        for (table, key, row, place) in rows {
            var rig = try Rig(nodes: 5)
            let container = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
            #expect(container.rawValue == 1)
            rig.tables.put(table, key, row)
            let error = #expect(throws: StoreError.self) {
                try SCMState(options: .init(), reading: rig.tables)
            }
            #expect(error?.code == .corrupt)
            #expect(error?.message.contains(place) == true, "\(error?.message ?? "")")
        }
        // A row that belongs to another container counts its number wrongly.
        var rig = try Rig(nodes: 5)
        _ = try rig.allocate("rs-3-2-1024k")
        let row = try #require(rig.tables.get(SCMTable.containers, SCMTable.key(1)))
        rig.tables.put(SCMTable.containers, SCMTable.key(9), row)
        #expect(throws: StoreError.self) {
            try SCMState(options: .init(), reading: rig.tables)
        }
    }

    @Test("a closed container's report names the replicas that nobody has who is heard of")
    func missingReplicas() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate("rs-3-2-1024k")[0]
        let id = group.blockID.containerID
        var request = SCMStatusRequest()
        request.containers = true
        // Open, and not yet written to: its nodes report nothing, which is no news.
        #expect(rig.state.report(request, at: rig.now).containers[0].missingIndexes == [])
        var command = SCMCommand()
        command.containerState.id = id.rawValue
        command.containerState.state = .containerClosed
        command.containerState.emptyIndexes = [2]
        rig.run(command)
        func number(ofIndex index: Int) -> Int {
            (0..<5).first { Rig.address($0).id == group.nodes[index - 1]?.id }!
        }
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .closed
        for index in [1, 3, 4] { rig.beat(number(ofIndex: index), replicas: [replica]) }
        #expect(rig.state.report(request, at: rig.now).containers[0].missingIndexes == [5])
        // A dead node's replica is missing, whatever it once reported.
        rig.now += 20_000_000_000
        for index in [1, 2, 4, 5] {
            rig.beat(number(ofIndex: index), replicas: index == 5 ? [] : [replica])
        }
        #expect(rig.state.report(request, at: rig.now).containers[0].missingIndexes == [3, 5])
    }

    @Test("an unknown datanode is told to register")
    func unknown() throws {
        var rig = try Rig(nodes: 1)
        let isKnown = rig.state.heard(
            Identity128(high: 9, low: 9), volumes: [], replicas: [], isFull: false, at: rig.now)
        #expect(!isKnown)
    }
}
