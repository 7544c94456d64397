import Foundation
import GroupTestSupport
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Testing

@testable import RaftDriver

/// Rounds of `make test`; `APUS_RAFT_CUTS=N` for more, `APUS_RAFT_CUT_SEED` to begin elsewhere.
private enum Sweep {
    static func number(_ name: String, _ otherwise: Int) -> Int {
        ProcessInfo.processInfo.environment[name].flatMap { Int($0) } ?? otherwise
    }
    static var rounds: Int { number("APUS_RAFT_CUTS", 12) }
    static var seed: UInt64 { UInt64(number("APUS_RAFT_CUT_SEED", 1)) }
}

/// What clients were told.
private final class Ledger: Sendable {
    /// Index of each acknowledged command.
    let acknowledged = Mutex<[[UInt8]: UInt64]>([:])
    let isDone = Atomic(false)
}

extension PowerCutGroup {
    /// One client: a command after the other, none twice unless it was refused.
    fileprivate func propose(
        as client: UInt8, from first: UInt32, _ ledger: Ledger
    ) async throws {
        var number = first
        while !ledger.isDone.load(ordering: .relaxed) {
            number += 1
            var command = [client]
            command.appendBigEndian(number)
            let index = try await propose(command) { ledger.isDone.load(ordering: .relaxed) }
            if let index { ledger.acknowledged.withLock { $0[command] = index } }
            // A group that takes thousands of commands a round shows no more than hundreds.
            try await Task.sleep(for: .milliseconds(1))
        }
    }

    /// That all members have every acknowledged command where it was said to be, and none twice.
    fileprivate func check(_ ledger: Ledger, _ last: [UInt8], _ what: String) async throws {
        let known = ledger.acknowledged.withLock { $0 }
        let index = try #require(try await propose(last))
        try await converge(index)
        let contents = try await contents(nodes[0])
        let history = try #require(contents)
        for node in nodes.dropFirst() {
            #expect(
                try await self.contents(node) == history, "member \(node.id) differs, \(what)")
        }
        #expect(
            Set(history.commands.values).count == history.commands.count,
            "a command was applied twice, \(what)")
        #expect(
            history.counts[[0xFF]]?.bigEndian(at: 0) == UInt64(history.commands.count),
            "an entry was applied twice, \(what)")
        let lost = known.filter { history.commands[$0.value] != $0.key }
        #expect(lost.isEmpty, "\(lost.count) of \(known.count) acknowledged are lost, \(what)")
    }

    /// Takes the power from some members at operations of their own choice, then gives it back.
    fileprivate func cutSome(_ random: inout SplitMix64) async throws -> String {
        var order = nodes.shuffled(using: &random)
        // One, two or all three, each as often.
        order.removeLast(Int(random.next() % 3))
        for node in order {
            guard let running = node.running else { continue }
            let distance = Int(random.next() % 60)
            // The log's files, or the tables'.
            if random.next() % 4 == 0 {
                running.disk.crash(
                    atOperation: running.disk.operationCount + distance)
            } else {
                running.faults.crash(
                    atOperation: running.faults.operationCount + distance)
            }
        }
        // Without a majority the last may have nothing more to do: it goes when time is up.
        for _ in 0..<400 where !order.allSatisfy({ $0.running?.disk.isDown ?? true }) {
            try await Task.sleep(for: .milliseconds(1))
        }
        for node in order { try await cutPower(node) }
        // A late start leaves work for a snapshot.
        for node in order.shuffled(using: &random) {
            if random.next() % 3 == 0 { try await Task.sleep(for: .milliseconds(150)) }
            try await startThroughCuts(node, &random)
        }
        return "members \(order.map(\.id)) cut"
    }

    /// Some cuts come while a member is being started.
    private func startThroughCuts(_ node: Node, _ random: inout SplitMix64) async throws {
        if random.next() % 4 == 0 {
            let distance = Int(random.next() % 12)
            do {
                try await start(node, seed: random.next()) {
                    $0.faults.crash(atOperation: distance)
                }
                try await Task.sleep(for: .milliseconds(50))
            } catch let error as StoreError {
                #expect(error.code == .io, "\(error.message)")
            }
            try await cutPower(node)
        }
        try await start(node, seed: random.next())
    }
}

@Suite("Power cuts in a group of three, over sockets and files", .serialized)
struct PowerCutTests {
    @Test("one, two or all lose power at any operation: what was acknowledged stays, once")
    func cuts() async throws {
        let seed = Sweep.seed
        try await withTemporaryDirectory { directory in
            var options = MetadataGroupOptions(
                log: .init(segmentSize: 64 << 10), checkpointBytes: 200_000)
            options.trailingEntries = 30
            let group = try PowerCutGroup(directory, options: options)
            let ledger = Ledger()
            var failure: (any Error)?
            do {
                for node in group.nodes {
                    try await group.start(node, seed: seed + node.id.rawValue)
                }
                try await rounds(of: group, seed, ledger)
            } catch {
                failure = error
            }
            ledger.isDone.store(true, ordering: .relaxed)
            await group.end()
            if let failure {
                Issue.record("APUS_RAFT_CUT_SEED=\(seed): \(failure)")
            }
        }
    }

    /// Phases of some rounds, in which clients propose all the time; then all is compared.
    private func rounds(
        of group: PowerCutGroup, _ seed: UInt64, _ ledger: Ledger
    ) async throws {
        var random = SplitMix64(state: seed)
        for first in stride(from: 0, to: Sweep.rounds, by: 3) {
            let end = min(first + 3, Sweep.rounds)
            ledger.isDone.store(false, ordering: .relaxed)
            var what = ""
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for client in 1...6 as ClosedRange<UInt8> {
                    tasks.addTask {
                        try await group.propose(as: client, from: UInt32(first) << 16, ledger)
                    }
                }
                defer { ledger.isDone.store(true, ordering: .relaxed) }
                for round in first..<end {
                    try await Task.sleep(for: .milliseconds(100))
                    what += "; round \(round): " + (try await group.cutSome(&random))
                }
                ledger.isDone.store(true, ordering: .relaxed)
                try await tasks.waitForAll()
            }
            var last: [UInt8] = [100]
            last.appendBigEndian(UInt32(first))
            try await group.check(ledger, last, "seed \(seed)\(what)")
        }
    }
}
