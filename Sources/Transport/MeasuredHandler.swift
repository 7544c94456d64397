import Bytes
import Model
import Reactor
import Synchronization
import Telemetry
import Wire

/// A role's handler, measured: how long each method took, how it ended, what is in flight, bytes
/// in and out; and the spans of the requests that are followed and worth keeping, among them those
/// slow for their method. Answers `CommonMethod.trace` itself.
///
/// Wrapped around a handler where it is served, so that calls over sockets and within the process
/// count alike. What a request costs here: a reading of the clock or two, some relaxed atomics, and
/// an object where it is followed. Where telemetry is not enabled it only passes on.
public struct MeasuredHandler: RPCHandler {
    /// What is measured of one method. What each call touches lies side by side.
    private final class Measures: Sendable {
        let name: String
        let latency = LatencyHistogram()
        let slow = SlowBound()
        /// Requests taken up; what is not in `latency` is in flight.
        let begun = Atomic<UInt64>(0)
        let bytesIn = Atomic<UInt64>(0)
        let bytesOut = Atomic<UInt64>(0)
        /// By `StoreError.Code`.
        let errors = (0..<Measures.codes).map { _ in Counter() }

        static let codes = 64

        init(_ name: String) { self.name = name }

        func count(_ error: StoreError.Code) {
            errors[min(Int(error.rawValue), Self.codes - 1)].add()
        }
    }

    private let handler: any RPCHandler
    private let telemetry: RoleTelemetry
    /// By the method's number.
    private let measures: [Measures?]
    private let unknown = Measures("unknown")

    /// - Parameter methods: those of the role; what else is asked for counts as `unknown`.
    public init(_ handler: any RPCHandler, methods: [UInt16], telemetry: RoleTelemetry) {
        self.handler = handler
        self.telemetry = telemetry
        var measures = [Measures?](repeating: nil, count: Int(methods.max() ?? 0) + 1)
        for method in methods { measures[Int(method)] = Measures(MethodNames.name(of: method)) }
        self.measures = measures
        guard telemetry.isEnabled else { return }
        let all = measures.compactMap(\.self) + [unknown]
        telemetry.metrics.collect { page in
            for measures in all { Self.add(measures, to: &page) }
        }
    }

    private static func add(_ measures: Measures, to page: inout MetricsPage) {
        let labels: MetricLabels = ["method": measures.name]
        let latency = measures.latency.snapshot()
        // Read after what is taken from it, so that it is not less.
        let begun = measures.begun.load(ordering: .sequentiallyConsistent)
        page.histogram(
            "apus_rpc_duration_seconds", "Time from a request's arrival to its answer.", labels,
            latency)
        page.gauge(
            "apus_rpc_in_flight", "Requests that are not answered yet.", labels,
            Double(begun - min(begun, latency.count)))
        page.counter(
            "apus_rpc_received_bytes_total", "Bytes of messages and payloads of requests.", labels,
            Double(measures.bytesIn.load(ordering: .relaxed)))
        page.counter(
            "apus_rpc_sent_bytes_total", "Bytes of messages and payloads of answers.", labels,
            Double(measures.bytesOut.load(ordering: .relaxed)))
        for code in StoreError.Code.allCases {
            let count = measures.errors[min(Int(code.rawValue), Measures.codes - 1)].value
            guard count > 0 else { continue }
            page.counter(
                "apus_rpc_errors_total", "Requests that failed, by code of the error.",
                labels.adding(["code": "\(code)"]), Double(count))
        }
    }

    /// Whatever the handler that is measured permits.
    public func authorize(
        method: UInt16, token: [UInt8], peer: PeerIdentity
    ) throws(StoreError) {
        try handler.authorize(method: method, token: token, peer: peer)
    }

