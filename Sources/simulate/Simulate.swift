import Simulator

@main
struct Simulate {
    static func main() {
        var statistics = Statistics()
        let first = CommandLine.arguments.count > 1 ? UInt64(CommandLine.arguments[1])! : 1
        let n = CommandLine.arguments.count > 2 ? UInt64(CommandLine.arguments[2])! : 100
        let trace = CommandLine.arguments.count > 3
        var failures = 0
        let clock = ContinuousClock()
        let t0 = clock.now
        for seed in first..<first+n {
            let simulation = Simulation(Scenario(seed: seed))
            if trace { simulation.traceEvents { print($0) } }
            if let failure = simulation.run() {
                failures += 1
                if n == 1 { print(failure) } else { print(seed, failure.violation) }
            }
            statistics += simulation.statistics
        }
        print(failures, statistics, clock.now - t0)
    }
}
