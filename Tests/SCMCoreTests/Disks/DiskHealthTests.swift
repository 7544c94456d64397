import Chance
import Model
import Testing
import Wire

@testable import SCMCore

private let usual: UInt64 = 20_000_000
private let slowly: UInt64 = 500_000_000

/// What a disk reports of which `count` operations of each kind took so long lately.
private func volume(
    _ path: String, syncs: UInt64, count: UInt64 = 50, oldest: UInt64 = 0
) -> DNVolume {
    var volume = DNVolume()
    volume.path = path
    volume.capacity = 1 << 40
    volume.available = 1 << 39
    volume.reads.count = count
    volume.reads.p99 = 2_000_000
    volume.syncs.count = count
    volume.syncs.p50 = syncs / 2
    volume.syncs.p99 = syncs
    volume.oldest = oldest
    return volume
}

/// Nodes that report each second.
private struct Reports {
    var health = DiskHealth()
    var now = 1000 * oneSecond
    var volumes: [[DNVolume]]

    init(nodes: Int, volumes count: Int = 1) {
        volumes = (0..<nodes).map { _ in (0..<count).map { volume("/disk\($0)", syncs: usual) } }
    }

    mutating func set(_ node: Int, _ disk: Int = 0, syncs: UInt64, count: UInt64 = 50) {
        volumes[node][disk] = volume("/disk\(disk)", syncs: syncs, count: count)
    }

    mutating func second(_ count: Int = 1) {
        for _ in 0..<count {
            now += oneSecond
            for node in volumes.indices {
                health.heard(RepairRig.id(node), volumes[node], at: now)
            }
        }
    }

    /// Seconds until `isDone`; at most 2000.
    mutating func seconds(until isDone: (DiskHealth) -> Bool) -> Int {
        for seconds in 0..<2000 {
            if isDone(health) { return seconds }
            second()
        }
        return .max
    }

    func state(_ node: Int, _ disk: Int = 0) -> DiskHealth.State {
        health.slow(on: RepairRig.id(node)).first { $0.path == "/disk\(disk)" }?.disk.state
            ?? .normal
    }
}

@Suite("Slow disks")
struct DiskHealthTests {
    @Test("the median of a spread is that of its values within a quarter of an octave")
    func spread() {
        var random = SeededGenerator(seed: 5)
        var spread = LatencySpread()
        var values: [UInt64] = []
        #expect(spread.median == nil)
        for round in 0..<2000 {
            if round % 3 == 2 {
                let value = values.remove(at: Int.random(in: values.indices, using: &random))
                spread.remove(value)
            } else {
                let value =
                    UInt64(1) << UInt64.random(in: 10...35, using: &random)
                    | UInt64.random(in: 0..<1024, using: &random)
                values.append(value)
                spread.add(value)
            }
            #expect(spread.count == values.count)
            guard let median = spread.median else { continue }
            let exact = Double(values.sorted()[(values.count - 1) / 2])
            #expect((0.8...1.25).contains(Double(median) / exact))
        }
    }

    @Test("a disk slower than the others is observed at once, and avoided within ten seconds")
    func found() {
        var reports = Reports(nodes: 9)
        reports.second(5)
        #expect(reports.health.observed == 0)
        reports.set(3, syncs: slowly)
        reports.second()
        #expect(reports.state(3) == .observed)
        #expect(!reports.health.isAvoided(RepairRig.id(3)), "it may be chance")
        let seconds = reports.seconds { $0.avoided == 1 }
        #expect(seconds < 9)
        #expect(reports.state(3) == .avoided)
        #expect(reports.health.isAvoided(RepairRig.id(3)))
        #expect(!reports.health.isAvoided(RepairRig.id(2)))
    }

    @Test("a hiccup, which reports tell of for five seconds, is observed and no more")
    func hiccup() {
        var reports = Reports(nodes: 9)
        for _ in 0..<20 {
            reports.set(3, syncs: slowly)
            reports.second(5)
            reports.set(3, syncs: usual)
            reports.second(5)
            #expect(reports.health.avoided == 0)
        }
        reports.second(Int(DiskHealth.Limits.calm / oneSecond))
        #expect(reports.state(3) == .normal)
    }

