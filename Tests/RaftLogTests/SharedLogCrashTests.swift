import Foundation
import Model
import Raft
import Reactor
import Synchronization
import Testing

@testable import RaftLog

/// A power cut at an operation, while several groups are at work.
@Suite("SharedLog and power cuts")
struct SharedLogCrashTests {
    /// What each group was told, and what it might have become.
    private struct Expected {
        var acknowledged: [GroupID: ModelGroup] = [:]
        /// What was under way when the power went; nil for a removal.
        var attempted: [GroupID: ModelGroup?] = [:]

        func check(_ found: [GroupID: ModelGroup], _ label: String) {
            for id in Set(found.keys).union(acknowledged.keys) {
                let isKept = found[id] == acknowledged[id]
                let isDone = attempted[id].map { found[id] == $0 } ?? false
                #expect(isKept || isDone, "group \(id), \(label)")
                if let before = acknowledged[id], let after = found[id] {
                    #expect(after.hardState.term >= before.hardState.term, "\(label)")
                }
            }
        }
    }

    /// Rounds of one operation on each of four groups at once. Group 0 is idle after its
    /// beginning, so that its records must be moved; group 3 is removed and made anew.
    private func work(
        _ log: SharedLog, seed: UInt64, rounds: Int, _ expected: inout Expected
    ) async {
        var random = SplitMix64(state: seed)
        for round in 0..<rounds {
            var steps: [(GroupID, ModelOperation?)] = []
            for number in 0..<4 {
                let id = groupID(number)
                guard let group = expected.acknowledged[id] else {
                    var new = ModelGroup()
                    new.confState = ConfState(voters: [1, 2, 3])
                    expected.attempted[id] = .some(new)
                    steps.append((id, nil))
                    continue
                }
                if number == 0 && round > 3 { continue }
                if number == 3 && round % 9 == 8 {
                    expected.attempted[id] = .some(nil)
                    steps.append((id, nil))
                    continue
                }
                let operation = ModelOperation.random(on: group, upTo: 2500, using: &random)
                var after = group
                after.apply(operation)
                expected.attempted[id] = .some(after)
                steps.append((id, operation))
            }
            let failed = await withTaskGroup(of: GroupID?.self) { tasks in
                for (id, operation) in steps {
                    let isKnown = expected.acknowledged[id] != nil
                    tasks.addTask {
                        do throws(StoreError) {
                            if let operation {
                                guard let group = log.group(id) else { return id }
                                try await operation.perform(on: group)
                            } else if isKnown {
                                try await log.remove(id)
                            } else {
                                _ = try await log.create(
                                    id, confState: ConfState(voters: [1, 2, 3]))
                            }
                            return nil
                        } catch {
                            #expect(error.code == .io, "\(error)")
                            return id
                        }
                    }
                }
                return await tasks.reduce(into: Set<GroupID>()) { if let id = $1 { $0.insert(id) } }
            }
            for (id, _) in steps where !failed.contains(id) {
                if let attempted = expected.attempted[id] { expected.acknowledged[id] = attempted }
                expected.attempted[id] = nil
            }
            if !failed.isEmpty { return }
        }
    }

    /// Runs until the power goes at `operation`, and says what must be there.
    private func runUntilCrash(
        _ directory: String, seed: Int, at operation: Int
    ) async throws -> (Expected, FaultInjector) {
        let faults = FaultInjector(seed: UInt64(seed * 1000 + operation))
        let faulty = try Reactor.start(.init(backend: .faulty(faults)))
        faults.crash(atOperation: operation)
        var expected = Expected()
        do throws(StoreError) {
            let log = try await smallLog(directory, on: faulty)
            await work(log, seed: UInt64(seed), rounds: 40, &expected)
            try await log.close()
        } catch {
            #expect(error.code == .io, "\(error)")
        }
        faulty.stop()
        faults.applyCrash()
        return (expected, faults)
    }

    @Test("after a power cut at any operation nothing acknowledged is gone", arguments: 0..<4)
    func powerCut(part: Int) async throws {
        var reached = 0
        var crashes = 0
        // APUS_LOG_SWEEPS: how often over all operations, each time with other seeds.
        let sweeps = ProcessInfo.processInfo.environment["APUS_LOG_SWEEPS"].flatMap(Int.init) ?? 1
        for step in 0..<85 * sweeps {
            let operation = part + 4 * (step % 85)
            let seed = operation % 7 + 10 * (step / 85)
            try await withTemporaryDirectory { directory in
                let source = directory + "/log"
                let (expected, faults) = try await runUntilCrash(
                    source, seed: seed, at: operation)
                let label = "seed \(seed), operation \(operation)"
                reached = max(reached, expected.acknowledged.count)
                crashes += faults.hasCrashed ? 1 : 0
                let reactor = try Reactor.start()
                defer { reactor.stop() }
                let log = try await smallLog(source, on: reactor)
                var found = try await contents(log)
                expected.check(found, label)
                // The log can be written on from there, and what was found is found again.
                var more = Expected(acknowledged: found)
                await work(log, seed: 99, rounds: 6, &more)
                #expect(more.attempted.isEmpty, "\(label)")
                try await log.close()
                let again = try await smallLog(source, on: reactor)
                found = try await contents(again)
                #expect(found == more.acknowledged, "\(label)")
                try await again.close()
            }
        }
        #expect(reached == 4)
        #expect(crashes > 60)
    }

