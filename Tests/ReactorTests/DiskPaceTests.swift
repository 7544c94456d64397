import Testing

@testable import Reactor

/// Clients that read from a disk at an even rate, and what each of them takes by a made-up rule.
private struct PaceModel {
    var pace = DiskPace()
    var now: UInt64 = 1_000_000_000
    private var random: UInt64 = 88_172_645_463_325_252

    /// A latency that scatters as a disk's: most near `typical`, one of a hundred ten times that.
    private mutating func latency(_ typical: Double) -> UInt64 {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        let number = Double(random >> 11) / Double(1 << 53)
        return UInt64(typical * (number > 0.99 ? 10 : 0.7 + 0.6 * number))
    }

    /// Clients for so many seconds, one operation each millisecond, of which one of four finds
    /// another class at work. `typical` says what one takes, in microseconds, at the present part.
    mutating func run(
        seconds: Double, depth: Int = 1, length: Int = 65536,
        _ typical: (_ part: Double, _ isUndisturbed: Bool) -> Double
    ) {
        for number in 0..<Int(seconds * 1000) {
            now += 1_000_000
            let isUndisturbed = number % 4 != 0
            pace.note(
                DiskPace.Operation(
                    nanoseconds: latency(typical(pace.part, isUndisturbed) * 1000),
                    length: length, isWrite: false, depth: depth, isUndisturbed: isUndisturbed),
                now: now)
        }
    }
}

@Suite("Disk pace")
struct DiskPaceTests {
    @Test("begins at the least, and comes to the whole share where clients do not suffer")
    func grows() {
        var model = PaceModel()
        #expect(model.pace.part == DiskPace.Limits.leastPart)
        model.run(seconds: 10) { _, _ in 200 }
        #expect(model.pace.part > 0.5)
        // And stays about there, for an hour.
        var sum = 0.0
        for _ in 0..<3600 {
            model.run(seconds: 1) { _, _ in 200 }
            sum += model.pace.part
        }
        #expect(sum / 3600 > 0.8, "\(sum / 3600)")
    }

    @Test("yields where clients suffer from it, and finds what they bear")
    func yields() {
        var model = PaceModel()
        model.run(seconds: 5) { _, _ in 200 }
        // Clients are twice as slow while more than half of the share is used.
        var sum = 0.0
        for _ in 0..<600 {
            model.run(seconds: 0.1) { part, _ in part > 0.5 ? 400 : 200 }
            sum += model.pace.part
        }
        #expect((0.2...0.6).contains(sum / 600), "\(sum / 600)")
    }

    @Test("yields to what others do to the device, and comes back when they are gone")
    func others() {
        var model = PaceModel()
        model.run(seconds: 20) { _, _ in 200 }
        model.run(seconds: 1) { _, _ in 500 }
        #expect(model.pace.part == DiskPace.Limits.leastPart)
        model.run(seconds: 20) { _, _ in 500 }
        #expect(model.pace.part == DiskPace.Limits.leastPart)
        model.run(seconds: 10) { _, _ in 200 }
        #expect(model.pace.part > 0.5)
    }

    @Test("what lasts for minutes is what the disk is like, and a quicker one is learned at once")
    func drift() {
        var model = PaceModel()
        model.run(seconds: 20) { _, _ in 200 }
        model.run(seconds: 600) { _, _ in 500 }
        #expect(model.pace.part > 0.5)
        model.run(seconds: 10) { _, _ in 200 }
        model.run(seconds: 1) { _, _ in 500 }
        #expect(model.pace.part == DiskPace.Limits.leastPart)
    }

    @Test("that clients slow each other is held against nobody")
    func depth() {
        var model = PaceModel()
        for _ in 0..<20 {
            for (depth, typical) in [(1, 200.0), (4, 500), (16, 2000)] {
                model.run(seconds: 1, depth: depth) { _, _ in typical }
            }
            for (length, typical) in [(4096, 100.0), (1 << 20, 900)] {
                model.run(seconds: 1, length: length) { _, _ in typical }
            }
        }
        #expect(model.pace.part > 0.5)
    }

    @Test("nothing is learned about other classes where none is at work")
    func alone() {
        var pace = DiskPace()
        for number in 1...10_000 as ClosedRange<UInt64> {
            pace.note(
                DiskPace.Operation(
                    nanoseconds: number < 5000 ? 100_000 : 900_000, length: 4096, isWrite: true,
                    depth: 1, isUndisturbed: true),
                now: number * 1_000_000)
        }
        #expect(pace.part == DiskPace.Limits.leastPart)
    }

    @Test("of few clients too it is learned whether they suffer", arguments: [10, 25, 40])
    func few(perSecond: Int) {
        var pace = DiskPace()
        var now: UInt64 = 1_000_000_000
        for number in 0..<perSecond * 120 {
            now += 1_000_000_000 / UInt64(perSecond)
            pace.note(
                DiskPace.Operation(
                    nanoseconds: 150_000 + UInt64(number * 7919 % 100) * 1000, length: 65536,
                    isWrite: false, depth: 1, isUndisturbed: number % 4 != 0), now: now)
        }
        #expect(pace.part > 0.5, "\(pace.part)")
    }

    @Test("a bound rises within minutes also where many short operations are told")
    func quick() {
        var pace = DiskPace()
        var now: UInt64 = 1_000_000_000
        func run(seconds: Int, microseconds: UInt64) {
            for number in 0..<seconds * 30_000 {
                now += 33_333
                pace.note(
                    DiskPace.Operation(
                        nanoseconds: microseconds * 1000 + UInt64(number * 7919 % 1000),
                        length: 4096, isWrite: false, depth: 1, isUndisturbed: number % 4 != 0),
                    now: now)
            }
        }
        run(seconds: 5, microseconds: 20)
        run(seconds: 120, microseconds: 33)
        #expect(pace.part > 0.5, "\(pace.part)")
    }
}
