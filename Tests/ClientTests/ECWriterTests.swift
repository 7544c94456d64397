import Bytes
import ErasureCode
import Model
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import Client

/// A datanode as a writer sees it: keeps what it acknowledged, answers nothing, or refuses.
private final class FakeDatanode: RPCHandler {
    struct State {
        var isHung = false
        /// Cells from this offset in their replica on get no answer.
        var hungFrom = UInt64.max
        /// Cells that were sent, answered or not.
        var arrivals = 0
        /// What the next cells are refused with, one after the other.
        var refusals: [StoreError.Code] = []
        var cells: [DNWriteCellRequest] = []
    }
    let state = Mutex(State())

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        let cell = try DNWriteCellRequest(parsing: request.message)
        if let refusal = state.withLock({ $0.refusals.popLast() }) {
            throw StoreError(refusal, "refused as the test says")
        }
        state.withLock { $0.arrivals += 1 }
        while state.withLock({ $0.isHung || cell.offset >= $0.hungFrom }) {
            do { try await Task.sleep(for: .milliseconds(5)) } catch {
                throw StoreError(.cancelled, "the call was cancelled")
            }
        }
        state.withLock { $0.cells.append(cell) }
        return RPCReply(DNWriteCellResponse().encoded)
    }

    var cells: [DNWriteCellRequest] { state.withLock { $0.cells } }
}

/// Places groups on the first nodes that are not excluded, one container for each group; with too
/// few nodes groups have empty places. While it is held, those who exclude something wait.
private final class FakeSource: GroupSource {
    let state = Mutex((next: UInt64(1), asked: [ExcludeList](), isHeld: false))
    let replication: ReplicationConfig
    let nodes: [DatanodeAddress]

    init(_ replication: ReplicationConfig, nodes: [DatanodeAddress]) {
        self.replication = replication
        self.nodes = nodes
    }

    func allocate(excluding: ExcludeList) async throws(StoreError) -> BlockGroup {
        let number = state.withLock { state in
            defer { state.next += 1 }
            state.asked.append(excluding)
            return state.next
        }
        while !excluding.isEmpty, state.withLock({ $0.isHeld }) {
            try? await Task.sleep(for: .milliseconds(5))
        }
        var places: [DatanodeAddress?] = nodes.filter { !excluding.nodes.contains($0.id) }
            .prefix(replication.width).map { $0 }
        while places.count < replication.width { places.append(nil) }
        var group = BlockGroup(
            blockID: BlockID(containerID: ContainerID(number), localID: number),
            replication: replication, length: 0, nodes: places)
        group.permissions = places.map { $0 == nil ? 0 : 1000 + $0!.id.low }
        group.token = Array("token \(number)".utf8)
        return group
    }

    var asked: [ExcludeList] { state.withLock { $0.asked } }
}

private struct Rig {
    let reactor: Reactor
    let coding: ErasureCoding
    let datanodes: [FakeDatanode]
    let source: FakeSource
    let client: DatanodeClient

    /// - Parameter groups: of which groups are given out; nil: what is written.
    init(nodes count: Int, groups: ReplicationConfig? = nil) throws {
        reactor = try Reactor.start()
        coding = try ErasureCoding("rs-3-2-64k")
        datanodes = (0..<count).map { _ in FakeDatanode() }
        let channels = ChannelPool(name: "test")
        var addresses: [DatanodeAddress] = []
        for (number, datanode) in datanodes.enumerated() {
            let address = DatanodeAddress(
                id: Identity128(high: 0, low: UInt64(number)), host: "fake", port: 1 + number)
            channels.register(datanode, host: address.host, port: address.port)
            addresses.append(address)
        }
        source = FakeSource(groups ?? .erasureCoded(coding), nodes: addresses)
        client = DatanodeClient(
            channels: channels, health: NodeHealth(), window: TransferWindow(bytes: 64 << 20),
            onRefusal: { _ in })
    }

    /// Writes `count` bytes; the groups that they are in.
    func write(_ count: Int) async throws -> [BlockGroup] {
        let codec = Codec(coding)
        let (coding, source, client, reactor) = (coding, source, client, reactor)
        return try await Task(executorPreference: reactor) {
            let writer = ECWriter(
                coding: coding, prepared: [], source: source, client: client, on: reactor)
            var left = count
            while left > 0 {
                var stripe = Stripe(coding, expecting: left, pool: reactor.pool)
                let bytes = [UInt8](repeating: 7, count: min(left, coding.stripeSize))
                left -= bytes.withUnsafeBytes { stripe.fill($0) }
                stripe.encode(codec)
                try await writer.send(stripe, isLast: left == 0)
            }
            return try await writer.finish()
        }.value
    }
}

