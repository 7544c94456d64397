import Bytes
import ContainerStore
import ErasureCode
import Eventually
import Foundation
import Model
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import Datanode

private let cell = 65_536
private let stripe = 3 * cell

private enum Sample {
    static let deleted: UInt64 = 6
    static let goesAt1: UInt64 = 7
    static let orphan: UInt64 = 8
    static let orphanStripe: UInt64 = 5
    /// Ends in the first cell, and the indexes 2 and 3 were told of it.
    static let told: UInt64 = 9

    /// Blocks of every shape.
    static func blocks(small: Int = 60) -> [SampleBlock] {
        func block(_ localID: UInt64, _ count: Int) -> SampleBlock {
            SampleBlock(localID: localID, bytes: noise(count, seed: localID))
        }
        var blocks = [
            block(1, 3 * stripe + cell + 1234),
            block(2, 1000),
            block(3, stripe),
            block(4, 2 * stripe),
            block(orphanStripe, 2 * stripe),
            block(deleted, stripe + 10),
            block(goesAt1, stripe + 5000),
            block(orphan, stripe),
            block(told, 4097),
            block(10, 0),
            block(11, stripe + cell),
            block(12, 2 * cell - 1),
        ]
        blocks[3].isEnded = false
        // The second stripe came to three replicas, and was never acknowledged.
        for index in [3, 5] { blocks[4].reached[index] = stripe }
        blocks[4].isEnded = false
        // The first stripe came to one.
        for index in [1, 3, 4, 5] { blocks[7].reached[index] = .some(nil) }
        blocks[8].isToldToEmpty = true
        blocks[9].isToldToEmpty = true
        for number in 0..<small {
            let localID = UInt64(100 + number)
            blocks.append(block(localID, 1 + Int(localID) * 7919 % (stripe + 3 * cell)))
        }
        return blocks
    }
}

@Suite("replicas are rebuilt from others", .timeLimit(.minutes(4)), .serialized)
struct ReconstructionTests {
    private func rig() async throws -> RepairRig {
        let rig = try await RepairRig(Sample.blocks())
        func id(_ localID: UInt64) -> BlockID {
            BlockID(containerID: rig.container, localID: localID)
        }
        for node in rig.nodes { try await node.store.deleteBlocks([id(Sample.deleted)]) }
        try await rig.nodes[0].store.deleteBlocks([id(Sample.goesAt1)])
        return rig
    }

    /// Holds what was rebuilt against the replica that a client wrote.
    private func check(
        _ rig: RepairRig, _ index: Int, from sources: Set<Int>, _ comment: Comment
    ) async throws {
        let original = try await rig.contents(of: rig.nodes[index - 1].store, index)
        let rebuilt = try await rig.contents(of: rig.target.store, index)
        var expected = Set(original.keys).subtracting([Sample.orphan])
        // Nobody who was asked knows that it was told to those that nothing fell to.
        if [2, 3].contains(index), sources.isDisjoint(with: [2, 3]) {
            expected.remove(Sample.told)
        }
        if sources.contains(1) {
            expected.remove(Sample.goesAt1)
        } else if index == 1 {
            // Nobody who was asked had heard of the deletion.
            expected.insert(Sample.goesAt1)
        }
        #expect(Set(rebuilt.keys) == expected, comment)
        for block in rig.blocks {
            guard let (record, bytes) = rebuilt[block.localID] else { continue }
            var length = block.bytes.count
            if block.localID == Sample.orphanStripe {
                // What all who were asked have.
                length = sources.isDisjoint(with: [3, 5]) ? 2 * stripe : stripe
            }
            // Not the bytes themselves: nobody wants to read them.
            let isSame = bytes == block.replica(index, length, rig.codec)
            #expect(isSame, "\(comment) \(record)")
            #expect(record.groupLength == length, "\(comment) \(record)")
            #expect(record.isEnded == block.isEnded, "\(comment) \(record)")
            if block.localID != Sample.orphanStripe, let original = original[block.localID] {
                let isLikeOriginal = original.record == record && original.bytes == bytes
                #expect(isLikeOriginal, "\(comment) \(record)")
            }
        }
        #expect(rig.target.store.report(of: rig.container)?.blockCount == rebuilt.count, comment)
    }

