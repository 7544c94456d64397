import Model
import Testing
import Wire

@testable import SCMCore

private typealias Start = SCMCommand.StartRepairs.Start
private typealias End = SCMCommand.EndRepairs.End

private func start(_ id: ContainerID, _ index: Int, from: Int?, to: Int) -> Start {
    var start = Start()
    start.container = id.rawValue
    start.replicaIndex = UInt32(index)
    if let from { start.from = RepairRig.id(from).message }
    start.to.id = RepairRig.id(to).message
    start.to.host = "127.0.0.1"
    start.to.port = UInt32(1000 + to)
    start.store = 100
    return start
}

private func starts(_ starts: Start...) -> SCMCommand {
    var change = SCMCommand.StartRepairs()
    change.starts = starts
    return SCMCommand(.startRepairs(change))
}

private func end(_ id: ContainerID, _ index: Int, _ token: UInt64, givenUp: Bool = false) -> End {
    var end = End()
    end.container = id.rawValue
    end.replicaIndex = UInt32(index)
    end.token = token
    end.isGivenUp = givenUp
    return end
}

private func ends(_ ends: End...) -> SCMCommand {
    var change = SCMCommand.EndRepairs()
    change.ends = ends
    return SCMCommand(.endRepairs(change))
}

@Suite("commands that begin and end repairs")
struct RepairCommandTests {
    @Test("each start is taken or refused by itself, by the row as those before it left it")
    func conditions() throws {
        var rig = try RepairRig(nodes: 8)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, nil])
        let other = try rig.addContainer(2, on: [3, 4, 5, 6, 7])
        func refusal(_ start: Start) -> SCMRefusal? {
            if case .refused(let refusal) = rig.run(starts(start)) { refusal } else { nil }
        }
        #expect(
            refusal(start(ContainerID(9), 1, from: 0, to: 5)) == .noSuchContainer(ContainerID(9)))
        #expect(refusal(start(id, 0, from: 0, to: 5)) == .placeIsAnothers(id, index: 0))
        #expect(refusal(start(id, 6, from: nil, to: 5)) == .placeIsAnothers(id, index: 6))
        #expect(refusal(start(id, 1, from: 1, to: 5)) == .placeIsAnothers(id, index: 1))
        #expect(refusal(start(id, 1, from: nil, to: 5)) == .placeIsAnothers(id, index: 1))
        #expect(refusal(start(id, 5, from: 4, to: 5)) == .placeIsAnothers(id, index: 5))
        #expect(refusal(start(id, 1, from: 0, to: 3)) == .hasReplica(id, RepairRig.id(3)))
        #expect(rig.container(id).repairs.isEmpty)
        // Two that go together, one that does not go with them, and one of another container.
        let answer = rig.run(
            starts(
                start(id, 1, from: 0, to: 5), start(id, 2, from: 1, to: 5),
                start(id, 5, from: nil, to: 6), start(other, 1, from: 3, to: 3)))
        #expect(answer.rows.count == 2)
        #expect(rig.repairs(id) == [1: 5, 5: 6])
        #expect(rig.repairs(other) == [1: 3], "the node of the place may make it anew")
        let index = rig.index
        #expect(rig.container(id).repairs.map(\.token) == [index << 16, index << 16 + 2])
        #expect(refusal(start(id, 1, from: 0, to: 7)) == .isBeingRebuilt(id, index: 1))
        #expect(refusal(start(id, 2, from: 1, to: 6)) == .hasReplica(id, RepairRig.id(6)))
        // Nothing changed of what counts: the places are where they were.
        #expect(rig.places(id) == [0, 1, 2, 3, nil])
        #expect(rig.container(id).orders.isEmpty)
    }

    @Test("only a closed container's replicas are rebuilt")
    func states() throws {
        var rig = try RepairRig(nodes: 8)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.run(starts(start(id, 1, from: 0, to: 5)))
        let token = rig.container(id).repairs[0].token
        var change = SCMCommand.ContainerStateChange()
        change.id = 1
        change.from = .containerClosed
        change.state = .containerDeleting
        rig.run(SCMCommand(.containerState(change)))
        #expect(
            rig.run(starts(start(id, 2, from: 1, to: 6)))
                == .refused(.containerIs(id, .containerDeleting)))
        #expect(
            rig.run(ends(end(id, 1, token))) == .refused(.containerIs(id, .containerDeleting)))
        rig.run(ends(end(id, 1, token, givenUp: true)))
        #expect(rig.container(id).repairs.isEmpty && rig.places(id) == [0, 1, 2, 3, 4])
    }

    @Test("an order that ends takes the place; another one, or one that has ended, does nothing")
    func ending() throws {
        var rig = try RepairRig(nodes: 8)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4], empty: [2])
        rig.run(starts(start(id, 1, from: 0, to: 5), start(id, 2, from: 1, to: 6)))
        let tokens = rig.container(id).repairs.map(\.token)
        #expect(rig.run(ends(end(id, 1, 7))) == .refused(.noSuchRepair(id, index: 1)))
        #expect(rig.run(ends(end(id, 3, tokens[0]))) == .refused(.noSuchRepair(id, index: 3)))
        rig.state.markCorrupt(id, index: 1)
        rig.state.markCorrupt(id, index: 3)
        rig.run(ends(end(id, 1, tokens[0]), end(id, 2, tokens[1])))
        #expect(rig.places(id) == [5, 6, 2, 3, 4])
        #expect(rig.container(id).orders == [tokens[0], tokens[1], 0, 0, 0])
        #expect(rig.container(id).empty.isEmpty && rig.container(id).witnessed.contains(2))
        #expect(rig.container(id).corrupt == [3], "what is said of the old replica is forgotten")
        #expect(rig.run(ends(end(id, 1, tokens[0]))) == .refused(.noSuchRepair(id, index: 1)))
        // Given up: nothing is as if it had been.
        rig.run(starts(start(id, 1, from: 5, to: 0)))
        let third = rig.container(id).repairs[0].token
        #expect(third > tokens[1])
        rig.run(ends(end(id, 1, third, givenUp: true)))
        #expect(rig.places(id) == [5, 6, 2, 3, 4] && rig.container(id).orders[0] == tokens[0])
        #expect(rig.container(id).repairs.isEmpty)
        // The tables say the same.
        let read = try SCMState(options: .init(), reading: rig.tables, at: rig.now)
        #expect(read.containers[id]?.nodes == rig.container(id).nodes)
        #expect(read.containers[id]?.orders == rig.container(id).orders)
        #expect(read.members == rig.state.members)
    }

    @Test("a row from before indexes were witnessed says so of the others when one is rebuilt")
    func oldRow() throws {
        var rig = try RepairRig(nodes: 8)
        var creation = SCMCommand.CreateContainer()
        creation.id = 1
        creation.replication = try ReplicationConfig("rs-3-2-1024k").message
        creation.nodes = (0..<5).map { rig.address($0).message }
        rig.run(SCMCommand(.createContainer(creation)))
        var change = SCMCommand.ContainerStateChange()
        change.id = 1
        change.state = .containerClosed
        change.emptyIndexes = [2]
        rig.run(SCMCommand(.containerState(change)))
        let id = ContainerID(1)
        rig.run(starts(start(id, 3, from: 2, to: 6)))
        rig.run(ends(end(id, 3, rig.container(id).repairs[0].token)))
        #expect(rig.container(id).witnessed == [1, 3, 4, 5])
    }

    @Test("tables of formats 1 to 3 are read, and written as 3")
    func format() {
        #expect(SCMStateMachine().format == TablesFormat(current: 4, oldest: 1))
    }
}

