/// Values by key with a bound on their total cost. When it is passed, the entries that were not
/// used since the hand last came by are dropped (the clock algorithm).
struct BoundedCache<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    private struct Entry {
        var key: Key
        var value: Value
        var cost: Int
        var wasUsed: Bool
    }

    private var places: [Key: Int] = [:]
    private var entries: [Entry] = []
    private var hand = 0
    private(set) var cost = 0
    let limit: Int

    init(limit: Int) { self.limit = limit }

    var count: Int { entries.count }

    /// The value of `key`, if it is there; O(1).
    mutating func value(_ key: Key) -> Value? {
        guard let place = places[key] else { return nil }
        entries[place].wasUsed = true
        return entries[place].value
    }

    /// Puts a value in, dropping others as needed. One that alone passes the limit is not kept.
    mutating func insert(_ value: Value, for key: Key, cost: Int) {
        remove(key)
        guard cost <= limit else { return }
        while self.cost + cost > limit { dropOne() }
        places[key] = entries.count
        entries.append(Entry(key: key, value: value, cost: cost, wasUsed: false))
        self.cost += cost
    }

    mutating func remove(_ key: Key) {
        guard let place = places[key] else { return }
        removeEntry(at: place)
    }

    /// Drops the entries whose key `matches`; O(n).
    mutating func removeAll(where matches: (Key) -> Bool) {
        for key in places.keys.filter(matches) { remove(key) }
    }

    private mutating func dropOne() {
        // Ends: each entry is passed at most once before its mark is gone.
        while true {
            if hand >= entries.count { hand = 0 }
            if entries[hand].wasUsed {
                entries[hand].wasUsed = false
                hand += 1
            } else {
                return removeEntry(at: hand)
            }
        }
    }

    private mutating func removeEntry(at place: Int) {
        let entry = entries[place]
        places[entry.key] = nil
        cost -= entry.cost
        let last = entries.removeLast()
        if place < entries.count {
            entries[place] = last
            places[last.key] = place
        }
    }
}
