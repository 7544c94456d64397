import Glibc
import Simulator

/// Runs the simulator: one seed, to look at it, or one after another.
@main
struct Simulate {
    static func main() {
        do throws(UsageError) {
            let options = try Options(Array(CommandLine.arguments.dropFirst()))
            exit(options.seed.map { runOne($0, options) } ?? runMany(options) ? 0 : 1)
        } catch {
            print("simulate: \(error.message)\n\n\(Options.usage)")
            exit(2)
        }
    }

    private static func scenario(_ seed: UInt64, _ options: Options) -> Scenario {
        var scenario = Scenario(seed: seed, length: options.length)
        if options.isConcentrated { scenario.concentrateOnMembers() }
        scenario.apply(options.mutation)
        scenario.properties.formIntersection(options.properties)
        return scenario
    }

    /// Runs one seed. False if a property did not hold.
    private static func runOne(_ seed: UInt64, _ options: Options) -> Bool {
        if options.isOfDriver { return SimulateDriver.runOne(seed, options) }
        let simulation = Simulation(scenario(seed, options))
        if options.isTraced {
            simulation.traceEvents {
                print($0)
                fflush(nil)
            }
        }
        let failure = simulation.run()
        if let failure { print(failure) }
        let statistics = simulation.statistics
        print(
            "seed \(seed): \(statistics.steps) steps, \(statistics.elections) elections, "
                + "\(statistics.crashes) crashes, \(statistics.operations) operations, digest "
                + String(simulation.digest, radix: 16))
        return failure == nil
    }

    private static func run(_ seed: UInt64, _ options: Options) -> (String?, Statistics) {
        if options.isOfDriver {
            return SimulateDriver.run(seed, isLong: options.length == .long)
        }
        let simulation = Simulation(scenario(seed, options))
        let failure = simulation.run()
        return (failure?.description, simulation.statistics)
    }

    /// Runs seeds one after another until the first failure. False if there was one.
    private static func runMany(_ options: Options) -> Bool {
        SeedInFlight.reportOnTrap(options)
        let first = options.first ?? UInt64.random(in: 0..<1 << 40)
        print("from seed \(first) on")
        fflush(nil)
        let clock = ContinuousClock()
        let start = clock.now
        var lastReport = start
        var total = Statistics()
        var seed = first
        while options.count.map({ seed - first < $0 }) ?? true {
            SeedInFlight.set(seed)
            let (failure, statistics) = run(seed, options)
            if let failure {
                print(failure)
                return false
            }
            total += statistics
            seed += 1
            let elapsed = clock.now - start
            if clock.now - lastReport > .seconds(5) {
                lastReport = clock.now
                print(total.line(after: elapsed))
                fflush(nil)
            }
            if let minutes = options.minutes, elapsed > .seconds(60 * minutes) { break }
        }
        print(total.line(after: clock.now - start))
        return true
    }
}

extension Statistics {
    /// One line for a terminal.
    fileprivate func line(after elapsed: Duration) -> String {
        let seconds =
            Double(elapsed.components.seconds)
            + Double(elapsed.components.attoseconds) * 1e-18
        let hours = Double(time) / 3.6e9
        let rate = (hours * 60 / max(seconds, 0.001) * 10).rounded() / 10
        return "\(runs) seeds, \(steps) steps, \((hours * 10).rounded() / 10) simulated hours "
            + "(\(rate) a minute), \(elections) elections, \(crashes) crashes, "
            + "\(membershipChanges) member changes, \(snapshotsInstalled) snapshots, "
            + "\(operations) client operations (\(unanswered) unanswered)"
    }
}
