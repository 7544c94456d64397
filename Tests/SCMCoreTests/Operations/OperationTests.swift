import Model
import Testing
import Wire

@testable import SCMCore

extension RepairRig {
    /// Milliseconds since 1970, as the rig has them.
    var wall: UInt64 { 1_000_000_000 + now / 1_000_000 }

    /// Asks for it as an operator does.
    mutating func operate(
        _ numbers: Int..., to wanted: SCMOperationalState, endsAt: UInt64 = 0, force: Bool = false
    ) throws {
        var request = Self.request(numbers, wanted, endsAt)
        request.isForced = force
        if let command = try state.operate(request, at: now, wall: wall) { run(command) }
    }

    /// Why it is refused; nil: it is not.
    func refusal(
        of numbers: [Int], to wanted: SCMOperationalState, endsAt: UInt64
    ) -> StoreError? {
        do throws(StoreError) {
            _ = try state.operate(Self.request(numbers, wanted, endsAt), at: now, wall: wall)
            return nil
        } catch { return error }
    }

    private static func request(
        _ numbers: [Int], _ wanted: SCMOperationalState, _ endsAt: UInt64
    ) -> SCMOperateRequest {
        var request = SCMOperateRequest()
        request.nodes = numbers.map { id($0).message }
        request.state = wanted
        request.endsAtMilliseconds = endsAt
        return request
    }

    func operation(_ number: Int) -> SCMOperationalState {
        state.operations[Self.id(number)]?.state ?? .inService
    }

    func progress(_ number: Int) -> SCMOperationProgress? {
        state.progress(of: Self.id(number), at: now)
    }
}

@Suite("datanodes that leave service")
struct OperationTests {
    @Test("what a decommissioned node has is copied from it, counts meanwhile, and is removed then")
    func decommission() throws {
        var rig = try RepairRig(nodes: 7)
        rig.seconds = 10
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        let other = try rig.addContainer(2, on: [5, 1, 2, 6, 4])
        rig.tick(2)
        try rig.operate(3, to: .decommissioning)
        #expect(rig.operation(3) == .decommissioning)
        rig.tick(2)
        let target = try #require(rig.repairs(id)[4])
        #expect(target > 4 && rig.repairs(other).isEmpty)
        let order = try #require(rig.nodes[target].work[id]).order
        #expect(order.sources.map(\.replicaIndex) == [1, 2, 3, 4, 5], "also the one that leaves")
        #expect(order.sources[3].node == rig.address(3).message)
        var progress = try #require(rig.progress(3))
        #expect(progress.containersLeft == 1 && progress.underWay == 1 && progress.open == 0)
        for _ in 0..<8 {
            #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
            #expect(rig.operation(3) == .decommissioning)
            rig.tick()
        }
        rig.tick(6)
        #expect(rig.places(id) == [0, 1, 2, target, 4])
        #expect(rig.nodes[3].removed == [id] && rig.operation(3) == .decommissioned)
        progress = try #require(rig.progress(3))
        #expect(progress.containersLeft == 0 && progress.bytesLeft == 0)
        #expect(progress.bytesMoved == 1 << 30)
        // Nothing comes to it, though others are full.
        for number in [0, 1, 2, 4, 5, 6] where number != target { rig.nodes[number].free = 0 }
        rig.lose(other, on: 1)
        rig.nodes[target].free = 0
        rig.tick(3)
        #expect(rig.repairs(other).isEmpty)
        try rig.operate(3, to: .inService)
        rig.tick(2)
        #expect(rig.repairs(other) == [2: 3] && rig.progress(3) == nil)
    }

    @Test("what is missing goes before what leaves")
    func order() throws {
        var options = RepairRig.options()
        options.repairsPerTarget = 1
        var rig = try RepairRig(nodes: 6, options: options)
        rig.seconds = 2
        let ids = try (1...3 as ClosedRange<UInt64>).map {
            try rig.addContainer($0, on: [0, 1, 2, 3, 4])
        }
        rig.tick(2)
        for number in [1, 5] { rig.nodes[number].free = 0 }
        try rig.operate(0, to: .decommissioning)
        rig.tick(2)
        rig.lose(ids[2], on: 1)
        rig.tick(2)
        rig.log = []
        rig.nodes[5].free = 1 << 39
        rig.tick(3)
        let first = try #require(rig.log.flatMap { $0.startRepairs.starts }.first)
        #expect(ContainerID(first.container) == ids[2] && first.reason == .rebuild)
    }

