import Model
import Testing
import Wire

@testable import SCMCore

/// A cluster in the large, whose containers are where chance put them.
private struct Cluster {
    static let disks = 24
    static let targetBound = 2 * disks
    static let sourceBound = 8 * disks
    var rig: RepairRig
    let containers: Int
    var most = (target: 0, source: 0)
    /// Repairs that came to nothing.
    var givenUp = 0

    init(nodes: Int, containers: Int, repairAfter seconds: UInt64 = 5) throws {
        self.containers = containers
        rig = try RepairRig(
            nodes: nodes, racks: 20, options: RepairRig.options(repairAfter: seconds))
        rig.volumes = Self.disks
        let replication = try ReplicationConfig("rs-6-3-1024k").message
        for number in 1...UInt64(containers) {
            var record = SCMContainerRecord()
            record.id = number
            record.pipeline = number
            record.replication = replication
            record.state = .containerClosed
            record.witnessedIndexes = Array(1...9)
            record.stores = Array(repeating: 100, count: 9)
            // A node of each of nine racks.
            let rack = Int.random(in: 0..<20, using: &rig.random)
            for place in 0..<9 {
                let row = Int.random(in: 0..<nodes / 20, using: &rig.random)
                let node = row * 20 + (rack + place) % 20
                record.nodes.append(rig.address(node).message)
                rig.nodes[node].replicas[ContainerID(number)] =
                    RepairRig.report(ContainerID(number), place + 1)
            }
            rig.tables.put(SCMTable.containers, SCMTable.key(number), record.encoded)
        }
        rig.index = 10_000
        try rig.changeLeader()
        // All is looked at once.
        rig.tick(containers / SCMState.Limits.lookedAtOnce + 3)
    }

    mutating func tick() {
        rig.tick()
        givenUp += rig.log.reduce(0) { $0 + $1.endRepairs.ends.count(where: \.isGivenUp) }
        rig.log = []
        for number in rig.nodes.indices {
            let id = RepairRig.id(number)
            most.target = max(most.target, rig.state.members.repairs(on: id).count)
            if rig.nodes[number].isUp {
                most.source = max(most.source, rig.state.members.reads(from: id))
            }
        }
    }

    /// Until all is whole; how many seconds it took.
    mutating func settle(atMost seconds: Int) -> Int {
        for second in 0..<seconds {
            if second > 25, rig.state.safety(at: rig.now).degradedBlocks == 0 { return second }
            tick()
        }
        return seconds
    }

    /// All is whole, each replica is where the rows say, and in one place alone.
    func check() {
        var wrong = 0
        for container in rig.state.containers.values {
            let nodes = container.nodes.compactMap { $0 }
            let isRight =
                Set(nodes).count == 9 && container.repairs.isEmpty
                && container.nodes.enumerated().allSatisfy { place, id in
                    guard let id else { return false }
                    let node = rig.nodes[rig.number(id)]
                    return node.isUp
                        && Int(node.replicas[container.id]?.replicaIndex ?? 0) == place + 1
                }
            if !isRight { wrong += 1 }
        }
        #expect(wrong == 0, "containers that are not whole, or not as they say")
        #expect(rig.state.containers.count == containers)
        #expect(rig.state.members.repairing.isEmpty)
        #expect(most.target <= Self.targetBound && most.source <= Self.sourceBound, "\(most)")
    }

    /// The most and the mean of what nodes that are there got of rebuilt replicas.
    var spread: (most: Int, mean: Double) {
        let up = rig.nodes.indices.filter { rig.nodes[$0].isUp }
        let counts = up.map { rig.received[RepairRig.id($0)] ?? 0 }
        return (counts.max() ?? 0, Double(counts.reduce(0, +)) / Double(up.count))
    }
}

