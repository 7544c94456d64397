import Bytes
import Model
import Reactor
import Synchronization
import Testing

@testable import ContainerStore

/// What a run before a crash was told, and what it had asked for.
private struct Facts: Sendable {
    var adopted = false
    var created: Set<UInt64> = []
    /// Acknowledged durable length by block.
    var acknowledged: [BlockID: Int] = [:]
    /// Group length and end acknowledged last, for blocks whose last append was acknowledged.
    var ended: Set<BlockID> = []
    var deletionAsked: Set<BlockID> = []
    var deleted: Set<BlockID> = []
    var closed: Set<UInt64> = []
    var containerDeletionAsked: Set<UInt64> = []
    var containerDeleted: Set<UInt64> = []
    var isShut = false
}

private let cluster = ClusterID(high: 3, low: 3)

/// The bytes that a block of these tests is made of, however many of them are there.
private func stream(_ block: BlockID, _ count: Int) -> [UInt8] {
    pattern(count, seed: block.containerID.rawValue << 32 | block.localID)
}

private final class Run: Sendable {
    let facts = Mutex(Facts())
    let directory: String
    let reactor: Reactor
    init(_ directory: String, _ reactor: Reactor) {
        self.directory = directory
        self.reactor = reactor
    }

    func note(_ change: (inout Facts) -> Void) { facts.withLock { change(&$0) } }

    /// Uses every operation of a store; ends with the first error.
    func work() async throws(StoreError) {
        let store = try await openStore(directory, on: reactor, options: .mortal)
        try await store.adopt(cluster: cluster)
        note { $0.adopted = true }
        for id in [1, 2] as [UInt64] { try await create(store, id) }
        try await append(store, container: 1, blocks: 1...5, cells: 3)
        try await append(store, container: 2, blocks: 1...2, cells: 1)
        try await delete(store, [blockID(2), blockID(1, in: 2)])
        try await append(store, container: 1, blocks: 6...7, cells: 2)
        try await store.closeContainer(ContainerID(1))
        note { $0.closed.insert(1) }
        try await delete(store, [blockID(3)])
        note { $0.containerDeletionAsked.insert(2) }
        try await store.deleteContainer(ContainerID(2))
        note { $0.containerDeleted.insert(2) }
        try await create(store, 3)
        try await append(store, container: 3, blocks: 1...2, cells: 2)
        try await store.close()
        note { $0.isShut = true }
    }

    private func create(_ store: ContainerStore, _ id: UInt64) async throws(StoreError) {
        try await store.createContainer(
            ContainerID(id), replication: replication, replicaIndex: 1)
        note { $0.created.insert(id) }
    }

    private func delete(_ store: ContainerStore, _ blocks: [BlockID]) async throws(StoreError) {
        note { $0.deletionAsked.formUnion(blocks) }
        try await store.deleteBlocks(blocks)
        note { $0.deleted.formUnion(blocks) }
        // As the store does some seconds later.
        await store.reclaim()
    }

    /// Appends to several blocks at once; of each, all cells are in flight at the same time.
    private func append(
        _ store: ContainerStore, container: UInt64, blocks: ClosedRange<UInt64>, cells: Int
    ) async throws(StoreError) {
        let failure = await withTaskGroup(of: StoreError?.self) { group in
            for part in 0..<cells {
                for localID in blocks {
                    let block = blockID(localID, in: container)
                    let isLast = part == cells - 1
                    let end = part * 65_536 + (isLast ? 100 + Int(localID) * 5_000 : 65_536)
                    group.addTask {
                        await refusal {
                            let length = try await store.append(
                                cell(
                                    block, at: part * 65_536,
                                    Array(stream(block, end)[(part * 65_536)...]), group: end,
                                    ended: isLast))
                            self.note { facts in
                                facts.acknowledged[block] = max(
                                    length, facts.acknowledged[block] ?? 0)
                                if isLast { facts.ended.insert(block) }
                            }
                        }
                    }
                }
            }
            var failure: StoreError?
            for await error in group { failure = failure ?? error }
            return failure
        }
        if let failure { throw failure }
    }
}