    /// Counts the request, and gives it what is noted of it if it is to be followed.
    public func prepare(_ request: inout RPCRequest) -> any RPCHandler {
        if request.method == CommonMethod.trace.rawValue { return self }
        guard telemetry.isEnabled else { return handler }
        measures(of: request).begun.wrappingAdd(1, ordering: .relaxed)
        let start = request.takenUp ?? .now()
        request.takenUp = start
        if request.traceID != 0 {
            request.context.trace = TraceContext(
                traceID: request.traceID, since: start.nanoseconds, ring: telemetry.traces)
        }
        return handler
    }

    /// Measures a request that has ended.
    public func conclude(_ request: RPCRequest, _ outcome: RPCOutcome) {
        guard telemetry.isEnabled, request.method != CommonMethod.trace.rawValue,
            let start = request.takenUp?.nanoseconds
        else { return }
        let measures = measures(of: request)
        let end = MonotonicTime.now().nanoseconds
        measures.latency.record(nanoseconds: end &- start)
        let isSlow = measures.slow.isSlow(end &- start)
        var bytes = request.message.count + (request.payload?.count ?? 0)
        measures.bytesIn.wrappingAdd(UInt64(bytes), ordering: .relaxed)
        var code: UInt16 = 0
        switch outcome {
        case .answered(let bytesOut):
            measures.bytesOut.wrappingAdd(UInt64(bytesOut), ordering: .relaxed)
            bytes += bytesOut
        case .failed(let error):
            code = error.rawValue
            measures.count(error)
        }
        request.context.trace?.finish(
            .serve, measures.name, detail: request.caller, at: end, isSlow: isSlow,
            outcome: code, bytes: bytes)
    }

    private func measures(of request: RPCRequest) -> Measures {
        let number = Int(request.method)
        return (number < measures.count ? measures[number] : nil) ?? unknown
    }

    /// Tells of the requests that were followed; all others are handled by whom `prepare` names.
    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard request.method == CommonMethod.trace.rawValue else {
            return try await handler.handle(request)
        }
        return try trace(request)
    }

    /// Passes it on: there is no answer to be measured.
    public func take(_ post: RPCRequest) { handler.take(post) }

    // MARK: Traces

    private func trace(_ request: RPCRequest) throws(StoreError) -> RPCReply {
        let asked = try TelemetryTraceRequest(parsing: request.message)
        let offset = MonotonicTime.unixOffset()
        let spans =
            asked.traceID == 0
            ? telemetry.traces.slowest(Int(asked.slowest), clockOffset: offset)
            : telemetry.traces.spans(of: asked.traceID, clockOffset: offset)
        var response = TelemetryTraceResponse()
        response.role = telemetry.role
        response.node = telemetry.name
        response.spans = spans.map(\.message)
        return RPCReply(response.encoded)
    }
}

extension TraceSpan {
    /// The span as it travels.
    var message: TelemetrySpan {
        var message = TelemetrySpan()
        message.traceID = traceID
        message.kind = UInt32(kind.rawValue)
        message.operation = operation
        message.detail = detail
        message.startNanoseconds = startNanoseconds
        message.durationNanoseconds = durationNanoseconds
        message.outcome = UInt32(outcome)
        message.bytes = bytes
        message.queued = queued
        message.parentNanoseconds = parentNanoseconds
        return message
    }

    /// A span as it came. Throws `badRequest` for a kind that is not known.
    public init(_ message: TelemetrySpan) throws(StoreError) {
        guard let kind = Kind(rawValue: UInt8(clamping: message.kind)) else {
            throw StoreError(.badRequest, "a span of kind \(message.kind) is not known: 0 to 4 are")
        }
        self.init(
            traceID: message.traceID, kind: kind, operation: message.operation,
            detail: message.detail, startNanoseconds: message.startNanoseconds,
            durationNanoseconds: message.durationNanoseconds,
            parentNanoseconds: message.parentNanoseconds,
            outcome: UInt16(clamping: message.outcome), bytes: message.bytes,
            queued: message.queued)
    }
}