@Suite("repairs in the large", .serialized)
struct RepairSimulationTests {
    @Test("a node of 10,000 dies: all is rebuilt, evenly, within bounds, at a cost of what it had")
    func oneDies() throws {
        var looks: [Int: Double] = [:]
        for (nodes, containers) in [(200, 20_000), (10_000, 200_000)] {
            var cluster = try Cluster(nodes: nodes, containers: containers)
            let quiet = cluster.rig.state.repairs.looks
            cluster.tick()
            #expect(cluster.rig.state.repairs.looks == quiet, "nothing is looked at again")
            let lost = cluster.rig.nodes[17].replicas.count
            #expect(lost > 100)
            cluster.rig.nodes[17].isUp = false
            let seconds = cluster.settle(atMost: 200)
            #expect(seconds < 200)
            cluster.check()
            #expect(cluster.rig.received.values.reduce(0, +) == lost)
            let spread = cluster.spread
            // Replicas are whole, and racks go before load: two is the least bound there is.
            #expect(spread.most <= max(2, Int((spread.mean * 1.1).rounded(.up))), "\(spread)")
            looks[nodes] = Double(cluster.rig.state.repairs.looks - quiet) / Double(lost)
        }
        // Ten times as much exists, and a replica costs the same.
        #expect(looks[10_000]! < 1.5 * looks[200]! && looks[10_000]! < 20, "\(looks)")
    }

    @Test("with leaders that change and targets that die meanwhile nothing is lost or doubled")
    func trouble() throws {
        var cluster = try Cluster(nodes: 400, containers: 20_000)
        cluster.rig.seconds = 12
        cluster.rig.nodes[17].isUp = false
        for _ in 0..<20 { cluster.tick() }
        for round in 0..<8 {
            for _ in 0..<4 { cluster.tick() }
            if round % 4 == 1 {
                try cluster.rig.changeLeader()
            } else if let victim = cluster.rig.nodes.indices.last(where: {
                cluster.rig.nodes[$0].isUp && !cluster.rig.nodes[$0].work.isEmpty
            }) {
                cluster.rig.nodes[victim].isUp = false
            }
        }
        #expect(cluster.rig.nodes.count { !$0.isUp } >= 3)
        // The first one comes back in the middle of it.
        cluster.rig.nodes[17].isUp = true
        let seconds = cluster.settle(atMost: 300)
        #expect(seconds < 300)
        for _ in 0..<40 { cluster.tick() }
        cluster.check()
        #expect(cluster.givenUp > 0, "targets died at it")
        // What is left of replicas is one for each place.
        let replicas = cluster.rig.nodes.filter(\.isUp).reduce(0) { $0 + $1.replicas.count }
        #expect(replicas == 9 * cluster.containers)
        #expect(cluster.rig.nodes.allSatisfy { !$0.isUp || $0.work.isEmpty })
    }

    @Test("a node of 1,000 leaves: all is copied, evenly, within bounds, and counts meanwhile")
    func oneLeaves() throws {
        var cluster = try Cluster(nodes: 1000, containers: 100_000)
        let held = cluster.rig.nodes[17].replicas.count
        #expect(held > 700)
        let looks = cluster.rig.state.repairs.looks
        try cluster.rig.operate(17, to: .decommissioning)
        var seconds = 0
        while cluster.rig.operation(17) == .decommissioning, seconds < 2000 {
            cluster.tick()
            seconds += 1
            #expect(cluster.rig.state.safety(at: cluster.rig.now).degradedBlocks == 0)
        }
        for _ in 0..<4 { cluster.tick() }
        #expect(cluster.rig.nodes[17].replicas.isEmpty && cluster.givenUp == 0)
        #expect(cluster.rig.received.values.reduce(0, +) == held)
        #expect(cluster.most.target <= Cluster.targetBound)
        #expect(cluster.most.source <= Cluster.sourceBound)
        #expect(cluster.spread.most <= 5, "\(cluster.spread)")
        // However much waits for its one source, a tick looks at little of it.
        let cost = Double(cluster.rig.state.repairs.looks - looks) / Double(seconds)
        #expect(cost < 2 * Double(Cluster.sourceBound), "\(cost) looks a second")
    }
}
