/// The bounds of the simulator, each with its unit.
public enum Limits {
    /// Steps of the search for a linear order of one register's history.
    public static let linearizationSteps = 2_000_000
    /// States in which one register may be as far as its answers tell.
    public static let possibilitiesPerRegister = 4096
    /// Writes without an answer after which a register is given up for a new one.
    public static let openWritesPerRegister = 3
    /// Operations after which a register is given up for a new one.
    public static let operationsPerRegister = 200
    /// Events kept to be printed with a failure.
    public static let tracedEvents = 60
    /// Readys handled in a row before the core is taken to spin.
    public static let readiesInARow = 10_000
    /// Attempts at one operation before its client gives it up, while there are faults.
    public static let attemptsPerOperation = 6
    /// Ticks after which a driver stops a leader that is removed.
    public static let ticksToRetire = 5
    /// Nodes of a cluster.
    public static let nodes = 7
}
