import Testing

@testable import OMCore

@Suite("The clock of the log")
struct LogClockTests {
    private let start: Int64 = 1_700_000_000_000
    private let day: Int64 = 86_400_000

    private func uptime(_ milliseconds: Int64) -> UInt64 { UInt64(milliseconds) * 1_000_000 + 5 }

    private func begun(logged: Int64? = nil) -> LogClock {
        var clock = LogClock()
        #expect(clock.read(wall: start, uptime: uptime(0)) == nil)
        clock.begin(logged: logged, wall: start, uptime: uptime(0))
        return clock
    }

    @Test("it shows the wall clock's time where nobody sets that")
    func follows() {
        var clock = begun()
        for passed in stride(from: 0, to: 10_000, by: 10) as StrideTo<Int64> {
            #expect(clock.read(wall: start + passed, uptime: uptime(passed)) == start + passed)
        }
    }

    @Test("a wall clock set ahead by a year makes it go twice as fast, no more")
    func ahead() {
        var clock = begun()
        let year = 365 * day
        for passed in stride(from: 0, to: day, by: 60_000) as StrideTo<Int64> {
            #expect(
                clock.read(wall: start + year + passed, uptime: uptime(passed))
                    == start + 2 * passed)
        }
        // Set right again: it waits for the wall clock at half the pace, and never goes back.
        var last = start + 2 * (day - 60_000)
        for passed in stride(from: day, to: 4 * day, by: 60_000) as StrideTo<Int64> {
            let time = clock.read(wall: start + passed, uptime: uptime(passed)) ?? 0
            #expect(time - last == 30_000 || time == start + passed)
            last = time
        }
        #expect(last == start + 4 * day - 60_000)
    }

    @Test("a wall clock set back never makes it go back, nor stand still")
    func behind() {
        var clock = begun()
        for passed in stride(from: 0, to: day, by: 60_000) as StrideTo<Int64> {
            #expect(
                clock.read(wall: start - 365 * day + passed, uptime: uptime(passed))
                    == start + passed / 2)
        }
    }

    @Test("calls in quick succession lose nothing of the time that passes")
    func quick() {
        var clock = begun()
        var time: Int64 = 0
        // Tenths of a millisecond, by a wall clock that stands still.
        for tenth in 0..<100_000 as Range<UInt64> {
            time = clock.read(wall: start, uptime: 5 + tenth * 100_000) ?? 0
        }
        #expect(time == start + 4999)
    }

    @Test("it goes on from the log after a time without a leader, and catches up from there")
    func restart() {
        var clock = begun(logged: start - day)
        #expect(clock.read(wall: start, uptime: uptime(0)) == start - day)
        #expect(clock.read(wall: start + day, uptime: uptime(day)) == start + day)
        // Another leader was ahead.
        clock.observe(logged: start + 3 * day)
        #expect(clock.read(wall: start + day, uptime: uptime(day)) == start + 3 * day)
        clock.observe(logged: start)
        #expect(clock.read(wall: start + day, uptime: uptime(day)) == start + 3 * day)
        // The log from the future, too, is not gone behind.
        var late = begun(logged: start + 10 * day)
        #expect(late.read(wall: start, uptime: uptime(0)) == start + 10 * day)
        #expect(late.read(wall: start + day, uptime: uptime(day)) == start + 10 * day + day / 2)
    }

    @Test("wall clocks of any time, and uptimes that go back, do not trap")
    func extremes() {
        var clock = begun()
        for wall: Int64 in [.min, .max, 0, -1] {
            for passed: UInt64 in [0, 1, .max, 5] {
                #expect((clock.read(wall: wall, uptime: passed) ?? 0) >= start)
            }
        }
    }
}
