import Testing

@testable import Telemetry

@Suite("Trace tree")
struct TraceTreeTests {
    private func span(
        _ kind: TraceSpan.Kind, _ operation: String, _ detail: String, _ start: UInt64,
        _ end: UInt64, outcome: UInt16 = 0, for parent: UInt64? = nil
    ) -> TraceSpan {
        TraceSpan(
            traceID: 1, kind: kind, operation: operation, detail: detail,
            startNanoseconds: start * 1_000_000, durationNanoseconds: (end - start) * 1_000_000,
            parentNanoseconds: parent.map { $0 * 1_000_000 }, outcome: outcome)
    }

    /// A read whose second node was late: it was given up after 90 ms, and answered at 150 ms.
    private var lateRead: TraceTree {
        TraceTree([
            TraceSource(
                role: "s3gateway", node: "s3g1", address: "",
                spans: [
                    span(.request, "GetObject", "admin", 100, 220, outcome: 200),
                    span(.call, "lookupKey", "h:1", 101, 105, for: 100),
                    span(.call, "readBlock", "h:2", 106, 110, for: 100),
                    span(.call, "readBlock", "h:3", 106, 196, outcome: 26, for: 100),
                    span(.call, "readBlock", "h:4", 197, 219, for: 100),
                ]),
            TraceSource(
                role: "om", node: "om1", address: "h:1",
                spans: [span(.serve, "lookupKey", "s3gateway", 102, 104)]),
            TraceSource(
                role: "datanode", node: "dn1", address: "h:2",
                spans: [
                    span(.serve, "readBlock", "s3gateway", 107, 109),
                    span(.disk, "read", "/v", 107, 108, for: 107),
                ]),
            TraceSource(
                role: "datanode", node: "dn2", address: "h:3",
                spans: [span(.serve, "readBlock", "s3gateway", 250, 251)]),
            TraceSource(
                role: "datanode", node: "dn3", address: "h:4",
                spans: [
                    span(.serve, "readBlock", "s3gateway", 198, 218),
                    span(.disk, "read", "/v", 199, 217, for: 198),
                ]),
        ])
    }

    @Test("each span lies below the one that caused it, also one that was late")
    func structure() {
        let tree = lateRead
        #expect(tree.roots.count == 1)
        func path(_ index: Int) -> String {
            let entry = tree.entries[index]
            let own = "\(tree.sources[entry.source].node) \(entry.span.operation)"
            return entry.parent.map { path($0) + " / " + own } ?? own
        }
        let paths = Set(tree.entries.indices.map(path))
        #expect(
            paths == [
                "s3g1 GetObject", "s3g1 GetObject / s3g1 lookupKey",
                "s3g1 GetObject / s3g1 lookupKey / om1 lookupKey",
                "s3g1 GetObject / s3g1 readBlock",
                "s3g1 GetObject / s3g1 readBlock / dn1 readBlock",
                "s3g1 GetObject / s3g1 readBlock / dn1 readBlock / dn1 read",
                "s3g1 GetObject / s3g1 readBlock / dn2 readBlock",
                "s3g1 GetObject / s3g1 readBlock / dn3 readBlock",
                "s3g1 GetObject / s3g1 readBlock / dn3 readBlock / dn3 read",
            ])
    }

    @Test("the longest chain goes through the node that was waited for, and adds up to the request")
    func chain() {
        let tree = lateRead
        let critical = tree.entries.filter(\.isCritical)
        let calls = critical.filter { $0.span.kind == .call }.map(\.span.detail)
        #expect(calls == ["h:1", "h:3", "h:4"])
        let total = critical.reduce(0) { $0 + $1.ownNanoseconds }
        #expect(total == 120_000_000)
        let most = critical.max { $0.ownNanoseconds < $1.ownNanoseconds }
        #expect(most?.span.detail == "h:3" && most?.ownNanoseconds == 90_000_000)
        #expect(tree.source(at: "h:3").map { tree.sources[$0].node } == "dn2")
    }

    @Test("without the request itself what is left are several roots, and nothing is marked")
    func incomplete() {
        let tree = TraceTree([
            TraceSource(
                role: "datanode", node: "dn1", address: "h:2",
                spans: [
                    span(.serve, "writeCell", "x", 1, 5), span(.disk, "write", "/v", 2, 3, for: 1),
                    span(.serve, "writeCell", "x", 6, 9),
                ])
        ])
        #expect(tree.roots.count == 2 && !tree.entries.contains(where: \.isCritical))
    }

    @Test("a service that alone was kept of several lies below the call that it fits into")
    func keptInPart() {
        let tree = TraceTree([
            TraceSource(
                role: "s3gateway", node: "s3g1", address: "",
                spans: [
                    span(.request, "PutObject", "admin", 100, 400, outcome: 200),
                    span(.call, "writeCell", "h:2", 101, 110, for: 100),
                    span(.call, "writeCell", "h:2", 111, 350, for: 100),
                    span(.call, "writeCell", "h:2", 351, 390, for: 100),
                ]),
            // Its clock is five seconds ahead of the other one's.
            TraceSource(
                role: "datanode", node: "dn1", address: "h:2",
                spans: [span(.serve, "writeCell", "s3gateway", 5112, 5340)]),
        ])
        let served = tree.entries.first { $0.span.kind == .serve }
        #expect(served?.parent.map { tree.entries[$0].span.startNanoseconds } == 111_000_000)
    }
}
