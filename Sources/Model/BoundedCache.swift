/// Values by key with a bound on their total cost. When it is passed, the entries that were not
/// used since the hand last came by are dropped (the clock algorithm). O(1), amortized.
public struct BoundedCache<Key: Hashable, Value> {
    @usableFromInline
    struct Entry {
        @usableFromInline var key: Key
        @usableFromInline var value: Value
        @usableFromInline var cost: Int
        @usableFromInline var wasUsed: Bool

        @inlinable
        init(key: Key, value: Value, cost: Int) {
            self.key = key
            self.value = value
            self.cost = cost
            wasUsed = false
        }
    }

    @usableFromInline var places: [Key: Int] = [:]
    @usableFromInline var entries: [Entry] = []
    @usableFromInline var hand = 0
    /// Of all entries.
    public private(set) var cost = 0
    /// The most that `cost` becomes.
    public let limit: Int

    /// - Parameter limit: a number of bytes, or of entries where each costs 1. Not negative.
    public init(limit: Int) {
        precondition(limit >= 0, "the limit of a cache is not negative")
        self.limit = limit
    }

    public var count: Int { entries.count }

    /// The value of `key`, if it is there, which counts as a use of it.
    @inlinable
    public mutating func value(_ key: Key) -> Value? {
        guard let place = places[key] else { return nil }
        entries[place].wasUsed = true
        return entries[place].value
    }

    /// Puts a value in, dropping others as needed. One that alone passes the limit is not kept.
    public mutating func insert(_ value: Value, for key: Key, cost: Int = 1) {
        precondition(cost >= 0, "nothing costs less than nothing")
        remove(key)
        guard cost <= limit else { return }
        while self.cost + cost > limit { dropOne() }
        places[key] = entries.count
        entries.append(Entry(key: key, value: value, cost: cost))
        self.cost += cost
    }

    public mutating func remove(_ key: Key) {
        guard let place = places[key] else { return }
        removeEntry(at: place)
    }

    /// Drops the entries whose key `matches`; O(n).
    public mutating func removeAll(where matches: (Key) -> Bool) {
        for key in places.keys.filter(matches) { remove(key) }
    }

    public mutating func removeAll() {
        places = [:]
        entries = []
        hand = 0
        cost = 0
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

extension BoundedCache: Sendable where Key: Sendable, Value: Sendable {}
extension BoundedCache.Entry: Sendable where Key: Sendable, Value: Sendable {}
