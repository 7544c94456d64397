import Model
import Testing
import Wire

@testable import SCMCore

@Suite("repairs of closed containers")
struct RepairTests {
    @Test("a lost replica is rebuilt at once, on a node that has none, and takes the place")
    func lost() throws {
        var rig = try RepairRig(nodes: 6, options: RepairRig.options(repairAfter: 300))
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
        rig.lose(id, on: 1)
        rig.tick()
        #expect(rig.repairs(id) == [2: 5])
        var row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.degradedBlocks == 7 && row.degradedContainers == 1 && row.repairs == 1)
        #expect(row.leastRedundancy == 1 && row.fullRedundancy == 2 && row.containers == 1)
        #expect(row.waiting == 0 && row.missingReplicas == 1)
        rig.tick()
        let work = try #require(rig.nodes[5].work[id])
        #expect(work.order.sources.map(\.replicaIndex) == [1, 3, 4, 5])
        #expect(work.order.sources.map(\.node) == [0, 2, 3, 4].map { rig.address($0).message })
        #expect(work.order.replicaIndex == 2 && work.order.emptyIndexes.isEmpty)
        #expect(work.order.token == rig.container(id).repairs[0].token)
        // While it is rebuilt it counts for nothing.
        #expect(rig.state.presence(of: 1, in: rig.container(id), at: rig.now) == .lost)
        rig.tick(5)
        #expect(rig.places(id) == [0, 5, 2, 3, 4] && rig.container(id).repairs.isEmpty)
        #expect(rig.state.presence(of: 1, in: rig.container(id), at: rig.now) == .here)
        row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.degradedBlocks == 0 && row.leastRedundancy == 2 && row.repairs == 0)
        // No orders any more, and no member that was.
        #expect(rig.state.commands(for: RepairRig.id(5), at: rig.now).isEmpty)
        rig.lose(id, on: 5)
        rig.tick()
        #expect(rig.repairs(id) == [2: 1], "who had it is as good as any other")
    }

    @Test("a dead node's replicas are rebuilt some time after its death, not before")
    func dead() throws {
        var rig = try RepairRig(nodes: 6, options: RepairRig.options(repairAfter: 60))
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[3].isUp = false
        rig.tick(17)
        // It counts as missing, and waits.
        let row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.degradedBlocks == 7 && row.waiting == 1 && row.repairs == 0)
        rig.tick(56)
        #expect(rig.repairs(id).isEmpty)
        rig.tick(5)
        #expect(rig.repairs(id) == [4: 5])
        rig.tick(5)
        #expect(rig.places(id) == [0, 1, 2, 5, 4])
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test(
        "a node that comes back before its replica is rebuilt keeps it, and the repair is given up")
    func backInTime() throws {
        var rig = try RepairRig(nodes: 6)
        rig.seconds = 30
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[3].isUp = false
        rig.tick(20)
        #expect(rig.repairs(id) == [4: 5] && rig.nodes[5].work[id] != nil)
        rig.nodes[3].isUp = true
        rig.tick(4)
        #expect(rig.places(id) == [0, 1, 2, 3, 4] && rig.repairs(id).isEmpty)
        #expect(rig.nodes[5].work[id] == nil, "what it had begun is removed")
        #expect(rig.nodes[3].removed.isEmpty)
        #expect(rig.state.safety(at: rig.now).repairsGivenUp == 1)
    }

    @Test("a node that comes back later has its replica removed, once all others are whole")
    func backLate() throws {
        var rig = try RepairRig(nodes: 7)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[3].isUp = false
        rig.tick(25)
        let target = try #require(rig.places(id)[3])
        #expect(target > 4)
        // It is back when another one is missing: everything stays until that is rebuilt.
        rig.seconds = 10
        rig.lose(id, on: 0)
        rig.tick()
        rig.nodes[3].isUp = true
        rig.tick(8)
        #expect(!rig.repairs(id).isEmpty && rig.nodes[3].replicas[id] != nil)
        rig.tick(8)
        #expect(rig.repairs(id).isEmpty && rig.places(id)[3] == target)
        #expect(rig.nodes[3].replicas[id] == nil && rig.nodes[3].removed == [id])
        for number in rig.nodes.indices where number != 3 {
            #expect(rig.nodes[number].removed.isEmpty)
        }
        #expect(rig.state.strays.isEmpty)
        // Of a container that nobody knows nothing is removed.
        rig.put(RepairRig.report(ContainerID(99), 2), on: 3)
        rig.tick(3)
        #expect(rig.nodes[3].replicas[ContainerID(99)] != nil)
    }

    @Test("a surplus replica stays while a node of the container is late, or one is damaged")
    func surplusStays() throws {
        var rig = try RepairRig(nodes: 5)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes.append(FakeDatanode())
        var node = SCMCommand()
        node.node.address = rig.address(5).message
        rig.run(node)
        rig.nodes[5].isStuck = true
        rig.state.markCorrupt(id, index: 2)
        rig.put(RepairRig.report(id, 1), on: 5)
        rig.tick(3)
        #expect(rig.nodes[5].removed.isEmpty, "index 2 is damaged, and nobody can rebuild it")
        rig.nodes[1].isUp = false
        rig.tick(7)
        #expect(rig.nodes[5].removed.isEmpty)
    }

    @Test("what is least redundant goes first, and of those what waits for longest")
    func order() throws {
        // One node may rebuild, one replica at a time.
        var options = RepairRig.options()
        options.repairsPerTarget = 1
        options.repairsPerSource = 100
        var rig = try RepairRig(nodes: 6, options: options)
        rig.seconds = 2
        var ids: [ContainerID] = []
        for number in 1...4 as ClosedRange<UInt64> {
            ids.append(try rig.addContainer(number, on: [0, 1, 2, 3, 4]))
        }
        rig.tick(2)
        // No node has room until all is known.
        for number in rig.nodes.indices { rig.nodes[number].free = 0 }
        rig.tick()
        rig.lose(ids[2], on: 0)
        rig.tick()
        rig.lose(ids[0], on: 1)
        rig.tick()
        for number in 2...3 { rig.lose(ids[1], on: number) }
        for number in 0...2 { rig.lose(ids[3], on: number) }
        rig.tick()
        let row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.unreadableContainers == 1 && row.leastRedundancy == -1)
        #expect(row.waiting == 4 && row.repairs == 0 && row.missingReplicas == 7)
        rig.nodes[5].free = 1 << 39
        rig.log = []
        rig.tick(30)
        let order = rig.log.flatMap { $0.startRepairs.starts }.map { ContainerID($0.container) }
        #expect(order == [ids[1], ids[2], ids[0]])
    }

    @Test("no node rebuilds, or is read by, more than its disks bear", arguments: [1, 3])
    func bounds(volumes: Int) throws {
        var options = RepairRig.options()
        options.repairsPerTarget = 2
        options.repairsPerSource = 3
        var rig = try RepairRig(nodes: 8, options: options)
        rig.volumes = volumes
        for number in 1...40 as ClosedRange<UInt64> {
            let first = Int(number)
            _ = try rig.addContainer(number, on: (0..<5).map { (first + $0) % 8 })
        }
        rig.tick(2)
        rig.nodes[0].isUp = false
        var most = (target: 0, source: 0)
        for _ in 0..<200 {
            rig.tick()
            for number in 1..<8 {
                let id = RepairRig.id(number)
                most.target = max(most.target, rig.state.members.repairs(on: id).count)
                most.source = max(most.source, rig.state.members.reads(from: id))
            }
        }
        #expect(most.target == 2 * volumes || most.source == 3 * volumes)
        #expect(most.target <= 2 * volumes && most.source <= 3 * volumes)
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("a repair whose target dies, or does nothing, is begun elsewhere")
    func targets() throws {
        for isDead in [true, false] {
            var options = RepairRig.options()
            options.repairStartNanoseconds = 20 * oneSecond
            var rig = try RepairRig(nodes: 7, options: options)
            rig.seconds = 100
            let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
            rig.tick(2)
            rig.lose(id, on: 0)
            for number in 5...6 { rig.nodes[number].isStuck = true }
            rig.tick()
            let first = try #require(rig.repairs(id)[1])
            let token = rig.container(id).repairs[0].token
            let other = 11 - first
            rig.nodes[other].isStuck = false
            rig.seconds = 3
            if isDead { rig.nodes[first].isUp = false }
            rig.tick(15)
            #expect(rig.container(id).repairs.map(\.token) == [token], "it is waited for")
            rig.tick(45)
            #expect(rig.places(id)[0] == other, "\(isDead)")
            #expect(rig.container(id).orders[0] > token)
            #expect(rig.state.safety(at: rig.now).repairsGivenUp == 1)
        }
    }

    @Test("a repair of which nothing new is reported for long is given up; one that goes on is not")
    func stalled() throws {
        var options = RepairRig.options()
        options.repairStallNanoseconds = 60 * oneSecond
        var rig = try RepairRig(nodes: 6, options: options)
        rig.seconds = 90
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.lose(id, on: 0)
        rig.tick(85)
        #expect(rig.container(id).repairs.count == 1, "it is slow, and goes on")
        rig.tick(10)
        #expect(rig.places(id)[0] == 5)
    }

    @Test("a new leader goes on with the repairs that the rows name, and doubles none")
    func newLeader() throws {
        var rig = try RepairRig(nodes: 8)
        rig.seconds = 12
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.lose(id, on: 0)
        rig.lose(id, on: 1)
        rig.tick()
        let repairs = rig.container(id).repairs
        #expect(repairs.count == 2)
        rig.log = []
        for _ in 0..<3 {
            rig.tick(2)
            try rig.changeLeader()
            #expect(rig.container(id).repairs == repairs)
        }
        rig.tick(12)
        #expect(rig.container(id).repairs.isEmpty)
        #expect(rig.places(id).prefix(2) == repairs.map { rig.number($0.node) }[...])
        #expect(rig.log.allSatisfy { $0.startRepairs.starts.isEmpty })
    }

    @Test("a leader decides nothing, and has nothing removed, before it has applied what there is")
    func catchUp() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.put(RepairRig.report(id, 3), on: 5)
        try rig.changeLeader(catchesUp: false)
        rig.lose(id, on: 0)
        rig.log = []
        rig.tick(5)
        #expect(rig.log.isEmpty && rig.nodes[5].removed.isEmpty)
        #expect(rig.state.termToCatchUp == rig.term)
        rig.state.caughtUp(in: rig.term - 1)
        #expect(rig.state.termToCatchUp == rig.term, "of another term")
        rig.state.caughtUp(in: rig.term)
        rig.tick(10)
        // The only node that is not in the container has a replica of another index.
        #expect(rig.places(id)[0] == 0 && rig.nodes[0].replicas[id] != nil)
        #expect(rig.nodes[5].removed == [id])
    }

    @Test("a damaged replica is rebuilt elsewhere, and removed afterwards")
    func corrupt() throws {
        for isUnhealthy in [true, false] {
            var rig = try RepairRig(nodes: 6)
            let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
            rig.tick(2)
            if isUnhealthy {
                rig.put(RepairRig.report(id, 3, .unhealthy), on: 2)
            } else {
                // Of a node that has no such place nothing is believed.
                rig.state.markCorrupt(id, index: 3, on: RepairRig.id(4))
                rig.tick()
                #expect(rig.repairs(id).isEmpty)
                rig.state.markCorrupt(id, index: 3, on: RepairRig.id(2))
            }
            rig.tick(2)
            #expect(rig.repairs(id) == [3: 5])
            rig.tick()
            #expect(rig.nodes[5].work[id]?.order.sources.map(\.replicaIndex) == [1, 2, 4, 5])
            rig.tick(8)
            #expect(rig.places(id) == [0, 1, 5, 3, 4] && rig.container(id).corrupt.isEmpty)
            #expect(rig.nodes[2].removed == [id])
            #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
        }
    }

    @Test(
        "in a cluster as wide as the container a node rebuilds what it lost, not what readers mark")
    func noOther() throws {
        var rig = try RepairRig(nodes: 5)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.state.markCorrupt(id, index: 2)
        rig.tick(3)
        #expect(rig.repairs(id).isEmpty)
        rig.lose(id, on: 4)
        rig.tick()
        #expect(rig.repairs(id) == [5: 4])
        rig.tick(5)
        #expect(rig.repairs(id).isEmpty && rig.nodes[4].replicas[id] != nil)
        #expect(rig.container(id).orders.max() ?? 0 > 0 && rig.nodes[4].removed.isEmpty)
    }

    @Test("places that no node was found for are filled; empty ones are not, and stand for zeros")
    func degradedGroups() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, nil, 2, 3, 4], empty: [3])
        rig.tick(3)
        let target = try #require(rig.repairs(id)[2])
        #expect(rig.repairs(id).count == 1 && [1, 5].contains(target))
        rig.tick()
        let order = try #require(rig.nodes[target].work[id]?.order)
        #expect(order.emptyIndexes == [3] && order.sources.map(\.replicaIndex) == [1, 4, 5])
        rig.tick(5)
        #expect(rig.places(id) == [0, target, 2, 3, 4])
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("targets are in racks that have fewest of the replicas, and have room")
    func racks() throws {
        // Nodes 0, 3, 6, 9 are in rack 0, and so on.
        var rig = try RepairRig(nodes: 12, racks: 3)
        let id = try rig.addContainer(1, on: [0, 3, 1, 4, 2])
        rig.tick(2)
        for number in [5, 8] { rig.nodes[number].free = 1 << 30 }
        rig.tick()
        rig.lose(id, on: 0)
        rig.lose(id, on: 3)
        rig.tick()
        // Left: two in rack 1 and one in rack 2, where node 11 alone has room.
        #expect(Set(rig.repairs(id).values.map { $0 % 3 }) == [0])
        rig.tick(5)
        rig.lose(id, on: 1)
        rig.lose(id, on: 4)
        rig.tick()
        let racks = rig.repairs(id).values.map { $0 % 3 }.sorted()
        #expect(racks == [1, 1] || racks == [1, 2])
        #expect(rig.repairs(id).values.allSatisfy { ![5, 8].contains($0) })
    }

    @Test("a look costs what changed: nothing where nothing did")
    func quiet() throws {
        var rig = try RepairRig(nodes: 8)
        for number in 1...50 as ClosedRange<UInt64> {
            _ = try rig.addContainer(number, on: (0..<5).map { (Int(number) + $0) % 8 })
        }
        rig.tick(3)
        let looks = rig.state.repairs.looks
        rig.tick(10)
        #expect(rig.state.repairs.looks == looks)
        rig.put(RepairRig.report(ContainerID(1), 1, bytes: 5), on: 1)
        rig.tick()
        #expect(rig.state.repairs.looks == looks + 1)
    }

    @Test("a member that follows decides nothing, and keeps nothing for that")
    func follows() throws {
        var rig = try RepairRig(nodes: 6)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.state.follow()
        rig.lose(id, on: 0)
        rig.log = []
        rig.tick(3)
        #expect(rig.log.isEmpty && rig.state.repairs.unseen.isEmpty)
        #expect(rig.state.repairCounts == SCMState.RepairCounts())
    }
}
