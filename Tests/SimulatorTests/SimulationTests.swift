import Foundation
import Raft
import Testing

@testable import Simulator

@Suite("Simulated clusters")
struct SimulationTests {
    /// 320 seeds, in lots that run side by side.
    @Test("all properties hold in 320 clusters drawn from seeds", arguments: 0..<16)
    func seeds(lot: UInt64) {
        var total = Statistics()
        for seed in lot * 20 + 1...lot * 20 + 20 {
            let simulation = Simulation(Scenario(seed: seed))
            if let failure = simulation.run() { Issue.record(failure) }
            total += simulation.statistics
        }
        // What was meant to happen did: a quiet simulation finds nothing.
        #expect(total.elections > 20)
        #expect(total.crashes > 20)
        #expect(total.partitions > 0)
        #expect(total.membershipChanges > 20)
        #expect(total.snapshotsInstalled > 0)
        #expect(total.operations > 1000)
        #expect(total.unanswered * 5 < total.operations)
        #expect(total.registersLost <= 1)
    }

    @Test("all properties hold in clusters that are disturbed for minutes", arguments: 1...4)
    func longRuns(seed: UInt64) {
        let simulation = Simulation(Scenario(seed: seed, length: .long))
        if let failure = simulation.run() { Issue.record(failure) }
        #expect(simulation.statistics.time > 60_000_000)
    }

    @Test("all properties hold in 120 clusters whose members change hastily", arguments: 0..<6)
    func members(lot: UInt64) {
        for seed in lot * 20 + 1...lot * 20 + 20 {
            var scenario = Scenario(seed: seed)
            scenario.concentrateOnMembers()
            if let failure = Simulation(scenario).run() { Issue.record(failure) }
        }
    }

    @Test("a seed gives the same run twice, and another seed another run")
    func repetition() {
        var digests = Set<UInt64>()
        for seed in 1...20 as ClosedRange<UInt64> {
            let digest = Self.digest(seed)
            #expect(Self.digest(seed) == digest, "seed \(seed)")
            digests.insert(digest)
        }
        #expect(digests.count == 20)
    }

    /// Hashing is seeded anew in each process, so an order that came from it would show.
    @Test("a seed gives the same run in another process")
    func otherProcess() async throws {
        let result = try await #require(
            processExitsWith: .success, observing: [\.standardOutputContent]
        ) {
            for seed in 1...10 as ClosedRange<UInt64> {
                print("digest \(SimulationTests.digest(seed))")
            }
            fflush(nil)
        }
        let text = String(decoding: result.standardOutputContent, as: UTF8.self)
        let there = text.split(separator: "\n").filter { $0.hasPrefix("digest ") }
        let here = (1...10 as ClosedRange<UInt64>).map { "digest \(Self.digest($0))" }
        #expect(there.map(String.init) == here)
    }

    private static func digest(_ seed: UInt64) -> UInt64 {
        let simulation = Simulation(Scenario(seed: seed))
        if let failure = simulation.run() { Issue.record(failure) }
        return simulation.digest
    }

    @Test("tracing a run changes nothing in it")
    func tracing() {
        let simulation = Simulation(Scenario(seed: 3))
        simulation.traceEvents { _ in }
        #expect(simulation.run() == nil)
        #expect(simulation.digest == Self.digest(3))
    }

    @Test("a failure says seed, step, property, the last events and the command to repeat it")
    func failureText() throws {
        var scenario = Scenario(seed: 1)
        scenario.apply(.acknowledgesBeforeSync)
        let failure = try #require(Simulation(scenario).run())
        let text = failure.description
        #expect(text.hasPrefix("seed 1, step \(failure.step), second "))
        #expect(text.contains("promises are durable: node "))
        #expect(failure.events.count > 10)
        #expect(text.contains(failure.events.last ?? "no event"))
        #expect(
            text.hasSuffix(
                "simulate --seed 1 --trace --mutation acknowledgesBeforeSync"))
    }

    @Test("the command that repeats a run names all that it is made of")
    func command() {
        var scenario = Scenario(seed: 4, length: .long)
        scenario.concentrateOnMembers()
        scenario.properties.formIntersection(Property.paper)
        scenario.apply(.votesTwice)
        let failure = Failure(
            scenario: scenario, violation: Violation(property: .liveness, detail: ""), step: 1,
            time: 0, events: [])
        #expect(
            failure.command == "swift run -c release simulate --seed 4 --trace --long --members "
                + "--paper --mutation votesTwice")
    }

    /// A small busy cluster whose nodes crash at one persist point each run, with each tear.
    @Test(
        "a crash at each persist point, whatever it leaves of unsynced writes, loses nothing",
        arguments: Tear.allCases, [0, .max] as [UInt64])
    func everyPersistPoint(tear: Tear, asynchronousNodes: UInt64) {
        var scenario = Scenario(quiet: 11)
        scenario.asynchronousNodes = asynchronousNodes
        scenario.faultTime = 2_500_000
        scenario.checkpointInterval = 8
        scenario.keptEntries = 2
        scenario.tears = [tear]
        scenario.thinkTime = 10_000...60_000
        let whole = Simulation(scenario)
        if let failure = whole.run() { Issue.record(failure) }
        let points = whole.statistics.persistPoints
        #expect(points > 300)
        var crashes = 0
        for point in stride(from: 1, through: points, by: 2) {
            scenario.crashAtPersistPoint = point
            let simulation = Simulation(scenario)
            if let failure = simulation.run() {
                Issue.record(failure, "persist point \(point)")
            }
            crashes += simulation.statistics.crashes
        }
        #expect(crashes > 100)
    }
}

extension Failure: Equatable {
    public static func == (left: Failure, right: Failure) -> Bool {
        left.description == right.description
    }
}
