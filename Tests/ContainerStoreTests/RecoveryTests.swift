import Bytes
import ContainerFormat
import Foundation
import Model
import Reactor
import Synchronization
import Testing

@testable import ContainerStore

private let id = ContainerID(1)

/// The bytes of a block that is rebuilt.
private func stream(_ localID: UInt64, _ count: Int) -> [UInt8] {
    pattern(count, seed: 0xEC00 + localID)
}

private func begin(
    _ store: ContainerStore, token: UInt64, index: Int = 4, of id: ContainerID = id
) async throws(StoreError) {
    try await store.beginRecovery(
        id, replication: replication, replicaIndex: index, token: token)
}

private func rebuilt(
    _ localID: UInt64, at offset: Int = 0, to end: Int, ended: Bool = true
) -> CellAppend {
    var cell = cell(
        blockID(localID), at: offset, Array(stream(localID, end)[offset...]), ended: ended)
    cell.replicaIndex = 4
    return cell
}

@Suite("replicas that are rebuilt") struct RecoveryTests {
    private func state(_ store: ContainerStore) async -> ContainerReport.State? {
        await store.report().first?.state
    }

    @Test(
        "a recovering replica says so, takes the cells of its order alone, and counts once it ends")
    func life() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            store.begin(epoch: 7)
            // That none is made for a late writer does not hinder a repair.
            try await store.retireContainer(id)
            try await begin(store, token: 9)
            try await store.appendRebuilt(rebuilt(1, to: 65_536, ended: false), token: 9)
            try await store.appendRebuilt(rebuilt(1, at: 65_536, to: 70_000), token: 9)
            let report = try #require(await store.report().first)
            #expect(report.state == .recovering && report.recovery == 9)
            #expect(report.usedBytes == 70_000 && report.blockCount == 1)
            #expect(store.retiredContainers.isEmpty)
            let block = blockID(1)
            var late = rebuilt(2, to: 5000)
            for refusal in [
                await refusal { try await store.append(late, .client) },
                await refusal { try await store.appendRebuilt(late, token: 8) },
                await refusal { try await store.read(block, replicaIndex: 4, 0..<4096) },
                await refusal { try await store.block(block, replicaIndex: 4) },
                await refusal { _ = try await store.blocks(in: id, replicaIndex: 4, limit: 9) },
                await refusal { try await store.closeContainer(id) },
                await refusal { try await store.retireContainer(id) },
                await refusal { try await store.deleteEmptyContainer(id) },
                await refusal { try await store.finishRecovery(id, token: 8) },
            ] {
                #expect(refusal?.code == .containerState)
            }
            late.replicaIndex = 3
            let other = await refusal { try await store.appendRebuilt(late, token: 9) }
            #expect(other?.code == .noSuchContainer)
            #expect(try store.rebuilt(blockID(2), token: 9) == .absent)
            #expect(try store.rebuiltBlocks(in: id, token: 9) == [1])
            try await store.finishRecovery(id, token: 9)
            #expect(await state(store) == .closed)
            #expect(await store.report()[0].recovery == 0)
            #expect(try await store.bytes(of: block) == stream(1, 70_000))
            #expect(try await store.block(block).isEnded)
            // Once more, as an order that is sent again.
            try await store.finishRecovery(id, token: 9)
            let again = await refusal { try await begin(store, token: 10) }
            #expect(again?.code == .containerState)
            try await store.close()
            let reopened = try await openStore(directory, on: reactor)
            #expect(await state(reopened) == .closed)
            #expect(try await reopened.bytes(of: block) == stream(1, 70_000))
            try await reopened.close()
        }
    }

    @Test("a restart leaves it recovering, with what was durable, and it goes on from there")
    func restart() async throws {
        try await withReactor { directory, reactor in
            var store = try await openStore(directory, on: reactor)
            try await begin(store, token: 9)
            try await store.appendRebuilt(rebuilt(1, to: 65_536, ended: false), token: 9)
            try await store.appendRebuilt(rebuilt(3, to: 4000), token: 9)
            try await store.close()
            store = try await openStore(directory, on: reactor)
            let report = try #require(await store.report().first)
            #expect(report.state == .recovering && report.recovery == 9)
            #expect(report.blockCount == 2)
            try await begin(store, token: 9)
            let known = BlockRecord(
                id: blockID(1), length: 65_536, groupLength: 65_536, isEnded: false)
            #expect(try store.rebuilt(blockID(1), token: 9) == .there(known))
            try await store.appendRebuilt(rebuilt(1, at: 65_536, to: 90_000), token: 9)
            try await store.finishRecovery(id, token: 9)
            #expect(try await store.bytes(of: blockID(1)) == stream(1, 90_000))
            #expect(try await store.bytes(of: blockID(3)) == stream(3, 4000))
            try await store.close()
        }
    }

    @Test("a later order begins anew, an earlier one changes nothing")
    func tokens() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            #expect(await refusal { try await begin(store, token: 0) }?.code == .invalidArgument)
            let index = await refusal { try await begin(store, token: 5, index: 6) }
            #expect(index?.code == .invalidArgument)
            try await begin(store, token: 9)
            try await store.appendRebuilt(rebuilt(1, to: 4000), token: 9)
            #expect(await refusal { try await begin(store, token: 8) }?.code == .containerState)
            #expect(try store.rebuiltBlocks(in: id, token: 9) == [1])
            try await begin(store, token: 10, index: 2)
            let report = try #require(await store.report().first)
            #expect(report.recovery == 10 && report.replicaIndex == 2 && report.blockCount == 0)
            let old = await refusal { try await store.appendRebuilt(rebuilt(1, to: 9), token: 9) }
            #expect(old?.code == .noSuchContainer)
            #expect(try store.rebuiltBlocks(in: id, token: 10) == [])
            try await store.close()
            let reopened = try await openStore(directory, on: reactor)
            #expect(await reopened.report()[0].recovery == 10)
            #expect(await reopened.volumes()[0].problems.isEmpty)
            try await reopened.close()
        }
    }

    @Test("a replica that is not being rebuilt is left as it is")
    func present() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(id, replication: replication, replicaIndex: 4)
            try await store.append(cell(blockID(1), at: 0, stream(1, 100)))
            #expect(await refusal { try await begin(store, token: 9) }?.code == .containerState)
            let rebuiltCell = rebuilt(2, to: 9)
            #expect(
                await refusal { try await store.appendRebuilt(rebuiltCell, token: 9) }?.code
                    == .containerState)
            #expect(
                await refusal { try await store.finishRecovery(id, token: 9) }?.code
                    == .containerState)
            #expect(await state(store) == .open)
            #expect(try await store.bytes(of: blockID(1)) == stream(1, 100))
            try await store.close()
        }
    }

    @Test("a replica on a volume that is out is rebuilt on another, without what was deleted")
    func volumeOut() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.watchInterval = .seconds(600)
            let store = try await openStore(
                directory, on: reactor, volumes: 2, options: options)
            try await store.createContainer(id, replication: replication, replicaIndex: 4)
            for localID in [1, 2] as [UInt64] {
                try await store.append(cell(blockID(localID), at: 0, stream(localID, 100)))
            }
            #expect(try await store.deleteBlocks([blockID(2)]).isEmpty)
            let volume = try store.container(id).volume
            // One that hangs may be back at any moment, with the replica.
            volume.withState { $0.suspension = "a test says so" }
            #expect(await refusal { try await begin(store, token: 9) }?.code == .containerState)
            volume.withState { $0.suspension = nil }
            volume.fail("a test says so")
            #expect(await state(store) == .lost)
            try await begin(store, token: 9)
            #expect(try store.container(id).volume !== volume)
            #expect(await state(store) == .recovering)
            #expect(try store.rebuilt(blockID(2), token: 9) == .deleted)
            try await store.appendRebuilt(rebuilt(1, to: 100), token: 9)
            try await store.finishRecovery(id, token: 9)
            #expect(await store.report().map(\.state) == [.closed])
            #expect(try await store.bytes(of: blockID(1)) == stream(1, 100))
            try await store.close()
        }
    }

    @Test("a block that was deleted does not come back, whether it was there or was to come")
    func deletions() async throws {
        try await withReactor { directory, reactor in
            var store = try await openStore(directory, on: reactor)
            try await begin(store, token: 9)
            try await store.appendRebuilt(rebuilt(1, to: 9000), token: 9)
            try await store.appendRebuilt(rebuilt(3, to: 100), token: 9)
            #expect(try await store.deleteBlocks([blockID(1), blockID(2)]).isEmpty)
            func expectGone(_ token: UInt64, blocks: Int) async throws {
                for localID in [1, 2] as [UInt64] {
                    #expect(try store.rebuilt(blockID(localID), token: token) == .deleted)
                    let refusal = await refusal {
                        try await store.appendRebuilt(rebuilt(localID, to: 9000), token: token)
                    }
                    #expect(refusal?.code == .noSuchBlock)
                }
                let report = try #require(await store.report().first)
                #expect(report.blockCount == blocks && report.usedBytes == 100 * blocks)
            }
            try await expectGone(9, blocks: 1)
            try await store.close()
            store = try await openStore(directory, on: reactor)
            try await begin(store, token: 9)
            try await expectGone(9, blocks: 1)
            await store.reclaim()
            // Deleted once more, as by an SCM that has not heard of it.
            #expect(try await store.deleteBlocks([blockID(1), blockID(2)]).isEmpty)
            try await expectGone(9, blocks: 1)
            // What was confirmed is not said again to who begins anew.
            try await begin(store, token: 10)
            try await expectGone(10, blocks: 0)
            try await store.close()
            store = try await openStore(directory, on: reactor)
            try await expectGone(10, blocks: 0)
            try await store.appendRebuilt(rebuilt(3, to: 100), token: 10)
            try await store.finishRecovery(id, token: 10)
            #expect(try await store.blocks(in: id).map(\.id.localID) == [3])
            try await store.close()
        }
    }

    @Test("one that is damaged is begun anew by the same order, and is reported as recovering")
    func damaged() async throws {
        try await withReactor { directory, reactor in
            var store = try await openStore(directory, on: reactor)
            try await begin(store, token: 9)
            try await store.appendRebuilt(rebuilt(1, to: 9000), token: 9)
            try await store.deleteBlocks([blockID(7)])
            let container = try store.container(id)
            container.markDamaged("a test says so")
            #expect(await state(store) == .recovering)
            let refused = await refusal {
                try await store.appendRebuilt(rebuilt(2, to: 9), token: 9)
            }
            #expect(refused?.code == .containerState)
            #expect(
                await refusal { try await store.finishRecovery(id, token: 9) }?.code
                    == .containerState)
            try await store.close()
            store = try await openStore(directory, on: reactor)
            #expect(await state(store) == .recovering)
            try await begin(store, token: 9)
            #expect(try store.rebuiltBlocks(in: id, token: 9) == [])
            #expect(try store.rebuilt(blockID(7), token: 9) == .deleted)
            try await store.appendRebuilt(rebuilt(1, to: 9000), token: 9)
            try await store.finishRecovery(id, token: 9)
            #expect(try await store.bytes(of: blockID(1)) == stream(1, 9000))
            try await store.close()
        }
    }

    @Test("one is removed by its order's token, a closed one by none, and no other")
    func removal() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            func remove(_ index: Int, _ token: UInt64) async throws -> Bool {
                try await store.removeReplica(id, replicaIndex: index, token: token)
            }
            #expect(try await !remove(4, 0))
            try await begin(store, token: 9)
            for (index, token) in [(4, 0), (4, 8), (3, 9)] as [(Int, UInt64)] {
                #expect(try await !remove(index, token))
            }
            #expect(try await remove(4, 9))
            #expect(await store.report().isEmpty)
            // Nobody makes one as a late writer would; a repair does.
            let late = await refusal {
                try await store.createContainer(
                    id, replication: replication, replicaIndex: 4, permission: 0)
            }
            #expect(late?.code == .containerState)
            try await begin(store, token: 10)
            try await store.appendRebuilt(rebuilt(1, to: 9), token: 10)
            try await store.finishRecovery(id, token: 10)
            for (index, token) in [(4, 10), (3, 0)] as [(Int, UInt64)] {
                #expect(try await !remove(index, token))
            }
            #expect(try await remove(4, 0))
            #expect(try names(in: directory + "/v1/containers").isEmpty)
            // An open one is left alone.
            let other = ContainerID(2)
            try await store.createContainer(other, replication: replication, replicaIndex: 4)
            #expect(try await !store.removeReplica(other, replicaIndex: 4, token: 0))
            #expect(await state(store) == .open)
            try await store.close()
        }
    }

    @Test("who still reads a replica that is removed is no trouble for the one after it")
    func lateReader() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await begin(store, token: 9)
            try await store.appendRebuilt(rebuilt(1, to: 9000), token: 9)
            try await store.finishRecovery(id, token: 9)
            let old = try store.container(id)
            let path = old.volume.dataPath(id)
            try FileManager.default.linkItem(atPath: path, toPath: path + ".kept")
            #expect(try await store.removeReplica(id, replicaIndex: 4, token: 0))
            // A reader of it opened the file just before that, and is heard of now.
            try FileManager.default.moveItem(atPath: path + ".kept", toPath: path)
            _ = try await store.cache.dataFile(of: old)
            try FileManager.default.removeItem(atPath: path)
            try await begin(store, token: 10)
            try await store.appendRebuilt(rebuilt(1, to: 70_000), token: 10)
            try await store.finishRecovery(id, token: 10)
            #expect(try await store.bytes(of: blockID(1)) == stream(1, 70_000))
            #expect(await state(store) == .closed)
            try await store.close()
        }
    }

    @Test("a disk that becomes full closes none that is not whole")
    func full() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.volumeLimitBytes = 1 << 20
            let store = try await openStore(directory, on: reactor, options: options)
            try await begin(store, token: 9)
            for localID in 1...24 as ClosedRange<UInt64> {
                try await store.appendRebuilt(rebuilt(localID, to: 65_536), token: 9)
            }
            #expect(await store.volumes()[0].available == 0)
            let volume = try store.container(id).volume
            volume.noteFull()
            volume.closer.add(try store.container(id))
            await volume.closer.stop()
            #expect(await state(store) == .recovering)
            try await store.finishRecovery(id, token: 9)
            #expect(await state(store) == .closed)
            try await store.close()
        }
    }

    @Test("a journal that says recovering behind other records, or closes so, is damaged")
    func records() throws {
        var contents = ContainerContents()
        try contents.apply(.recovering(token: 3))
        #expect(contents.recovery == 3)
        #expect(throws: FormatError.self) { try contents.apply(.recovering(token: 4)) }
        #expect(throws: FormatError.self) {
            try contents.apply(.closed(footerOffset: 4096, blockCount: 0, usedBytes: 0))
        }
        try contents.apply(.deleted(localID: 5, length: 0, extents: []))
        #expect(contents.blockCount == 0 && contents.deleted == [5])
        var other = ContainerContents()
        try other.apply(.commit(.init(localID: 1, groupLength: 0, isEnded: false)))
        #expect(throws: FormatError.self) { try other.apply(.recovering(token: 3)) }
    }
}

