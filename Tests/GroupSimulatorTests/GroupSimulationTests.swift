import Glibc
import MetadataStore
import Model
import Simulator
import Testing

@testable import GroupSimulator

@Suite("Members that serve, simulated", .serialized)
struct GroupSimulationTests {
    private struct Outcome: Sendable {
        var failure: Failure<GroupScenario>?
        var digest: UInt64
        var statistics: Statistics
    }

    private static func run(_ scenario: GroupScenario) async -> Outcome {
        await onThreadOfItsOwn {
            let simulation = GroupSimulation(scenario)
            let failure = simulation.run()
            return Outcome(
                failure: failure, digest: simulation.digest, statistics: simulation.statistics)
        }
    }

    private static func quiet(_ seed: UInt64, voters: Int) -> GroupScenario {
        var scenario = GroupScenario(quiet: seed)
        scenario.machines = voters
        scenario.voters = voters
        scenario.faultTime = 2_000_000
        scenario.checkpointBytes = 32 << 10
        return scenario
    }

    @Test("a quiet group serves its clients, whatever its size", arguments: [1, 2, 3, 5])
    func quiet(voters: Int) async {
        let outcome = await Self.run(Self.quiet(7, voters: voters))
        #expect(outcome.failure == nil, "\(outcome.failure?.description ?? "")")
        #expect(outcome.statistics.operations > 50)
        #expect(outcome.statistics.crashes == 0)
    }

    @Test("two runs of a seed are the same")
    func sameRun() async {
        for seed in [2, 9, 13] as [UInt64] {
            let first = await Self.run(GroupScenario(seed: seed))
            let second = await Self.run(GroupScenario(seed: seed))
            #expect(first.digest == second.digest, "seed \(seed)")
            #expect(first.statistics.steps == second.statistics.steps)
        }
    }

    /// Hashing is seeded anew in each process, so an order that came from it would show.
    @Test("a seed gives the same run in another process")
    func otherProcess() async throws {
        let result = try await #require(
            processExitsWith: .success, observing: [\.standardOutputContent]
        ) {
            for seed in GroupSimulationTests.compared {
                print("digest \(await GroupSimulationTests.run(GroupScenario(seed: seed)).digest)")
            }
            fflush(nil)
        }
        let text = String(decoding: result.standardOutputContent, as: UTF8.self)
        let there = text.split(separator: "\n").filter { $0.hasPrefix("digest ") }
        var here: [String] = []
        for seed in Self.compared {
            here.append("digest \(await Self.run(GroupScenario(seed: seed)).digest)")
        }
        #expect(there.map(String.init) == here)
    }

    private static let compared: [UInt64] = [3, 4, 10, 19]

    @Test("a failure says how to see it again, with its length")
    func command() {
        let scenario = GroupScenario(seed: 5, isLong: true)
        let failure = Failure(
            scenario: scenario, violation: Violation(property: .liveness, detail: "no leader"),
            step: 7, time: 1_500_000, events: ["one"])
        #expect(failure.description.hasPrefix("seed 5, step 7, second "))
        #expect(
            failure.description.hasSuffix(
                "Again: swift run -c release simulate --seed 5 --trace --driver --long"))
    }

    @Test("all that is promised holds on seeds 1 to 16")
    func seeds() async {
        var total = Statistics()
        for seed in 1...16 as ClosedRange<UInt64> {
            let outcome = await Self.run(GroupScenario(seed: seed))
            #expect(outcome.failure == nil, "\(outcome.failure?.description ?? "")")
            total += outcome.statistics
        }
        #expect(total.operations > 3000)
        #expect(total.crashes > 50)
        #expect(total.elections > 40)
    }

    @Test("a crash at any persist point of a start and some work costs nothing that was answered")
    func persistPoints() async {
        // Counts the points of a run without crashes.
        var scenario = Self.quiet(11, voters: 2)
        scenario.faultTime = 700_000
        scenario.padding = 4000
        let points = await Self.run(scenario).statistics.persistPoints
        #expect(points >= 30)
        for point in stride(from: 1, to: points, by: max(1, points / 40)) {
            scenario.crashAtPersistPoint = point
            scenario.seed = UInt64(100 + point)
            let outcome = await Self.run(scenario)
            #expect(
                outcome.failure == nil, "point \(point): \(outcome.failure?.description ?? "")")
        }
    }

    @Test("what the leader's lease serves is not behind what a follower has served")
    func leaseBehindFollowers() async {
        // Seed 36: an entry is committed without the leader's own copy, and read at a follower.
        let outcome = await Self.run(GroupScenario(seed: 36))
        #expect(outcome.failure == nil, "\(outcome.failure?.description ?? "")")
    }

    @Test("tables that are written to a file and read again are the same")
    func tableImages() throws {
        var image = SimulatedMachine.TableImage()
        image.index = 77
        image.tables.put(MetadataTable(3), [1, 2], [9])
        image.tables.put(MetadataTable(255), [], [1, 2, 3])
        let copy = try #require(SimulatedMachine.TableImage(decoding: image.encoded))
        #expect(copy.index == 77)
        #expect(copy.encoded == image.encoded)
        #expect(
            SimulatedMachine.TableImage.digest(of: copy.tables)
                == SimulatedMachine.TableImage.digest(of: image.tables))
        #expect(SimulatedMachine.TableImage(decoding: Array(image.encoded.dropLast())) == nil)
    }

    @Test("tables in memory show a transaction's own changes, in order and after it is committed")
    func tablesInMemory() {
        let memory = InMemoryTables()
        let table = MetadataTable(5)
        for key in [1, 3, 5] as [UInt8] { memory.put(table, [key], [key]) }
        let view = StoredTables(over: memory, isReadOnly: false)
        view.put(table, [2], [20])
        view.delete(table, [3])
        #expect(view.get(table, [3]) == nil)
        #expect(memory.get(table, [3]) == [3])
        var seen: [UInt8] = []
        view.scan(table, from: [2]) { key, _ in
            seen.append(key[0])
            return true
        }
        #expect(seen == [2, 5])
        view.commit()
        #expect(memory.get(table, [2]) == [20])
        #expect(memory.get(table, [3]) == nil)
    }
}
