import Model
import Testing
import Wire

@testable import SCMCore

@Suite("whole replicas on nodes that have no place")
struct AdoptionTests {
    @Test("one that came back too late takes the place over when who has it by now is gone")
    func back() throws {
        var rig = try RepairRig(nodes: 7)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[3].isUp = false
        rig.tick(25)
        let target = try #require(rig.places(id)[3])
        // Something else is missing, so that what it has is not removed.
        rig.seconds = 1000
        rig.lose(id, on: 0)
        rig.tick()
        rig.nodes[3].isUp = true
        rig.tick(3)
        #expect(rig.nodes[3].replicas[id] != nil && rig.places(id)[3] == target)
        rig.lose(id, on: target)
        rig.log = []
        rig.tick(3)
        #expect(rig.places(id)[3] == 3 && rig.nodes[3].work[id] == nil, "nothing is copied")
        #expect(rig.state.presence(of: 3, in: rig.container(id), at: rig.now) == .here)
        #expect(rig.log.flatMap { $0.endRepairs.ends }.map(\.isGivenUp) == [false])
    }

    @Test("what cannot be read is whole again when disks of dead nodes are found on others")
    func moved() throws {
        var rig = try RepairRig(nodes: 8, options: RepairRig.options(repairAfter: 600))
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        for number in 0..<3 { rig.nodes[number].isUp = false }
        rig.tick(20)
        #expect(rig.state.safety(at: rig.now).rows[0].unreadableContainers == 1)
        // Two of the disks are in other machines by now; nobody waits for ten minutes.
        rig.put(RepairRig.report(id, 1), on: 5)
        rig.put(RepairRig.report(id, 3), on: 6)
        rig.tick(3)
        #expect(rig.places(id) == [5, 1, 6, 3, 4])
        let row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.unreadableContainers == 0 && row.missingReplicas == 1)
        // Index 2 waits for its node: enough is there.
        rig.tick(30)
        #expect(rig.places(id)[1] == 1 && rig.repairs(id).isEmpty)
    }

    @Test("a disk that is elsewhere before its node is missed is not taken for a second copy")
    func quick() throws {
        var rig = try RepairRig(nodes: 7)
        let ids = try (1...3 as ClosedRange<UInt64>).map {
            try rig.addContainer($0, on: [0, 1, 2, 3, 4])
        }
        rig.tick(2)
        // The disks of three machines, in two others within a second.
        for number in 1...3 { rig.nodes[number].isUp = false }
        for id in ids {
            rig.put(RepairRig.report(id, 2), on: 5)
            rig.put(RepairRig.report(id, 3), on: 6)
        }
        rig.tick(30)
        #expect(rig.nodes[5].removed.isEmpty && rig.nodes[6].removed.isEmpty)
        for id in ids { #expect(rig.places(id) == [0, 5, 6, 3, 4]) }
        #expect(rig.state.safety(at: rig.now).rows[0].unreadableContainers == 0)
    }

    @Test("one on a node that has not made its own holds up no closing, and leaves nothing empty")
    func member() throws {
        var rig = try RepairRig(nodes: 8)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        // Open again, and nobody has heard of index 3.
        var record = try SCMContainerRecord(
            parsing: try #require(rig.tables.get(SCMTable.containers, SCMTable.key(1))))
        record.state = .containerClosing
        record.witnessedIndexes = [1, 2, 4, 5]
        rig.tables.put(SCMTable.containers, SCMTable.key(1), record.encoded)
        for number in 0..<5 { rig.nodes[number].news = [:] }
        rig.nodes[2].replicas[id] = nil
        rig.nodes[3].isUp = false
        rig.nodes[2].replicas[id] = RepairRig.report(id, 4)
        try rig.changeLeader()
        rig.tick(17)
        let due = rig.state.dueStateChanges(at: rig.now)
        #expect(due.map(\.containerState.state) == [.containerClosed])
        #expect(due.allSatisfy { $0.containerState.emptyIndexes.isEmpty })
        for command in due { rig.run(command) }
        rig.tick(12)
        // Index 3 is made elsewhere; then index 4 is found where it is, or made as well.
        let places = rig.places(id)
        #expect(places[2] != 2 && places[3] != 3, "\(places)")
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
        #expect(Set(places.compactMap { $0 }).count == 5)
    }

    @Test("of another index, damaged, or on a node that leaves it is not taken")
    func others() throws {
        var rig = try RepairRig(nodes: 9)
        rig.seconds = 1000
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.put(RepairRig.report(id, 2), on: 5)
        rig.put(RepairRig.report(id, 1, .unhealthy), on: 6)
        rig.put(RepairRig.report(id, 1), on: 7)
        try rig.operate(7, to: .decommissioning)
        rig.lose(id, on: 0)
        rig.tick(4)
        #expect(rig.places(id)[0] == 0 && rig.repairs(id) == [1: 8])
    }

    @Test("deletions that are waited for reach it")
    func deletions() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.put(RepairRig.report(id, 2), on: 5)
        rig.nodes[2].isUp = false
        rig.tick(7)
        // Node 2 is late: the stray stays.
        var change = SCMCommand.DeleteBlocks()
        change.blocks = [BlockID(containerID: id, localID: 9).message]
        rig.run(SCMCommand(.deleteBlocks(change)))
        let number = try #require(rig.state.deletions.all.keys.first)
        rig.lose(id, on: 1)
        rig.tick(3)
        #expect(rig.places(id)[1] == 5)
        for node in [0, 2, 3, 4] { rig.confirm([number], by: RepairRig.id(node)) }
        rig.tick(2)
        #expect(rig.nodes[5].told[number] == id)
        #expect(rig.state.deletions.all[number] == [RepairRig.id(5)])
    }
}