/// What a run that rebuilds was told before a crash.
private struct Facts: Sendable {
    var begun: UInt64 = 0
    var asked: UInt64 = 0
    var acknowledged: [UInt64: Int] = [:]
    var deletionAsked: Set<UInt64> = []
    var deleted: Set<UInt64> = []
    var finishAsked = false
    var isFinished = false
    var isRemovalAsked = false
    var isRemoved = false
}

private final class Run: Sendable {
    let facts = Mutex(Facts())

    /// Begins, appends, deletes, begins anew, and finishes; then has the replica removed.
    func work(_ directory: String, _ reactor: Reactor) async throws(StoreError) {
        let store = try await openStore(directory, on: reactor, options: .mortal)
        try await begin(store, 5)
        try await append(store, 5, [1, 2])
        try await delete(store, [2, 6])
        try await begin(store, 7)
        try await append(store, 7, [1, 3, 4])
        try await delete(store, [3, 8])
        await store.reclaim()
        try await append(store, 7, [5])
        facts.withLock { $0.finishAsked = true }
        try await store.finishRecovery(id, token: 7)
        facts.withLock { $0.isFinished = true }
        try await delete(store, [4])
        facts.withLock { $0.isRemovalAsked = true }
        try await store.removeReplica(id, replicaIndex: 4, token: 0)
        facts.withLock { $0.isRemoved = true }
        try await store.close()
    }

