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
}
