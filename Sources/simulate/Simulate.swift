import Simulator

@main
struct Simulate {
    static func main() {
        var statistics = Statistics()
        for seed in 1...100 as ClosedRange<UInt64> {
            let simulation = Simulation(Scenario(seed: seed))
            if let failure = simulation.run() { print(failure); return }
            statistics += simulation.statistics
        }
        print(statistics)
    }
}
