import Foundation
import Wire

/// A disk that takes longer than the others, as SCM sees it, for people and programs.
struct SlowDisk: Encodable {
    var disk: String
    /// `observed`, `avoided`, or `spared` where it would be avoided and too many are.
    var state: String
    /// What it takes, and what the others do.
    var milliseconds, othersMilliseconds: Double
    var secondsInState: UInt64

    init(_ message: SCMSlowDisk) {
        disk = message.path
        state = "\(message.state)"
        milliseconds = Double(message.latency) / 1e6
        othersMilliseconds = Double(message.siblings) / 1e6
        secondsInState = message.millisecondsInState / 1000
    }

    /// `/data/1: p99 502 ms, others 21 ms; for 14 s`.
    var text: String {
        let since = "for \(secondsInState) s"
        // One that nobody uses any more shows nothing.
        guard milliseconds > 0 else { return "\(disk): nothing measured lately; \(since)" }
        return String(
            format: "%@: p99 %.0f ms, others %.0f ms; %@", disk, milliseconds, othersMilliseconds,
            since)
    }
}
