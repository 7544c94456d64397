import Foundation
import Logging
import Model
import Telemetry
import Testing

@testable import MetricsGateway

@Suite("Metrics gateway")
struct TelemetryPageTests {
    private let telemetry = RoleTelemetry(role: "om", name: "om1", spans: 64)

    private func get(_ uri: String) -> TelemetryPage {
        TelemetryPage(method: "GET", uri: uri, telemetry)
    }

    @Test("metrics, health and traces are told; other paths and methods are refused by status")
    func paths() {
        ProcessMetrics.add(to: telemetry.metrics, version: "1")
        let metrics = get("/metrics")
        #expect(metrics.status == 200 && metrics.contentType.hasPrefix("text/plain; version=0.0.4"))
        for name in ["process_cpu_seconds_total", "process_open_fds", "apus_uptime_seconds"] {
            #expect(metrics.body.contains("\n\(name){role=\"om\",node=\"om1\"} "), "\(name)")
        }
        #expect(get("/health").body == "ok\n")
        #expect(get("/").status == 404)
        #expect(TelemetryPage(method: "POST", uri: "/metrics", telemetry).status == 405)
        for query in ["", "?id=", "?id=xyz", "?id=0", "?id=11111111111111111", "?slowest=0"] {
            #expect(get("/trace" + query).status == 400, "\(query)")
        }
    }

    @Test("the spans of a trace come back as they were noted")
    func traces() throws {
        let context = TraceContext(traceID: 0xAB, since: 90, ring: telemetry.traces)
        context.record(
            .disk, "read", detail: "/a\"b", from: 100, to: 350, outcome: 35, bytes: 4096, queued: 3)
        context.finish(.serve, "readBlock", detail: "c", at: 400, isSlow: true)
        let page = get("/trace?id=00000000000000ab")
        #expect(page.status == 200 && page.contentType == "application/json")
        let report = try JSONDecoder().decode(TraceReport.self, from: Data(page.body.utf8))
        #expect(report.role == "om" && report.node == "om1" && report.spans.count == 2)
        #expect(report.spans.first?.id == "00000000000000AB")
        let span = try #require(report.values.last)
        #expect(span.kind == .disk && span.operation == "read" && span.detail == "/a\"b")
        #expect(span.startNanoseconds - span.parentNanoseconds == 10)
        #expect(span.durationNanoseconds == 250 && span.outcome == 35 && span.queued == 3)
    }

    @Test("a server on a free port answers over a socket, several requests on one connection")
    func server() async throws {
        let server = try await MetricsServer.start(
            "127.0.0.1:0", telemetry, logger: Logger(label: "test"))
        let text = try await get(
            server.port,
            "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n"
                + "Connection: close\r\n\r\n")
        await server.stop()
        #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n") && text.contains("\r\n\r\nok\n"))
        #expect(text.contains("HTTP/1.1 404 Not Found\r\n"))
    }

    @Test("an address that is none is refused with what would be one")
    func address() async {
        for address in ["x", ":80", "127.0.0.1:", "127.0.0.1:99999"] {
            do {
                _ = try await MetricsServer.start(
                    address, telemetry, logger: Logger(label: "test"))
                Issue.record("\(address) was taken")
            } catch {
                #expect(error.code == .invalidArgument && error.message.contains("HOST:PORT"))
            }
        }
    }

    /// Sends `request` and returns what comes until the other end closes.
    private func get(_ port: Int, _ request: String) async throws -> String {
        // On a thread of its own: it blocks, and the threads of tasks are as few as cores. With
        // patience: other tests may have them for a while.
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        try HTTPFetch.exchange(
                            host: "127.0.0.1", port: port, request: request, patience: 300)
                    })
            }
        }
    }
}
