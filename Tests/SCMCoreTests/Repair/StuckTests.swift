import Model
import Testing
import Wire

@testable import SCMCore

@Suite("what nobody waits for for ever")
struct StuckTests {
    private func delete(_ localID: UInt64, in id: ContainerID, _ rig: inout RepairRig) {
        var change = SCMCommand.DeleteBlocks()
        change.blocks = [BlockID(containerID: id, localID: localID).message]
        rig.run(SCMCommand(.deleteBlocks(change)))
    }

    @Test("a deletion does not wait for a dead node that no byte of the container fell to")
    func emptyPlace() throws {
        var rig = try RepairRig(nodes: 6, options: RepairRig.options(repairAfter: 5))
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4], empty: [2])
        rig.tick(2)
        rig.nodes[1].isUp = false
        rig.tick(40)
        #expect(rig.places(id)[1] == 1 && rig.state.safety(at: rig.now).degradedBlocks == 0)
        delete(9, in: id, &rig)
        for number in [0, 2, 3, 4] {
            rig.confirm(Array(rig.state.deletions.all.keys), by: RepairRig.id(number))
        }
        rig.tick(2)
        #expect(rig.state.pendingDeletions == 0)
        // What an earlier leader has left so, too.
        delete(10, in: id, &rig)
        for number in [0, 2, 3, 4] {
            rig.confirm(Array(rig.state.deletions.all.keys), by: RepairRig.id(number))
        }
        #expect(rig.state.pendingDeletions == 1)
        try rig.changeLeader()
        rig.tick(2)
        #expect(rig.state.pendingDeletions == 0)
    }

    @Test("a removed container's deletions wait for nobody")
    func removed() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        delete(9, in: id, &rig)
        #expect(rig.state.pendingDeletions == 1)
        for (from, to) in [
            (SCMContainerState.containerClosed, SCMContainerState.containerDeleting),
            (.containerDeleting, .containerDeleted),
        ] {
            var change = SCMCommand.ContainerStateChange()
            change.id = id.rawValue
            change.from = from
            change.state = to
            rig.run(SCMCommand(.containerState(change)))
        }
        rig.tick(2)
        #expect(rig.state.pendingDeletions == 0)
    }

    @Test(
        "what no node can make holds up neither what leaves nor what others lack; a new node makes it"
    )
    func hopeless() throws {
        // rs-10-4 as wide as the cluster, and more of it than is examined in vain.
        var rig = try RepairRig(nodes: 14)
        rig.seconds = 2
        for number in 1...200 as ClosedRange<UInt64> {
            _ = try rig.addContainer(number, on: Array(0..<14), "rs-10-4-1024k")
        }
        let narrow = try rig.addContainer(1000, on: [0, 1, 2, 3, 4])
        rig.tick(3)
        rig.nodes[13].isUp = false
        rig.tick(25)
        #expect(rig.state.repairs.count == 0, "they wait, and nobody waits behind them")
        #expect(rig.state.safety(at: rig.now).rows[0].degradedContainers == 200)
        try rig.operate(3, to: .decommissioning, force: true)
        rig.tick(8)
        #expect(rig.places(narrow)[3] != 3)
        // One more is lost of one of them: it is looked at at once, and cannot be made either.
        rig.lose(ContainerID(7), on: 5)
        rig.tick(3)
        #expect(rig.repairs(ContainerID(7)) == [6: 5], "its own node makes it")
        rig.nodes.append(FakeDatanode())
        var node = SCMCommand()
        node.node.address = rig.address(14).message
        rig.run(node)
        rig.log = []
        rig.tick(4)
        #expect(rig.log.contains { !$0.startRepairs.starts.isEmpty })
    }

    @Test("a node that leaves makes nothing more, and has left when nothing is to come to it")
    func target() throws {
        var rig = try RepairRig(nodes: 7)
        rig.seconds = 1000
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.lose(id, on: 1)
        rig.tick(2)
        let target = try #require(rig.repairs(id)[2])
        try rig.operate(target, to: .decommissioning)
        #expect(rig.state.dueOperations(at: rig.now, wall: rig.wall) == nil)
        rig.tick(3)
        #expect(rig.repairs(id)[2] != target && rig.repairs(id)[2] != nil)
        rig.tick(3)
        #expect(rig.operation(target) == .decommissioned)
    }

    @Test("a damaged replica of a container that is being removed is removed with it")
    func damaged() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        var change = SCMCommand.ContainerStateChange()
        change.id = id.rawValue
        change.from = .containerClosed
        change.state = .containerDeleting
        rig.run(SCMCommand(.containerState(change)))
        var replica = RepairRig.report(id, 2, .unhealthy)
        replica.blocks = 0
        rig.put(replica, on: 1)
        rig.beat(1)
        let commands = rig.state.commands(for: RepairRig.id(1), at: rig.now)
        #expect(commands.map(\.removeReplica.replicaIndex) == [2])
        let others = rig.state.commands(for: RepairRig.id(0), at: rig.now)
        #expect(others.map(\.deleteContainer) == [id.rawValue])
    }

    @Test("a replica of another index on a node that has a place goes when all others are whole")
    func otherIndex() throws {
        var rig = try RepairRig(nodes: 5)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        // Its own is lost; what it has instead is of a node that is well. There is no other node.
        rig.put(RepairRig.report(id, 5), on: 2)
        rig.tick(12)
        #expect(rig.nodes[2].removed == [id])
        #expect(rig.nodes[2].replicas[id]?.replicaIndex == 3)
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("files that cannot be opened go when their replica is elsewhere, not before")
    func unusable() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[4].isUp = false
        rig.tick(7)
        rig.lose(id, on: 1)
        rig.tick(6)
        #expect(rig.places(id)[1] == 5 && rig.nodes[1].moved.isEmpty, "index 5 is not heard of")
        rig.nodes[4].isUp = true
        rig.tick(5)
        #expect(rig.nodes[1].moved == [id] && rig.nodes[1].removed.isEmpty)
        #expect(rig.state.strays.isEmpty)
        // A disk that is out is left alone: its files may be there again.
        rig.nodes[2].replicas[id] = nil
        rig.nodes[2].news[id] = RepairRig.report(id, 3, .lost)
        rig.tick(8)
        #expect(rig.places(id)[2] == 1 && rig.nodes[2].moved.isEmpty)
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("where no other is left, a node moves files aside that it cannot open, and has the place")
    func lastResort() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[5].news[id] = RepairRig.report(id, 0, .lost)
        rig.nodes[3].isUp = false
        rig.tick(17)
        #expect(rig.repairs(id) == [4: 5])
        rig.tick()
        #expect(rig.nodes[5].work[id]?.order.replaces == true)
        rig.tick(6)
        #expect(rig.places(id) == [0, 1, 2, 5, 4])
    }

    @Test("what waits for a node at its bound does not rest, whatever else cannot be made")
    func waits() throws {
        var options = RepairRig.options()
        options.repairsPerTarget = 1
        var rig = try RepairRig(nodes: 5, options: options)
        rig.seconds = 20
        let ids = try (1...3 as ClosedRange<UInt64>).map {
            try rig.addContainer($0, on: [0, 1, 2, 3, 4])
        }
        rig.tick(2)
        // Nobody but node 0 can have index 1 again, and nobody at all index 2.
        rig.nodes[1].isUp = false
        rig.tick(17)
        rig.log = []
        for id in ids { rig.lose(id, on: 0) }
        rig.tick(75)
        let starts = rig.log.flatMap { $0.startRepairs.starts }
        #expect(Set(starts.map { ContainerID($0.container) }) == Set(ids), "each had its turn")
        #expect(ids.allSatisfy { rig.places($0)[0] == 0 && rig.repairs($0).isEmpty })
    }

    @Test("a member that hears of replicas before it knows their container has them in order")
    func lateRows() throws {
        var rig = try RepairRig(nodes: 8)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[3].isUp = false
        rig.tick(25)
        let target = try #require(rig.places(id)[3])
        // A follower that was down: datanodes register before it has the row, which has moved on.
        let row = try SCMContainerRecord(
            parsing: try #require(rig.tables.get(SCMTable.containers, SCMTable.key(1))))
        rig.tables.delete(SCMTable.containers, SCMTable.key(1))
        rig.nodes[3].isUp = true
        try rig.changeLeader()
        #expect(rig.state.unknown[id]?.contains(RepairRig.id(target)) == true)
        rig.tables.put(SCMTable.containers, SCMTable.key(1), row.encoded)
        rig.state.take(.container(row), at: rig.now)
        #expect(rig.state.unknown.isEmpty)
        rig.tick(4)
        #expect(rig.nodes[3].removed == [id], "who has no place any more is told to remove it")
        #expect(rig.nodes[target].removed.isEmpty)
    }
}
