import RaftDriver
import Telemetry

/// What becomes of discarded blocks.
struct OMMeasures: Sendable {
    let held = Gauge()
    let handedOver = Counter()
    let passedOver = Counter()
}

extension OzoneManager {
    /// Adds what is measured beside the requests to the pages of `metrics`.
    public func addMetrics(to metrics: MetricsRegistry) {
        group.addMetrics(to: metrics)
        metrics.collect { [measures] page in
            page.gauge(
                "apus_om_held_blocks", "Blocks that readers have said they read.",
                Double(measures.held.value))
            page.counter(
                "apus_om_deleted_blocks_total", "Discarded blocks that SCM has taken charge of.",
                Double(measures.handedOver.value))
            page.counter(
                "apus_om_passed_over_records_total",
                "Times that discarded blocks were left for later: held, refused or unreadable.",
                Double(measures.passedOver.value))
        }
    }
}
