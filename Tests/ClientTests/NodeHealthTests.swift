import Model
import Reactor
import Synchronization
import Testing

@testable import Client

@Suite("What is known of nodes")
struct NodeHealthTests {
    private static let node = Identity128(high: 0, low: 1)
    private static let now = MonotonicTime(nanoseconds: 1_000_000_000)

    @Test("a late node is avoided for a while, but has not failed")
    func late() {
        let failures = Mutex(0)
        let health = NodeHealth { _, _ in failures.withLock { $0 += 1 } }
        health.readFailed(Self.node, .deadlineExceeded, isPatient: false, at: Self.now)
        #expect(health.shouldAvoid(Self.node, at: Self.now))
        #expect(failures.withLock { $0 } == 0)
    }

    @Test("a node that cannot be reached, or does not answer at all, has failed")
    func failed() {
        let failures = Mutex<[MonotonicTime]>([])
        let health = NodeHealth { _, time in failures.withLock { $0.append(time) } }
        health.readFailed(Self.node, .connection, isPatient: false, at: Self.now)
        health.readFailed(Self.node, .deadlineExceeded, isPatient: true, at: Self.now)
        health.failed(Self.node, at: Self.now)
        #expect(failures.withLock { $0 } == [Self.now, Self.now, Self.now])
        #expect(health.shouldAvoid(Self.node, at: Self.now))
    }

    @Test("a node that answers that it cannot is neither late nor failed")
    func refused() {
        let failures = Mutex(0)
        let health = NodeHealth { _, _ in failures.withLock { $0 += 1 } }
        health.readFailed(Self.node, .noSuchContainer, isPatient: false, at: Self.now)
        health.readFailed(Self.node, .cancelled, isPatient: false, at: Self.now)
        #expect(!health.shouldAvoid(Self.node, at: Self.now))
        #expect(failures.withLock { $0 } == 0)
    }

    @Test("what is late is judged anew after every eighth answer, from the first on")
    func judged() {
        let health = NodeHealth()
        let answer = { (milliseconds: UInt64) in
            health.answered(Self.node, in: milliseconds * 1_000_000)
        }
        for _ in 0..<7 { answer(1) }
        #expect(health.lateAfter(Self.node) == .seconds(1), "too few to know")
        answer(1)
        #expect(health.lateAfter(Self.node) == .milliseconds(100))
        for _ in 0..<7 {
            answer(1000)
            #expect(health.lateAfter(Self.node) == .milliseconds(100))
        }
        answer(1000)
        #expect(health.lateAfter(Self.node) == .seconds(3))
    }

    @Test("a write is late by the node's own writes, within a floor and a cap")
    func lateWrites() {
        let health = NodeHealth()
        #expect(health.lateWriteAfter(Self.node) == .seconds(1), "nothing is known")
        for _ in 0..<8 { health.wrote(Self.node, in: 1_000_000) }
        #expect(health.lateWriteAfter(Self.node) == .milliseconds(600))
        for _ in 0..<64 { health.wrote(Self.node, in: 500_000_000) }
        #expect(health.lateWriteAfter(Self.node) == .milliseconds(1500))
        for _ in 0..<64 { health.wrote(Self.node, in: 30_000_000_000) }
        #expect(health.lateWriteAfter(Self.node) == .seconds(10))
        // What reads take is another matter.
        #expect(health.lateAfter(Self.node) == .seconds(1))
    }

    @Test(
        "writers give up no more nodes at once than there is parity, nor where there are no others")
    func givingUp() {
        let health = NodeHealth()
        let nodes = (1...3).map { Identity128(high: 0, low: $0) }
        #expect(health.mayGiveUpWriting(to: [nodes[0]], most: 2, at: Self.now))
        health.gaveUpWriting(to: nodes[0], at: Self.now)
        #expect(health.shouldAvoidWriting(to: nodes[0], at: Self.now))
        #expect(health.mayGiveUpWriting(to: [nodes[0]], most: 1, at: Self.now), "the same one")
        #expect(!health.mayGiveUpWriting(to: [nodes[1]], most: 1, at: Self.now))
        #expect(health.mayGiveUpWriting(to: [nodes[1]], most: 2, at: Self.now))
        #expect(!health.mayGiveUpWriting(to: [nodes[1], nodes[2]], most: 2, at: Self.now))
        let later = Self.now.advanced(by: .seconds(3))
        #expect(!health.shouldAvoidWriting(to: nodes[0], at: later))
        #expect(health.mayGiveUpWriting(to: [nodes[1], nodes[2]], most: 2, at: later))
        health.foundNoOther(at: later)
        #expect(!health.mayGiveUpWriting(to: [nodes[1]], most: 2, at: later))
        #expect(
            health.mayGiveUpWriting(
                to: [nodes[1]], most: 2, at: later.advanced(by: .seconds(5))))
    }
}