@Suite("writing block groups", .timeLimit(.minutes(10)))
struct ECWriterTests {
    @Test("the first cells bring the permission to make each replica, all of them the token")
    func permissions() async throws {
        let rig = try Rig(nodes: 5)
        defer { rig.reactor.stop() }
        let groups = try await rig.write(3 * rig.coding.stripeSize)
        #expect(groups.map(\.length) == [3 * rig.coding.stripeSize])
        for (number, datanode) in rig.datanodes.enumerated() {
            let cells = datanode.cells
            #expect(cells.map(\.mayCreate) == [1000 + UInt64(number), 0, 0])
            #expect(cells.allSatisfy { $0.replicaIndex == UInt32(number + 1) })
            #expect(cells.allSatisfy { Array($0.token) == Array("token 1".utf8) })
        }
    }

    @Test("a node that hangs is done without where there is another; nothing is lost or kept twice")
    func hung() async throws {
        let rig = try Rig(nodes: 6)
        defer { rig.reactor.stop() }
        let size = 4 * rig.coding.stripeSize
        _ = try await rig.write(size)
        rig.datanodes[2].state.withLock { $0.isHung = true }
        let groups = try await rig.write(size)
        rig.datanodes[2].state.withLock { $0.isHung = false }
        #expect(groups.reduce(0) { $0 + $1.length } == size)
        let last = try #require(groups.last)
        #expect(!last.nodes.contains { $0?.id.low == 2 } && !last.isDegraded)
        #expect(rig.source.asked.contains { $0.nodes.map(\.low) == [2] })
        // Other writers do not begin with it.
        #expect(rig.client.health.shouldAvoidWriting(to: last.nodes[0]!.id, at: .now()) == false)
        #expect(rig.client.health.shouldAvoid(Identity128(high: 0, low: 2), at: .now()))
        let next = try await rig.write(size)
        #expect(next.count == 1 && !next[0].nodes.contains { $0?.id.low == 2 })
    }

    @Test("one that keeps its stripe waiting is done without, and who begins then avoids it")
    func behind() async throws {
        let rig = try Rig(nodes: 6)
        defer { rig.reactor.stop() }
        // Enough to know what is usual.
        _ = try await rig.write(8 * rig.coding.stripeSize)
        #expect(rig.client.health.lateWrites(to: []).behind(slowest: 0) != nil)
        rig.datanodes[2].state.withLock { $0.isHung = true }
        defer { rig.datanodes[2].state.withLock { $0.isHung = false } }
        let size = 4 * rig.coding.stripeSize
        let groups = try await rig.write(size)
        #expect(groups.reduce(0) { $0 + $1.length } == size)
        let last = try #require(groups.last)
        #expect(!last.nodes.contains { $0?.id.low == 2 } && !last.isDegraded)
        // A group with empty places is not asked for instead.
        let asked = try #require(rig.source.asked.first { $0.nodes.map(\.low) == [2] })
        #expect(asked.degradedGroups)
        #expect(rig.source.asked.allSatisfy { $0.nodes.isEmpty || $0.degradedGroups })
        let node = Identity128(high: 0, low: 2)
        #expect(rig.client.health.beginning(at: rig.reactor.now()).avoiding == [node])
        let count = rig.source.asked.count
        let next = try await rig.write(size)
        #expect(next.count == 1 && !next[0].nodes.contains { $0?.id.low == 2 })
        #expect(rig.source.asked.count == count + 1, "the first that is asked for is without it")
    }

    @Test("one that is there again before another group is found stays; the next late one is left")
    func caughtUp() async throws {
        let rig = try Rig(nodes: 7)
        defer { rig.reactor.stop() }
        _ = try await rig.write(8 * rig.coding.stripeSize)
        let (first, second) = (rig.datanodes[2], rig.datanodes[3])
        let before = (groups: rig.source.asked.count, cells: first.cells.count)
        rig.source.state.withLock { $0.isHeld = true }
        first.state.withLock { $0.isHung = true }
        let size = 4 * rig.coding.stripeSize
        async let written = rig.write(size)
        while rig.source.asked.count < before.groups + 2 {
            try await Task.sleep(for: .milliseconds(5))
        }
        // The first stripe arrives, and another node hangs with those behind it.
        second.state.withLock { $0.isHung = true }
        first.state.withLock { $0.isHung = false }
        while first.cells.count < before.cells + 4 { try await Task.sleep(for: .milliseconds(5)) }
        rig.source.state.withLock { $0.isHeld = false }
        let groups = try await written
        second.state.withLock { $0.isHung = false }
        #expect(groups.map(\.length) == [rig.coding.stripeSize, size - rig.coding.stripeSize])
        #expect(groups.last?.nodes.contains { $0?.id.low == 3 } == false)
        // It was left when it was late, not when its calls had come to nothing.
        #expect(rig.source.asked.dropFirst(before.groups + 1).allSatisfy { $0.degradedGroups })
    }

