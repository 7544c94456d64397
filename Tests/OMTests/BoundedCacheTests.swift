import Testing

@testable import OM

@Suite("BoundedCache")
struct BoundedCacheTests {
    @Test("it never holds more than its capacity, and the oldest go first")
    func eviction() {
        var cache = BoundedCache<Int, String>(capacity: 3)
        for key in 0..<10 {
            cache.insert("\(key)", for: key)
            #expect(cache.count == min(key + 1, 3))
            for old in 0...key {
                #expect(cache[old] == (old > key - 3 ? "\(old)" : nil))
            }
        }
        cache.insert("new", for: 8)
        #expect(cache[8] == "new" && cache.count == 3)
        cache.removeAll()
        #expect(cache.count == 0 && cache[8] == nil)
        for key in 0..<4 { cache.insert("", for: key) }
        #expect(cache[0] == nil && cache[1] != nil && cache.count == 3)
    }
}
