import Foundation
import Model
import Raft
import Reactor
import Synchronization
import Testing

@testable import RaftLog

/// Figures for docs/internals/raft-log.md:
/// `APUS_LOG_BENCH=1 swift test -c release -Xswiftc -enable-testing --filter LogBench`
@Suite(
    "LogBench", .serialized,
    .enabled(if: ProcessInfo.processInfo.environment["APUS_LOG_BENCH"] != nil))
struct LogBench {
    /// User and system time of the process, threads of the kernel for its rings included.
    private func cpuMicroseconds() -> Double {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        func time(_ value: timeval) -> Double { Double(value.tv_sec) * 1e6 + Double(value.tv_usec) }
        return time(usage.ru_utime) + time(usage.ru_stime)
    }

    /// Where the next entry of a group goes; taken without a pause before the append.
    private final class Indexes: Sendable {
        let next: Mutex<[LogIndex]>
        init(_ groups: Int) { next = Mutex([LogIndex](repeating: 1, count: groups)) }
        func take(_ group: Int, _ count: Int) -> LogIndex {
            next.withLock {
                $0[group] += UInt64(count)
                return $0[group] - UInt64(count)
            }
        }
    }

    private func run(
        groups: Int, inFlight: Int, entriesPerCall: Int, calls: Int, on reactor: Reactor
    ) async throws -> String {
        try await withTemporaryDirectory { directory in
            let log = try await SharedLog.open(directory: directory + "/log", on: reactor)
            var all: [GroupLog] = []
            for number in 0..<groups {
                all.append(
                    try await log.create(groupID(number), confState: ConfState(voters: [1])))
            }
            let indexes = Indexes(groups)
            let data = [UInt8](repeating: 0x5A, count: 300)
            let before = await log.statistics
            let cpu = cpuMicroseconds()
            let start = ContinuousClock.now
            let working = all
            let perWorker = calls / inFlight
            try await Task(executorPreference: reactor) {
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for worker in 0..<inFlight {
                        tasks.addTask {
                            for call in 0..<perWorker {
                                let group = (worker + call * inFlight) % groups
                                let first = indexes.take(group, entriesPerCall)
                                let entries = (0..<UInt64(entriesPerCall)).map {
                                    Entry(term: 1, index: first + $0, data: data)
                                }
                                try await working[group].append(entries: entries)
                            }
                        }
                    }
                    for try await _ in tasks {}
                }
            }.value
            let took =
                Double((ContinuousClock.now - start).components.attoseconds) / 1e18
                + Double((ContinuousClock.now - start).components.seconds)
            let used = cpuMicroseconds() - cpu
            let after = await log.statistics
            let done = after.calls - before.calls
            let batches = after.batches - before.batches
            let text = String(
                format: "%6d %6d %6d %9.2f %9.2f %9.3f %9.0f %9.0f", groups, inFlight,
                entriesPerCall, used / Double(done), used / Double(done * entriesPerCall),
                Double(batches) / Double(done), Double(done) / took,
                took * 1e6 / Double(batches))
            try await log.close()
            return text
        }
    }

    @Test("CPU and syncs of an append, by groups, calls in flight, and entries of a call")
    func appends() async throws {
        let reactor = try Reactor.start(.init(core: 0))
        defer { reactor.stop() }
        print("groups flight entries  us/call  us/entry  syncs/call   calls/s  us/batch")
        for inFlight in [1, 16, 256] {
            for groups in [1, 8, 64] {
                let calls = inFlight == 1 ? 1500 : inFlight == 16 ? 16_000 : 128_000
                let text = try await run(
                    groups: groups, inFlight: inFlight, entriesPerCall: 1, calls: calls,
                    on: reactor)
                #expect(!text.isEmpty)
                print(text)
            }
        }
        for entries in [16, 256] {
            for groups in [1, 64] {
                let text = try await run(
                    groups: groups, inFlight: 4, entriesPerCall: entries,
                    calls: entries == 16 ? 4000 : 1000, on: reactor)
                print(text)
            }
        }
    }

    @Test("how fast a log is opened")
    func recovery() async throws {
        let reactor = try Reactor.start(.init(core: 0))
        defer { reactor.stop() }
        try await withTemporaryDirectory { directory in
            for size in [300, 4096] {
                let source = directory + "/log-\(size)"
                var log = try await SharedLog.open(directory: source, on: reactor)
                let data = [UInt8](repeating: 0x5A, count: size)
                let perGroup = size == 300 ? 16_384 : 2048
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for number in 0..<64 {
                        let group = try await log.create(
                            groupID(number), confState: ConfState(voters: [1]))
                        tasks.addTask {
                            for first in stride(from: 1, to: UInt64(perGroup), by: 64) {
                                try await group.append(
                                    entries: (first..<first + 64).map {
                                        Entry(term: 1, index: $0, data: data)
                                    })
                            }
                        }
                    }
                    for try await _ in tasks {}
                }
                let bytes = await log.statistics.bytesWritten
                try await log.close()
                let cpu = cpuMicroseconds()
                let start = ContinuousClock.now
                log = try await SharedLog.open(directory: source, on: reactor)
                let seconds = (ContinuousClock.now - start) / .seconds(1)
                let used = (cpuMicroseconds() - cpu) / 1e6
                #expect(log.groups.count == 64)
                let entries = Double(64 * perGroup)
                print(
                    String(
                        format: "%d bytes: %.0f MiB, %.2f M entries in %.2f s (%.2f s of CPU): "
                            + "%.0f MiB/s, %.2f M entries/s", size,
                        Double(bytes) / 1_048_576, entries / 1e6, seconds, used,
                        Double(bytes) / 1_048_576 / seconds, entries / 1e6 / seconds))
                try await log.close()
            }
        }
    }
}
