/// Which cells are rebuilt from which, as bit sets.
struct PlanKey: Equatable {
    /// Bit i stands for cell i. As many as there are data cells.
    let sources: UInt32
    let wanted: UInt32
}

/// Matrices by what they rebuild; when full, the oldest goes.
///
/// Looked through from end to end: there are few, and a tile of cells is decoded in the time of
/// some dozen hashes.
struct PlanCache {
    private var keys: [PlanKey] = []
    private var maps: [LinearMap] = []
    private var oldest = 0
    private let limit: Int

    init(limit: Int) {
        precondition(limit > 0, "a cache holds at least one entry")
        self.limit = limit
    }

    var count: Int { maps.count }

    subscript(key: PlanKey) -> LinearMap? {
        keys.firstIndex(of: key).map { maps[$0] }
    }

    /// Keeps `map`, unless one with its key is there already.
    mutating func insert(_ map: LinearMap, _ key: PlanKey) {
        if keys.contains(key) { return }
        if keys.count < limit {
            keys.append(key)
            maps.append(map)
        } else {
            keys[oldest] = key
            maps[oldest] = map
            oldest = (oldest + 1) % limit
        }
    }
}
