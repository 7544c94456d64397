import Bytes
import ContainerStore
import ErasureCode
import Eventually
import Foundation
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Datanode

private let cell = 65_536
private let stripe = 3 * cell

extension RepairRig {
    func heal(_ index: Int, from sources: [Int], damaged: Set<Int> = []) -> SCMDatanodeCommand {
        var command = SCMDatanodeCommand()
        command.heal.container = container.rawValue
        command.heal.replication = replication.message
        command.heal.replicaIndex = UInt32(index)
        command.heal.sources = sources.map { source in
            var message = SCMDatanodeCommand.Reconstruct.Source()
            message.replicaIndex = UInt32(source)
            message.node = nodes[source - 1].address.message
            message.isDamaged = damaged.contains(source)
            return message
        }
        return command
    }

    func dataPath(_ index: Int) -> String {
        "\(nodes[index - 1].directory)/volume/containers/container-\(container.rawValue).data"
    }

    /// Inverts a bit of byte `offset` of what index `index` has of `block`, on disk.
    func flip(_ block: SampleBlock, _ index: Int, at offset: Int) throws {
        let bytes = block.replica(index, block.bytes.count, codec)
        var data = try Data(contentsOf: URL(fileURLWithPath: dataPath(index)))
        let place = try #require(data.range(of: Data(bytes.prefix(4096))))
        // In place: the store has the file open.
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: dataPath(index)))
        try file.seek(toOffset: UInt64(place.lowerBound + offset))
        data[place.lowerBound + offset] ^= 16
        try file.write(contentsOf: [data[place.lowerBound + offset]])
        try file.synchronize()
        try file.close()
    }

    /// Has `indexes` healed from all others, and waits for what SCM is told. Returns why each could not
    /// be, by index.
    func heal(_ indexes: some Collection<Int>, damaged: Set<Int> = []) async throws -> [Int: String]
    {
        for index in indexes {
            nodes[index - 1].scm.state.withLock { $0.heals = [] }
            let sources = (1...codec.coding.width).filter { $0 != index }
            nodes[index - 1].order([heal(index, from: sources, damaged: damaged)])
        }
        var failures: [Int: String] = [:]
        for index in indexes {
            let scm = nodes[index - 1].scm
            try await eventually("the healing of index \(index) has ended") {
                scm.state.withLock { !$0.heals.isEmpty }
            }
            nodes[index - 1].order([])
            let end = try #require(scm.state.withLock { $0.heals.first })
            // It may have been taken once more before that: its end is not that of the next order.
            scm.state.withLock { $0.quietBeats = 0 }
            try await eventually("nothing is under way") {
                scm.state.withLock { $0.quietBeats > 2 }
            }
            #expect(end.replicaIndex == UInt32(index) && end.container == container.rawValue)
            if end.outcome == .failed { failures[index] = end.reason }
        }
        return failures
    }

    /// Reads all of index `index`: what is read must be right. Returns the blocks that cannot be.
    func unreadable(_ index: Int, except gone: Set<UInt64> = []) async throws -> [UInt64] {
        var found: [UInt64] = []
        for block in blocks where !gone.contains(block.localID) {
            let expected = block.replica(index, block.bytes.count, codec)
            if expected.isEmpty { continue }
            do {
                let read = try await nodes[index - 1].store.read(
                    BlockID(containerID: container, localID: block.localID), replicaIndex: index,
                    0..<expected.count)
                let isSame = read.payload.withBytes { Array($0) } == expected
                #expect(isSame, "block \(block.localID) of index \(index)")
            } catch { found.append(block.localID) }
        }
        return found
    }
}

@Suite("damaged replicas are healed from others", .timeLimit(.minutes(4)), .serialized)
struct HealingTests {
    private func blocks(_ count: Int = 12) -> [SampleBlock] {
        (1...count).map { number in
            let length = [stripe, 2 * stripe + cell + 777, 70_000, 3 * stripe - 5][number % 4]
            return SampleBlock(
                localID: UInt64(number), bytes: noise(length + number, seed: UInt64(number)))
        }
    }

