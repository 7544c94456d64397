import Model
import Testing

@Suite("BoundedCache")
struct BoundedCacheTests {
    @Test("it never costs more than its limit, and what was not used goes first")
    func eviction() {
        var cache = BoundedCache<Int, String>(limit: 3)
        for key in 0..<10 {
            cache.insert("\(key)", for: key)
            #expect(cache.count == min(key + 1, 3) && cache.cost == cache.count)
            #expect(cache.value(key) == "\(key)")
        }
        cache.insert("new", for: 9)
        #expect(cache.value(9) == "new" && cache.count == 3)
        cache.remove(9)
        #expect(cache.value(9) == nil && cache.count == 2)
        cache.removeAll()
        #expect(cache.count == 0 && cache.cost == 0)
        for key in 0..<3 { cache.insert("", for: key) }
        _ = cache.value(0)
        cache.insert("", for: 3)
        #expect(cache.value(0) != nil && cache.value(3) != nil && cache.count == 3)
    }

    @Test("a dear entry drives out several, one that is too dear is not kept")
    func costs() {
        var cache = BoundedCache<String, Int>(limit: 100)
        for key in ["a", "b", "c", "d"] { cache.insert(1, for: key, cost: 25) }
        cache.insert(2, for: "e", cost: 60)
        #expect(cache.value("e") == 2 && cache.cost <= 100)
        cache.insert(3, for: "f", cost: 101)
        #expect(cache.value("f") == nil)
        cache.insert(4, for: "e", cost: 101)
        #expect(cache.value("e") == nil, "the old value would be wrong")
        cache.removeAll { $0 < "c" }
        #expect(cache.value("a") == nil && cache.value("b") == nil)
    }
}
