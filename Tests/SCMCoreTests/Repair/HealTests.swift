import Model
import Testing
import Wire

@testable import SCMCore

extension RepairRig {
    /// What a datanode is told to heal.
    fileprivate mutating func healOrders(_ number: Int) -> [SCMDatanodeCommand.Heal] {
        state.commands(for: Self.id(number), at: now).compactMap {
            if case .heal(let order) = $0.command { order } else { nil }
        }
    }
}

@Suite("damaged replicas of closed containers")
struct HealTests {
    private static func options() -> SCMState.Options {
        var options = RepairRig.options()
        options.healPatienceNanoseconds = 60 * oneSecond
        return options
    }

    /// A container on five of `count` nodes, of which the second has found its replica damaged.
    private func rig(nodes count: Int = 5) throws -> (RepairRig, ContainerID) {
        var rig = try RepairRig(nodes: count, options: Self.options())
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.put(RepairRig.report(id, 2, .unhealthy), on: 1)
        rig.tick()
        return (rig, id)
    }

    private func result(
        _ id: ContainerID, _ index: UInt32, _ outcome: SCMHeartbeatRequest.HealResult.Outcome,
        bytes: UInt64 = 0
    ) -> SCMHeartbeatRequest.HealResult {
        var result = SCMHeartbeatRequest.HealResult()
        result.container = id.rawValue
        result.replicaIndex = index
        result.outcome = outcome
        result.bytes = bytes
        result.reason = outcome == .failed ? "its index is damaged" : ""
        return result
    }

    @Test("its node is told to heal it, from all others, with each heartbeat until it is whole")
    func life() throws {
        var (rig, id) = try rig()
        for _ in 0..<3 {
            let orders = rig.healOrders(1)
            #expect(orders.count == 1)
            let order = try #require(orders.first)
            #expect(order.container == 1 && order.replicaIndex == 2)
            #expect(order.replication == rig.container(id).replication.message)
            #expect(order.sources.map(\.replicaIndex) == [1, 3, 4, 5])
            #expect(order.sources.map(\.node) == [0, 2, 3, 4].map { rig.address($0).message })
            #expect(!order.sources.contains { $0.isDamaged })
            rig.tick()
        }
        for number in [0, 2, 3, 4] { #expect(rig.healOrders(number).isEmpty) }
        #expect(rig.repairs(id).isEmpty)
        // It counts as missing until then, and is shown.
        let row = rig.state.safety(at: rig.now).rows[0]
        #expect(row.missingReplicas == 1 && row.leastRedundancy == 1 && row.waiting == 1)
        var request = SCMStatusRequest()
        request.containers = true
        #expect(rig.state.report(request, at: rig.now).containers[0].corruptIndexes == [2])
        #expect(rig.state.repairCounts.healsUnderWay == 1)
        rig.put(RepairRig.report(id, 2), on: 1)
        rig.beat(1)
        let ends = rig.state.heard(
            RepairRig.id(1), heals: [result(id, 2, .healed, bytes: 4096)], at: rig.now)
        #expect(ends.count == 1 && ends[0].bytes == 4096 && !ends[0].wasWhole)
        #expect(ends[0].failure == nil && ends[0].index == 2)
        rig.tick()
        #expect(rig.healOrders(1).isEmpty)
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
        #expect(rig.state.report(request, at: rig.now).containers[0].corruptIndexes.isEmpty)
        let counts = rig.state.repairCounts
        #expect(counts.healsUnderWay == 0 && counts.healed == 1 && counts.healedBytes == 4096)
    }

    @Test("what a reader found damaged and its node finds whole is whole")
    func marked() throws {
        var rig = try RepairRig(nodes: 6, options: Self.options())
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        rig.state.markCorrupt(id, index: 4, on: RepairRig.id(3))
        rig.tick()
        #expect(rig.healOrders(3).map(\.replicaIndex) == [4])
        #expect(rig.repairs(id).isEmpty)
        // What others say of it counts for nothing, nor of other indexes.
        #expect(
            rig.state.heard(RepairRig.id(2), heals: [result(id, 4, .healed)], at: rig.now) == [])
        #expect(
            rig.state.heard(RepairRig.id(3), heals: [result(id, 3, .healed)], at: rig.now) == [])
        #expect(rig.container(id).corrupt == [4])
        let ends = rig.state.heard(
            RepairRig.id(3), heals: [result(id, 4, .healed)], at: rig.now)
        #expect(ends.count == 1 && ends[0].wasWhole)
        #expect(rig.container(id).corrupt.isEmpty)
        rig.tick(100)
        #expect(rig.repairs(id).isEmpty && rig.places(id) == [0, 1, 2, 3, 4])
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("one that its node could not heal is rebuilt elsewhere at once")
    func failed() throws {
        var (rig, id) = try rig(nodes: 6)
        rig.tick(10)
        #expect(rig.repairs(id).isEmpty)
        let ends = rig.state.heard(
            RepairRig.id(1), heals: [result(id, 2, .failed)], at: rig.now)
        #expect(ends.first?.failure == "its index is damaged")
        rig.tick()
        #expect(rig.repairs(id) == [2: 5])
        #expect(rig.healOrders(1).isEmpty)
        rig.tick(5)
        #expect(rig.places(id) == [0, 5, 2, 3, 4])
        #expect(rig.state.repairCounts.notHealed == 1)
        // The bad one is not the container's any more, and goes.
        rig.tick(3)
        #expect(rig.nodes[1].removed == [id])
    }

