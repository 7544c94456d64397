import Model

/// How many bytes a second are written to open containers, by replication, over the last seconds: by
/// what datanodes report of their replicas, so parity counts.
///
/// The leader's memory, and not even that matters: it says how many containers are worth being
/// open.
struct IngestMeter: Sendable {
    /// Nanoseconds of a window. The rate is that of the present one and the one before.
    static let window: UInt64 = 5_000_000_000

    private struct Windows: Sendable {
        var began: UInt64
        var before: UInt64 = 0
        var present: UInt64 = 0

        mutating func advance(to now: UInt64) {
            let passed = (now - min(now, began)) / IngestMeter.window
            guard passed > 0 else { return }
            before = passed == 1 ? present : 0
            present = 0
            began += passed * IngestMeter.window
        }
    }

    private var windows: [ReplicationConfig: Windows] = [:]

    mutating func note(_ bytes: UInt64, of replication: ReplicationConfig, at now: UInt64) {
        var found = windows[replication] ?? Windows(began: now)
        found.advance(to: now)
        found.present += bytes
        windows[replication] = found
    }

    /// Bytes a second, of all replicas together.
    func rate(of replication: ReplicationConfig, at now: UInt64) -> UInt64 {
        guard var found = windows[replication] else { return 0 }
        found.advance(to: now)
        let span = Self.window + (now - min(now, found.began))
        return UInt64(Double(found.before + found.present) / Double(span) * 1e9)
    }
}
