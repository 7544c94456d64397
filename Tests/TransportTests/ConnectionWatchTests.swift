import Testing

@testable import Transport

@Suite("Connections that do nothing")
struct ConnectionWatchTests {
    private func watch() -> ConnectionWatch {
        var limits = ServerLimits(descriptors: 1024)
        limits.interval = .seconds(5)
        limits.helloTimeout = .seconds(10)
        limits.idleTimeout = .seconds(15)
        limits.stallTimeout = .seconds(20)
        return ConnectionWatch(limits)
    }

    private var sight: ConnectionWatch.Sight {
        .init(hasHello: true, isEnding: false, begun: 0, running: 0, backlog: 0, sends: 0)
    }

    /// Steps until something else than `stays` is said, at most 100.
    private func steps(
        _ watch: inout ConnectionWatch, _ sight: (Int) -> ConnectionWatch.Sight
    ) -> (Int, ConnectionWatch.Verdict) {
        for step in 1...100 {
            let verdict = watch.look(sight(step))
            if verdict != .stays { return (step, verdict) }
        }
        return (100, .stays)
    }

    @Test("one that says no hello ends after the time for it")
    func hello() {
        var watch = watch()
        var silent = sight
        silent.hasHello = false
        #expect(steps(&watch) { _ in silent } == (3, .isSilent))
    }

    @Test("one without requests ends after the idle time, counted from the last")
    func idle() {
        var watch = watch()
        var used = sight
        let end = steps(&watch) { step in
            used.begun = UInt64(min(step, 7))
            return used
        }
        #expect(end == (7 + 4, .isIdle))
    }

    @Test("one with a request that is not answered, or with an answer on its way, is not idle")
    func busy() {
        var watch = watch()
        var busy = sight
        busy.running = 1
        #expect(steps(&watch) { _ in busy }.1 == .stays)
        var sending = sight
        #expect(
            steps(&watch) { step in
                sending.backlog = 100
                sending.sends = UInt64(step)
                return sending
            }.1 == .stays)
    }

    @Test("one that takes nothing of its answers ends, though requests of it are under way")
    func stalled() {
        var watch = watch()
        var stalled = sight
        stalled.running = 3
        stalled.backlog = 1 << 20
        #expect(steps(&watch) { _ in stalled } == (5, .isStalled))
    }

    @Test("one that was told that it ends has a step to go by itself")
    func over() {
        var watch = watch()
        var ending = sight
        ending.isEnding = true
        #expect(steps(&watch) { _ in ending } == (2, .isOver))
    }
}
