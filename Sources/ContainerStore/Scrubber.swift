import ContainerFormat
import Model
import Reactor
import Synchronization

/// Reads what a volume stores, in the background, to find damage before somebody needs the bytes.
///
/// One per volume, on its reactor, in the I/O class `.scrub`. It takes the container replica whose
/// last verification is oldest, reads every cell of it, checks each CRC32C, and marks a damaged
/// replica as a read would. When each was verified is kept in the volume's file `scrubbed`. Memory
/// is bounded: one buffer of `Limits.readBytes`, and one entry for each container.
public final class Scrubber: Sendable {
    public enum Limits {
        /// Bytes read at a time.
        public static let readBytes = 1 << 20
        /// Findings that are remembered.
        public static let findings = 100
        /// How often the list of what is due is made anew, at the least.
        static let lookAround = Duration.seconds(60)
        /// How long a pause or an end may go unnoticed.
        static let glance = Duration.milliseconds(100)
        /// How often the times are written, at the most.
        static let saveEvery = Duration.seconds(30)
    }

    /// How a store is scrubbed.
    public struct Options: Sendable {
        /// Each replica is verified once in so long.
        public var period: Duration
        /// The most bytes read per second and volume; nil: as fast as the class's share allows.
        public var bytesPerSecond: Int?
        /// `period` after the last verification, at `bytesPerSecond`.
        public init(period: Duration = .seconds(14 * 86400), bytesPerSecond: Int? = 64 << 20) {
            precondition(bytesPerSecond ?? 1 > 0, "a rate limit is at least a byte a second")
            self.period = period
            self.bytesPerSecond = bytesPerSecond
        }
    }

    struct State {
        var status: Status
        var times = ScrubTimes()
        /// When damage was found last, or healed: in milliseconds since 1970.
        var damaged: [ContainerID: Int64] = [:]
        var isPaused = false
        var isAsked = false
        var options: Options
        /// When reading of the present round began, moved on by pauses; and bytes since.
        var roundBegan = MonotonicTime(nanoseconds: 0)
        var isTimesFileForeign = false
    }

    let volume: Volume
    private let clock: @Sendable () -> Timestamp
    private let containers: @Sendable () -> [Container]
    private let cache: ClosedCache
    private let state: Mutex<State>
    private let task = Mutex<Task<Void, Never>?>(nil)

    init(
        _ volume: Volume, cache: ClosedCache, options: Options,
        clock: @escaping @Sendable () -> Timestamp,
        containers: @escaping @Sendable () -> [Container]
    ) {
        self.volume = volume
        self.cache = cache
        self.clock = clock
        self.containers = containers
        state = Mutex(State(status: Status(volume: volume.path), options: options))
    }

    // MARK: Control

    func start() {
        let new = Task(executorPreference: volume.reactor) { await self.run() }
        task.withLock { task in
            precondition(task == nil, "a scrubber is started once")
            task = new
        }
    }

    /// Ends the work after the read in flight, and keeps what was verified.
    func stop() async {
        let running = task.withLock { $0 }
        running?.cancel()
        await running?.value
    }

    /// Holds the work after the read in flight.
    public func pause() { state.withLock { $0.isPaused = true } }

    /// Goes on where `pause()` held.
    public func resume() { state.withLock { $0.isPaused = false } }

    /// Verifies every replica now, whenever it was last.
    public func scrubNow() { state.withLock { $0.isAsked = true } }

    /// Works by `options` from now on.
    public func set(_ options: Options) { state.withLock { $0.options = options } }

    /// How far it is.
    public var status: Status {
        state.withLock { state in
            var status = state.status
            if state.isPaused { status.activity = .paused }
            return status
        }
    }

    func withState<R: Sendable>(_ body: (inout State) -> R) -> R {
        state.withLock { body(&$0) }
    }

    // MARK: The loop

    private func run() async {
        await loadTimes()
        state.withLock { $0.damaged = volume.keptDamage }
        while !Task.isCancelled {
            let due = takeDue()
            if due.isEmpty {
                state.withLock { $0.status.activity = .idle }
                await wait(Limits.lookAround) { state in state.isAsked }
                continue
            }
            await round(due)
        }
        await saveTimes()
    }

    /// The replicas that are due, the most urgent first.
    private func takeDue() -> [Container] {
        let all = containers().filter { $0.isScrubbable }
        let now = clock().milliseconds
        return state.withLock { state in
            let (seconds, _) = state.options.period.components
            let isAsked = state.isAsked
            state.isAsked = false
            let ids = Set(all.map(\.id))
            state.times.verified = state.times.verified.filter { ids.contains($0.key) }
            state.damaged = state.damaged.filter { now - $0.value < ScrubOrder.memory }
            let order = ScrubOrder(
                verified: state.times.verified, damaged: state.damaged, period: seconds * 1000,
                at: now)
            return all.map { (container: $0, urgency: order.urgency(of: $0.id)) }
                .filter { isAsked || $0.urgency >= 1 }
                .sorted { ($1.urgency, $0.container.id) < ($0.urgency, $1.container.id) }
                .map(\.container)
        }
    }