@Suite(.serialized) struct CrashTests {
    /// Runs the workload until it ends or the power is cut before operation `crashAt`. Returns
    /// what it was told, and how many operations there were.
    private func run(
        _ directory: String, seed: UInt64, crashAt: Int?, rates: FaultInjector.Rates = .init()
    ) async throws -> (Facts, Int) {
        let faults = FaultInjector(seed: seed, rates: rates)
        if let crashAt { faults.crash(atOperation: crashAt) }
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        let run = Run(directory, reactor)
        let error = await Task(executorPreference: reactor) {
            await refusal { try await run.work() }
        }.value
        if crashAt == nil { #expect(error == nil, "\(String(describing: error))") }
        let count = faults.operationCount
        reactor.stop()
        faults.applyCrash()
        return (run.facts.withLock { $0 }, count)
    }

    /// Holds a store that was opened after a crash against what had been acknowledged.
    private func check(_ store: ContainerStore, _ facts: Facts, _ comment: Comment) async throws {
        #expect(!facts.adopted || store.cluster == cluster, comment)
        let reports = await store.report()
        let there = Set(reports.map(\.id.rawValue))
        #expect(!reports.contains { $0.state == .unhealthy }, comment)
        #expect(await store.volumes().allSatisfy { $0.problems.isEmpty && !$0.isFailed }, comment)
        let expected = facts.created.subtracting(facts.containerDeletionAsked)
        #expect(expected.isSubset(of: there), comment)
        #expect(there.isDisjoint(with: facts.containerDeleted), comment)
        for report in reports where facts.closed.contains(report.id.rawValue) {
            #expect(report.state == .closed, comment)
        }
        for (block, length) in facts.acknowledged
        where !facts.containerDeletionAsked.contains(block.containerID.rawValue)
            && !facts.deletionAsked.contains(block)
        {
            let record = try await store.block(block)
            #expect(record.length >= length, comment)
            if facts.ended.contains(block) { #expect(record.isEnded, comment) }
        }
        for report in reports {
            var used = 0
            for record in try await store.blocks(in: report.id) {
                #expect(!facts.deleted.contains(record.id), comment)
                // What is visible is whole, whoever was told of it.
                let bytes = try await store.bytes(of: record.id)
                #expect(bytes == stream(record.id, record.length), comment)
                used += record.length
            }
            #expect(report.usedBytes == used, comment)
        }
    }

    /// Goes on writing after a crash, and opens the store once more.
    private func goOn(_ directory: String, _ facts: Facts, _ comment: Comment) async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        try await Task(executorPreference: reactor) {
            let store = try await openStore(directory, on: reactor, options: .mortal)
            try await check(store, facts, comment)
            for report in await store.report() where report.state == .open {
                let block = BlockID(containerID: report.id, localID: 1000)
                try await store.append(cell(block, at: 0, stream(block, 65_536)))
                for record in try await store.blocks(in: report.id)
                where !record.isEnded && record.length % 16_384 == 0 && record.length < 65_536 * 3 {
                    let more = stream(record.id, record.length + 777)[record.length...]
                    try await store.append(cell(record.id, at: record.length, Array(more)))
                }
            }
            try await check(store, facts, comment)
            try await store.close()
            let again = try await openStore(directory, on: reactor, options: .mortal)
            try await check(again, facts, comment)
            for report in await again.report() where report.state == .open {
                try await again.closeContainer(report.id)
            }
            try await check(again, facts, comment)
            try await again.close()
        }.value
    }

    @Test("a power cut before any operation loses nothing that was acknowledged")
    func everyOperation() async throws {
        let operations = try await withDirectory { try await run($0, seed: 0, crashAt: nil).1 }
        #expect(operations > 60)
        for crashAt in 0...operations {
            try await withDirectory { directory in
                let (facts, _) = try await run(
                    directory, seed: UInt64(crashAt), crashAt: crashAt)
                try await goOn(directory, facts, "crash before operation \(crashAt)")
            }
        }
    }

    @Test("power cuts in other orders of operations, with delays and short writes, lose nothing")
    func otherOrders() async throws {
        for seed in 1000..<1050 as Range<UInt64> {
            try await withDirectory { directory in
                var random = SplitMix64(state: seed)
                let crashAt = Int.random(in: 10..<140, using: &random)
                let (facts, _) = try await run(
                    directory, seed: seed, crashAt: crashAt,
                    rates: .init(short: 0.2, delay: 0.3))
                try await goOn(directory, facts, "seed \(seed), operation \(crashAt)")
            }
        }
    }

    @Test("a second power cut while recovering from the first loses nothing either")
    func twice() async throws {
        for seed in 2000..<2040 as Range<UInt64> {
            try await withDirectory { directory in
                var random = SplitMix64(state: seed)
                let first = Int.random(in: 20..<120, using: &random)
                let (facts, _) = try await run(directory, seed: seed, crashAt: first)
                let second = Int.random(in: 0..<12, using: &random)
                let faults = FaultInjector(seed: seed)
                faults.crash(atOperation: second)
                let reactor = try Reactor.start(.init(backend: .faulty(faults)))
                _ = await Task(executorPreference: reactor) {
                    await refusal { try await openStore(directory, on: reactor, options: .mortal) }
                }.value
                reactor.stop()
                faults.applyCrash()
                try await goOn(
                    directory, facts, "seed \(seed), operations \(first) and \(second)")
            }
        }
    }

    @Test("a clean end leaves journals without tails to cut")
    func cleanEnd() async throws {
        try await withDirectory { directory in
            let (facts, _) = try await run(directory, seed: 5, crashAt: nil)
            #expect(facts.isShut)
            try await goOn(directory, facts, "clean end")
        }
    }
}
