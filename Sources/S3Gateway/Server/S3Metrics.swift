import Telemetry

/// What a gateway measures of its requests, by S3's names of the operations.
struct S3Metrics: Sendable {
    /// What is measured of one operation.
    private final class Measures: Sendable {
        let name: String
        let latency = LatencyHistogram()
        let slow = SlowBound()
        /// By class of the status: 1xx to 5xx, at 0 what is none.
        let statuses = (0..<6).map { _ in Counter() }
        /// Requests whose client went away before the end of the answer: no failure of ours.
        let abandoned = Counter()
        let received = Counter()
        let sent = Counter()
        /// Whether this is told only once it has counted something: most gateways never see it.
        let isRare: Bool

        init(_ name: String, isRare: Bool = false) {
            self.name = name
            self.isRare = isRare
        }
    }

    private let telemetry: RoleTelemetry
    /// By the number of the operation.
    private let measures: [Measures]
    /// Of requests that were refused before their operation was known.
    private let refused = Measures("unknown")

    /// - Parameter inFlight: how many requests are under way.
    init(_ telemetry: RoleTelemetry, inFlight: @escaping @Sendable () -> Int) {
        self.telemetry = telemetry
        measures = Operation.allCases.map { Measures($0.name, isRare: $0.asksForSetting) }
        telemetry.metrics.gauge("apus_s3_in_flight", "Requests under way.") { Double(inFlight()) }
        let all = measures + [refused]
        telemetry.metrics.collect { page in
            for measures in all { Self.add(measures, to: &page) }
        }
    }

    private static func add(_ measures: Measures, to page: inout MetricsPage) {
        let labels: MetricLabels = ["operation": measures.name]
        let latency = measures.latency.snapshot()
        guard !measures.isRare || latency.count > 0 else { return }
        page.histogram(
            "apus_s3_duration_seconds", "From a request's head to the end of its answer.", labels,
            latency)
        page.counter(
            "apus_s3_received_bytes_total", "Bytes of bodies received.", labels,
            Double(measures.received.value))
        page.counter(
            "apus_s3_sent_bytes_total", "Bytes of bodies sent.", labels,
            Double(measures.sent.value))
        for (digit, counter) in measures.statuses.enumerated() where counter.value > 0 {
            page.counter(
                "apus_s3_requests_total", "Requests by the class of their status.",
                labels.adding(["status": digit == 0 ? "none" : "\(digit)xx"]),
                Double(counter.value))
        }
        if measures.abandoned.value > 0 {
            page.counter(
                "apus_s3_requests_total", "Requests by the class of their status.",
                labels.adding(["status": "client_gone"]), Double(measures.abandoned.value))
        }
    }

    /// What the tasks of a request carry that began at `start`.
    func context(_ traceID: UInt64, since start: UInt64) -> TraceContext {
        TraceContext(traceID: traceID, since: start, ring: telemetry.traces)
    }

    /// Counts a request that has been answered, between two times of the monotonic clock, and ends
    /// what was noted of it, `trace`. Kept are those that were slow for their operation and those
    /// that failed here.
    func record(
        _ operation: Operation?, user: String, status: Int, _ exchange: Exchange,
        _ trace: TraceContext?, from start: UInt64, to end: UInt64
    ) {
        let measures = operation.map { self.measures[$0.rawValue] } ?? refused
        let nanoseconds = end &- min(start, end)
        measures.latency.record(nanoseconds: nanoseconds)
        if status == ClientGone.status {
            measures.abandoned.add()
        } else {
            measures.statuses[(1...5).contains(status / 100) ? status / 100 : 0].add()
        }
        measures.received.add(UInt64(exchange.bytesReceived))
        measures.sent.add(UInt64(exchange.bytesSent))
        let isSlow = measures.slow.isSlow(nanoseconds)
        trace?.finish(
            .request, measures.name, detail: user, at: end, isSlow: isSlow || status >= 500,
            outcome: UInt16(clamping: status), bytes: exchange.bytesReceived + exchange.bytesSent)
    }
}
