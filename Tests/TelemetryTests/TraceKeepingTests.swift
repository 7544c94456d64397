import Testing

@testable import Telemetry

@Suite("Which traces are kept")
struct TraceKeepingTests {
    private static let tick: UInt64 = 1 << TraceRing.Limits.tickBits
    /// No request of these is chosen by its identity.
    private static let unsampled = (1...2000 as ClosedRange<UInt64>).filter {
        !TraceRing.isSampled($0)
    }

    /// A ring that has kept as many requests of the tick that begins at `start` as it may.
    private func filled(_ start: UInt64) -> TraceRing {
        let ring = TraceRing()
        for _ in 0..<TraceRing.Limits.requestsPerTick {
            #expect(ring.keeps(Self.unsampled[500], nanoseconds: 1, endedAt: start, isSlow: false))
        }
        return ring
    }

    private func request(
        _ id: UInt64, on ring: TraceRing, at start: UInt64, took: UInt64, isSlow: Bool = false
    ) -> TraceContext {
        let context = TraceContext(traceID: id, since: start, ring: ring)
        context.record(.call, "commit", detail: "om", from: start + 1, to: start + took - 1)
        context.finish(.request, "PutObject", detail: "u", at: start + took, isSlow: isSlow)
        return context
    }

    private func kinds(_ ring: TraceRing, _ id: UInt64) -> [TraceSpan.Kind] {
        ring.spans(of: id, clockOffset: 0).map(\.kind)
    }

    @Test("the first requests of a second are kept, whatever they took; then quick ones are not")
    func first() {
        let ring = TraceRing()
        for id in Self.unsampled.prefix(300) {
            _ = request(id, on: ring, at: Self.tick, took: 1000)
        }
        let kept = Self.unsampled.prefix(300).filter { !kinds(ring, $0).isEmpty }
        #expect(kept == Array(Self.unsampled.prefix(TraceRing.Limits.requestsPerTick)))
        #expect(kinds(ring, kept[0]) == [.request, .call])
        let next = Self.unsampled[400]
        _ = request(next, on: ring, at: 2 * Self.tick, took: 1000)
        #expect(kinds(ring, next) == [.request, .call], "a new second, a new allowance")
    }

    @Test("a slow request is kept with all of its spans, however many came before it")
    func slow() {
        let ring = filled(Self.tick)
        let limit = TraceRing.Limits.slowNanoseconds
        _ = request(Self.unsampled[0], on: ring, at: Self.tick, took: limit - 1)
        _ = request(Self.unsampled[1], on: ring, at: Self.tick, took: limit)
        _ = request(Self.unsampled[2], on: ring, at: Self.tick, took: 1000, isSlow: true)
        #expect(kinds(ring, Self.unsampled[0]) == [])
        #expect(kinds(ring, Self.unsampled[1]) == [.request, .call])
        #expect(kinds(ring, Self.unsampled[2]) == [.request, .call])
    }

    @Test("one in so many is kept by its identity, the same ones by every role")
    func sampled() {
        let ids = 1...64_000 as ClosedRange<UInt64>
        let rings = [filled(Self.tick), filled(5 * Self.tick)]
        for id in ids {
            _ = request(id, on: rings[0], at: Self.tick, took: 500)
            _ = request(id, on: rings[1], at: 5 * Self.tick, took: 700)
        }
        let kept = rings.map { ring in ids.filter { !kinds(ring, $0).isEmpty } }
        #expect(kept[0] == kept[1])
        #expect((900...1100).contains(kept[0].count), "\(kept[0].count) of 64000")
    }

    @Test("what ends after its request goes the way that the request went")
    func late() {
        let ring = filled(Self.tick)
        let dropped = request(Self.unsampled[0], on: ring, at: Self.tick, took: 1000)
        let kept = request(Self.unsampled[1], on: ring, at: Self.tick, took: 1000, isSlow: true)
        for context in [dropped, kept] {
            context.record(.call, "late", detail: "", from: Self.tick, to: Self.tick + 5000)
        }
        #expect(kinds(ring, Self.unsampled[0]) == [])
        #expect(kinds(ring, Self.unsampled[1]) == [.request, .call, .call])
    }

    @Test("a request that hangs, or has very many parts, can be asked for before it has ended")
    func unfinished() {
        let ring = filled(Self.tick)
        let limit = TraceRing.Limits.slowNanoseconds
        let hangs = TraceContext(traceID: 5, since: Self.tick, ring: ring)
        hangs.record(.call, "a", detail: "", from: Self.tick, to: Self.tick + 10)
        #expect(kinds(ring, 5) == [])
        hangs.record(.call, "b", detail: "", from: Self.tick, to: Self.tick + limit)
        #expect(kinds(ring, 5) == [.call, .call])
        let many = TraceContext(traceID: 6, since: Self.tick, ring: ring)
        for _ in 0..<TraceRing.Limits.spansHeldBack {
            many.record(.call, "c", detail: "", from: Self.tick, to: Self.tick + 10)
        }
        #expect(kinds(ring, 6).count == TraceRing.Limits.spansHeldBack)
    }

    @Test("the bound of what is slow follows the slowest three of a hundred")
    func bound() {
        let bound = SlowBound()
        let isFirstSlow = bound.isSlow(1000)
        #expect(isFirstSlow)
        // Latencies from 1 to 100 us, all alike often, in a scattered order.
        func share(scale: UInt64, rounds: Int) -> Double {
            var slow = 0
            for round in 0..<rounds {
                let value = UInt64(round) &* 7919 % 100 + 1
                if bound.isSlow(value * scale) { slow += 1 }
            }
            return Double(slow) / Double(rounds)
        }
        func now() -> UInt64 { bound.nanoseconds }
        _ = share(scale: 1000, rounds: 5000)
        #expect((0.02...0.045).contains(share(scale: 1000, rounds: 20_000)))
        #expect((90_000...101_000).contains(now()))
        _ = share(scale: 10_000, rounds: 2000)
        #expect((900_000...1_010_000).contains(now()), "learned what is slow now")
        _ = share(scale: 1000, rounds: 5000)
        #expect((90_000...101_000).contains(now()), "and forgot it again")
    }
}
