import Model
import Reactor
import Synchronization
import Testing

@testable import Client

@Suite("What is known of nodes")
struct NodeHealthTests {
    private static let node = Identity128(high: 0, low: 1)
    private static let now = MonotonicTime(nanoseconds: 1_000_000_000)

    /// When a cell on its way to the node hangs, by the node's habit.
    private static func hangs(_ health: NodeHealth) -> Duration {
        health.lateWrites(to: [nil, DatanodeAddress(id: node, host: "h", port: 1)]).habits[1]
    }

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

    @Test("what is late by a node's habit is judged anew after every eighth answer")
    func judged() {
        let health = NodeHealth()
        let answer = { (milliseconds: UInt64) in
            health.answered(Self.node, in: milliseconds * 1_000_000, at: Self.now)
        }
        for _ in 0..<7 { answer(1) }
        #expect(health.lateAfter(Self.node) == .seconds(1), "too few to know")
        answer(1)
        #expect(health.lateAfter(Self.node) == .milliseconds(100))
        // By now its own habit is another, and it is late against the others, of which that is known
        // that was judged last.
        for _ in 0..<23 {
            answer(1000)
            #expect(health.lateAfter(Self.node) == .milliseconds(100))
        }
        answer(1000)
        #expect(health.lateAfter(Self.node) == .seconds(3))
    }

    @Test("a write is late by the node's own writes, within a floor and a cap")
    func lateWrites() {
        let health = NodeHealth()
        #expect(Self.hangs(health) == .seconds(1), "nothing is known")
        for _ in 0..<8 { health.wrote(Self.node, in: 1_000_000, at: Self.now) }
        #expect(Self.hangs(health) == .milliseconds(600))
        for _ in 0..<64 { health.wrote(Self.node, in: 500_000_000, at: Self.now) }
        #expect(Self.hangs(health) == .milliseconds(1500))
        for _ in 0..<64 { health.wrote(Self.node, in: 30_000_000_000, at: Self.now) }
        #expect(Self.hangs(health) == .seconds(10))
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
        health.foundNoOther(without: [nodes[1]], at: later)
        #expect(!health.mayGiveUpWriting(to: [nodes[1]], most: 2, at: later))
        #expect(
            health.mayGiveUpWriting(
                to: [nodes[1]], most: 2, at: later.advanced(by: .seconds(5))))
    }

    @Test("what is late is told by what three of four calls take, to whatever node")
    func lateAgainstOthers() {
        let health = NodeHealth()
        let others = (2...9).map { Identity128(high: 0, low: $0) }
        #expect(health.lateWrites(to: []).behind(slowest: 0) == nil, "nothing is known")
        for _ in 0..<32 {
            for other in others { health.wrote(other, in: 40_000_000, at: Self.now) }
            // One of nine has a habit of its own.
            health.wrote(Self.node, in: 490_000_000, at: Self.now)
        }
        #expect(health.lateWrites(to: []).behind(slowest: 0) == .milliseconds(200))
        #expect(
            health.lateWrites(to: []).behind(slowest: 150_000_000) == .milliseconds(300),
            "its siblings")
        #expect(Self.hangs(health) == .milliseconds(1470), "it does not hang")
        for _ in 0..<32 {
            for other in others { health.answered(other, in: 30_000_000, at: Self.now) }
            health.answered(Self.node, in: 490_000_000, at: Self.now)
        }
        #expect(health.lateAfter(Self.node) == .milliseconds(150))
        #expect(health.lateAfter(others[0]) == .milliseconds(100), "no less than the floor")
    }

    @Test("all that are slow make nobody late")
    func allSlow() {
        let health = NodeHealth()
        for _ in 0..<32 {
            for number in 1...9 as ClosedRange<UInt64> {
                health.wrote(Identity128(high: 0, low: number), in: 900_000_000, at: Self.now)
            }
        }
        #expect(health.lateWrites(to: []).behind(slowest: 0) == .milliseconds(4500))
    }

    @Test(
        "who begins to write avoids nodes that were late; one at a time tries them when it is time")
    func beginnings() {
        let health = NodeHealth()
        #expect(health.beginning(at: Self.now) == .init(avoiding: [], isTrial: false))
        health.gaveUpWriting(to: Self.node, at: Self.now)
        #expect(health.beginning(at: Self.now) == .init(avoiding: [Self.node], isTrial: false))
        let later = Self.now.advanced(by: .seconds(2))
        #expect(health.beginning(at: later) == .init(avoiding: [], isTrial: true))
        #expect(health.beginning(at: later) == .init(avoiding: [Self.node], isTrial: false))
        #expect(!health.shouldAvoidWriting(to: Self.node, at: later), "whoever has it may go on")
        for _ in 0..<Probation.Limits.trial { health.wrote(Self.node, in: 1_000_000, at: later) }
        #expect(health.beginning(at: later) == .init(avoiding: [], isTrial: false))
    }

    @Test("a late node that nobody writes to again is forgotten")
    func unheard() {
        let health = NodeHealth()
        health.gaveUpWriting(to: Self.node, at: Self.now)
        let back = Self.now.advanced(by: Probation.Limits.avoidance)
        #expect(health.beginning(at: back).isTrial)
        let later = back.advanced(by: Probation.Limits.forgetting)
        #expect(health.beginning(at: later) == .init(avoiding: [], isTrial: false))
        // One that answers late goes on being tried.
        health.gaveUpWriting(to: Self.node, at: later)
        let late = later.advanced(by: Probation.Limits.avoidance + .seconds(20))
        health.wrote(Self.node, in: 5_000_000_000, at: late)
        #expect(health.beginning(at: late.advanced(by: .seconds(20))).isTrial)
    }

    @Test("where there is nothing without the late nodes, all are written to for a while")
    func nothingWithout() {
        let health = NodeHealth()
        health.gaveUpWriting(to: Self.node, at: Self.now)
        health.foundNoOther(without: [Self.node], at: Self.now)
        #expect(health.beginning(at: Self.now).avoiding.isEmpty)
        let later = Self.now.advanced(by: NodeHealth.Limits.searchPause)
        #expect(health.beginning(at: later).avoiding == [Self.node])
    }

    @Test("where there is nothing without two late nodes, there may be without the worse of them")
    func nothingWithoutBoth() {
        let health = NodeHealth()
        let other = Identity128(high: 0, low: 2)
        health.gaveUpWriting(to: other, at: Self.now)
        let later = Self.now.advanced(by: .milliseconds(1))
        health.gaveUpWriting(to: Self.node, at: later)
        #expect(health.beginning(at: later).avoiding == [Self.node, other])
        health.foundNoOther(without: [Self.node, other], at: later)
        #expect(health.beginning(at: later).avoiding == [Self.node])
        #expect(!health.mayGiveUpWriting(to: [Self.node, other], most: 3, at: later))
        #expect(health.mayGiveUpWriting(to: [other], most: 3, at: later))
        health.foundNoOther(without: [Self.node], at: later)
        #expect(health.beginning(at: later).avoiding.isEmpty)
    }

    @Test("no more nodes are avoided than a share of all, those for longest that are latest back")
    func shares() {
        let health = NodeHealth()
        for number in 1...100 as ClosedRange<UInt64> {
            health.wrote(Identity128(high: 0, low: number), in: 1_000_000, at: Self.now)
        }
        for number in 1...30 as ClosedRange<UInt64> {
            health.gaveUpWriting(
                to: Identity128(high: 0, low: number),
                at: Self.now.advanced(by: .milliseconds(Int(number))))
        }
        let avoiding = health.beginning(at: Self.now.advanced(by: .milliseconds(30))).avoiding
        #expect(avoiding == Set((21...30).map { Identity128(high: 0, low: $0) }))
    }
}