    private func begin(_ store: ContainerStore, _ token: UInt64) async throws(StoreError) {
        facts.withLock { $0.asked = token }
        try await store.beginRecovery(
            id, replication: replication, replicaIndex: 4, token: token)
        facts.withLock { facts in
            facts.begun = token
            facts.acknowledged = [:]
        }
    }

    private func append(
        _ store: ContainerStore, _ token: UInt64, _ blocks: [UInt64]
    ) async throws(StoreError) {
        for localID in blocks {
            for (offset, end) in [(0, 65_536), (65_536, 65_536 + 1000 * Int(localID))] {
                let length = try await store.appendRebuilt(
                    rebuilt(localID, at: offset, to: end, ended: offset > 0), token: token)
                facts.withLock { $0.acknowledged[localID] = length }
            }
        }
    }

    private func delete(_ store: ContainerStore, _ blocks: [UInt64]) async throws(StoreError) {
        facts.withLock { $0.deletionAsked.formUnion(blocks) }
        try await store.deleteBlocks(blocks.map { blockID($0) })
        facts.withLock { $0.deleted.formUnion(blocks) }
    }
}

@Suite("crashes while a replica is rebuilt", .serialized) struct RecoveryCrashTests {
    /// Runs the workload until the power is cut before operation `crashAt`.
    private func run(
        _ directory: String, seed: UInt64, crashAt: Int?, rates: FaultInjector.Rates = .init()
    ) async throws -> (Facts, Int) {
        let faults = FaultInjector(seed: seed, rates: rates)
        if let crashAt { faults.crash(atOperation: crashAt) }
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        let run = Run()
        let error = await Task(executorPreference: reactor) {
            await refusal { try await run.work(directory, reactor) }
        }.value
        if crashAt == nil { #expect(error == nil, "\(String(describing: error))") }
        let count = faults.operationCount
        reactor.stop()
        faults.applyCrash()
        return (run.facts.withLock { $0 }, count)
    }

    /// Opens the store after the crash, holds it against what was told, and goes on to the end.
    private func check(_ directory: String, _ facts: Facts, _ comment: Comment) async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        try await Task(executorPreference: reactor) {
            var store = try await openStore(directory, on: reactor, options: .mortal)
            #expect(await store.volumes()[0].problems.isEmpty, comment)
            if facts.isRemoved { #expect(await store.report().isEmpty, comment) }
            // It is there unless its removal, or its beginning anew, was under way.
            guard let report = store.report(of: id) else {
                #expect(
                    facts.begun == 0 || facts.begun < facts.asked || facts.isRemovalAsked, comment)
                return try await store.close()
            }
            switch report.state {
            case .recovering:
                #expect(!facts.isFinished, comment)
                #expect([facts.begun, facts.asked].contains(report.recovery), comment)
                try await goOn(store, report.recovery, facts, comment)
            case .closed:
                #expect(facts.finishAsked, comment)
                try await checkWhole(store, facts, comment)
            default: Issue.record("\(report.state) \(comment)")
            }
            try await store.close()
            store = try await openStore(directory, on: reactor, options: .mortal)
            #expect(store.report(of: id)?.state == .closed, comment)
            try await checkWhole(store, facts, comment)
            try await store.close()
        }.value
    }

