import Foundation
import Model
import Raft
import RaftLog
import Reactor
import Testing

@testable import RaftDriver

/// How a cut went.
private struct CutResult {
    /// Whether the cut came before the member was whole.
    var isCut = false
    /// Where log and tables stood after it, and which files of snapshots were there.
    var left: [String] = []
}

@Suite("Power cuts while a snapshot is installed", .serialized)
struct SnapshotCutTests {
    /// Which files count.
    private enum Side { case log, tables }

    /// A group of which one member is far behind: whatever it is started on, it gets a snapshot.
    private func withLateMember(
        _ body: (PowerCutGroup, _ late: PowerCutGroup.Node, _ last: UInt64) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            var options = MetadataGroupOptions(
                log: .init(segmentSize: 64 << 10), checkpointBytes: 1 << 30)
            options.trailingEntries = 5
            let group = try PowerCutGroup(
                directory, machine: History(padding: 500), options: options)
            do {
                for node in group.nodes { try await group.start(node, seed: node.id.rawValue) }
                _ = try await proposeSome(1, to: group)
                let leader = try await untilLed(group)
                let late = try #require(group.nodes.first { $0.id != leader.id })
                try await group.stop(late)
                let last = try await proposeSome(2, to: group)
                for node in group.nodes { try await node.group?.checkpoint() }
                try await body(group, late, last)
            } catch {
                await group.end()
                throw error
            }
            await group.end()
        }
    }

    private func untilLed(_ group: PowerCutGroup) async throws -> PowerCutGroup.Node {
        for _ in 0..<3000 {
            if let leader = await group.leader() { return leader }
            try await Task.sleep(for: .milliseconds(5))
        }
        throw StoreError(.deadlineExceeded, "nobody leads")
    }

    private func proposeSome(_ client: UInt8, to group: PowerCutGroup) async throws -> UInt64 {
        var last: UInt64 = 0
        for number in 0..<60 as Range<UInt32> {
            var command = [client]
            command.appendBigEndian(number)
            last = try #require(try await group.propose(command))
        }
        return last
    }

    /// Starts the late member with a cut at operation `number` of one side, and again without.
    private func cut(
        _ group: PowerCutGroup, _ late: PowerCutGroup.Node, at number: Int, of side: Side,
        last: UInt64
    ) async throws -> CutResult {
        let seed = UInt64(number * 2 + (side == .log ? 0 : 1)) + 1000
        var result = CutResult()
        do {
            try await group.start(late, seed: seed) { running in
                switch side {
                case .log: running.faults.crash(atOperation: number)
                case .tables: running.disk.crash(atOperation: number)
                }
            }
            for _ in 0..<2000 {
                guard let running = late.running, !running.disk.isDown else { break }
                if let applied = running.group?.appliedIndex, applied >= last { break }
                try await Task.sleep(for: .milliseconds(1))
            }
        } catch let error as StoreError {
            #expect(error.code == .io, "\(error.message)")
        }
        let running = try #require(late.running)
        // What follows the tables' change: the removal of the file, for one.
        if !running.disk.isDown { try await Task.sleep(for: .milliseconds(20)) }
        result.isCut = running.disk.isDown
        try await group.cutPower(late)
        let folder = late.directory + "/snapshots"
        result.left = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        try await group.start(late, seed: seed)
        try await group.converge(last)
        return result
    }

    @Test("at whichever operation the power goes, the member comes to the leader's tables")
    func everyOperation() async throws {
        try await withLateMember { group, late, last in
            let manager = FileManager.default
            let kept = late.directory + ".kept"
            try manager.copyItem(atPath: late.directory, toPath: kept)
            let leader = try await untilLed(group)
            let leaders = try await group.contents(leader)
            let expected = try #require(leaders)
            var report: [String] = []
            for side in [Side.log, .tables] {
                var number = 0
                while true {
                    let result = try await cut(group, late, at: number, of: side, last: last)
                    let what = "cut at operation \(number) of \(side)"
                    let contents = try await group.contents(late)
                    #expect(contents?.commands == expected.commands, "\(what)")
                    #expect(contents?.counts == expected.counts, "\(what)")
                    try await group.stop(late)
                    let left = try manager.contentsOfDirectory(
                        atPath: late.directory + "/snapshots")
                    #expect(left.allSatisfy { !$0.hasPrefix("snapshot-") }, "\(what): \(left)")
                    report.append("\(what): \(result.left)")
                    try manager.removeItem(atPath: late.directory)
                    try manager.copyItem(atPath: kept, toPath: late.directory)
                    if !result.isCut { break }
                    number += 1
                }
                #expect(number > 10, "an installation has more operations than \(number)")
            }
            if ProcessInfo.processInfo.environment["APUS_RAFT_CUTS"] != nil {
                print(report.joined(separator: "\n"))
            }
        }
    }
}
