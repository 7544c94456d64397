import Foundation
import MetricsGateway
import Model
import Telemetry

/// Draws the tree of a request for people, at 100 columns.
struct TracePrinter {
    private enum Limits {
        /// Lines side by side; of more the longest are shown, and those on the longest chain.
        static let siblings = 8
        static let barColumns = 24
        static let labelColumns = 50
    }

    private let tree: TraceTree
    private let showsAll: Bool
    /// From the first start to the last end.
    private let range: (start: UInt64, end: UInt64)

    init(_ tree: TraceTree, showsAll: Bool) {
        self.tree = tree
        self.showsAll = showsAll
        let root = tree.roots.first { tree.entries[$0].span.kind == .request }
        let spans = root.map { [tree.entries[$0].span] } ?? tree.entries.map(\.span)
        range = (
            spans.map(\.startNanoseconds).min() ?? 0, spans.map(\.endNanoseconds).max() ?? 0
        )
    }

    private func out(_ line: String) { Swift.print(shown(line)) }

    func print(_ id: UInt64) {
        let began = Date(timeIntervalSince1970: Double(range.start) / 1e9).formatted(.iso8601)
        var line = "request \(TraceReport.text(id)) of \(began), "
        line += Self.duration(range.end - range.start)
        if tree.roots.contains(where: { tree.entries[$0].span.kind == .request }) {
            out(line)
        } else {
            out(line + "; its gateway does not know it (any more)")
        }
        out("     start      took  " + pad("what", Limits.labelColumns) + "  when")
        for root in tree.roots { show(root, depth: 0) }
        summary()
    }

    // MARK: Lines

    private func show(_ index: Int, depth: Int) {
        let entry = tree.entries[index]
        // A call and its service are one line: what differs is told with it.
        let served = entry.span.kind == .call ? entry.children.first : nil
        let isMerged = served.map { tree.entries[$0].span.kind == .serve } ?? false
        line(entry, isMerged ? tree.entries[served!] : nil, depth: depth)
        var children = entry.children
        if isMerged, let served { children = tree.entries[served].children + children.dropFirst() }
        let shown = showsAll ? Set(children) : chosen(children)
        for child in children where shown.contains(child) { show(child, depth: depth + 1) }
        let hidden = children.filter { !shown.contains($0) }
        if let longest = hidden.map({ tree.entries[$0].span.durationNanoseconds }).max() {
            out(
                String(repeating: " ", count: 22 + depth * 2)
                    + "and \(hidden.count) more of at most \(Self.duration(longest)) (--all)")
        }
    }

    private func chosen(_ children: [Int]) -> Set<Int> {
        let order = children.sorted { one, other in
            let (a, b) = (tree.entries[one], tree.entries[other])
            return (a.isCritical ? a.ownNanoseconds + 1 : 0, a.span.durationNanoseconds)
                > (b.isCritical ? b.ownNanoseconds + 1 : 0, b.span.durationNanoseconds)
        }
        return Set(order.prefix(Limits.siblings))
    }

    private func line(_ entry: TraceTree.Entry, _ served: TraceTree.Entry?, depth: Int) {
        let span = entry.span
        let offset = Double(span.startNanoseconds) - Double(range.start)
        let start = Self.right(String(format: "%.1f ms", offset / 1e6), 10)
        let took = Self.right(Self.duration(span.durationNanoseconds), 9)
        let mark = entry.isCritical ? ">" : " "
        let label = String(repeating: "  ", count: depth) + label(entry, served)
        out("\(start) \(took) \(mark)\(pad(label, Limits.labelColumns + 1))  \(bar(span))")
    }

    private func label(_ entry: TraceTree.Entry, _ served: TraceTree.Entry?) -> String {
        let span = entry.span
        var text: String
        switch span.kind {
        case .request:
            text = "\(tree.sources[entry.source].node) \(span.operation) \(span.outcome)"
            if !span.detail.isEmpty { text += " for \(span.detail)" }
        case .call:
            text = "\(name(span.detail)) \(span.operation)"
            if span.outcome != 0 {
                text += ": " + (StoreError.Code(rawValue: span.outcome).map { "\($0)" } ?? "error")
            }
            if let served {
                text += ", served in \(Self.duration(served.span.durationNanoseconds))"
            } else {
                // A role keeps what was slow for it: what it answered without a word was quick.
                text += span.outcome == 0 ? ", nothing kept there" : ", not served"
            }
        case .serve: text = "\(tree.sources[entry.source].node) \(span.operation)"
        case .disk: text = "\(Self.disk(span.detail)) \(span.operation)"
        case .wait: text = "\(Self.disk(span.detail)) wait for \(span.operation)"
        }
        if span.kind != .request, span.kind != .call, span.outcome != 0 {
            text += " " + (StoreError.Code(rawValue: span.outcome).map { "\($0)" } ?? "error")
        }
        if span.kind == .disk {
            text += ", \(formatBytes(Int(clamping: span.bytes)))"
            if span.queued > 0 { text += ", behind \(span.queued)" }
        }
        return text
    }

