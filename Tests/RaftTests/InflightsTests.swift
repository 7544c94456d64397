import Testing

@testable import Raft

@Suite("Inflights")
struct InflightsTests {
    @Test("the window is full by count or by bytes, and frees up to an index")
    func window() {
        var window = Inflights(capacity: 10, byteLimit: 100)
        for index in 1...9 as ClosedRange<LogIndex> {
            window.add(lastIndex: index, byteCount: 11)
            #expect(!window.isFull)
        }
        window.add(lastIndex: 10, byteCount: 1)
        #expect(window.isFull)
        window.free(through: 4)
        #expect(window.count == 6)
        #expect(window.byteCount == 56)
        window.add(lastIndex: 20, byteCount: 44)
        #expect(window.isFull)
        window.free(through: 0)
        #expect(window.isFull)
        window.free(through: 99)
        #expect(window.count == 0 && window.byteCount == 0)
    }

    @Test("the ring turns many times over and keeps its order")
    func ring() {
        var window = Inflights(capacity: 5, byteLimit: 0)
        var freed: LogIndex = 0
        for index in 1...1_000 as ClosedRange<LogIndex> {
            if window.isFull {
                freed += 1 + index % 3
                window.free(through: freed)
            }
            window.add(lastIndex: index, byteCount: 2)
            #expect(window.count == Int(index - freed))
            #expect(window.byteCount == 2 * window.count)
        }
    }
}
