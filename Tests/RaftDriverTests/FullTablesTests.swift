import Eventually
import GroupTestSupport
import MetadataStore
import Model
import RaftLog
import Reactor
import Synchronization
import Testing
import Wire

@testable import RaftDriver

private let table = MetadataTable(1)

/// Commands are keys: each gets a value of 1 MiB, so that few fill the overlay.
private struct Filling: StateMachine {
    var tables: [MetadataTable] { [table] }
    func encode(_ command: [UInt8]) -> [UInt8] { [1] + command }
    func decode(_ bytes: [UInt8]) -> [UInt8] { Array(bytes.dropFirst()) }

    func apply(
        _ command: [UInt8], at index: UInt64, in transaction: some MetadataTransaction
    ) -> [UInt8] {
        transaction.put(table, command, [UInt8](repeating: command[0], count: 1 << 20))
        return command
    }

    func applied(_ command: [UInt8], answer: [UInt8], at index: UInt64) {}
}

/// What proposals came to, by key.
private final class Outcomes: Sendable {
    private let mutex = Mutex<[UInt8: StoreError?]>([:])

    func note(_ key: UInt8, _ error: StoreError?) {
        mutex.withLock { _ = $0.updateValue(error, forKey: key) }
    }

    /// Keys that were answered, and those refused or failed with each code.
    var answered: Set<UInt8> {
        mutex.withLock { Set($0.filter { $0.value == nil }.keys) }
    }

    func keys(_ code: StoreError.Code) -> Set<UInt8> {
        mutex.withLock { Set($0.filter { $0.value?.code == code }.keys) }
    }

    var count: Int { mutex.withLock { $0.count } }
}

private func open(
    _ directory: String, on reactor: Reactor
) async throws(StoreError) -> MetadataGroup<Filling> {
    try await MetadataGroup.open(
        directory: directory, role: "test", reactor: reactor, stateMachine: Filling(),
        options: .init(log: .init(segmentSize: 64 << 10), checkpointBytes: 1 << 30))
}

private func keys(_ group: MetadataGroup<Filling>) async throws -> Set<UInt8> {
    try await group.read { tables in
        var keys: Set<UInt8> = []
        tables.scan(table, from: []) { key, _ in
            keys.insert(key[0])
            return true
        }
        return keys
    }
}

/// Proposes the keys of `proposer`, one after the other, until there is no room or there are none.
private func fill(
    _ group: MetadataGroup<Filling>, _ proposer: UInt8, _ outcomes: Outcomes
) async {
    for round in 0..<25 as Range<UInt8> {
        let key = proposer * 25 + round
        do throws(StoreError) {
            _ = try await group.propose([key])
            outcomes.note(key, nil)
        } catch {
            outcomes.note(key, error)
            return
        }
    }
}

/// Returns when what is in the group's log waits for room.
private func waitUntilStuck(_ group: MetadataGroup<Filling>) async throws {
    try await eventually("what is in the log waits for room") {
        await group.engine.member.waitsForSpace > 0
    }
}

@Suite("MetadataGroup: tables without room", .serialized, .timeLimit(.minutes(10)))
struct FullTablesTests {
    @Test("what is refused for want of room was not made, and what is in the log waits")
    func refused() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let disk = TablesDisk(directory + "/g", seed: 1, faults: FaultInjector(seed: 1))
            defer { disk.end() }
            let group = try await open(directory + "/g", on: reactor)
            disk.isFull = true
            let outcomes = Outcomes()
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for proposer in 0..<4 as Range<UInt8> {
                    tasks.addTask { await fill(group, proposer, outcomes) }
                }
                try await waitUntilStuck(group)
                let late = await #expect(throws: StoreError.self) {
                    try await group.propose([200])
                }
                #expect(late?.code == .noSpace)
                let health = await group.engine.member.health
                #expect(health.disk == .full && !health.reason.isEmpty)
                disk.isFull = false
                try await tasks.waitForAll()
            }
            #expect(await group.engine.member.health == .well)
            #expect(outcomes.answered.count > 32)
            #expect(outcomes.answered.count + outcomes.keys(.noSpace).count == outcomes.count)
            #expect(try await keys(group) == outcomes.answered)
            _ = try await group.propose([201])
            try await group.close()
            let again = try await open(directory + "/g", on: reactor)
            #expect(try await keys(again) == outcomes.answered.union([201]))
            try await again.close()
        }
    }

    @Test("a group without room is closed all the same; what is in its log is left open")
    func closed() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let disk = TablesDisk(directory + "/g", seed: 2, faults: FaultInjector(seed: 2))
            defer { disk.end() }
            let group = try await open(directory + "/g", on: reactor)
            disk.isFull = true
            let outcomes = Outcomes()
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for proposer in 0..<4 as Range<UInt8> {
                    tasks.addTask { await fill(group, proposer, outcomes) }
                }
                try await waitUntilStuck(group)
                let failure = await #expect(throws: StoreError.self) { try await group.close() }
                #expect(failure?.code == .noSpace, "the tables could not be written")
                try await tasks.waitForAll()
            }
            disk.isFull = false
            let again = try await open(directory + "/g", on: reactor)
            let kept = try await keys(again)
            #expect(!outcomes.keys(.connection).isEmpty)
            #expect(kept.isSuperset(of: outcomes.answered))
            #expect(kept.isSubset(of: outcomes.answered.union(outcomes.keys(.connection))))
            try await again.close()
        }
    }
}