    @Test("a second power cut, while the log is opened again or soon after, takes nothing either")
    func twice() async throws {
        for round in 0..<60 {
            try await withTemporaryDirectory { directory in
                let source = directory + "/log"
                var (expected, _) = try await runUntilCrash(
                    source, seed: round % 5, at: 30 + round * 5)
                let faults = FaultInjector(seed: UInt64(round))
                let faulty = try Reactor.start(.init(backend: .faulty(faults)))
                faults.crash(atOperation: round % 9)
                do throws(StoreError) {
                    let log = try await smallLog(source, on: faulty)
                    // What was found is promised from here on.
                    let found: [GroupID: ModelGroup]
                    do { found = try await contents(log) } catch {
                        throw StoreError(.io, "crashed: \(error)")
                    }
                    expected.check(found, "round \(round)")
                    expected = Expected(acknowledged: found)
                    await work(log, seed: 5, rounds: 3, &expected)
                    try await log.close()
                } catch {
                    #expect(error.code == .io, "\(error)")
                }
                faulty.stop()
                faults.applyCrash()
                let reactor = try Reactor.start()
                defer { reactor.stop() }
                let log = try await smallLog(source, on: reactor)
                expected.check(try await contents(log), "round \(round)")
                try await log.close()
            }
        }
    }

    @Test("a process killed between write and sync leaves nothing that a later cut could take back")
    func killedThenCut() async throws {
        try await withTemporaryDirectory { directory in
            let source = directory + "/log"
            // The sync never runs, but what was written stays: the process was killed.
            let faults = FaultInjector(seed: 1)
            var faulty = try Reactor.start(.init(backend: .faulty(faults)))
            let log = try await smallLog(source, on: faulty)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            faults.crash(atOperation: faults.operationCount + 1)
            let error = await #expect(throws: StoreError.self) {
                try await group.append(
                    entries: [Entry(term: 4, index: 1, data: [1])],
                    hardState: HardState(term: 4, vote: 2))
            }
            #expect(error?.message.contains("until it is opened again") == true)
            try await log.close()
            faulty.stop()
            // The second process sees the vote, on files whose writes may still be lost.
            let later = FaultInjector(seed: 2)
            faulty = try Reactor.start(.init(backend: .faulty(later)))
            let before = later.operationCount
            let again = try await smallLog(source, on: faulty)
            #expect(try await contents(again)[groupID(1)]?.hardState.vote == 2)
            // It has synced the file and the folder before it showed it.
            #expect(later.operationCount >= before + 2)
            try await again.close()
            faulty.stop()
        }
    }

    @Test("after a failed write or sync every call of every group fails until it is opened again")
    func failedSync() async throws {
        try await withTemporaryDirectory { directory in
            let source = directory + "/log"
            let faults = FaultInjector(seed: 3)
            let faulty = try Reactor.start(.init(backend: .faulty(faults)))
            let log = try await smallLog(source, on: faulty)
            let one = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            let two = try await log.create(groupID(2), confState: ConfState(voters: [1]))
            try await two.append(entries: [Entry(term: 1, index: 1)])
            faults.set(rates: .init(error: 1))
            let first = await #expect(throws: StoreError.self) {
                try await one.append(entries: [Entry(term: 1, index: 1)])
            }
            #expect(first?.code == .io)
            faults.set(rates: .init())
            let second = await #expect(throws: StoreError.self) {
                try await two.append(entries: [Entry(term: 1, index: 2)])
            }
            #expect(second?.code == .io)
            #expect(second?.message.contains("until it is opened again") == true)
            #expect(one.lastIndex == 0)
            #expect(two.lastIndex == 1)
            try await log.close()
            let again = try await smallLog(source, on: faulty)
            #expect(try await contents(again)[groupID(2)]?.last == 1)
            try await again.group(groupID(1))?.append(entries: [Entry(term: 1, index: 1)])
            try await again.close()
            faulty.stop()
        }
    }

    @Test("short and delayed operations change nothing", arguments: 0..<4)
    func shortAndDelayed(seed: Int) async throws {
        try await withTemporaryDirectory { directory in
            let source = directory + "/log"
            let faults = FaultInjector(
                seed: UInt64(seed), rates: .init(short: 0.2, delay: 0.2))
            let faulty = try Reactor.start(.init(backend: .faulty(faults)))
            var log = try await smallLog(source, on: faulty)
            var expected = Expected()
            await work(log, seed: UInt64(seed), rounds: 40, &expected)
            #expect(expected.attempted.isEmpty)
            #expect(try await contents(log) == expected.acknowledged)
            try await log.close()
            faults.set(rates: .init())
            log = try await smallLog(source, on: faulty)
            #expect(try await contents(log) == expected.acknowledged)
            try await log.close()
            faulty.stop()
        }
    }
}