@Suite("Probation")
struct ProbationTests {
    private static func at(_ seconds: Double) -> MonotonicTime {
        MonotonicTime(nanoseconds: UInt64((1000 + seconds) * 1e9))
    }

    @Test("each time that a node is late it is avoided for twice as long, up to a limit")
    func doubling() {
        var probation = Probation()
        var now = 0.0
        for seconds in [2, 4, 8, 16, 32, 32] as [Double] {
            probation.wasLate(at: Self.at(now))
            // Of those that began before.
            probation.wasLate(at: Self.at(now + 0.1))
            #expect(probation.isAvoided(at: Self.at(now + seconds - 0.001)), "\(seconds)")
            #expect(!probation.isAvoided(at: Self.at(now + seconds)), "\(seconds)")
            #expect(probation.isSuspect(at: Self.at(now + seconds)))
            now += seconds
        }
    }

    @Test("it is trusted after some answers in time, one after the other")
    func trial() {
        var probation = Probation()
        var isTried = probation.takeTrial(at: Self.at(0))
        #expect(!isTried, "nothing is held against it")
        probation.wasLate(at: Self.at(0))
        isTried = probation.takeTrial(at: Self.at(1))
        #expect(!isTried, "it is avoided")
        probation.answered(inTime: true, at: Self.at(1))
        for _ in 0..<Probation.Limits.trial - 1 {
            isTried = probation.takeTrial(at: Self.at(2))
            #expect(isTried)
            isTried = probation.takeTrial(at: Self.at(2.1))
            #expect(!isTried, "one at a time")
            probation.answered(inTime: true, at: Self.at(2))
        }
        #expect(probation.isSuspect(at: Self.at(2)))
        probation.answered(inTime: false, at: Self.at(2))
        for _ in 0..<Probation.Limits.trial { probation.answered(inTime: true, at: Self.at(2)) }
        #expect(!probation.isSuspect(at: Self.at(2)))
        // One that takes part in nothing is tried again all the same.
        probation.wasLate(at: Self.at(3))
        let trials = [7, 7.1, 7.2].map { probation.takeTrial(at: Self.at($0)) }
        #expect(trials == [true, false, true])
    }

    @Test("how often it was late is forgotten step by step")
    func forgetting() {
        var probation = Probation()
        var now = 0.0
        for _ in 0..<3 {
            probation.wasLate(at: Self.at(now))
            now += 10
        }
        #expect(probation.times == 3)
        // Avoided until 28; 61 seconds later two are forgotten.
        probation.wasLate(at: Self.at(89))
        #expect(probation.times == 2)
        #expect(!probation.isAvoided(at: Self.at(93)))
        probation.wasLate(at: Self.at(10_000))
        #expect(probation.times == 1)
    }
}

@Suite("What writers may write again")
struct RewriteBudgetTests {
    @Test("no more than a share of what was acknowledged, and never more than a burst")
    func share() {
        var budget = RewriteBudget()
        let burst = RewriteBudget.Limits.burst
        let atFirst = [burst + 1, burst, 1].map { budget.take($0) }
        #expect(atFirst == [false, true, false])
        budget.acknowledged(8 << 20)
        let earned = [(1 << 20) + 1, 1 << 20].map { budget.take($0) }
        #expect(earned == [false, true])
        for _ in 0..<1000 { budget.acknowledged(100 << 20) }
        #expect(budget.bytes == RewriteBudget.Limits.burst)
    }
}
