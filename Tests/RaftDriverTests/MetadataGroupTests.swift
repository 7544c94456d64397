import Foundation
import GroupTestSupport
import MetadataStore
import Model
import RaftLog
import Reactor
import Synchronization
import Testing

@testable import RaftDriver

private let table = MetadataTable(1)

/// Commands are `[key, byte]`: appends the byte to the key's value and answers the value. Counts
/// its own runs in key 0xFF, which shows a command applied twice.
private struct Counting: StateMachine {
    let applied = Mutex2<[UInt64]>([])
    var tables: [MetadataTable] { [table] }
    func encode(_ command: [UInt8]) -> [UInt8] { [1] + command }
    func decode(_ bytes: [UInt8]) -> [UInt8] { Array(bytes.dropFirst()) }

    func apply(
        _ command: [UInt8], at index: UInt64, in transaction: some MetadataTransaction
    ) -> [UInt8] {
        let key = [command[0]]
        let value = (transaction.get(table, key) ?? []) + [command[1]]
        transaction.put(table, key, value)
        var count: UInt64 = transaction.get(table, [0xFF])?.bigEndian(at: 0) ?? 0
        count += 1
        var bytes: [UInt8] = []
        bytes.appendBigEndian(count)
        transaction.put(table, [0xFF], bytes)
        return value
    }

    func applied(_ command: [UInt8], answer: [UInt8], at index: UInt64) {
        applied.withLock { $0.append(index) }
    }
}

/// A mutex that can be a field of a struct that is copied.
private final class Mutex2<Value: Sendable>: Sendable {
    private let mutex: Mutex<Value>
    init(_ value: Value) { mutex = Mutex(value) }
    func withLock<R>(_ body: (inout sending Value) -> R) -> R {
        mutex.withLock { value in body(&value) }
    }
}

private func open(
    _ directory: String, on reactor: Reactor, _ machine: Counting = Counting(),
    checkpointBytes: Int = 1 << 30
) async throws(StoreError) -> MetadataGroup<Counting> {
    try await MetadataGroup.open(
        directory: directory, role: "test", reactor: reactor, stateMachine: machine,
        options: .init(
            log: .init(segmentSize: 64 << 10), checkpointBytes: checkpointBytes))
}

private func runs(_ group: MetadataGroup<Counting>) async throws -> UInt64 {
    try await group.read { tables in tables.get(table, [0xFF])?.bigEndian(at: 0) ?? 0 }
}

