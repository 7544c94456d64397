import FoundationEssentials
import Reactor
import Telemetry

/// What is answered to a request for telemetry. Pure but for the metrics and spans it reads.
struct TelemetryPage {
    var status = 200
    var contentType = "text/plain; charset=utf-8"
    var body: String

    /// The answer to `method uri`.
    init(method: String, uri: String, _ telemetry: RoleTelemetry) {
        let parts = uri.split(separator: "?", maxSplits: 1).map(String.init)
        let query = parts.count > 1 ? parts[1] : ""
        guard method == "GET" || method == "HEAD" else {
            self.init(405, "GET and HEAD are answered here, not \(method)\n")
            return
        }
        switch parts.first ?? "" {
        case "/metrics":
            self.init(200, telemetry.metrics.page().text)
            contentType = MetricsPage.contentType
        case "/health": self.init(200, "ok\n")
        case "/trace": self.init(trace: query, telemetry)
        default: self.init(404, "there are /metrics, /health, /trace?id=HEX and /trace?slowest=N\n")
        }
    }

    private init(_ status: Int, _ body: String) {
        self.status = status
        self.body = body
    }

    private init(trace query: String, _ telemetry: RoleTelemetry) {
        let offset = MonotonicTime.unixOffset()
        let spans: [TraceSpan]
        if query.hasPrefix("id="), let id = TraceReport.identity(query.dropFirst(3)) {
            spans = telemetry.traces.spans(of: id, clockOffset: offset)
        } else if query.hasPrefix("slowest="), let count = Int(query.dropFirst(8)), count > 0 {
            spans = telemetry.traces.slowest(count, clockOffset: offset)
        } else {
            self.init(400, "/trace takes id=, 16 hexadecimal digits, or slowest=, a number\n")
            return
        }
        let report = TraceReport(role: telemetry.role, node: telemetry.name, spans: spans)
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            self.init(200, String(decoding: try encoder.encode(report), as: UTF8.self) + "\n")
            contentType = "application/json"
        } catch {
            self.init(500, "the spans cannot be told: \(error)\n")
        }
    }
}

/// The spans that one role has of a request, or of the slowest requests, as JSON tells them.
public struct TraceReport: Codable, Sendable {
    /// One span; see `TraceSpan`.
    public struct Span: Codable, Sendable {
        /// 16 hexadecimal digits, as in `x-amz-request-id`.
        public var id: String
        /// `request`, `call`, `serve`, `disk` or `wait`.
        public var kind: String
        public var operation: String
        public var detail: String
        /// Unix time.
        public var startNanoseconds: UInt64
        public var durationNanoseconds: UInt64
        public var parentNanoseconds: UInt64
        /// 0, a code of an error, or the status of HTTP.
        public var outcome: UInt16
        public var bytes: UInt64
        public var queued: UInt32
    }

    public var role: String
    public var node: String
    public var spans: [Span]

    /// A report of `spans` by the role `role` that is called `node`.
    public init(role: String, node: String, spans: [TraceSpan]) {
        self.role = role
        self.node = node
        self.spans = spans.map { span in
            Span(
                id: Self.text(span.traceID), kind: "\(span.kind)", operation: span.operation,
                detail: span.detail, startNanoseconds: span.startNanoseconds,
                durationNanoseconds: span.durationNanoseconds,
                parentNanoseconds: span.parentNanoseconds, outcome: span.outcome,
                bytes: span.bytes, queued: span.queued)
        }
    }

    /// The spans as values; those of a kind that is not known are left out.
    public var values: [TraceSpan] {
        spans.compactMap { span in
            guard let id = Self.identity(span.id[...]),
                let kind = TraceSpan.Kind.allCases.first(where: { "\($0)" == span.kind })
            else { return nil }
            return TraceSpan(
                traceID: id, kind: kind, operation: span.operation, detail: span.detail,
                startNanoseconds: span.startNanoseconds,
                durationNanoseconds: span.durationNanoseconds,
                parentNanoseconds: span.parentNanoseconds, outcome: span.outcome,
                bytes: span.bytes, queued: span.queued)
        }
    }

    /// The identity that 1 to 16 hexadecimal digits stand for; nil if they are none, or 0.
    public static func identity(_ text: Substring) -> UInt64? {
        guard text.count <= 16, let id = UInt64(text, radix: 16), id != 0, text.first != "+" else {
            return nil
        }
        return id
    }

    /// An identity as 16 upper-case hexadecimal digits.
    public static func text(_ id: UInt64) -> String {
        let digits = String(id, radix: 16, uppercase: true)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
