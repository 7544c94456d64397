import Synchronization

/// The metrics of one role. Handles are made once, when the role starts, and recorded into without
/// a lock; whoever wants to see them asks for the page.
///
/// Thread-safe. What cannot be counted where it happens (the state of a disk, of a process) is
/// looked at by collectors when the page is asked for.
public final class MetricsRegistry: Sendable {
    public enum Limits {
        /// Handles and collectors of one registry: labels have few values, known beforehand.
        public static let entries = 4096
    }

    private typealias Collector = @Sendable (inout MetricsPage) -> Void

    private let labels: MetricLabels
    private let collectors = Mutex<[Collector]>([])

    /// An empty registry; each sample of its page will have `labels`.
    public init(labels: MetricLabels = [:]) { self.labels = labels }

    /// A counter of this registry.
    public func counter(
        _ name: String, _ help: String, _ labels: MetricLabels = [:]
    ) -> Counter {
        let counter = Counter()
        collect { $0.counter(name, help, labels, Double(counter.value)) }
        return counter
    }

    /// A gauge of this registry.
    public func gauge(_ name: String, _ help: String, _ labels: MetricLabels = [:]) -> Gauge {
        let gauge = Gauge()
        collect { $0.gauge(name, help, labels, Double(gauge.value)) }
        return gauge
    }

    /// A gauge whose value is asked for when the page is.
    public func gauge(
        _ name: String, _ help: String, _ labels: MetricLabels = [:],
        _ read: @escaping @Sendable () -> Double
    ) {
        collect { $0.gauge(name, help, labels, read()) }
    }

    /// A histogram of this registry.
    public func histogram(
        _ name: String, _ help: String, _ labels: MetricLabels = [:]
    ) -> LatencyHistogram {
        let histogram = LatencyHistogram()
        collect { $0.histogram(name, help, labels, histogram.snapshot()) }
        return histogram
    }

    /// Has `collector` add to every page. It runs on the thread that asks for the page and must
    /// not wait for anything.
    public func collect(_ collector: @escaping @Sendable (inout MetricsPage) -> Void) {
        collectors.withLock { collectors in
            precondition(
                collectors.count < Limits.entries,
                "a registry has at most \(Limits.entries) entries: is a label unbounded?")
            collectors.append(collector)
        }
    }

    /// Everything at this moment.
    public func page() -> MetricsPage {
        var page = MetricsPage(labels: labels)
        for collector in collectors.withLock({ $0 }) { collector(&page) }
        return page
    }
}
