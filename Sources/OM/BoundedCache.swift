/// A dictionary of at most `capacity` entries; for a new one the oldest goes. All O(1).
struct BoundedCache<Key: Hashable, Value> {
    private var values: [Key: Value] = [:]
    /// The keys of `values` in the order they came, as a ring that starts at `next` once full.
    private var keys: [Key] = []
    private var next = 0
    let capacity: Int

    init(capacity: Int) {
        precondition(capacity > 0, "a cache holds at least one entry")
        self.capacity = capacity
    }

    var count: Int { values.count }

    /// Setting the value of a key that is there does not make it younger.
    subscript(key: Key) -> Value? { values[key] }

    mutating func insert(_ value: Value, for key: Key) {
        guard values.updateValue(value, forKey: key) == nil else { return }
        guard keys.count == capacity else {
            keys.append(key)
            return
        }
        values[keys[next]] = nil
        keys[next] = key
        next = (next + 1) % capacity
    }

    mutating func removeAll() {
        values = [:]
        keys = []
        next = 0
    }
}
