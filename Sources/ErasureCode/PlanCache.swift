/// Which cells are rebuilt from which, as bit sets.
struct PlanKey: Hashable {
    private let sources: UInt32
    private let wanted: UInt32

    init(sources: [Int], wanted: [Int]) {
        self.sources = sources.reduce(0) { $0 | 1 << UInt32($1) }
        self.wanted = wanted.reduce(0) { $0 | 1 << UInt32($1) }
    }
}

/// Matrices by what they rebuild; when full, the oldest goes.
struct PlanCache {
    private var maps: [PlanKey: LinearMap] = [:]
    private var order: [PlanKey] = []
    private var oldest = 0
    private let limit: Int

    init(limit: Int) {
        precondition(limit > 0, "a cache holds at least one entry")
        self.limit = limit
    }

    var count: Int { maps.count }

    subscript(key: PlanKey) -> LinearMap? {
        get { maps[key] }
        set {
            guard let newValue else { preconditionFailure("entries leave by age only") }
            guard maps.updateValue(newValue, forKey: key) == nil else { return }
            if order.count < limit {
                order.append(key)
            } else {
                maps[order[oldest]] = nil
                order[oldest] = key
                oldest = (oldest + 1) % limit
            }
        }
    }
}