    /// A replica was read in full, and is whole: it was healed, if it was damaged.
    func didHeal(_ container: Container, wasDamaged: Bool) {
        let now = clock().milliseconds
        state.withLock { state in
            state.times.verified[container.id] = now
            if wasDamaged { state.damaged[container.id] = now }
        }
    }

    private func round(_ due: [Container]) async {
        let bytes = due.reduce(0) { sum, container in
            sum + container.state.withLock { $0.usedBytes }
        }
        state.withLock { state in
            state.roundBegan = volume.reactor.now()
            state.status.begin(containers: due.count, bytes: bytes)
        }
        var savedAt = volume.reactor.now()
        for container in due {
            guard await mayGoOn() else { return }
            let isWhole = await container.scrub(by: self, cache: cache)
            guard !Task.isCancelled else { return }
            let now = clock().milliseconds
            state.withLock { state in
                state.status.containersDone += 1
                // A damaged one is left to repair, which replaces it.
                if isWhole { state.times.verified[container.id] = now }
            }
            if savedAt.duration(to: volume.reactor.now()) > Limits.saveEvery {
                await saveTimes()
                savedAt = volume.reactor.now()
            }
        }
        state.withLock { $0.status.end(at: clock()) }
        await saveTimes()
    }

    /// Waits while paused. False when the work is to end.
    func mayGoOn() async -> Bool {
        let began = volume.reactor.now()
        while !Task.isCancelled, volume.failure == nil {
            guard state.withLock({ $0.isPaused }) else {
                let waited = began.duration(to: volume.reactor.now())
                if waited > .milliseconds(1) {
                    state.withLock { $0.roundBegan = $0.roundBegan.advanced(by: waited) }
                }
                return true
            }
            await wait(Limits.glance) { _ in false }
        }
        return false
    }

    /// Notes bytes read, and waits as long as the rate limit wants.
    func didRead(_ count: Int) async {
        let now = volume.reactor.now()
        let until = state.withLock { state -> MonotonicTime? in
            state.status.advance(count, since: state.roundBegan, now: now)
            guard let rate = state.options.bytesPerSecond else { return nil }
            let due = Double(state.status.bytesDone) / Double(rate)
            return state.roundBegan.advanced(by: .nanoseconds(Int64(due * 1e9)))
        }
        guard let until, until > now else { return }
        // Told to stop while it sleeps, it wakes at once.
        do throws(CancellationError) { try await volume.reactor.sleep(until: until) } catch {
            return
        }
    }

    /// Notes damage of a replica: it, and its disk, are suspicious from now on.
    func didFind(_ finding: String, in container: ContainerID) {
        let now = clock().milliseconds
        state.withLock { state in
            state.status.damaged += 1
            state.damaged[container] = now
            if state.status.findings.count < Limits.findings {
                state.status.findings.append(finding)
            }
        }
    }

    private func wait(_ duration: Duration, until: (borrowing State) -> Bool) async {
        let end = volume.reactor.now().advanced(by: duration)
        while !Task.isCancelled, volume.reactor.now() < end, !state.withLock({ until($0) }) {
            do throws(CancellationError) {
                try await volume.reactor.sleep(for: Limits.glance)
            } catch { return }
        }
    }

    // MARK: Times

    private func loadTimes() async {
        do throws(IOError) {
            guard try await volume.reactor.status(volume.scrubTimesPath, disk: volume.disk) != nil
            else { return }
            let bytes = try await volume.readAll(
                volume.scrubTimesPath, limit: ScrubTimes.largestSize)
            do throws(FormatError) {
                let times = try ScrubTimes(parsing: bytes)
                state.withLock { $0.times = times }
            } catch {
                // Of a newer program: left alone. A damaged one costs no more than reading again.
                state.withLock { $0.isTimesFileForeign = error.isVersion }
                volume.withState { $0.problems.append("\(volume.scrubTimesPath): \(error)") }
            }
        } catch { volume.note(error) }
    }

    private func saveTimes() async {
        let (bytes, isForeign) = state.withLock { ($0.times.encoded(), $0.isTimesFileForeign) }
        guard !isForeign, volume.failure == nil else { return }
        do throws(IOError) {
            try await volume.reactor.replaceFile(
                volume.scrubTimesPath, with: bytes, disk: volume.disk, for: .scrub)
        } catch { volume.note(error) }
    }
}