    @Test("where all are slow, or none takes long, nobody is")
    func alike() {
        var reports = Reports(nodes: 9)
        for node in 0..<9 { reports.set(node, syncs: slowly * UInt64(8 + node % 3) / 8) }
        reports.second(30)
        #expect(reports.health.observed + reports.health.avoided == 0)
        var quick = Reports(nodes: 9)
        for node in 0..<9 { quick.set(node, syncs: 1_000_000) }
        quick.set(4, syncs: 90_000_000)
        quick.second(30)
        #expect(quick.health.observed == 0, "ninety times as long, and no harm")
        var few = Reports(nodes: 3)
        few.set(1, syncs: slowly)
        few.second(30)
        #expect(few.health.observed == 0, "too few to compare with")
    }

    @Test("too few operations tell nothing, one that does not end does")
    func hung() {
        var reports = Reports(nodes: 9)
        reports.set(3, syncs: slowly, count: 3)
        reports.second(30)
        #expect(reports.state(3) == .normal)
        reports.volumes[3][0] = volume("/disk0", syncs: 0, count: 0, oldest: 3 * oneSecond)
        reports.second(8)
        #expect(reports.state(3) == .avoided)
    }

    @Test("a disk that nobody uses any more once it is observed is not taken for a quick one")
    func unused() {
        var reports = Reports(nodes: 9)
        reports.set(3, syncs: slowly)
        reports.second(2)
        reports.set(3, syncs: slowly, count: 1)
        reports.second(10)
        #expect(reports.state(3) == .observed)
        reports.set(3, syncs: slowly)
        reports.second()
        #expect(reports.state(3) == .avoided)
    }

    @Test("a disk comes back when it is well, and is avoided for longer each time")
    func forgiven() {
        var reports = Reports(nodes: 9)
        var last = 0
        for _ in 0..<4 {
            reports.set(3, syncs: slowly)
            let found = reports.seconds { $0.avoided == 1 }
            #expect(found < 10)
            // Avoided, it has nothing to do.
            reports.set(3, syncs: 0, count: 0)
            let seconds = reports.seconds { $0.avoided == 0 }
            #expect(seconds >= max(Int(DiskHealth.Limits.calm / oneSecond), last * 2 - 2))
            #expect(seconds < 200)
            last = seconds
            #expect(reports.state(3) == .observed)
        }
        let normal = reports.seconds { $0.observed == 0 }
        #expect(normal <= last + 1)
        reports.second(4 * 600)
        reports.set(3, syncs: slowly)
        let found = reports.seconds { $0.avoided == 1 }
        #expect(found < 10)
        reports.set(3, syncs: usual)
        let back = reports.seconds { $0.avoided == 0 }
        #expect(back <= 21, "what was is forgotten")
    }

    @Test("no more than a share is avoided; what is spared has its turn when there is room")
    func bound() {
        var reports = Reports(nodes: 30)
        for node in 0..<5 { reports.set(node, syncs: slowly) }
        reports.second(10)
        #expect(reports.health.avoided == 3)
        #expect(reports.health.spared == 2)
        let avoided = (0..<5).filter { reports.state($0) == .avoided }
        for node in avoided { reports.set(node, syncs: usual) }
        reports.second(30)
        #expect(reports.health.avoided == 2)
        #expect(reports.health.spared == 0)
    }

    @Test("a node with several disks is avoided when half of them are, and told which")
    func disksOfANode() {
        var reports = Reports(nodes: 10, volumes: 4)
        reports.set(3, 1, syncs: slowly)
        reports.second(10)
        #expect(!reports.health.isAvoided(RepairRig.id(3)))
        #expect(reports.health.slow(on: RepairRig.id(3)).map { $0.path } == ["/disk1"])
        reports.set(3, 2, syncs: slowly)
        reports.second(10)
        #expect(reports.health.isAvoided(RepairRig.id(3)))
    }