    @Test("a node that dies while it leaves is not waited for")
    func death() throws {
        var rig = try RepairRig(nodes: 6, options: RepairRig.options(repairAfter: 600))
        rig.seconds = 1000
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        try rig.operate(3, to: .decommissioning)
        rig.tick(2)
        #expect(rig.repairs(id) == [4: 5])
        rig.nodes[3].isUp = false
        rig.tick(17)
        // The one that was begun goes on, from the others.
        #expect(rig.repairs(id) == [4: 5])
        let order = rig.state.commands(for: RepairRig.id(5), at: rig.now).first?.reconstruct
        #expect(order?.sources.map(\.replicaIndex) == [1, 2, 3, 5])
        rig.nodes[5].work[id]?.secondsLeft = 1
        rig.tick(3)
        #expect(rig.places(id) == [0, 1, 2, 5, 4] && rig.operation(3) == .decommissioned)
    }

    @Test("a node that is put into service again keeps what it has; copies under way are given up")
    func recommission() throws {
        var rig = try RepairRig(nodes: 7)
        rig.seconds = 100
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        try rig.operate(3, to: .decommissioning)
        rig.tick(2)
        let target = try #require(rig.repairs(id)[4])
        try rig.operate(3, to: .inService)
        rig.tick(3)
        #expect(rig.repairs(id).isEmpty && rig.places(id) == [0, 1, 2, 3, 4])
        #expect(rig.nodes[target].work[id] == nil && rig.nodes[3].removed.isEmpty)
        #expect(rig.operation(3) == .inService)
    }

    @Test("a copy that was begun for a loss goes on where the node is back only to leave")
    func backToLeave() throws {
        var rig = try RepairRig(nodes: 6)
        rig.seconds = 30
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.nodes[3].isUp = false
        rig.tick(20)
        #expect(rig.repairs(id) == [4: 5])
        try rig.operate(3, to: .decommissioning)
        rig.nodes[3].isUp = true
        rig.tick(5)
        #expect(rig.repairs(id) == [4: 5])
        rig.tick(30)
        #expect(rig.places(id) == [0, 1, 2, 5, 4] && rig.operation(3) == .decommissioned)
    }

