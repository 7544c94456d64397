import Glibc
import GroupSimulator
import Simulator

/// Runs simulated groups of the members that serve.
enum SimulateDriver {
    /// Runs one seed. False if a property did not hold, or two runs differ.
    static func runOne(_ seed: UInt64, _ options: Options) -> Bool {
        let (isLong, isTraced) = (options.length == .long, options.isTraced)
        let runs = (0..<(options.isChecked ? 2 : 1)).map { _ in
            onThreadOfItsOwn {
                let simulation = GroupSimulation(GroupScenario(seed: seed, isLong: isLong))
                if isTraced {
                    simulation.traceEvents {
                        print($0)
                        fflush(nil)
                    }
                }
                let failure = simulation.run()
                return (failure, simulation.statistics, simulation.digest)
            }
        }
        let (failure, statistics, digest) = runs[0]
        if let failure { print(failure) }
        print(
            "seed \(seed): \(statistics.steps) steps, \(statistics.elections) elections, "
                + "\(statistics.crashes) crashes, \(statistics.operations) operations, "
                + "\(statistics.probes) disks looked at, digest "
                + String(digest, radix: 16))
        if let other = runs.dropFirst().first, other.2 != digest {
            print("seed \(seed) ran otherwise the second time: \(String(other.2, radix: 16))")
            return false
        }
        return failure == nil
    }

    /// Runs a seed; what its failure says, nil if there is none.
    static func run(_ seed: UInt64, isLong: Bool) -> (String?, Statistics) {
        onThreadOfItsOwn {
            let simulation = GroupSimulation(GroupScenario(seed: seed, isLong: isLong))
            let failure = simulation.run()
            return (failure?.description, simulation.statistics)
        }
    }
}
