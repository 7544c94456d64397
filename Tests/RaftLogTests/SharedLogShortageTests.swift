import Eventually
import Foundation
import Model
import Raft
import Reactor
import Synchronization
import Testing

@testable import RaftLog

/// Descriptors and memory that are wanting for a while: nothing of the disk is broken, and nothing
/// of the log may be.
@Suite("SharedLog without descriptors or memory", .timeLimit(.minutes(10)))
struct SharedLogShortageTests {
    private func entry(_ index: LogIndex) -> Entry {
        Entry(
            term: 1, index: index,
            data: .init(repeating: UInt8(truncatingIfNeeded: index), count: 1000))
    }

    /// Appends entries from `first` on until one is refused; the refusal, and the first entry that
    /// is not in the log.
    private func fill(
        _ group: GroupLog, from first: LogIndex
    ) async -> (error: StoreError?, next: LogIndex) {
        for index in first..<first + 200 {
            do throws(StoreError) {
                try await group.append(
                    entries: [entry(index)], hardState: HardState(term: 1, vote: 1, commit: index))
            } catch {
                return (error, index)
            }
        }
        return (nil, first + 200)
    }

    @Test(
        "without descriptors appends are refused as overload, and go on when there are some",
        arguments: [EMFILE, ENFILE, ENOMEM, ENOBUFS])
    func descriptors(code: Int32) async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 1)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            var log = try await smallLog(directory + "/log", on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            var next: LogIndex = 1
            for round in 0..<3 {
                faults.set(error: code, for: .open)
                let refused = await fill(group, from: next)
                let error = try #require(refused.error, "round \(round)")
                #expect(error.code == .overloaded, "\(error)")
                // Still, and again: nothing is worse for it.
                #expect(await fill(group, from: refused.next).error?.code == .overloaded)
                faults.set(error: nil, for: .open)
                // Until it goes over to another segment, and beyond.
                let more = await fill(group, from: refused.next)
                #expect(more.error == nil, "round \(round): \(String(describing: more.error))")
                next = more.next
            }
            let expected = try await contents(log)
            #expect(expected[groupID(1)]?.entries.count == Int(next - 1))
            try await log.close()
            log = try await smallLog(directory + "/log", on: reactor)
            #expect(try await contents(log) == expected)
            try await log.close()
        }
    }

    @Test(
        "the log may be closed and opened again whatever of a new segment is done", arguments: 0..<4
    )
    func closedBetween(step: Int) async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 2)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            var log = try await smallLog(directory + "/log", on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            // How much fits is seen by what is refused; then a few of the steps may be done.
            let filled = await fill(group, from: 1)
            #expect(filled.error == nil)
            faults.set(error: EMFILE, for: .open)
            let refused = await fill(group, from: filled.next)
            #expect(refused.error?.code == .overloaded)
            if step > 0 {
                faults.set(error: nil, for: .open)
                let attempt = Task { await fill(group, from: refused.next) }
                for _ in 0..<step { await Task.yield() }
                faults.set(error: EMFILE, for: .open)
                _ = await attempt.value
            }
            let expected = try await contents(log)
            try await log.close()
            faults.set(error: nil, for: .open)
            log = try await smallLog(directory + "/log", on: reactor)
            #expect(try await contents(log) == expected)
            let again = try #require(log.group(groupID(1)))
            #expect(await fill(again, from: again.lastIndex + 1).error == nil)
            try await log.close()
        }
    }

    @Test("a batch that could not be written for want of memory is written later")
    func memory() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 3)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            var log = try await smallLog(directory + "/log", on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            faults.set(error: ENOMEM, for: .write)
            faults.set(error: ENOMEM, for: .synchronize)
            let first = Task { () -> StoreError? in
                do throws(StoreError) {
                    try await group.append(
                        entries: [entry(1)], hardState: HardState(term: 1, vote: 1, commit: 1))
                    return nil
                } catch {
                    return error
                }
            }
            try await eventually("the log refuses") { log.queue.withLock { $0.refusal } != nil }
            let refused = await fill(group, from: 2)
            #expect(refused.error?.code == .overloaded && refused.next == 2)
            faults.set(error: nil, for: .write)
            faults.set(error: nil, for: .synchronize)
            #expect(await first.value == nil)
            #expect(await fill(group, from: 2).error == nil)
            let expected = try await contents(log)
            try await log.close()
            log = try await smallLog(directory + "/log", on: reactor)
            #expect(try await contents(log) == expected)
            try await log.close()
        }
    }

    @Test("an error of the disk stops the log, as before")
    func disk() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 4)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            let log = try await smallLog(directory + "/log", on: reactor)
            let group = try await log.create(groupID(1), confState: ConfState(voters: [1]))
            faults.set(error: EIO, for: .write)
            faults.set(error: EIO, for: .synchronize)
            #expect(await fill(group, from: 1).error?.code == .io)
            faults.set(error: nil, for: .write)
            faults.set(error: nil, for: .synchronize)
            #expect(await fill(group, from: 1).error?.code == .io, "what is there is not known")
            try await log.close()
        }
    }
}
