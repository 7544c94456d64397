import Model
import Testing
import Wire

@testable import SCMCore

private func node(_ number: UInt64) -> DatanodeID { Identity128(high: 1, low: number) }

/// A deletion of `count` blocks that waits for `nodes`.
private func record(_ count: Int, on nodes: [UInt64]) -> SCMDeletionRecord {
    var record = SCMDeletionRecord()
    record.blocks = (0..<UInt64(count)).map {
        BlockID(containerID: ContainerID(1), localID: $0).message
    }
    record.waiting = nodes.map { node($0).message }
    return record
}

@Suite("pending deletions")
struct PendingDeletionsTests {
    let limit = PendingDeletions.Limits.toldBlocks

    @Test("a node is told of so many blocks at a time, each once, and gets more as it confirms")
    func credit() {
        var pending = PendingDeletions()
        func told(_ number: UInt64, at now: UInt64 = 0) -> [UInt64] {
            pending.commands(for: node(number), at: now).map(\.number)
        }
        for number in 1...10 as ClosedRange<UInt64> {
            pending.add(record(limit / 4, on: [1, 2]), number: number)
        }
        #expect(told(1) == [1, 2, 3, 4])
        #expect(told(1).isEmpty)
        pending.confirm(2, by: node(1))
        pending.confirm(2, by: node(1))
        #expect(told(1) == [5])
        #expect(pending.count(of: node(1)) == limit / 4 * 9)
        #expect(pending.count(of: node(2)) == limit / 4 * 10)
        #expect(pending.blocks == limit / 4 * 10)
        pending.confirm(2, by: node(2))
        #expect(pending.blocks == limit / 4 * 9)
    }

    @Test("a deletion longer than what a node is told at a time is told alone")
    func long() {
        var pending = PendingDeletions()
        func told(_ number: UInt64, at now: UInt64 = 0) -> [UInt64] {
            pending.commands(for: node(number), at: now).map(\.number)
        }
        pending.add(record(limit * 3, on: [1]), number: 1)
        pending.add(record(1, on: [1]), number: 2)
        #expect(told(1) == [1])
        pending.confirm(1, by: node(1))
        #expect(told(1) == [2])
    }

    @Test("deletions that fail keep no others waiting, and are told again later")
    func failures() {
        var pending = PendingDeletions()
        func told(_ number: UInt64, at now: UInt64 = 0) -> [UInt64] {
            pending.commands(for: node(number), at: now).map(\.number)
        }
        let retry = PendingDeletions.Limits.retryNanoseconds
        for number in 1...8 as ClosedRange<UInt64> {
            pending.add(record(limit / 4, on: [1]), number: number)
        }
        for number in told(1) {
            pending.fail(number, by: node(1), at: 0)
        }
        #expect(told(1, at: 1) == [5, 6, 7, 8])
        for number in 5...8 as ClosedRange<UInt64> { pending.confirm(number, by: node(1)) }
        #expect(told(1, at: retry - 1).isEmpty)
        #expect(told(1, at: retry) == [1, 2, 3, 4])
    }

    @Test("where nobody is told, what is confirmed is not kept behind what is not")
    func behindTheFirst() {
        var pending = PendingDeletions(isTelling: false)
        pending.add(record(1, on: [1]), number: 1)
        for number in 2...10_000 as ClosedRange<UInt64> {
            pending.add(record(1, on: [1]), number: number)
            pending.confirm(number, by: node(1))
        }
        let kept = pending.nodes[node(1)]?.untold.count ?? 0
        #expect((1..<2 * PendingDeletions.Limits.droppedAtOnce).contains(kept))
        pending.beginTelling()
        #expect(pending.commands(for: node(1), at: 0).map(\.number) == [1])
    }

    @Test("what was kept aside and is back is told once, and counted once")
    func parkedUntold() {
        var pending = PendingDeletions()
        pending.add(record(limit, on: [1]), number: 1)
        pending.add(record(limit, on: [1]), number: 2)
        for _ in 0..<3 {
            let isParked = pending.park(1, by: node(1))
            #expect(isParked)
            pending.unpark(ContainerID(1), by: node(1))
        }
        func told() -> [UInt64] { pending.commands(for: node(1), at: 0).map(\.number) }
        #expect(told() == [1])
        pending.confirm(1, by: node(1))
        #expect(told() == [2])
        pending.confirm(2, by: node(1))
        pending.add(record(limit, on: [1]), number: 3)
        #expect(told() == [3], "nothing is counted any more of what was told before")
    }

    @Test("a node that registers is told everything anew, oldest first")
    func startOver() {
        var pending = PendingDeletions()
        func told(_ number: UInt64, at now: UInt64 = 0) -> [UInt64] {
            pending.commands(for: node(number), at: now).map(\.number)
        }
        for number in 1...6 as ClosedRange<UInt64> {
            pending.add(record(limit / 3, on: [1]), number: number)
        }
        _ = told(1)
        pending.fail(2, by: node(1), at: 0)
        pending.confirm(1, by: node(1))
        pending.startOver(node(1))
        #expect(told(1) == [2, 3, 4, 5])
        pending.startOver(node(9))
    }
}
