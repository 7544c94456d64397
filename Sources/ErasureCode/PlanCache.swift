/// Which cells are rebuilt from which, as bit sets.
struct PlanKey: Hashable {
    /// Bit i stands for cell i. As many as there are data cells.
    let sources: UInt32
    let wanted: UInt32
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
