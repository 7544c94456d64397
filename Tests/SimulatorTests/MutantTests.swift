import Testing

@testable import Simulator

/// A deliberate defect, and what finds it.
struct Mutant: Sendable, CustomTestStringConvertible {
    var mutation: Mutation
    /// Seeds 1 up to this are run at most.
    var seeds: UInt64
    /// The property that is found broken first.
    var property: Property
    /// Whether only the thesis' properties and linearizability are checked, so that the defect
    /// must do harm.
    var byPaper = false

    init(_ mutation: Mutation, _ seeds: UInt64, _ property: Property, byPaper: Bool = false) {
        self.mutation = mutation
        self.seeds = seeds
        self.property = property
        self.byPaper = byPaper
    }

    var testDescription: String { mutation.rawValue + (byPaper ? " by the paper alone" : "") }

    /// The failure of the first seed that finds it, and how many seeds that took.
    func firstFailure() -> (failure: Failure<Scenario>, seeds: UInt64)? {
        for seed in 1...seeds {
            var scenario = Scenario(seed: seed)
            scenario.apply(mutation)
            if byPaper { scenario.properties.formIntersection(Property.paper) }
            if let failure = Simulation(scenario).run() { return (failure, seed) }
        }
        return nil
    }
}

@Suite("Mutants")
struct MutantTests {
    /// docs/internals/simulator.md shows this table.
    static let mutants: [Mutant] = [
        Mutant(.acknowledgesBeforeSync, 10, .durablePromise),
        Mutant(.acknowledgesBeforeSync, 20, .stateMachineSafety, byPaper: true),
        Mutant(.acknowledgesSnapshotBeforeSync, 20, .durablePromise),
        Mutant(.forgetsVote, 10, .hardState),
        Mutant(.forgetsTerm, 10, .hardState),
        Mutant(.forgetsVote, 800, .electionSafety, byPaper: true),
        Mutant(.forgetsTerm, 300, .electionSafety, byPaper: true),
        Mutant(.writesHardStateLate, 10, .durablePromise),
        Mutant(.writesHardStateLate, 300, .electionSafety, byPaper: true),
        Mutant(.keepsConflictingEntries, 20, .stateMachineSafety),
        Mutant(.ignoresDamage, 50, .hardState),
        Mutant(.compactsBeyondCheckpoint, 60, .hardState),
        Mutant(.votesWithoutLogCheck, 20, .leaderCompleteness),
        Mutant(.votesTwice, 40, .leaderCompleteness),
        Mutant(.leadsOnInHigherTerm, 20, .liveness),
        Mutant(.skipsPreviousEntryCheck, 20, .logMatching),
        Mutant(.acceptsStaleTerm, 600, .durableQuorum),
        Mutant(.acknowledgesRejected, 20, .durablePromise),
        Mutant(.commitsByHeartbeat, 20, .stateMachineSafety),
        Mutant(.appliesUncommitted, 10, .stateMachineSafety),
        Mutant(.appliesTwice, 20, .stateMachineSafety),
        Mutant(.snapshotsWrongTerm, 100, .logMatching),
        Mutant(.leavesOutSessions, 20, .stateMachineSafety),
        Mutant(.losesConfiguration, 20, .sameConfiguration),
        Mutant(.skipsConfChangeAfterRestart, 20, .sameConfiguration),
        Mutant(.readsWithoutRound, 40, .linearizability),
        Mutant(.readsFromFollower, 20, .linearizability),
        Mutant(.readsBeforeApplied, 20, .linearizability),
        Mutant(.leaseBeyondDrift, 200, .linearizability),
    ]

    @Test("each defect is found within its seeds, by its property", arguments: mutants)
    func found(mutant: Mutant) throws {
        let (failure, seeds) = try #require(
            mutant.firstFailure(), "not found in \(mutant.seeds) seeds")
        print("mutant \(mutant.testDescription): seed \(seeds), \(failure.violation.property)")
        #expect(failure.violation.property == mutant.property, "\(failure)")
    }

    @Test("every mutation is in the table")
    func complete() {
        #expect(Set(Self.mutants.map(\.mutation)) == Set(Mutation.allCases))
    }

    @Test("without a defect, the scenarios made for the mutants are sound")
    func controls() {
        for mutation in Mutation.allCases where mutation != .leaseBeyondDrift {
            for seed in 1...6 as ClosedRange<UInt64> {
                var scenario = Scenario(seed: seed)
                scenario.apply(mutation)
                scenario.mutation = nil
                if let failure = Simulation(scenario).run() { Issue.record(failure) }
            }
        }
    }
}