    @Test("one of which nothing is heard for a minute is rebuilt; one that its node is at is not")
    func patience() throws {
        var (rig, id) = try rig(nodes: 6)
        for _ in 0..<200 {
            _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .underWay)], at: rig.now)
            rig.tick()
        }
        #expect(rig.repairs(id).isEmpty && rig.healOrders(1).count == 1)
        rig.tick(58)
        #expect(rig.repairs(id).isEmpty)
        rig.tick(5)
        #expect(rig.repairs(id) == [2: 5] && rig.healOrders(1).isEmpty)
    }

    @Test("a healing that takes longer than an hour is given up")
    func most() throws {
        var (rig, id) = try rig(nodes: 6)
        for _ in 0..<3590 {
            _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .underWay)], at: rig.now)
            rig.now += oneSecond
        }
        rig.beat(0)
        for number in 0...5 { rig.beat(number) }
        rig.tick()
        #expect(rig.repairs(id).isEmpty)
        for _ in 0..<30 {
            _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .underWay)], at: rig.now)
            rig.tick()
        }
        #expect(!rig.repairs(id).isEmpty || rig.places(id)[1] == 5)
    }

    @Test(
        "where no other node is free the one that could not heal it rebuilds it, and others suffice"
    )
    func inItsPlace() throws {
        var (rig, id) = try rig()
        _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .failed)], at: rig.now)
        rig.seconds = 4
        rig.decide()
        #expect(rig.repairs(id) == [2: 1])
        let commands = rig.state.commands(for: RepairRig.id(1), at: rig.now)
        let order = try #require(
            commands.compactMap { command -> SCMDatanodeCommand.Reconstruct? in
                if case .reconstruct(let order) = command.command { order } else { nil }
            }.first)
        #expect(order.replaces && order.replicaIndex == 2)
        #expect(order.sources.map(\.replicaIndex) == [1, 3, 4, 5])
        // It moves the bad one aside and begins.
        rig.nodes[1].replicas[id] = nil
        rig.tick(7)
        #expect(rig.places(id) == [0, 1, 2, 3, 4] && rig.repairs(id).isEmpty)
        #expect(rig.container(id).orders[1] == order.token)
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
    }

    @Test("it does not rebuild in its place where the others do not suffice without it")
    func notInItsPlace() throws {
        var (rig, id) = try rig()
        for number in [0, 2] { rig.nodes[number].isUp = false }
        rig.tick(20)
        _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .failed)], at: rig.now)
        rig.tick(5)
        #expect(rig.repairs(id).isEmpty)
        #expect(rig.nodes[1].replicas[id]?.state == .unhealthy)
    }

    @Test("damaged replicas heal each other: sources that have damage too come last")
    func severalDamaged() throws {
        var (rig, id) = try rig()
        for index in [1, 4, 5] {
            rig.put(RepairRig.report(id, index, .unhealthy), on: index - 1)
        }
        rig.tick()
        let order = try #require(rig.healOrders(1).first)
        #expect(order.sources.map(\.replicaIndex) == [3, 1, 4, 5])
        #expect(order.sources.map(\.isDamaged) == [false, true, true, true])
        #expect(rig.repairs(id).isEmpty, "one whole replica is too few to rebuild others")
        for number in [0, 1, 3, 4] { #expect(rig.healOrders(number).count == 1) }
        #expect(rig.state.safety(at: rig.now).rows[0].unreadableContainers == 1)
    }

    @Test("what failed is tried again later, where it was not rebuilt")
    func again() throws {
        var (rig, id) = try rig()
        for index in [1, 4] { rig.put(RepairRig.report(id, index, .unhealthy), on: index - 1) }
        rig.tick()
        _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .failed)], at: rig.now)
        rig.tick()
        #expect(rig.healOrders(1).isEmpty)
        rig.tick(299)
        #expect(rig.healOrders(1).isEmpty)
        rig.tick(3)
        #expect(rig.healOrders(1).count == 1)
    }

    @Test("a new leader has it healed as the one before did; none does before it has caught up")
    func leaders() throws {
        var (rig, id) = try rig()
        _ = rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .failed)], at: rig.now)
        try rig.changeLeader(catchesUp: false)
        rig.decide()
        #expect(rig.healOrders(1).isEmpty)
        rig.state.caughtUp(in: rig.term)
        rig.decide()
        #expect(rig.healOrders(1).count == 1)
        rig.state.follow()
        #expect(rig.healOrders(1).isEmpty)
        #expect(
            rig.state.heard(RepairRig.id(1), heals: [result(id, 2, .healed)], at: rig.now) == [])
    }

    @Test("a container that is deleted, or a replica that is replaced, is forgotten")
    func forgotten() throws {
        var (rig, id) = try rig(nodes: 6)
        #expect(rig.state.repairs.heals.underWay == 1)
        rig.lose(id, on: 1)
        rig.tick()
        #expect(rig.state.repairs.heals.underWay == 0)
        rig.tick(5)
        rig.put(RepairRig.report(id, 1, .unhealthy), on: 0)
        rig.tick()
        #expect(rig.state.repairs.heals.underWay == 1)
        var change = SCMCommand.ContainerStateChange()
        change.id = id.rawValue
        change.from = .containerClosed
        change.state = .containerDeleting
        rig.run(SCMCommand(.containerState(change)))
        #expect(rig.healOrders(0).isEmpty)
        rig.tick()
        #expect(rig.state.repairs.heals.underWay == 0)
        #expect(rig.state.repairs.heals.containers(on: RepairRig.id(0)).isEmpty)
    }
}