    @Test("one that has answered what it was late with stays, whatever it was sent since")
    func caughtUpWithMore() async throws {
        let rig = try Rig(nodes: 6)
        defer { rig.reactor.stop() }
        // Late is what takes 3 s, so that no busy machine makes it so: they have a habit.
        for number in 0..<UInt64(5 * 16) {
            rig.client.health.wrote(
                Identity128(high: 0, low: number % 5), in: 1_000_000_000, at: rig.reactor.now())
        }
        let node = rig.datanodes[2]
        rig.source.state.withLock { $0.isHeld = true }
        node.state.withLock { $0.isHung = true }
        let size = 4 * rig.coding.stripeSize
        async let written = rig.write(size)
        while rig.source.asked.count < 2 { try await Task.sleep(for: .milliseconds(5)) }
        node.state.withLock {
            $0.hungFrom = UInt64(rig.coding.cellSize)
            $0.isHung = false
        }
        while node.state.withLock({ $0.arrivals }) < 4 {
            try await Task.sleep(for: .milliseconds(5))
        }
        rig.source.state.withLock { $0.isHeld = false }
        // What was asked for comes while these are on their way.
        try await Task.sleep(for: .milliseconds(200))
        node.state.withLock { $0.hungFrom = .max }
        #expect(try await written.map(\.length) == [size])
        #expect(rig.client.health.beginning(at: rig.reactor.now()).avoiding.isEmpty)
    }

    @Test("to look in vain for another group takes nothing of what may be written again")
    func budget() async throws {
        let rig = try Rig(nodes: 5)
        defer { rig.reactor.stop() }
        _ = try await rig.write(8 * rig.coding.stripeSize)
        let asked = rig.source.asked.count
        rig.datanodes[2].state.withLock { $0.isHung = true }
        async let written = rig.write(rig.coding.stripeSize)
        while rig.source.asked.count < asked + 2 { try await Task.sleep(for: .milliseconds(5)) }
        rig.datanodes[2].state.withLock { $0.isHung = false }
        #expect(try await written.map(\.length) == [rig.coding.stripeSize])
        #expect(rig.client.health.takeRewrite(bytes: RewriteBudget.Limits.burst))
    }

    @Test("where more are behind than there is parity nobody is given up")
    func allBehind() async throws {
        let rig = try Rig(nodes: 8)
        defer { rig.reactor.stop() }
        _ = try await rig.write(8 * rig.coding.stripeSize)
        let asked = rig.source.asked.count
        for node in 1...3 { rig.datanodes[node].state.withLock { $0.isHung = true } }
        async let written = rig.write(rig.coding.stripeSize)
        try await Task.sleep(for: .milliseconds(300))
        for node in 1...3 { rig.datanodes[node].state.withLock { $0.isHung = false } }
        let groups = try await written
        #expect(groups.map(\.length) == [rig.coding.stripeSize])
        #expect(rig.source.asked.count == asked + 1)
    }

    @Test("without another node a late one is waited for: redundancy is not given away")
    func noOther() async throws {
        let rig = try Rig(nodes: 5)
        defer { rig.reactor.stop() }
        let hung = rig.datanodes[2]
        hung.state.withLock { $0.isHung = true }
        async let written = rig.write(rig.coding.stripeSize)
        // It is late, a whole group without it was asked for, and there is none.
        while rig.source.asked.count < 2 { try await Task.sleep(for: .milliseconds(5)) }
        hung.state.withLock { $0.isHung = false }
        let groups = try await written
        #expect(groups.map(\.length) == [rig.coding.stripeSize] && !groups[0].isDegraded)
    }

    @Test("a full disk, or one that is gone, ends the group and says nothing against the node")
    func disks() async throws {
        for code in [StoreError.Code.io, .noSuchContainer, .containerState] {
            let rig = try Rig(nodes: 6)
            defer { rig.reactor.stop() }
            rig.datanodes[1].state.withLock { $0.refusals = [code] }
            let groups = try await rig.write(rig.coding.stripeSize)
            #expect(groups.map(\.length) == [rig.coding.stripeSize])
            #expect(rig.source.asked.allSatisfy { $0.nodes.isEmpty }, "\(code)")
            #expect(rig.source.asked[1].containers == [ContainerID(1)], "\(code)")
        }
    }

    @Test("a node without room for a replica that it was to make is full, and avoided at once")
    func fullNode() async throws {
        let rig = try Rig(nodes: 6)
        defer { rig.reactor.stop() }
        rig.datanodes[1].state.withLock { $0.refusals = [.noSpace] }
        let groups = try await rig.write(rig.coding.stripeSize)
        #expect(groups.map(\.length) == [rig.coding.stripeSize])
        #expect(rig.source.asked.map { $0.nodes.map(\.low) } == [[], [1]])
    }

    @Test("a group of another replication than the key's is refused, and nothing is sent to it")
    func otherReplication() async throws {
        for other in try [ReplicationConfig("rs-2-3-64k"), .replicated(.three)] {
            let rig = try Rig(nodes: 6, groups: other)
            defer { rig.reactor.stop() }
            let error = await #expect(throws: StoreError.self) { try await rig.write(100) }
            #expect(error?.code == .badRequest)
            #expect(error?.message.contains("\(other)") == true)
            #expect(error?.message.contains("\(rig.coding)") == true)
            #expect(rig.datanodes.allSatisfy { $0.cells.isEmpty })
        }
    }
}