    private func bar(_ span: TraceSpan) -> String {
        let total = Double(max(1, range.end - range.start))
        func column(_ time: UInt64) -> Int {
            let part = (Double(time) - Double(range.start)) / total
            return min(Limits.barColumns, max(0, Int((part * Double(Limits.barColumns)).rounded())))
        }
        let start = min(column(span.startNanoseconds), Limits.barColumns - 1)
        let count = max(1, column(span.endNanoseconds) - start)
        return String(repeating: "·", count: start) + String(repeating: "█", count: count)
    }

    // MARK: Summary

    /// Whose part of the longest chain was the largest.
    private func summary() {
        var parts: [String: UInt64] = [:]
        for entry in tree.entries where entry.isCritical && entry.ownNanoseconds > 0 {
            parts[owner(entry), default: 0] += entry.ownNanoseconds
        }
        guard !parts.isEmpty else { return }
        let total = Double(parts.values.reduce(0, +))
        out("longest chain (>):")
        let order = parts.sorted { ($0.value, $1.key) > ($1.value, $0.key) }
        for (owner, time) in order.prefix(6) {
            let percent = Self.right(String(format: "%.0f %%", Double(time) / total * 100), 6)
            out("\(Self.right(Self.duration(time), 10))\(percent)  \(owner)")
        }
    }

    private func owner(_ entry: TraceTree.Entry) -> String {
        let node = tree.sources[entry.source].node
        switch entry.span.kind {
        case .request: return "\(node) itself"
        case .call:
            let isServed = entry.children.contains { tree.entries[$0].span.kind == .serve }
            let what =
                entry.span.outcome != 0
                ? "waiting in vain for" : isServed ? "on the way to" : "asking"
            return "\(what) \(name(entry.span.detail))"
        case .serve: return "\(node) \(entry.span.operation)"
        case .disk: return "\(node), disk \(Self.disk(entry.span.detail)) \(entry.span.operation)"
        case .wait:
            return "\(node), disk \(Self.disk(entry.span.detail)) wait for \(entry.span.operation)"
        }
    }

    /// The name of who serves at `address`, with the address.
    private func name(_ address: String) -> String {
        guard let source = tree.source(at: address) else { return address }
        return tree.sources[source].node
    }

    // MARK: Text

    private static func disk(_ path: String) -> String {
        path.split(separator: "/").suffix(2).joined(separator: "/")
    }

    private func pad(_ text: String, _ count: Int) -> String {
        text.count >= count
            ? String(text.prefix(count)) : text + String(repeating: " ", count: count - text.count)
    }

    private static func right(_ text: String, _ count: Int) -> String {
        String(repeating: " ", count: max(0, count - text.count)) + text
    }

    /// A duration for people: 1.25 s, 3.4 ms, 120 us.
    static func duration(_ nanoseconds: UInt64) -> String {
        let value = Double(nanoseconds)
        if value >= 1e9 { return String(format: "%.2f s", value / 1e9) }
        if value >= 1e6 { return String(format: "%.1f ms", value / 1e6) }
        return String(format: "%.0f us", value / 1e3)
    }
}

/// The tree of a request for programs.
struct TraceOutput: Encodable {
    struct Span: Encodable {
        var role, node, kind, operation, detail: String
        var startNanoseconds, durationNanoseconds, bytes: UInt64
        var outcome: UInt16
        var queued: UInt32
        var isOnLongestChain: Bool
        /// Of the longest chain's time, what passed in this span and in none below it.
        var ownNanoseconds: UInt64
        var children: [Span]
    }

    /// One of the slowest requests.
    struct Slow: Encodable {
        var request, operation, user, gateway: String
        var status: UInt16
        var startNanoseconds, durationNanoseconds, bytes: UInt64

        init(_ gateway: String, _ span: TraceSpan) {
            request = TraceReport.text(span.traceID)
            operation = span.operation
            user = span.detail
            self.gateway = gateway
            status = span.outcome
            startNanoseconds = span.startNanoseconds
            durationNanoseconds = span.durationNanoseconds
            bytes = span.bytes
        }
    }

    var request: String
    var spans: [Span]

    init(_ id: UInt64, _ tree: TraceTree) {
        request = TraceReport.text(id)
        spans = tree.roots.map { Self.span($0, tree) }
    }

    private static func span(_ index: Int, _ tree: TraceTree) -> Span {
        let entry = tree.entries[index]
        let source = tree.sources[entry.source]
        return Span(
            role: source.role, node: source.node, kind: "\(entry.span.kind)",
            operation: entry.span.operation, detail: entry.span.detail,
            startNanoseconds: entry.span.startNanoseconds,
            durationNanoseconds: entry.span.durationNanoseconds, bytes: entry.span.bytes,
            outcome: entry.span.outcome, queued: entry.span.queued,
            isOnLongestChain: entry.isCritical, ownNanoseconds: entry.ownNanoseconds,
            children: entry.children.map { Self.span($0, tree) })
    }
}
