import Reactor
import Telemetry
import Testing

@testable import ContainerStore

@Suite("What disks took lately")
struct RecentLatenciesTests {
    private static func at(_ seconds: Double) -> MonotonicTime {
        MonotonicTime(nanoseconds: UInt64((100 + seconds) * 1e9))
    }

    @Test(
        "operations count for two and a half to five seconds, and not those before the first look")
    func window() {
        let syncs = LatencyHistogram()
        var recent = RecentLatencies()
        func look(_ seconds: Double) -> RecentLatency {
            recent.recent(
                DiskLatencies(
                    reads: LatencySnapshot(), writes: LatencySnapshot(),
                    synchronizations: syncs.snapshot()), at: Self.at(seconds)
            ).syncs
        }
        syncs.record(nanoseconds: 9_000_000_000)
        #expect(look(0) == RecentLatency())
        for _ in 0..<98 { syncs.record(nanoseconds: 1_000_000) }
        syncs.record(nanoseconds: 500_000_000)
        syncs.record(nanoseconds: 500_000_000)
        let first = look(1)
        #expect(first.count == 100)
        #expect((990_000...1_010_000).contains(first.p50))
        #expect((495_000_000...505_000_000).contains(first.p99))
        #expect(look(2.5).count == 100)
        #expect(look(4.9).count == 100)
        syncs.record(nanoseconds: 1_000_000)
        #expect(look(5).count == 1)
        #expect(look(7.4).count == 1)
        #expect(look(7.5).count == 0)
    }
}
