import RaftDriver
import Telemetry

extension OzoneManager {
    /// Adds what is measured beside the requests to the pages of `metrics`.
    public func addMetrics(to metrics: MetricsRegistry) { group.addMetrics(to: metrics) }
}
