/// The spans that one role has of a request, and how others call that role.
public struct TraceSource: Sendable {
    public var role: String
    public var node: String
    /// `HOST:PORT` of its native protocol; empty if it has none.
    public var address: String
    public var spans: [TraceSpan]

    /// The spans `spans` of the role `role` that is called `node`.
    public init(role: String, node: String, address: String, spans: [TraceSpan]) {
        self.role = role
        self.node = node
        self.address = address
        self.spans = spans
    }
}

/// What was done for one request, as a tree: the request, the calls made for it, how these were
/// served, and what was asked of disks. Pure.
///
/// Within a role a span tells what it was done for. Between roles it is found: frames carry the
/// identity of the request alone, not that of the call, so the n-th service of a method at an
/// address is taken for that of the n-th call of it; where fewer were kept than calls were made,
/// for that of a call that it fits into. Clocks of several machines need not agree.
public struct TraceTree: Sendable {
    public struct Entry: Sendable {
        public var span: TraceSpan
        /// In `sources`.
        public var source: Int
        public var parent: Int?
        /// In the order of their starts.
        public var children: [Int] = []
        /// On the longest chain: had it been quicker, so had the request.
        public var isCritical = false
        /// Of the chain's time, what passed in this entry and in none of its children.
        public var ownNanoseconds: UInt64 = 0
    }

    public let sources: [TraceSource]
    public private(set) var entries: [Entry] = []
    /// Entries without a parent: the request, or what is left of one that is not told whole.
    public private(set) var roots: [Int] = []

    /// The tree of the spans in `sources`, which are of one request.
    public init(_ sources: [TraceSource]) {
        self.sources = sources
        for (index, source) in sources.enumerated() {
            for span in source.spans { entries.append(Entry(span: span, source: index)) }
        }
        entries.sort {
            ($0.span.startNanoseconds, $0.span.kind.rawValue)
                < ($1.span.startNanoseconds, $1.span.kind.rawValue)
        }
        matchCalls()
        findParents()
        for index in entries.indices {
            if let parent = entries[index].parent {
                entries[parent].children.append(index)
            } else {
                roots.append(index)
            }
        }
        if let root = roots.first(where: { entries[$0].span.kind == .request }) {
            markChain(
                root, from: entries[root].span.startNanoseconds,
                until: entries[root].span.endNanoseconds)
        }
    }

    /// The source that serves at `address`, if it was asked.
    public func source(at address: String) -> Int? {
        sources.firstIndex { !$0.address.isEmpty && $0.address == address }
    }

    /// Gives each service a call of its method to its address.
    private mutating func matchCalls() {
        var calls: [String: [Int]] = [:]
        var services: [String: [Int]] = [:]
        for (index, entry) in entries.enumerated() {
            switch entry.span.kind {
            case .call:
                calls["\(entry.span.operation) \(entry.span.detail)", default: []].append(index)
            case .serve:
                let address = sources[entry.source].address
                services["\(entry.span.operation) \(address)", default: []].append(index)
            default: break
            }
        }
        for (key, serving) in services {
            guard var free = calls[key] else { continue }
            let isWhole = serving.count >= free.count
            for service in serving {
                guard !free.isEmpty else { break }
                let place = isWhole ? 0 : fitting(service, among: free)
                entries[service].parent = free.remove(at: place)
            }
        }
    }

    /// Which of `calls` the service `index` is of: the first that it lies within, else the first
    /// that took as long as it.
    private func fitting(_ index: Int, among calls: [Int]) -> Int {
        let service = entries[index].span
        func isLongEnough(_ call: TraceSpan) -> Bool {
            call.durationNanoseconds &+ Self.slack >= service.durationNanoseconds
        }
        let around = calls.firstIndex {
            let call = entries[$0].span
            return call.startNanoseconds <= service.startNanoseconds &+ Self.slack
                && service.endNanoseconds <= call.endNanoseconds &+ Self.slack
        }
        return around ?? calls.firstIndex { isLongEnough(entries[$0].span) } ?? 0
    }

    /// Puts calls and what was asked of disks below the request or service they were made for.
    private mutating func findParents() {
        struct Place: Hashable {
            var source: Int
            var start: UInt64
        }
        var parents: [Place: Int] = [:]
        for (index, entry) in entries.enumerated()
        where entry.span.kind == .request || entry.span.kind == .serve {
            parents[Place(source: entry.source, start: entry.span.startNanoseconds)] = index
        }
        for (index, entry) in entries.enumerated()
        where entry.span.kind != .request && entry.span.kind != .serve {
            entries[index].parent =
                parents[
                    Place(source: entry.source, start: entry.span.parentNanoseconds)]
        }
    }

    /// Follows what was waited for from the end of an entry back to its start: each time the child
    /// that ended last before the point that was come to.
    private mutating func markChain(_ index: Int, from start: UInt64, until end: UInt64) {
        entries[index].isCritical = true
        var point = end
        var own: UInt64 = 0
        let children = entries[index].children.sorted {
            entries[$0].span.endNanoseconds > entries[$1].span.endNanoseconds
        }
        for child in children {
            let span = entries[child].span
            let childEnd = min(span.endNanoseconds, end)
            let childStart = max(span.startNanoseconds, start)
            // A little later than the point: the clocks of two reads of it.
            guard childEnd <= point &+ Self.slack, childStart < point, childStart < childEnd else {
                continue
            }
            if childEnd < point { own += point - childEnd }
            markChain(child, from: childStart, until: min(childEnd, point))
            point = childStart
        }
        if point > start { own += point - start }
        entries[index].ownNanoseconds = own
    }

    private static let slack: UInt64 = 20_000
}