    @Test(
        "bits flipped in as many replicas of each group as there are parities: none served, all healed",
        arguments: 1...8 as ClosedRange<UInt64>)
    func flips(seed: UInt64) async throws {
        let rig = try await RepairRig(blocks())
        var random = SplitMix64(state: seed)
        for block in rig.blocks {
            for index in (1...5).shuffled(using: &random).prefix(2) {
                let length = block.replica(index, block.bytes.count, rig.codec).count
                guard length > 4096 else { continue }
                // Behind the first unit, by which the test finds the place again.
                for _ in 0..<Int.random(in: 1...6, using: &random) {
                    try rig.flip(
                        block, index, at: Int.random(in: 4096..<length, using: &random))
                }
            }
        }
        // Every replica is damaged, and none is whole; what is read of them is right all the same.
        for index in 1...5 { _ = try await rig.unreadable(index) }
        #expect(try await rig.heal(1...5, damaged: Set(1...5)) == [:])
        // What one has read of another before that one was healed may be marked after.
        let marked = (1...5).filter {
            rig.nodes[$0 - 1].store.report(of: rig.container)?.state != .closed
        }
        #expect(try await rig.heal(marked) == [:])
        for index in 1...5 {
            #expect(try await rig.unreadable(index).isEmpty)
            #expect(rig.nodes[index - 1].store.report(of: rig.container)?.state == .closed)
            let scm = rig.nodes[index - 1].scm
            try await eventually("SCM hears that it is closed") {
                scm.state.withLock { $0.replicas[rig.container.rawValue]?.state == .closed }
            }
        }
        for node in rig.nodes { #expect(node.gate.classes == [IOClass.repair.rawValue]) }
        try await rig.end()
    }

    @Test(
        "with more bad than there are parities nothing is written, SCM hears why, and later it is")
    func tooMany() async throws {
        let rig = try await RepairRig(blocks(4))
        let block = rig.blocks[0]
        for index in [2, 3, 4] { try rig.flip(block, index, at: 5000) }
        let before = try Data(contentsOf: URL(fileURLWithPath: rig.dataPath(2)))
        let failures = try await rig.heal([2])
        #expect(failures[2]?.contains("too few") == true, "\(failures)")
        let isSame = try Data(contentsOf: URL(fileURLWithPath: rig.dataPath(2))) == before
        #expect(isSame)
        #expect(rig.nodes[1].store.report(of: rig.container)?.state == .unhealthy)
        #expect(try await rig.unreadable(2) == [block.localID])
        // One of them gets well by another way.
        try rig.flip(block, 4, at: 5000)
        #expect(try await rig.heal([2, 3], damaged: [2, 3, 4]) == [:])
        for index in 1...5 { #expect(try await rig.unreadable(index).isEmpty) }
        try await rig.end()
    }

    @Test("whole sources are asked first; orders for others, or whole replicas, change nothing")
    func orders() async throws {
        let rig = try await RepairRig(blocks(4))
        try rig.flip(rig.blocks[0], 1, at: 4500)
        #expect(try await rig.heal([1], damaged: [3]) == [:])
        #expect(rig.nodes[2].gate.reads == 0 && rig.nodes[1].gate.reads == 1)
        let healed = try #require(rig.nodes[0].scm.state.withLock { $0.heals.first })
        #expect(healed.outcome == .healed && healed.bytes == 4096)
        // It was marked for nothing.
        #expect(try await rig.heal([1]) == [:])
        #expect(rig.nodes[0].scm.state.withLock { $0.heals.first?.bytes } == 0)
        // The order means another replica than the one that is there.
        rig.nodes[0].scm.state.withLock { $0.heals = [] }
        rig.nodes[0].order([rig.heal(2, from: [3, 4, 5])])
        let scm = rig.nodes[0].scm
        try await eventually("it is refused") {
            scm.state.withLock { $0.heals.contains { $0.outcome == .failed } }
        }
        rig.nodes[0].order([])
        #expect(rig.nodes[0].store.report(of: rig.container)?.state == .closed)
        try await rig.end()
    }

    @Test("what takes long is told to be under way, once, however often it is ordered")
    func underWay() async throws {
        let rig = try await RepairRig(blocks(4))
        try rig.flip(rig.blocks[0], 1, at: 4500)
        for node in rig.nodes { node.gate.close(after: 0) }
        rig.nodes[0].order([rig.heal(1, from: [2, 3, 4, 5])])
        let scm = rig.nodes[0].scm
        try await eventually("it is told to be under way") {
            scm.state.withLock { $0.healsUnderWay > 5 }
        }
        #expect(scm.state.withLock { $0.heals.isEmpty })
        for node in rig.nodes { node.gate.open() }
        try await eventually("it ends") { scm.state.withLock { !$0.heals.isEmpty } }
        #expect(scm.state.withLock { $0.heals[0].outcome } == .healed)
        #expect(rig.nodes.reduce(0) { $0 + $1.gate.reads } == 3)
        try await rig.end()
    }

    @Test(
        "a replica whose index is damaged cannot be healed, and gives way to one made by its node")
    func rebuiltInPlace() async throws {
        let rig = try await RepairRig(blocks(4))
        let size = try Data(contentsOf: URL(fileURLWithPath: rig.dataPath(3))).count
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: rig.dataPath(3)))
        try file.seek(toOffset: UInt64(size - 4096 + 30))
        try file.write(contentsOf: [0xA5, 0x5A])
        try file.close()
        let failures = try await rig.heal([3])
        #expect(failures[3]?.contains("footer") == true, "\(failures)")
        let node = rig.nodes[2]
        try await eventually("SCM hears that it is damaged") {
            node.scm.state.withLock { $0.replicas[rig.container.rawValue]?.state == .unhealthy }
        }
        var order = rig.reconstruct(3, token: 7, from: [1, 2, 4, 5])
        // Without being told so, it does not give way.
        node.order([order])
        let beats = node.scm.heartbeats
        try await eventually("nothing happens") { node.scm.heartbeats > beats + 10 }
        #expect(node.store.report(of: rig.container)?.state == .unhealthy)
        // Nor before as many others have answered as it takes to make it anew.
        var vain = rig.reconstruct(3, token: 8, from: [1, 2])
        vain.reconstruct.replaces = true
        node.order([vain])
        let before = node.scm.heartbeats
        try await eventually("nothing happens") { node.scm.heartbeats > before + 10 }
        #expect(node.store.report(of: rig.container)?.state == .unhealthy)
        order.reconstruct.replaces = true
        order.reconstruct.token = 9
        node.order([order])
        try await eventually("it is rebuilt") {
            node.scm.state.withLock { $0.replicas[rig.container.rawValue]?.state == .closed }
        }
        node.order([])
        #expect(try await rig.unreadable(3).isEmpty)
        let kept = try FileManager.default.contentsOfDirectory(
            atPath: node.directory + "/volume/damaged")
        #expect(kept.count == 2 && kept.allSatisfy { $0.hasPrefix("replica-5-3-") })
        try await rig.end()
    }
}
