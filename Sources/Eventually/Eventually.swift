// For tests: waiting for what comes about by itself, for as long as a busy machine may take.

/// What a test waited for did not come about.
public struct NeverHeld: Error, CustomStringConvertible {
    public var expectation: String
    public var within: Duration

    public var description: String { "waited \(within), and never came: \(expectation)" }
}

/// Returns when `holds` does, which is asked every few milliseconds.
///
/// The time is that after which a test is certainly wrong, on the slowest machine, and no part of what
/// is tested. Throws `NeverHeld` with the expectation, so that a test fails by name and hangs nobody.
public nonisolated(nonsending) func eventually(
    _ expectation: String, within: Duration = .seconds(120), _ holds: () async throws -> Bool
) async throws {
    let clock = ContinuousClock()
    let end = clock.now.advanced(by: within)
    while try await !holds() {
        guard clock.now < end else { throw NeverHeld(expectation: expectation, within: within) }
        try await Task.sleep(for: .milliseconds(2))
    }
}