    @Test("each index is rebuilt byte for byte from all others")
    func everyIndex() async throws {
        let rig = try await rig()
        for index in 1...5 {
            let sources = Set(1...5).subtracting([index])
            try await rig.rebuild(index, token: UInt64(index) << 16, from: sources)
            try await check(rig, index, from: sources, "index \(index)")
            try await rig.clear(index)
        }
        // All of it gave way to clients at the sources.
        for node in rig.nodes { #expect(node.gate.classes == [IOClass.repair.rawValue]) }
        try await rig.end()
    }

    @Test(
        "with as many missing as there are parities each index is rebuilt from those that are left")
    func fewest() async throws {
        let rig = try await rig()
        var token: UInt64 = 1
        for index in 1...5 {
            for missing in 1...5 where missing != index {
                let sources = Set(1...5).subtracting([index, missing])
                try await rig.rebuild(index, token: token, from: sources)
                try await check(rig, index, from: sources, "index \(index) without \(missing)")
                try await rig.clear(index)
                token += 1
            }
        }
        try await rig.end()
    }

    @Test("a source of the same index is copied, and is nothing that could not be done without")
    func copy() async throws {
        let rig = try await rig()
        try await rig.rebuild(2, token: 1, from: [2, 4])
        let copied = try await rig.contents(of: rig.target.store, 2)
        let first = rig.blocks[0]
        let isCopied = copied[1]?.bytes == first.replica(2, first.bytes.count, rig.codec)
        #expect(isCopied)
        #expect(rig.nodes[3].gate.reads == 0)
        try await rig.clear(2)
        try damage(rig.nodes[1], block: rig.blocks[0].replica(2, 3 * stripe, rig.codec))
        try await rig.rebuild(2, token: 2, from: [1, 2, 3, 4, 5])
        let rebuilt = try await rig.contents(of: rig.target.store, 2)
        let isWhole = rebuilt[1]?.bytes == copied[1]?.bytes && rebuilt[3]?.bytes == copied[3]?.bytes
        #expect(isWhole && rebuilt.count == copied.count - 1, "7 is deleted at index 1")
        try await rig.end()
    }

    /// Inverts a bit of where `block` lies in the data file.
    private func damage(_ node: RepairNode, block: [UInt8]) throws {
        let path = "\(node.directory)/volume/containers/container-5.data"
        var data = try Data(contentsOf: URL(fileURLWithPath: path))
        let place = try #require(data.range(of: Data(block.prefix(4096))))
        data[place.lowerBound + 17] ^= 4
        try data.write(to: URL(fileURLWithPath: path))
    }

    @Test(
        "a source whose bytes are damaged is done without; with too few whole ones nothing is closed"
    )
    func corrupt() async throws {
        let rig = try await rig()
        let block = rig.blocks[0]
        try damage(rig.nodes[1], block: block.replica(2, 3 * stripe, rig.codec))
        try await rig.rebuild(5, token: 1, from: [1, 2, 3, 4])
        try await check(rig, 5, from: [1, 2, 3, 4], "index 2 is damaged")
        try await rig.clear(5)
        try damage(rig.nodes[3], block: block.replica(4, 3 * stripe, rig.codec))
        rig.target.order([rig.reconstruct(5, token: 2, from: [1, 2, 3, 4])])
        // Tried again and again, as long as SCM asks.
        let before = rig.nodes[0].gate.reads
        try await eventually("it is tried again") { rig.nodes[0].gate.reads > before + 40 }
        #expect(rig.target.store.report(of: rig.container)?.state == .recovering)
        #expect(rig.reported?.state == .recovering && rig.reported?.token == 2)
        // A source more makes it whole.
        rig.target.order([])
        try await rig.rebuild(5, token: 2, from: [1, 2, 3, 4, 5])
        try await check(rig, 5, from: [1, 2, 3, 4, 5], "copied in the end")
        try await rig.end()
    }

    @Test("indexes that nothing fell to need no source")
    func emptyIndexes() async throws {
        let blocks = (1...20).map {
            SampleBlock(localID: $0, bytes: noise(Int($0) * 3000, seed: $0))
        }
        let rig = try await RepairRig(blocks)
        let command = rig.reconstruct(1, token: 1, from: [4], empty: [2, 3])
        rig.target.order([command])
        try await eventually("index 1 is rebuilt") { rig.reported?.state == .closed }
        let rebuilt = try await rig.contents(of: rig.target.store, 1)
        #expect(rebuilt.count == 20)
        for block in blocks {
            let isSame = rebuilt[block.localID]?.bytes == block.bytes
            #expect(isSame, "block \(block.localID)")
        }
        try await rig.end()
    }

    @Test("a restart in the middle goes on with what was durable")
    func restart() async throws {
        let rig = try await rig()
        rig.nodes[3].gate.close(after: 30)
        rig.target.order([rig.reconstruct(2, token: 1, from: [1, 4, 5])])
        let store = rig.target.store
        try await eventually("something is durable, and the rest waits") {
            rig.nodes[3].gate.isHolding
                && (store.report(of: rig.container)?.blockCount ?? 0) > 3
        }
        try await eventually("SCM hears of it") {
            rig.reported?.state == .recovering && (rig.reported?.blocks ?? 0) > 3
        }
        rig.target.order([])
        try await rig.target.restart()
        let report = try #require(rig.target.store.report(of: rig.container))
        #expect(report.state == .recovering && report.recovery == 1 && report.blockCount > 3)
        let before = rig.nodes[3].gate.reads
        rig.nodes[3].gate.open()
        try await rig.rebuild(2, token: 1, from: [1, 4, 5])
        try await check(rig, 2, from: [1, 4, 5], "after a restart")
        let second = rig.nodes[3].gate.reads - before
        try await rig.clear(2)
        let whole = rig.nodes[3].gate.reads
        try await rig.rebuild(2, token: 2, from: [1, 4, 5])
        #expect(second < rig.nodes[3].gate.reads - whole)
        try await rig.end()
    }

    @Test("a block that is deleted meanwhile does not come back")
    func deletion() async throws {
        let rig = try await rig()
        rig.nodes[3].gate.close(after: 30)
        rig.target.order([rig.reconstruct(2, token: 1, from: [1, 4, 5])])
        let store = rig.target.store
        try await eventually("the rest waits") {
            rig.nodes[3].gate.isHolding
                && (store.report(of: rig.container)?.blockCount ?? 0) > 3
        }
        let here = BlockID(containerID: rig.container, localID: 150)
        let there = BlockID(containerID: rig.container, localID: 151)
        let first = BlockID(containerID: rig.container, localID: 1)
        // One is deleted at the target first, one at the sources.
        var command = SCMDatanodeCommand()
        command.number = 3
        command.deleteBlocks.blocks = [here.message, first.message]
        rig.target.order([command])
        try await eventually("it is deleted") {
            rig.target.scm.state.withLock { $0.done.contains(3) }
        }
        for node in rig.nodes { try await node.store.deleteBlocks([there]) }
        rig.nodes[3].gate.open()
        try await rig.rebuild(2, token: 1, from: [1, 4, 5])
        let rebuilt = try await rig.contents(of: rig.target.store, 2)
        for block in [here, there, first] { #expect(rebuilt[block.localID] == nil) }
        #expect(rebuilt.count > 40)
        try await rig.end()
    }

    @Test("a later order ends the one before; removal ends the last; an earlier one is not taken")
    func orders() async throws {
        let rig = try await rig()
        rig.nodes[3].gate.close(after: 10)
        rig.target.order([rig.reconstruct(2, token: 5, from: [1, 4, 5])])
        try await eventually("it is under way") {
            rig.nodes[3].gate.isHolding && rig.reported?.token == 5
        }
        rig.target.order([
            rig.reconstruct(3, token: 6, from: [1, 4, 5]),
            rig.reconstruct(2, token: 5, from: [1, 4, 5]),
            rig.remove(2, token: 5), rig.remove(3, token: 0),
        ])
        try await eventually("the later one is under way") {
            rig.reported?.token == 6 && rig.reported?.replicaIndex == 3
        }
        let beats = rig.target.scm.heartbeats
        try await eventually("the earlier one changes nothing") {
            rig.target.scm.heartbeats > beats + 10
        }
        #expect(rig.reported?.token == 6)
        rig.target.order([rig.remove(3, token: 6)])
        try await eventually("it is removed") {
            rig.target.store.report(of: rig.container) == nil
        }
        try await rig.end()
    }
}