    @Test("disks that are taken out or not heard of count no more")
    func gone() {
        var reports = Reports(nodes: 10)
        reports.set(3, syncs: slowly)
        reports.second(10)
        #expect(reports.health.avoided == 1)
        reports.volumes[3][0].isFailed = true
        reports.second()
        #expect(reports.health.avoided == 0)
        reports.set(4, syncs: slowly)
        reports.second(10)
        #expect(reports.health.avoided == 1)
        reports.volumes.removeLast(6)
        reports.second(90)
        #expect(reports.health.avoided == 0)
    }
}

@Suite("What is done about slow disks")
struct SlowDiskPlacementTests {
    /// Seconds in which all nodes report, `slow` of them slow disks.
    private func report(_ rig: inout RepairRig, slow: Set<Int>, seconds: Int = 10) {
        for _ in 0..<seconds {
            rig.now += oneSecond
            rig.state.noteTime(rig.now)
            for number in rig.nodes.indices {
                let disk = volume("/disk", syncs: slow.contains(number) ? slowly : usual)
                let isHeard = rig.state.heard(
                    RepairRig.id(number), volumes: [disk], replicas: [], isFull: false,
                    store: 100, epoch: 1, at: rig.now)
                #expect(isHeard)
            }
        }
    }

    private func allocate(_ rig: inout RepairRig, _ text: String) throws -> BlockGroup {
        let replication = try ReplicationConfig(text)
        while true {
            switch rig.state.allocate(
                replication, count: 1, excluding: .none, at: rig.now, using: &rig.random)
            {
            case .groups(let groups): return groups[0]
            case .refused(let error): throw error
            case .needs(let command): rig.run(command)
            }
        }
    }

    @Test("nothing new is placed on a slow node while there are others, and again when it is well")
    func placement() throws {
        var rig = try RepairRig(nodes: 10)
        report(&rig, slow: [])
        let slow = RepairRig.id(4)
        for _ in 0..<6 { _ = try allocate(&rig, "rs-6-3-1024k") }
        report(&rig, slow: [4])
        #expect(rig.state.slowDiskCounts.avoided == 1)
        #expect(rig.state.avoidedVolumes(of: slow) == ["/disk"])
        var request = SCMStatusRequest()
        request.nodes = true
        let shown = rig.state.report(request, at: rig.now).nodes.flatMap(\.slowDisks)
        #expect(shown.map(\.state) == [.avoided] && shown.map(\.latency) == [slowly])
        for _ in 0..<20 {
            let group = try allocate(&rig, "rs-6-3-1024k")
            #expect(!group.nodes.contains { $0?.id == slow } && !group.isDegraded)
        }
        report(&rig, slow: [], seconds: 60)
        let groups = try (0..<20).map { _ in try allocate(&rig, "rs-6-3-1024k") }
        #expect(groups.contains { $0.nodes.contains { $0?.id == slow } })
    }

    @Test("a cluster as wide as its groups goes on using a slow node: redundancy comes first")
    func noOthers() throws {
        var rig = try RepairRig(nodes: 9)
        report(&rig, slow: [4])
        #expect(rig.state.slowDiskCounts.avoided == 1)
        let group = try allocate(&rig, "rs-6-3-1024k")
        #expect(!group.isDegraded)
        let excluded: Set<DatanodeID> = [RepairRig.id(4)]
        let wide = try ReplicationConfig("rs-6-3-1024k")
        let error = rig.state.wholeGroupError(wide, excluding: excluded, at: rig.now)
        #expect(error?.code == .cannotPlace)
        #expect(rig.state.wholeGroupError(wide, excluding: [], at: rig.now) == nil)
    }

    @Test("a replica is rebuilt on a slow node only where there is no other")
    func repairs() throws {
        for others in [1, 0] {
            var rig = try RepairRig(nodes: 6 + others)
            let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
            for number in rig.nodes.indices { rig.beat(number) }
            report(&rig, slow: [5])
            let lost = RepairRig.report(id, 0, .lost)
            let isHeard = rig.state.heard(
                RepairRig.id(2), volumes: [volume("/disk", syncs: usual)], replicas: [lost],
                isFull: false, store: 100, epoch: 1, at: rig.now)
            #expect(isHeard)
            rig.decide()
            let targets = rig.state.containers[id]?.repairs.map(\.node)
            #expect(targets == [RepairRig.id(others == 1 ? 6 : 5)])
        }
    }
}
