/// What a run is made of, so that it can be made again.
public protocol RepeatableScenario: Sendable {
    /// The seed of everything.
    var seed: UInt64 { get }
    /// The arguments of `simulate` that, with the seed, make the same run.
    var options: [String] { get }
}

/// A run that ended with a violation, and how to see it again.
public struct Failure<Scenario: RepeatableScenario>: Error, Sendable, CustomStringConvertible {
    public var scenario: Scenario
    public var violation: Violation
    /// The event at which it was found.
    public var step: Int
    public var time: Microseconds
    /// The last events before it.
    public var events: [String]

    public init(
        scenario: Scenario, violation: Violation, step: Int, time: Microseconds, events: [String]
    ) {
        self.scenario = scenario
        self.violation = violation
        self.step = step
        self.time = time
        self.events = events
    }

    /// The command that repeats the run with all its events.
    public var command: String {
        let arguments = ["--seed", "\(scenario.seed)", "--trace"] + scenario.options
        return "swift run -c release simulate " + arguments.joined(separator: " ")
    }

    public var description: String {
        """
        seed \(scenario.seed), step \(step), second \(TraceText.seconds(time)): \(violation)
        The last events:
        \(events.map { "  " + $0 }.joined(separator: "\n"))
        Again: \(command)
        """
    }
}