@Suite("MetadataGroup")
struct MetadataGroupTests {
    @Test("commands of many proposers are applied once each, in one order, in batches")
    func concurrent() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let machine = Counting()
            let group = try await open(directory + "/g", on: reactor, machine)
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for proposer in 0..<50 as Range<UInt8> {
                    tasks.addTask {
                        for round in 0..<20 as Range<UInt8> {
                            let answer = try await group.propose([proposer, round])
                            #expect(answer == Array(0...round))
                            let read = try await group.read { $0.get(table, [proposer]) }
                            #expect(read == answer, "a read misses an answered change")
                        }
                    }
                }
                try await tasks.waitForAll()
            }
            // One more: the entry with which a leader begins its term.
            #expect(group.appliedIndex == 1001)
            #expect(try await runs(group) == 1000)
            #expect(machine.applied.withLock { $0 } == Array(2...1001))
            try await group.close()
        }
    }

    @Test("after opening again everything is there, applied once")
    func reopen() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            for round in 0..<3 as Range<UInt8> {
                let group = try await open(directory + "/g", on: reactor)
                #expect(group.appliedIndex == UInt64(round) * 11 + 1)
                for key in 0..<10 as Range<UInt8> {
                    let answer = try await group.propose([key, round])
                    #expect(answer == Array(0...round))
                }
                try await group.close()
            }
        }
    }

    @Test("tables that are older than the log, or absent, are brought up by replaying")
    func replay() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let manager = FileManager.default
            var group = try await open(directory + "/g", on: reactor)
            for value in 0..<40 as Range<UInt8> { _ = try await group.propose([1, value]) }
            try await group.copyTables(to: directory + "/old.db")
            for value in 40..<100 as Range<UInt8> { _ = try await group.propose([1, value]) }
            try await group.close()
            for old in ["old.db", nil] {
                for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
                    try? manager.removeItem(atPath: directory + "/g/" + name)
                }
                if let old {
                    try manager.copyItem(
                        atPath: directory + "/" + old, toPath: directory + "/g/metadata.db")
                }
                group = try await open(directory + "/g", on: reactor)
                #expect(try await runs(group) == 100)
                let value = try await group.read { $0.get(table, [1]) }
                #expect(value == Array(0..<100))
                try await group.close()
            }
        }
    }

    @Test("the log is dropped behind checkpoints, and nothing with it")
    func truncation() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var group = try await open(directory + "/g", on: reactor, checkpointBytes: 100_000)
            for round in 0..<200 { _ = try await group.propose([UInt8(round % 50), 1]) }
            try await group.close()
            #expect(group.checkpointError == nil)
            let segments = try FileManager.default
                .contentsOfDirectory(atPath: directory + "/g/log")
                .filter { $0.hasPrefix("segment-") }
            #expect(segments.count <= 4, "of 13 segments written")
            group = try await open(directory + "/g", on: reactor)
            #expect(try await runs(group) == 200)
            try await group.close()
        }
    }

    @Test("a long log of the database asks for a checkpoint too, however few the commands")
    func longTablesLog() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var options = MetadataGroupOptions(checkpointBytes: 1 << 30)
            options.tablesLogBytes = 1
            var group = try await MetadataGroup.open(
                directory: directory + "/g", role: "test", reactor: reactor,
                stateMachine: Counting(), options: options)
            var rounds: UInt64 = 0
            while await group.engine.member.log.firstIndex == 1, rounds < 10_000 {
                _ = try await group.propose([UInt8(rounds % 50), 1])
                rounds += 1
            }
            #expect(await group.engine.member.log.firstIndex > 1, "the log was dropped behind it")
            #expect(group.checkpointError == nil)
            try await group.close()
            group = try await open(directory + "/g", on: reactor)
            #expect(try await runs(group) == rounds)
            try await group.close()
        }
    }

    @Test("a closed group refuses, and a command that is too large is told so")
    func refusals() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let group = try await open(directory + "/g", on: reactor)
            let large = await #expect(throws: StoreError.self) {
                try await group.propose([UInt8](repeating: 0, count: 64 << 10))
            }
            #expect(large?.code == .invalidArgument)
            _ = try await group.propose([1, 1])
            try await group.close()
            let closed = await #expect(throws: StoreError.self) {
                try await group.propose([1, 1])
            }
            #expect(closed?.code == .notLeader)
        }
    }

    @Test(
        "after a power cut at any operation every answered command is there, once",
        arguments: 0..<40)
    func powerCut(seed: Int) async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: UInt64(seed))
            let faulty = try Reactor.start(.init(backend: .faulty(faults)))
            faults.crash(atOperation: 20 + seed * 5)
            let answered = Mutex2<[UInt8: [UInt8]]>([:])
            do {
                let group = try await open(
                    directory + "/g", on: faulty, checkpointBytes: 50_000)
                await withTaskGroup(of: Void.self) { tasks in
                    for key in 0..<8 as Range<UInt8> {
                        tasks.addTask {
                            for round in 0..<40 as Range<UInt8> {
                                guard let answer = try? await group.propose([key, round])
                                else { return }
                                answered.withLock { $0[key] = answer }
                            }
                        }
                    }
                }
                let late = await #expect(throws: StoreError.self) {
                    if faults.hasCrashed {
                        _ = try await group.propose([1, 1])
                    } else {
                        throw StoreError(.io, "not crashed")
                    }
                }
                #expect(late?.code == .io)
                try? await group.close()
            } catch let error as StoreError {
                #expect(error.code == .io)
            }
            faulty.stop()
            faults.applyCrash()

            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let group = try await open(directory + "/g", on: reactor)
            let kept = try await group.read { tables in
                (0..<8).map { tables.get(table, [$0]) ?? [] }
            }
            for (key, value) in kept.enumerated() {
                #expect(value == Array(0..<UInt8(value.count)), "applied out of order or twice")
                let promised = answered.withLock { $0[UInt8(key)]?.count ?? 0 }
                #expect(value.count >= promised, "an answered command is lost")
            }
            try await group.close()
        }
    }
}