    private func goOn(
        _ store: ContainerStore, _ token: UInt64, _ facts: Facts, _ comment: Comment
    ) async throws {
        try await begin(store, token: token)
        if token == facts.begun {
            for (localID, length) in facts.acknowledged
            where !facts.deletionAsked.contains(localID) {
                guard case .there(let record) = try store.rebuilt(blockID(localID), token: token)
                else {
                    Issue.record("block \(localID) is gone \(comment)")
                    continue
                }
                #expect(record.length >= length, comment)
            }
        }
        for localID in facts.deleted {
            #expect(try store.rebuilt(blockID(localID), token: token) == .deleted, comment)
        }
        for localID in [1, 3, 4, 5] as [UInt64] {
            var start = 0
            let end = 65_536 + 1000 * Int(localID)
            switch try store.rebuilt(blockID(localID), token: token) {
            case .deleted:
                #expect(facts.deletionAsked.contains(localID), comment)
                continue
            case .absent: break
            case .there(let record): start = record.length
            }
            if start < end {
                try await store.appendRebuilt(
                    rebuilt(localID, at: start, to: end), token: token)
            }
        }
        try await store.finishRecovery(id, token: token)
    }

    /// Holds a closed replica against what it is to be.
    private func checkWhole(
        _ store: ContainerStore, _ facts: Facts, _ comment: Comment
    ) async throws {
        let records = try await store.blocks(in: id)
        var used = 0
        for record in records {
            #expect(!facts.deleted.contains(record.id.localID), comment)
            let bytes = try await store.bytes(of: record.id)
            #expect(bytes == stream(record.id.localID, record.length), comment)
            used += record.length
        }
        let there = Set(records.map(\.id.localID))
        let expected = Set([1, 3, 4, 5] as [UInt64]).subtracting(facts.deletionAsked)
        #expect(expected.isSubset(of: there), comment)
        for record in records where expected.contains(record.id.localID) {
            #expect(record.isEnded && record.length > 65_536, comment)
        }
        let report = try #require(store.report(of: id))
        #expect(report.usedBytes == used && report.blockCount == records.count, comment)
    }

    @Test("a power cut before any operation leaves it recovering with what was told, or whole")
    func everyOperation() async throws {
        let operations = try await withDirectory { try await run($0, seed: 0, crashAt: nil).1 }
        #expect(operations > 60)
        for crashAt in 0...operations {
            try await withDirectory { directory in
                let (facts, _) = try await run(directory, seed: UInt64(crashAt), crashAt: crashAt)
                try await check(directory, facts, "crash before operation \(crashAt)")
            }
        }
    }

    @Test("power cuts in other orders of operations, with delays and short writes, do the same")
    func otherOrders() async throws {
        for seed in 3000..<3040 as Range<UInt64> {
            try await withDirectory { directory in
                var random = SplitMix64(state: seed)
                let crashAt = Int.random(in: 10..<140, using: &random)
                let (facts, _) = try await run(
                    directory, seed: seed, crashAt: crashAt, rates: .init(short: 0.2, delay: 0.3))
                try await check(directory, facts, "seed \(seed), operation \(crashAt)")
            }
        }
    }
}
