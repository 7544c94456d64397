/// What a role tells of itself: its metrics, and the spans of the requests it took part in.
public final class RoleTelemetry: Sendable {
    /// `om`, `scm`, `datanode` or `s3gateway`.
    public let role: String
    /// Which of its kind: the name that people know it by, such as `dn3`.
    public let name: String
    public let metrics: MetricsRegistry
    public let traces: TraceRing
    /// Whether requests are measured and followed. If not, what was counted elsewhere is told all
    /// the same: the state of disks and of the process.
    public let isEnabled: Bool

    /// For the role `role` called `name`. Every metric has both as labels.
    public init(
        role: String, name: String, isEnabled: Bool = true, spans: Int = TraceRing.Limits.spans
    ) {
        self.role = role
        self.isEnabled = isEnabled
        self.name = name
        metrics = MetricsRegistry(labels: ["role": role, "node": name])
        let traces = TraceRing(spans: spans)
        self.traces = traces
        metrics.collect { page in
            page.counter(
                "apus_trace_spans_total", "Spans kept of requests that were slow or chosen.",
                Double(traces.count))
        }
    }
}
