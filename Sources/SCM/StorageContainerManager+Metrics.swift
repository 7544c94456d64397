import RaftDriver
import Telemetry

/// How the cluster is, as far as SCM knew when it last looked.
struct SCMMeasures: Sendable {
    let healthy = Gauge()
    let known = Gauge()
    let containers = Gauge()
    let safeMode = Gauge()
    let pendingDeletions = Gauge()
    let full = Gauge()
}

extension StorageContainerManager {
    /// Adds what is measured beside the requests to the pages of `metrics`. What is told of the
    /// cluster is as old as the last tick.
    public nonisolated func addMetrics(to metrics: MetricsRegistry) {
        group.addMetrics(to: metrics)
        metrics.collect { [measures] page in
            page.gauge(
                "apus_scm_datanodes", "Datanodes that SCM knows.", ["state": "known"],
                Double(measures.known.value))
            page.gauge(
                "apus_scm_datanodes", "Datanodes that SCM knows.", ["state": "healthy"],
                Double(measures.healthy.value))
            page.gauge(
                "apus_scm_datanodes", "Datanodes that SCM knows.", ["state": "full"],
                Double(measures.full.value))
            page.gauge(
                "apus_scm_pending_deletions",
                "Deleted blocks that not all datanodes have confirmed.",
                Double(measures.pendingDeletions.value))
            page.gauge(
                "apus_scm_containers", "Containers that SCM knows.",
                Double(measures.containers.value))
            page.gauge(
                "apus_scm_safe_mode", "1 while SCM gives out no blocks.",
                Double(measures.safeMode.value))
        }
    }
}
