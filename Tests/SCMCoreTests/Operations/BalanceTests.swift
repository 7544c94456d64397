import Model
import Testing
import Wire

@testable import SCMCore

extension RepairRig {
    mutating func balance(
        _ action: SCMBalanceRequest.Action, threshold: UInt32 = 10, rate: UInt64 = 1 << 40
    ) throws {
        var request = SCMBalanceRequest()
        request.action = action
        request.thresholdPercent = threshold
        request.bytesPerSecond = rate
        if let command = try state.balance(request, wall: wall) { run(command) }
    }

    /// Ticks, with moves.
    mutating func tickMoving(_ count: Int) {
        for _ in 0..<count {
            tick()
            if let moves = state.dueMoves(at: now, using: &random) { run(moves) }
        }
    }
}

@Suite("balancing")
struct BalanceTests {
    /// Containers of 10 GiB replicas on the first five of ten nodes of 1 TiB, which are fuller.
    private func crowded(racks: Int = 1, full: UInt64 = 300 << 30) throws -> RepairRig {
        var rig = try RepairRig(nodes: 10, racks: racks)
        for number in 1...30 as ClosedRange<UInt64> {
            let id = try rig.addContainer(number, on: [0, 1, 2, 3, 4])
            for place in 0..<5 {
                rig.put(RepairRig.report(id, place + 1, bytes: 10 << 30), on: place)
            }
        }
        for number in 0..<5 { rig.nodes[number].free = (1 << 40) - full }
        for number in 5..<10 { rig.nodes[number].free = 1 << 40 }
        rig.moveSize = 10 << 30
        rig.tick(2)
        return rig
    }

    @Test("replicas go from full to empty nodes until all are within the threshold; then it ends")
    func balances() throws {
        var rig = try crowded()
        rig.tickMoving(5)
        #expect(rig.state.movesUnderWay == 0, "nobody has asked for it")
        let before = rig.state.balanceStatus(at: rig.now)
        #expect(before.mostFullness == 2930 && before.leastFullness == 0)
        try rig.balance(.start, threshold: 5)
        #expect(rig.state.balanceStatus(at: rig.now).datanodesOutside == 10)
        var seconds = 0
        while rig.state.balance.isRunning, seconds < 600 {
            rig.tickMoving(1)
            seconds += 1
            #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
            for number in 0..<10 {
                #expect(rig.state.members.repairs(on: RepairRig.id(number)).count <= 2)
            }
        }
        #expect(seconds < 600)
        rig.tick(3)
        let after = rig.state.balanceStatus(at: rig.now)
        #expect(after.datanodesOutside == 0 && after.movesUnderWay == 0 && after.bytesLeft == 0)
        #expect(after.mostFullness <= after.averageFullness + 500)
        #expect(after.leastFullness + 500 >= after.averageFullness)
        // Each replica is in one place, and no more was moved than had to be.
        let held = rig.nodes.reduce(0) { $0 + $1.replicas.count }
        #expect(held == 150)
        #expect(after.bytesMoved <= 5 * 130 << 30, "\(after.bytesMoved >> 30)")
    }

    @Test("the rate is kept, what is missing goes first, and an end gives up what is under way")
    func ruled() throws {
        var rig = try crowded()
        rig.seconds = 1000
        // A replica of 10 GiB each 20 s.
        try rig.balance(.start, threshold: 5, rate: 512 << 20)
        rig.tickMoving(1)
        #expect(rig.state.movesUnderWay == 1)
        rig.tickMoving(18)
        #expect(rig.state.movesUnderWay == 1)
        rig.tickMoving(4)
        #expect(rig.state.movesUnderWay == 2)
        // While something waits to be rebuilt nothing is moved.
        for number in rig.nodes.indices { rig.nodes[number].free = min(rig.nodes[number].free, 0) }
        rig.lose(ContainerID(7), on: 2)
        rig.tickMoving(40)
        #expect(rig.state.movesUnderWay == 2 && rig.repairs(ContainerID(7)).isEmpty)
        try rig.balance(.stop)
        rig.tickMoving(3)
        #expect(rig.state.movesUnderWay == 0 && !rig.state.balance.isRunning)
        #expect(rig.nodes.allSatisfy { $0.work.isEmpty })
    }

    @Test("racks stay as spread as they were")
    func racks() throws {
        // Rack 0 has the even nodes, rack 1 the odd ones: three and two of each container.
        var rig = try crowded(racks: 2)
        try rig.balance(.start, threshold: 5)
        rig.tickMoving(400)
        #expect(!rig.state.balance.isRunning)
        for container in rig.state.containers.values {
            let even = container.nodes.count { rig.number($0!) % 2 == 0 }
            #expect(even == 2 || even == 3, "\(container.id)")
        }
    }

    @Test("what cannot be asked for is refused")
    func refusals() throws {
        var rig = try RepairRig(nodes: 3)
        for (threshold, rate) in [(0, 1 << 30), (51, 1 << 30), (10, 1000)] as [(UInt32, UInt64)] {
            var request = SCMBalanceRequest()
            request.action = .start
            request.thresholdPercent = threshold
            request.bytesPerSecond = rate
            let state = rig.state
            let asked = request
            #expect(throws: StoreError.self) { try state.balance(asked, wall: 0) }
        }
        try rig.balance(.stop)
        #expect(!rig.state.balance.isRunning)
        // Another leader goes on with it.
        try rig.balance(.start)
        try rig.changeLeader()
        #expect(rig.state.balance.isRunning && rig.state.balance.thresholdPercent == 10)
    }
}