    @Test("a node in maintenance may be away: nothing is rebuilt until that is over")
    func maintenance() throws {
        var rig = try RepairRig(nodes: 7)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        try rig.operate(3, to: .enteringMaintenance, endsAt: rig.wall + 120_000)
        rig.tick()
        #expect(rig.operation(3) == .inMaintenance, "four of five stay, one more than is needed")
        rig.nodes[3].isUp = false
        rig.tick(60)
        #expect(rig.repairs(id).isEmpty && rig.places(id)[3] == 3)
        // It is less safe, and that is said.
        let row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.degradedBlocks == 7 && row.leastRedundancy == 1)
        rig.tick(62)
        #expect(rig.operation(3) == .inService)
        rig.tick(5)
        #expect(rig.places(id)[3] != 3, "it is not back")
    }

    @Test("what would have too few replicas without nodes in maintenance is copied first")
    func crowdedMaintenance() throws {
        var rig = try RepairRig(nodes: 8)
        rig.seconds = 5
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        let other = try rig.addContainer(2, on: [0, 5, 6, 7, 4])
        rig.tick(2)
        try rig.operate(1, 3, to: .enteringMaintenance)
        rig.tick(2)
        #expect(rig.repairs(id).count == 1 && rig.repairs(other).isEmpty)
        let index = try #require(rig.repairs(id).keys.first)
        #expect(index == 2, "the first of them")
        #expect(
            rig.operation(1) == .enteringMaintenance && rig.operation(3) == .enteringMaintenance)
        #expect(rig.progress(1)?.containersLeft == 1 && rig.progress(3)?.containersLeft == 0)
        rig.tick(8)
        #expect(rig.operation(1) == .inMaintenance && rig.operation(3) == .inMaintenance)
        #expect(rig.places(id)[3] == 3 && rig.places(id)[1] != 1)
        // Both may be away, and another is lost: enough is left to rebuild that.
        rig.nodes[1].isUp = false
        rig.nodes[3].isUp = false
        rig.lose(id, on: 0)
        rig.tick(40)
        #expect(rig.places(id)[0] != 0 && rig.places(id)[3] == 3)
        try rig.operate(1, 3, to: .inService)
        rig.nodes[1].isUp = true
        rig.nodes[3].isUp = true
        rig.tick(5)
        #expect(rig.nodes[1].removed == [id] && rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("a node is in maintenance once its open containers are closed")
    func openContainers() throws {
        var rig = try RepairRig(nodes: 7)
        let replication = try ReplicationConfig("rs-3-2-1024k")
        guard
            case .needs(let creation) = rig.state.allocate(
                replication, count: 1, at: rig.now, using: &rig.random)
        else {
            Issue.record("no container is made")
            return
        }
        rig.run(creation)
        let container = try #require(rig.state.containers.values.first)
        let number = rig.number(try #require(container.nodes[0]))
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty)
        try rig.operate(number, to: .enteringMaintenance)
        #expect(rig.progress(number)?.open == 1)
        let due = rig.state.dueStateChanges(at: rig.now)
        #expect(due.map(\.containerState.state) == [.containerClosing])
        rig.run(due[0])
        rig.tick(2)
        #expect(rig.operation(number) == .enteringMaintenance)
        // New ones go elsewhere.
        for _ in 0..<20 {
            guard
                case .needs(let creation) = rig.state.allocate(
                    replication, count: 1, at: rig.now, using: &rig.random)
            else { break }
            rig.run(creation)
        }
        let made = rig.state.containers.values.filter { $0.state == .containerOpen }
        #expect(made.count == rig.state.options.openContainers)
        #expect(made.allSatisfy { !$0.nodes.contains(RepairRig.id(number)) })
    }

    @Test("a disk leaves: what is on it goes to other nodes, its node stays")
    func disk() throws {
        var rig = try RepairRig(nodes: 7)
        let ids = try (1...2 as ClosedRange<UInt64>).map {
            try rig.addContainer($0, on: [0, 1, 2, 3, 4])
        }
        rig.tick(2)
        var report = RepairRig.report(ids[0], 4)
        report.isLeaving = true
        rig.put(report, on: 3)
        for _ in 0..<8 {
            rig.tick()
            #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
        }
        let target = try #require(rig.places(ids[0])[3])
        #expect(target > 4 && rig.nodes[3].removed == [ids[0]])
        #expect(rig.places(ids[1]) == [0, 1, 2, 3, 4] && rig.operation(3) == .inService)
        // One that is kept after all: the copy is given up.
        rig.seconds = 100
        report = RepairRig.report(ids[1], 4)
        report.isLeaving = true
        rig.put(report, on: 3)
        rig.tick(2)
        #expect(rig.repairs(ids[1]).count == 1)
        report.isLeaving = false
        rig.put(report, on: 3)
        rig.tick(2)
        #expect(rig.repairs(ids[1]).isEmpty && rig.places(ids[1])[3] == 3)
        // While its node is in maintenance nothing is asked of it.
        report.isLeaving = true
        rig.put(report, on: 3)
        try rig.operate(3, to: .enteringMaintenance)
        rig.tick(3)
        #expect(rig.operation(3) == .inMaintenance && rig.repairs(ids[1]).isEmpty)
    }

    @Test("what cannot be is refused, and changes nothing")
    func refusals() throws {
        var rig = try RepairRig(nodes: 5)
        _ = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        let cases: [(nodes: [Int], wanted: SCMOperationalState, end: UInt64, what: String)] = [
            ([0], .decommissioning, 0, "4 datanodes would be left in service, and rs-3-2"),
            ([9], .decommissioning, 0, "there is no datanode"),
            ([], .decommissioning, 0, "no datanode is named"),
            ([0], .decommissioning, 1 << 60, "only maintenance has an end"),
            ([0], .decommissioned, 0, "by itself"),
            ([0], .enteringMaintenance, rig.wall, "in the past"),
            ([0, 1], .enteringMaintenance, 0, "3 datanodes would be left"),
        ]
        for (nodes, wanted, end, what) in cases {
            let error = rig.refusal(of: nodes, to: wanted, endsAt: end)
            #expect(error?.message.contains(what) == true, "\(what): \(error?.message ?? "none")")
        }
        #expect(rig.state.operations.isEmpty)
        // Who insists has it begun, and it waits for others.
        try rig.operate(0, to: .decommissioning, force: true)
        rig.tick(10)
        #expect(rig.operation(0) == .decommissioning && rig.progress(0)?.containersLeft == 1)
        // Decided from what is no more.
        var change = SCMCommand.Operate()
        var each = SCMCommand.Operate.Change()
        each.operation.node = RepairRig.id(1).message
        each.operation.state = .decommissioned
        each.from = .decommissioning
        change.changes = [each]
        let answer = rig.run(SCMCommand(.operate(change)))
        #expect(answer == .refused(.nodeIs(RepairRig.id(1), .inService)))
    }

    @Test("another leader goes on with it, and copies nothing twice")
    func leaders() throws {
        var rig = try RepairRig(nodes: 12)
        rig.seconds = 4
        for number in 1...20 as ClosedRange<UInt64> {
            _ = try rig.addContainer(number, on: [0, 1, 2, 3, 4].map { ($0 + Int(number)) % 8 })
        }
        rig.tick(2)
        let held = rig.nodes[3].replicas.count
        try rig.operate(3, to: .decommissioning)
        for _ in 0..<30 {
            rig.tick(3)
            try rig.changeLeader()
        }
        rig.tick(10)
        #expect(rig.operation(3) == .decommissioned && rig.nodes[3].replicas.isEmpty)
        let copies = rig.log.flatMap { $0.endRepairs.ends }.filter { !$0.isGivenUp }.count
        #expect(held > 8 && copies == held)
    }

    @Test("a removed container does not wait for a node that is gone for good")
    func deletion() throws {
        var rig = try RepairRig(nodes: 6, options: RepairRig.options(repairAfter: 30))
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        var change = SCMCommand.ContainerStateChange()
        change.id = id.rawValue
        change.from = .containerClosed
        change.state = .containerDeleting
        rig.run(SCMCommand(.containerState(change)))
        for number in 0..<4 {
            rig.nodes[number].replicas[id] = nil
            rig.nodes[number].news[id] = RepairRig.report(id, 0, .none)
        }
        for number in 4...4 {
            var empty = RepairRig.report(id, number + 1)
            empty.blocks = 0
            rig.put(empty, on: number)
        }
        rig.tick()
        rig.nodes[4].isUp = false
        rig.tick(20)
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty, "it may come back")
        rig.tick(40)
        let due = rig.state.dueStateChanges(at: rig.now)
        #expect(due.map(\.containerState.state) == [.containerDeleted])
        rig.run(due[0])
        rig.tick(3)
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty, "its memory brings nothing back")
        // It is back: what it has is removed after all.
        rig.nodes[4].isUp = true
        rig.tick(3)
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty)
        #expect(rig.nodes[4].removed == [id] && rig.nodes[4].replicas[id] == nil)
        // Also one of which a block was deleted while it could not be had.
        rig.put(RepairRig.report(id, 3), on: 2)
        rig.tick(3)
        #expect(rig.state.dueStateChanges(at: rig.now).isEmpty)
        #expect(rig.nodes[2].removed == [id])
        #expect(rig.container(id).state == .containerDeleted)
    }

    @Test("while nodes are not heard of that may have replicas, nobody says that all is well")
    func unheard() throws {
        var rig = try RepairRig(nodes: 6)
        for number in 1...3 as ClosedRange<UInt64> {
            _ = try rig.addContainer(number, on: [0, 1, 2, 3, 4])
        }
        rig.tick(2)
        #expect(rig.state.safety(at: rig.now).unheardReplicas == 0)
        rig.nodes[4].isUp = false
        try rig.changeLeader()
        var safety = rig.state.safety(at: rig.now)
        #expect(safety.degradedBlocks == 0 && safety.unheardReplicas == 3)
        // Nobody hears of it for so long that it is dead.
        rig.tick(17)
        safety = rig.state.safety(at: rig.now)
        #expect(safety.degradedBlocks == 21 && safety.unheardReplicas == 0)
    }
}
