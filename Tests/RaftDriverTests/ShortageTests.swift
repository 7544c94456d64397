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

/// Commands are keys, each with 8 KiB beside it in the log.
private struct Noting: StateMachine {
    var tables: [MetadataTable] { [table] }
    func encode(_ command: UInt64) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 8 << 10)
        bytes[0] = 1
        for place in 0..<8 { bytes[place + 1] = UInt8(truncatingIfNeeded: command >> (8 * place)) }
        return bytes
    }
    func decode(_ bytes: [UInt8]) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(bytes[$1 + 1]) << (8 * $1) }
    }
    func apply(
        _ command: UInt64, at index: UInt64, in transaction: some MetadataTransaction
    ) -> UInt64 {
        var key: [UInt8] = []
        key.appendBigEndian(command)
        transaction.put(table, key, [1])
        return command
    }
    func applied(_ command: UInt64, answer: UInt64, at index: UInt64) {}
}

@Suite("MetadataGroup: without descriptors", .serialized, .timeLimit(.minutes(10)))
struct ShortageTests {
    @Test("a member without descriptors answers overload, says so once, and goes on by itself")
    func recovers() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 1)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            let notices = Mutex<[String]>([])
            var options = MetadataGroupOptions(
                log: .init(segmentSize: 64 << 10), checkpointBytes: 1 << 30)
            options.member.notice = { text in notices.withLock { $0.append(text) } }
            let opening = options
            let open = { () async throws(StoreError) in
                try await MetadataGroup.open(
                    directory: directory + "/g", role: "test", reactor: reactor,
                    stateMachine: Noting(), options: opening)
            }
            let group = try await open()
            faults.set(error: EMFILE, for: .open)
            var made: Set<UInt64> = []
            var next: UInt64 = 0
            // The first that finds no segment waits in the log; others are told meanwhile.
            let tasks = Mutex<[Task<StoreError?, Never>]>([])
            var refusal: StoreError?
            while refusal == nil, next < 400 {
                let number = next
                let task = Task { () -> StoreError? in
                    do throws(StoreError) {
                        _ = try await group.propose(number)
                        return nil
                    } catch {
                        return error
                    }
                }
                next += 1
                while await group.engine.member.waitsForSpace == 0,
                    group.engine.member.waitingCommands > 0
                {
                    try await reactor.sleep(for: .milliseconds(1))
                }
                if await group.engine.member.waitsForSpace > 0 {
                    tasks.withLock { $0.append(task) }
                    let late = await #expect(throws: StoreError.self) {
                        try await group.propose(1_000_000)
                    }
                    refusal = late
                } else if await task.value == nil {
                    made.insert(number)
                }
            }
            #expect(refusal?.code == .overloaded)
            faults.set(error: nil, for: .open)
            for task in tasks.withLock({ $0 }) {
                #expect(await task.value == nil, "what is in the log is made")
            }
            // As before, without a restart.
            for number in next..<next + 50 {
                while true {
                    do throws(StoreError) {
                        _ = try await group.propose(number)
                        break
                    } catch {
                        #expect(error.code == .overloaded)
                        try await reactor.sleep(for: .milliseconds(5))
                    }
                }
            }
            #expect(notices.withLock { $0.count } == 2, "\(notices.withLock { $0 })")
            let expected = Int(next) + 50
            try await group.close()
            let again = try await open()
            let count = try await again.read { tables in
                var count = 0
                tables.scan(table, from: []) { _, _ in
                    count += 1
                    return true
                }
                return count
            }
            #expect(count == expected)
            try await again.close()
        }
    }
}
