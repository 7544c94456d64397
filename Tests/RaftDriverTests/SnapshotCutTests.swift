import Foundation
import GroupTestSupport
import MetadataStore
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
    /// Which files of snapshots were there after it.
    var left: [String] = []
    /// And which in the end.
    var remains: [String]?
    /// Whether the log began behind the tables: `RaftMember.fit` had to install the snapshot.
    var hasGap = false
}

@Suite("Power cuts while a snapshot is installed", .serialized)
struct SnapshotCutTests {
    /// Which files count.
    private enum Side { case log, tables }

    private func withGroup(
        _ body: (PowerCutGroup, _ late: PowerCutGroup.Node) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            var options = MetadataGroupOptions(
                log: .init(segmentSize: 64 << 10), checkpointBytes: 1 << 30)
            options.trailingEntries = 2
            let group = try PowerCutGroup(
                directory, machine: History(padding: 500, kept: 60), options: options)
            do {
                for node in group.nodes { try await group.start(node, seed: node.id.rawValue) }
                _ = try await proposeSome(0, 60, to: group)
                let leader = try await untilLed(group)
                try await body(group, try #require(group.nodes.first { $0.id != leader.id }))
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

    private func proposeSome(
        _ first: UInt32, _ count: UInt32, to group: PowerCutGroup
    ) async throws -> UInt64 {
        var last: UInt64 = 0
        for number in first..<first + count {
            var command: [UInt8] = [1]
            command.appendBigEndian(number)
            var index: UInt64?
            while index == nil {
                // Not known where its leader was deposed meanwhile, as one that stood still is.
                index = try await group.propose(command)
                if index == nil { index = try await place(of: command, in: group) }
            }
            last = try #require(index)
        }
        return last
    }

    /// Where a command is that may have been made; nil if it was not, and never will be.
    private func place(
        of command: [UInt8], in group: PowerCutGroup
    ) async throws -> UInt64? {
        for _ in 0..<3000 {
            let leader = try await untilLed(group)
            // What the log has of the leaders before is applied behind it.
            if (try? await leader.group?.readBarrier()) != nil {
                return try await group.contents(leader)?.commands.first { $0.value == command }?.key
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        throw StoreError(.deadlineExceeded, "nobody says what became of a command")
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
        // Without the second names that the injector gives to what is removed.
        let files = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        result.left = files.filter { $0.hasPrefix("snapshot-") }
        result.hasGap = try await hasGap(late)
        // Then the start installs it: it too may be cut.
        if result.hasGap {
            do {
                try await group.start(late, seed: seed) { running in
                    running.disk.crash(atOperation: number)
                }
            } catch let error as StoreError {
                #expect(error.code == .io, "\(error.message)")
            }
            try await group.cutPower(late)
        }
        try await group.start(late, seed: seed)
        try await group.converge(last)
        // What was received is installed, and gone soon.
        for _ in 0..<1000 where result.remains == nil || result.remains != [] {
            let files = try FileManager.default.contentsOfDirectory(atPath: folder)
            result.remains = files.filter { $0.hasPrefix("snapshot-") }
            try await Task.sleep(for: .milliseconds(2))
        }
        return result
    }

    /// Whether the log of a member without power begins behind what its tables have applied.
    private func hasGap(_ node: PowerCutGroup.Node) async throws -> Bool {
        let copy = node.directory + ".looked-at"
        try FileManager.default.copyItem(atPath: node.directory, toPath: copy)
        defer { try? FileManager.default.removeItem(atPath: copy) }
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let store = try await MetadataStore.open(
            path: copy + "/metadata.db", role: "test", tables: History().tables)
        let log = try await SharedLog.open(directory: copy + "/log", on: reactor)
        let first = log.group(GroupOfThree.name)?.firstIndex ?? 0
        let applied = store.appliedIndex
        try await store.close()
        try await log.close()
        return applied + 1 < first
    }

    /// Leaves the member behind all that the others keep of the log; then gives it a snapshot, with
    /// a cut.
    private func round(
        _ group: PowerCutGroup, _ late: PowerCutGroup.Node, at number: Int, of side: Side,
        _ proposed: inout UInt32
    ) async throws -> CutResult {
        try await group.stop(late)
        let last = try await proposeSome(proposed, 8, to: group)
        proposed += 8
        // As if it had been away for long: else the log has what it lacks since the last round.
        for node in group.nodes { await node.group?.engine.member.forgetReceivers() }
        for node in group.nodes { try await node.group?.checkpoint() }
        let result = try await cut(group, late, at: number, of: side, last: last)
        let what = "cut at operation \(number) of \(side), then \(result.left)"
        let leaders = try await group.contents(try await untilLed(group))
        let expected = try #require(leaders)
        let contents = try await group.contents(late)
        #expect(contents == expected, "\(what)")
        #expect(result.remains == [], "\(what)")
        #expect(expected.counts[[1]]?.bigEndian(at: 0) == UInt64(proposed), "\(what)")
        let first = await late.group?.engine.member.log.firstIndex ?? 0
        #expect(first > last - 8, "no snapshot was installed, \(what)")
        return result
    }

    @Test("at whichever operation the power goes, the member comes to the leader's tables")
    func everyOperation() async throws {
        try await withGroup { group, late in
            var proposed: UInt32 = 60
            var gaps = 0
            var whole = 0
            for side in [Side.log, .tables] {
                var number = 0
                var isCut = true
                while isCut {
                    let result = try await round(group, late, at: number, of: side, &proposed)
                    isCut = result.isCut
                    gaps += result.hasGap ? 1 : 0
                    whole += result.left.contains { !$0.hasSuffix(".partial") } ? 1 : 0
                    if isVerbose { print("\(side) \(number): \(result)") }
                    number += 1
                }
                #expect(number > 10, "an installation has more operations than \(number)")
            }
            #expect(gaps > 0, "no cut came between log and tables")
            #expect(whole > 0, "no cut left a whole snapshot")
        }
    }

    @Test("a new member keeps the snapshot that it began with, its folders too", arguments: 0..<4)
    func newMember(seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            var options = MetadataGroupOptions(log: .init(segmentSize: 64 << 10))
            options.trailingEntries = 2
            let group = try PowerCutGroup(directory, options: options)
            do {
                for node in group.nodes.dropLast() {
                    try await group.start(node, seed: node.id.rawValue)
                }
                let last = try await proposeSome(0, 20, to: group)
                for node in group.nodes { try await node.group?.checkpoint() }
                // The log has taken the snapshot, the tables have not.
                let new = group.nodes[2]
                let folder = new.directory + "/snapshots"
                try await group.start(new, seed: seed) { running in
                    running.disk.crash(when: {
                        let found = try? FileManager.default.contentsOfDirectory(atPath: folder)
                        return found?.contains { $0.hasSuffix("-\(last)") } == true
                    })
                }
                for _ in 0..<3000 where new.running?.disk.isDown != true {
                    try await Task.sleep(for: .milliseconds(1))
                }
                try await group.cutPower(new)
                #expect(try await hasGap(new))
                try await group.start(new, seed: seed)
                try await group.converge(last)
                let contents = try await group.contents(new)
                #expect(contents?.commands.count == 20)
            } catch {
                await group.end()
                throw error
            }
            await group.end()
        }
    }

    private var isVerbose: Bool {
        ProcessInfo.processInfo.environment["APUS_RAFT_CUTS"] != nil
    }
}
