import Testing

@testable import Telemetry

@Suite("Latency histogram")
struct LatencyHistogramTests {
    @Test("each bucket begins where the one before it ends")
    func buckets() {
        for index in 0..<LatencyBuckets.count {
            let low = LatencyBuckets.lowerBound(of: index)
            let next = LatencyBuckets.lowerBound(of: index + 1)
            #expect(next > low && Double(next - low) / Double(low) <= 1.0 / 64)
            #expect(LatencyBuckets.index(of: low) == index)
            #expect(LatencyBuckets.index(of: next - 1) == index)
        }
        #expect(LatencyBuckets.lowerBound(of: LatencyBuckets.count) == 1 << 37)
        #expect(LatencyBuckets.index(of: 0) == 0)
        #expect(LatencyBuckets.index(of: .max) == LatencyBuckets.count - 1)
    }

    @Test(
        "percentiles are those of the sorted values to within 1 %",
        arguments: [1, 2, 3] as [UInt64])
    func percentiles(seed: UInt64) {
        var state = seed
        let histogram = LatencyHistogram()
        var values: [UInt64] = []
        for _ in 0..<20_000 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let value = (state >> 33) % (1 << (11 + (state >> 59) % 26)) + 1024
            values.append(value)
            histogram.record(nanoseconds: value)
        }
        values.sort()
        let snapshot = histogram.snapshot()
        #expect(snapshot.count == 20_000)
        #expect(snapshot.sum == values.reduce(0, +))
        #expect(snapshot.maximum == values.last)
        for percentile in [0.1, 10, 50, 90, 99, 99.9, 100] {
            let rank = Int((Double(values.count) * percentile / 100).rounded(.up))
            let exact = Double(values[rank - 1])
            let told = Double(snapshot.value(atPercentile: percentile))
            #expect(abs(told - exact) / exact < 0.01, "p\(percentile): \(told), not \(exact)")
        }
    }

    @Test("an empty snapshot has zeros for everything, and merging it changes nothing")
    func empty() {
        let empty = LatencyHistogram().snapshot()
        #expect(empty.p50 == 0 && empty.p999 == 0 && empty.mean == 0 && empty.count == 0)
        let histogram = LatencyHistogram()
        histogram.record(.milliseconds(3))
        var merged = histogram.snapshot()
        merged.merge(LatencySnapshot())
        merged.merge(empty)
        #expect(merged == histogram.snapshot())
        var other = LatencySnapshot()
        other.merge(merged)
        #expect(other == merged)
    }

    @Test("merged snapshots are one histogram of all values; a difference is what came between")
    func mergeAndDifference() {
        let (one, two, both) = (LatencyHistogram(), LatencyHistogram(), LatencyHistogram())
        for value in stride(from: UInt64(2000), to: 9_000_000, by: 7001) {
            (value % 2 == 0 ? one : two).record(nanoseconds: value)
            both.record(nanoseconds: value)
        }
        var merged = one.snapshot()
        merged.merge(two.snapshot())
        #expect(merged == both.snapshot())
        let before = both.snapshot()
        both.record(nanoseconds: 50_000)
        both.record(nanoseconds: 60_000)
        let between = both.snapshot().since(before)
        #expect(between.count == 2 && between.sum == 110_000)
        #expect((60_000...61_000).contains(between.maximum))
        #expect(between.cumulative.map(\.count) == [1, 2])
    }

    @Test("no value is lost when several threads record at once")
    func threads() async {
        let histogram = LatencyHistogram()
        let counter = Counter()
        let gauge = Gauge()
        await withDiscardingTaskGroup { group in
            for task in 0..<4 {
                group.addTask {
                    for value in 0..<50_000 {
                        histogram.record(nanoseconds: UInt64(1024 + value % 64 + task))
                        counter.add()
                        gauge.add(value % 2 == 0 ? 1 : -1)
                    }
                }
            }
        }
        #expect(histogram.snapshot().count == 200_000)
        #expect(counter.value == 200_000)
        #expect(gauge.value == 0)
    }
}
