import Model
import Testing
import Wire

@testable import SCMCore

private struct Generator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

private let second: UInt64 = 1_000_000_000

/// SCM's state beside its tables: each command goes to both.
private struct Rig {
    let tables = InMemoryTables()
    var state: SCMState
    var random = Generator(state: 1)
    var index: UInt64 = 0
    var now: UInt64 = second

    init(nodes: Int, racks: Int = 1, options: SCMState.Options = .init()) throws {
        state = SCMState(options: options, reading: tables)
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
        _ = SCMStateMachine().apply(command, at: index, in: tables)
        state.apply(command, at: index)
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
        _ text: String, count: Int = 1, excluding: Set<DatanodeID> = []
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
        again.state = SCMState(options: .init(), reading: rig.tables)
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
            let group = try rig.allocate("rs-3-2-1024k", excluding: [Rig.address(number).id])[0]
            #expect(!group.nodes.contains { $0?.id == Rig.address(number).id })
            #expect(!group.nodes.contains(nil))
        }
    }

    @Test("a container closes when a node of it goes, and is closed when its replicas are")
    func closing() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        rig.now += 6 * second
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .open
        for number in 0..<4 { rig.beat(number, replicas: [replica]) }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosing)
        #expect(
            rig.state.commands(for: Rig.address(0).id).contains { $0.closeContainer == id.rawValue }
        )
        replica.state = .closed
        for number in 0..<4 { rig.beat(number, replicas: [replica]) }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosed)
        // The same is read back from the tables.
        #expect(
            SCMState(options: .init(), reading: rig.tables).containers[id]?.state
                == .containerClosed)
    }

    @Test("a container that never held a block is forgotten, and does not hold up safe mode")
    func neverWritten() throws {
        var rig = try Rig(nodes: 5)
        let id = try rig.allocate("rs-3-2-1024k")[0].blockID.containerID
        rig.now += 6 * second
        for number in 0..<4 { rig.beat(number) }
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerClosing)
        // One node is silent: it might hold a replica.
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty)
        rig.beat(4)
        for command in rig.state.dueStateChanges(at: rig.now) { rig.run(command) }
        #expect(rig.state.containers[id]?.state == .containerDeleted)
        rig.state = SCMState(options: .init(), reading: rig.tables)
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
        #expect(rig.state.dueStateChanges(at: rig.now).map(\.containerState.id) == [id.rawValue])
    }

    @Test("a deletion waits for every node of the container, across a restart")
    func deletion() throws {
        var rig = try Rig(nodes: 5)
        let group = try rig.allocate("rs-3-2-1024k")[0]
        var command = SCMCommand()
        command.deleteBlocks.blocks = [group.blockID.message]
        rig.run(command)
        for number in 0..<5 {
            let commands = rig.state.commands(for: Rig.address(number).id)
            #expect(commands.map(\.deleteBlocks.blocks) == [[group.blockID.message]])
            var done = SCMCommand()
            done.deletedOn.node = Rig.address(number).id.message
            done.deletedOn.transactions = commands.map(\.number)
            rig.run(done)
            #expect(rig.state.commands(for: Rig.address(number).id).isEmpty)
            rig.state = SCMState(options: .init(), reading: rig.tables)
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
        rig.state = SCMState(options: .init(), reading: rig.tables)
        #expect(throws: StoreError.self) { try rig.allocate("rs-3-2-1024k") }
        #expect(rig.state.places(of: id, at: rig.now)?.contains(nil) == false)
        var replica = SCMReplicaReport()
        replica.container = id.rawValue
        replica.state = .closed
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
        rig.now += 6 * second
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
        rig.state = SCMState(options: .init(), reading: rig.tables)
        #expect(rig.state.containers[id]?.empty == [3, 4, 5, 6])
        for number in 0..<9 {
            let node = Rig.address(number).id
            guard holders.contains(node), node != group.nodes[8]!.id else { continue }
            rig.beat(number, replicas: [replica])
        }
        #expect(rig.state.safeModeReason(at: rig.now) == nil)
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
