import Chance
import Model
import Testing
import Wire

@testable import SCMCore

@Suite("how many containers are open, and where")
struct OpenContainersTests {
    /// 100 nodes of 24 disks.
    private func cluster() throws -> RepairRig {
        var rig = try RepairRig(nodes: 100, racks: 10)
        rig.volumes = 24
        rig.tick()
        return rig
    }

    /// Asks for groups until no container has to be made first.
    private func allocate(
        _ replication: ReplicationConfig, _ rig: inout RepairRig
    ) throws -> [BlockGroup] {
        for _ in 0..<1000 {
            switch rig.state.allocate(replication, count: 8, at: rig.now, using: &rig.random) {
            case .groups(let groups): return groups
            case .needs(let command): rig.run(command)
            case .refused(let error): throw error
            }
        }
        Issue.record("containers are made without end")
        return []
    }

    /// Each open replica grows by so much in a second.
    private func write(_ bytes: UInt64, _ rig: inout RepairRig) {
        for container in rig.state.containers.values where container.state == .containerOpen {
            for (place, id) in container.nodes.enumerated() {
                guard let id else { continue }
                let number = rig.number(id)
                let before = rig.nodes[number].replicas[container.id]?.usedBytes ?? 0
                rig.put(
                    RepairRig.report(container.id, place + 1, .open, bytes: before + bytes),
                    on: number)
            }
        }
        rig.tick()
    }

    @Test("a bulk ingest comes to use all disks; what is written slowly uses few containers")
    func ingest() throws {
        var rig = try cluster()
        let replication = try ReplicationConfig("rs-6-3-1024k")
        for _ in 0..<20 {
            _ = try allocate(replication, &rig)
            // Disks that give 30 MB/s each to whoever writes.
            write(30_000_000, &rig)
        }
        let open = rig.state.containers.values.filter { $0.state == .containerOpen }
        #expect(open.count == 2400 / 9)
        let used = rig.nodes.indices.map {
            rig.state.members.openContainers(on: RepairRig.id($0))
        }
        #expect(used.min()! >= 23 && used.max()! <= 25, "\(used.min()!) to \(used.max()!)")

        var slow = try cluster()
        for _ in 0..<20 {
            _ = try allocate(replication, &slow)
            write(1_000_000, &slow)
        }
        #expect(slow.state.containers.count == 3)
        // It forgets what was.
        for _ in 0..<12 { rig.tick() }
        #expect(
            rig.state.wantedContainers(
                replication, healthy: rig.state.healthyNodes(at: rig.now, excluding: []),
                at: rig.now) == 3)
    }

    @Test("a small cluster has the least number open, however much is written")
    func small() throws {
        var rig = try RepairRig(nodes: 5)
        let replication = try ReplicationConfig("rs-3-2-1024k")
        for _ in 0..<20 {
            _ = try allocate(replication, &rig)
            write(500_000_000, &rig)
        }
        #expect(rig.state.containers.values.count { $0.state == .containerOpen } == 3)
    }

    @Test("nodes get open replicas by the space that they have")
    func space() throws {
        var rig = try RepairRig(nodes: 20)
        for number in 0..<20 {
            // A quarter of them has a tenth free, a quarter half, the others all.
            let tenths: UInt64 = number < 5 ? 1 : number < 10 ? 5 : 10
            rig.nodes[number].free = (1 << 40) / 10 * tenths + (1 << 30)
        }
        rig.tick()
        var options = rig.state.options
        options.openContainers = 60
        options.containerSize = 1 << 30
        rig = try RepairRig.with(rig, options)
        _ = try allocate(try ReplicationConfig("rs-3-2-1024k"), &rig)
        let open = rig.nodes.indices.map {
            rig.state.members.openContainers(on: RepairRig.id($0))
        }
        #expect(open.reduce(0, +) == 300)
        let (full, half, empty) = (
            open[0..<5].reduce(0, +), open[5..<10].reduce(0, +), open[10...].reduce(0, +)
        )
        // 10 nodes of weight 10.25, 5 of 5.25, 5 of 1.25.
        #expect((200...240).contains(empty), "\(empty)")
        #expect((45...75).contains(half), "\(half)")
        #expect((5...25).contains(full), "\(full)")
        var again = try RepairRig.with(rig, options)
        for number in 0..<20 { again.nodes[number].free = 1 << 40 }
        again.tick()
        let candidates = (0..<20).map {
            Placement.Candidate(id: RepairRig.id($0), rack: "/r", load: 0, free: 1)
        }
        // Among equals chance decides: many sets of nodes.
        let sets = (0..<50).map { _ in
            Set(Placement.choose(5, from: candidates, using: &again.random))
        }
        #expect(Set(sets).count > 40)
    }
}

extension RepairRig {
    /// The same nodes with other options, of an SCM that knows no container.
    fileprivate static func with(
        _ other: RepairRig, _ options: SCMState.Options
    ) throws -> RepairRig {
        var rig = try RepairRig(nodes: other.nodes.count, racks: other.racks, options: options)
        for number in other.nodes.indices { rig.nodes[number].free = other.nodes[number].free }
        rig.tick()
        return rig
    }
}