@Suite("deletions reach replicas that are rebuilt")
struct RepairDeletionTests {
    private func delete(_ id: ContainerID, in rig: inout RepairRig) throws -> UInt64 {
        var change = SCMCommand.DeleteBlocks()
        change.blocks = [BlockID(containerID: id, localID: 5).message]
        let answer = rig.run(SCMCommand(.deleteBlocks(change)))
        guard case .deletion(let number, _)? = answer.rows.first else {
            throw StoreError(.corrupt, "no deletion: \(answer)")
        }
        return number
    }

    private func waiting(_ number: UInt64, _ rig: RepairRig) -> Set<Int>? {
        rig.state.deletions.all[number].map { Set($0.map { rig.number($0) }) }
    }

    @Test(
        "one that is logged while a replica is rebuilt waits for the target, told when it is whole")
    func duringRepair() throws {
        var rig = try RepairRig(nodes: 6)
        rig.seconds = 5
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.lose(id, on: 0)
        rig.tick()
        #expect(rig.repairs(id) == [1: 5])
        let number = try delete(id, in: &rig)
        #expect(waiting(number, rig) == [0, 1, 2, 3, 4, 5])
        rig.tick(2)
        #expect(rig.nodes[1].told[number] == id)
        #expect(rig.nodes[5].told.isEmpty, "it may copy the block yet")
        for node in 1...4 { rig.confirm([number], by: RepairRig.id(node)) }
        rig.tick(8)
        #expect(rig.places(id) == [5, 1, 2, 3, 4])
        #expect(rig.nodes[5].told[number] == id)
        // Who had the place is not waited for.
        #expect(waiting(number, rig) == [5])
        rig.confirm([number], by: RepairRig.id(5))
        #expect(waiting(number, rig) == nil)
    }

