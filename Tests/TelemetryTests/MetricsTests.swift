import Testing

@testable import Telemetry

@Suite("Metrics")
struct MetricsTests {
    @Test("a page has its families by name, each with help and type, samples in order")
    func page() {
        var page = MetricsPage(labels: ["role": "om"])
        page.gauge("b", "Second.", ["x": "2"], 1.5)
        page.counter("a_total", "First.", 3)
        page.gauge("b", "Second.", ["x": "1"], -0.25)
        #expect(
            page.text == """
                # HELP a_total First.
                # TYPE a_total counter
                a_total{role="om"} 3
                # HELP b Second.
                # TYPE b gauge
                b{role="om",x="2"} 1.5
                b{role="om",x="1"} -0.25

                """)
    }

    @Test("labels and help are escaped as the format asks, and numbers are those it knows")
    func escaping() {
        var page = MetricsPage()
        page.gauge("a", "back\\slash\nline \"quoted\"", ["path": "c:\\x\n\"y\" é"], .infinity)
        page.gauge("b", "", .nan)
        page.gauge("c", "", -.infinity)
        page.gauge("d", "", 1e300)
        #expect(
            page.text == """
                # HELP a back\\\\slash\\nline "quoted"
                # TYPE a gauge
                a{path="c:\\\\x\\n\\"y\\" é"} +Inf
                # HELP b\u{20}
                # TYPE b gauge
                b NaN
                # HELP c\u{20}
                # TYPE c gauge
                c -Inf
                # HELP d\u{20}
                # TYPE d gauge
                d 1e+300

                """)
    }

    @Test("a histogram's buckets ascend to its count, and each value is below its bucket's end")
    func histogram() {
        let registry = MetricsRegistry(labels: ["node": "dn1"])
        let histogram = registry.histogram("t_seconds", "Times.", ["op": "read"])
        let values: [UInt64] = [500, 20_000, 20_000, 1_000_000, 3_000_000_000, 90_000_000_000]
        for value in values { histogram.record(nanoseconds: value) }
        let lines = registry.page().text.split(separator: "\n")
        #expect(lines[1] == "# TYPE t_seconds histogram")
        let buckets = lines.filter { $0.hasPrefix("t_seconds_bucket") }
        #expect(buckets.count == MetricsPage.bounds.count + 1)
        let counts = buckets.compactMap { Int($0.split(separator: " ")[1]) }
        for (bound, count) in zip(MetricsPage.bounds, counts) {
            #expect(count == values.count { $0 < bound }, "below \(bound)")
        }
        #expect(counts.last == 6)
        #expect(buckets.last == #"t_seconds_bucket{node="dn1",op="read",le="+Inf"} 6"#)
        #expect(buckets.first == #"t_seconds_bucket{node="dn1",op="read",le="1.6384e-05"} 1"#)
        #expect(lines.contains(#"t_seconds_count{node="dn1",op="read"} 6"#))
        let sum = Double(values.reduce(0, +)) / 1e9
        #expect(lines.contains("t_seconds_sum{node=\"dn1\",op=\"read\"} \(sum)"))
    }

    @Test("handles are seen as they stand when the page is asked for")
    func handles() {
        let registry = MetricsRegistry()
        let counter = registry.counter("c_total", "")
        let gauge = registry.gauge("g", "")
        registry.gauge("h", "") { Double(gauge.value) * 2 }
        counter.add(41)
        counter.add()
        gauge.add(-4)
        let text = registry.page().text
        for line in ["c_total 42\n", "g -4\n", "h -8\n"] { #expect(text.contains(line)) }
    }

    @Test("an empty histogram has every bucket, at 0")
    func empty() {
        var page = MetricsPage()
        page.histogram("e_seconds", "", LatencySnapshot())
        #expect(page.text.contains("e_seconds_bucket{le=\"+Inf\"} 0\n"))
        #expect(page.text.contains("e_seconds_count 0\n"))
    }

    @Test("names are those that Prometheus takes")
    func names() {
        for name in ["a", "_a1", "a:b"] { #expect(MetricNames.isMetric(name)) }
        for name in ["", "1a", "a-b", "a b", "é"] { #expect(!MetricNames.isMetric(name)) }
        #expect(!MetricNames.isLabel("a:b"))
    }

    @Test("a snapshot that travelled by its buckets is the same")
    func buckets() throws {
        let histogram = LatencyHistogram()
        for value in stride(from: UInt64(900), to: 40_000_000, by: 77_777) {
            histogram.record(nanoseconds: value)
        }
        let snapshot = histogram.snapshot()
        let copy = try #require(
            LatencySnapshot(
                buckets: snapshot.buckets, sum: snapshot.sum, maximum: snapshot.maximum))
        #expect(copy == snapshot)
        #expect(LatencySnapshot(buckets: [(99_999, 1)], sum: 1, maximum: 1) == nil)
    }
}

@Suite("Traces")
struct TraceTests {
    private func span(_ id: UInt64, _ start: UInt64, _ kind: TraceSpan.Kind = .serve) -> TraceSpan {
        TraceSpan(
            traceID: id, kind: kind, operation: "op", detail: "", startNanoseconds: start,
            durationNanoseconds: start)
    }

    @Test("the spans of a trace come by their start, on the clock that was asked for")
    func spans() {
        let ring = TraceRing(spans: 64)
        for start in [30, 10, 20] as [UInt64] { ring.record(span(7, start)) }
        ring.record(span(8, 5))
        #expect(ring.spans(of: 7, clockOffset: 1000).map(\.startNanoseconds) == [1010, 1020, 1030])
        #expect(ring.spans(of: 9, clockOffset: 0).isEmpty)
        #expect(ring.count == 4)
    }

    @Test("a full ring forgets the oldest and never holds more than its limit")
    func bounded() {
        let ring = TraceRing(spans: 160)
        for start in 1...1000 as ClosedRange<UInt64> { ring.record(span(7, start)) }
        let kept = ring.spans(of: 7, clockOffset: 0).map(\.startNanoseconds)
        #expect(kept == Array(991...1000))
    }

    @Test("the slowest requests are told, the slowest first, and nothing but requests")
    func slowest() {
        let ring = TraceRing(spans: 1600)
        for id in 1...50 as ClosedRange<UInt64> {
            ring.record(span(id, id * 10, .request))
            ring.record(span(id, 10_000))
        }
        #expect(ring.slowest(3, clockOffset: 0).map(\.traceID) == [50, 49, 48])
    }

    @Test("what is bound for a task is seen by the tasks made in it, and not outside")
    func inheritance() async {
        let ring = TraceRing(spans: 64)
        let context = TraceContext(traceID: 3, since: 4, ring: ring)
        await TraceContext.$current.withValue(context) {
            TraceContext.current?.record(.call, "a", detail: "", from: 5, to: 9)
            await Task { TraceContext.current?.record(.call, "b", detail: "", from: 6, to: 9) }
                .value
        }
        #expect(TraceContext.current == nil)
        context.finish(.serve, "s", detail: "", at: 10, isSlow: true)
        let spans = ring.spans(of: 3, clockOffset: 10)
        #expect(spans.map(\.operation) == ["s", "a", "b"])
        #expect(spans.map(\.parentNanoseconds) == [14, 14, 14])
    }
}