    @Test("one that was logged before waits for late replicas too, each once, before it ends")
    func late() throws {
        var rig = try RepairRig(nodes: 7)
        rig.seconds = 3
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        let number = try delete(id, in: &rig)
        rig.lose(id, on: 0)
        rig.tick()
        let target = try #require(rig.repairs(id)[1])
        #expect(waiting(number, rig) == [0, 1, 2, 3, 4])
        for node in 0...4 { rig.confirm([number], by: RepairRig.id(node)) }
        #expect(waiting(number, rig) == [target])
        let row = try #require(rig.tables.get(SCMTable.deletions, SCMTable.key(number)))
        #expect(try SCMDeletionRecord(parsing: row).late == [RepairRig.id(target).message])
        // The same by a memory that is read from the tables.
        let read = try SCMState(options: .init(), reading: rig.tables, at: rig.now)
        #expect(read.deletions.all == rig.state.deletions.all)
        #expect(rig.nodes[target].told.isEmpty)
        rig.tick(8)
        #expect(rig.places(id)[0] == target && rig.nodes[target].told[number] == id)
        rig.confirm([number], by: RepairRig.id(target))
        #expect(waiting(number, rig) == nil)
        // One that comes after the repair waits for the members alone, and for none of them twice.
        let next = try delete(id, in: &rig)
        for node in [target, 1, 2, 3, 4] { rig.confirm([next], by: RepairRig.id(node)) }
        #expect(waiting(next, rig) == nil)
    }

    @Test("a target that says that it has no such replica yet is told again")
    func absent() throws {
        var rig = try RepairRig(nodes: 6)
        rig.seconds = 50
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.lose(id, on: 0)
        rig.tick()
        let number = try delete(id, in: &rig)
        #expect(rig.repairs(id) == [1: 5])
        #expect(rig.state.heard(RepairRig.id(5), absent: [number], at: rig.now).isEmpty)
        #expect(waiting(number, rig)?.contains(5) == true)
        // Of a node that has to do with the container no more it is done.
        #expect(rig.state.heard(RepairRig.id(6), absent: [number], at: rig.now) == [number])
    }

    @Test("a dead node that has no place any more holds up no deletion, with whichever leader")
    func departed() throws {
        for changesLeader in [false, true] {
            var rig = try RepairRig(nodes: 6)
            let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
            rig.tick(2)
            let number = try delete(id, in: &rig)
            rig.nodes[0].isUp = false
            rig.tick(15)
            for node in 1...4 { rig.confirm([number], by: RepairRig.id(node)) }
            #expect(waiting(number, rig) == [0])
            for _ in 0..<30 where rig.places(id)[0] == 0 {
                if changesLeader { rig.state.departed = [:] }
                rig.tick()
            }
            #expect(rig.places(id)[0] == 5)
            if changesLeader {
                // The one before did not come to log it.
                try rig.changeLeader()
            }
            rig.tick()
            #expect(waiting(number, rig) == [5], "the replica that was rebuilt meanwhile")
            rig.confirm([number], by: RepairRig.id(5))
            #expect(waiting(number, rig) == nil)
        }
    }

    @Test("a target that gives up is not waited for")
    func givenUp() throws {
        var rig = try RepairRig(nodes: 7)
        rig.seconds = 1000
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.lose(id, on: 0)
        rig.tick()
        let target = try #require(rig.repairs(id)[1])
        let number = try delete(id, in: &rig)
        rig.nodes[target].isUp = false
        rig.tick(20)
        #expect(rig.repairs(id)[1] != target)
        #expect(waiting(number, rig)?.contains(target) == false)
    }
}
