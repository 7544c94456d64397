import ContainerFormat
import Model
import Reactor
import Synchronization

/// Gives the space of deleted blocks back to a volume's file system.
///
/// A deletion is done when its record is durable; the holes are punched after that. They are
/// gathered for some seconds, since what was written together is often deleted together: extents
/// that lie side by side become one hole. Clients go first (`IOClass.background`) as long as little
/// waits. Beyond `Limits.comfortable` holes, or on a full volume, they are punched as if
/// a client waited, and beyond `Limits.most` deletions wait for them: what is pending has a bound,
/// whatever the load.
///
/// A crash loses nothing: the records list the extents, and the next start punches those that no
/// `reclaimed` record tells of. One task at a time works, on the volume's reactor. Thread-safe.
final class Reclaimer: Sendable {
    enum Limits {
        /// Extents that wait before clients' operations are no longer preferred.
        static let comfortable = 16_384
        /// Extents that wait before deletions do.
        static let most = 131_072
        /// Holes punched at a time.
        static let punchesAtOnce = 4
    }

    /// What waits of one container.
    private struct Pending {
        var container: Container
        var localIDs: [UInt64] = []
        var extents: [Range<Int>] = []
        var since: MonotonicTime
    }

    private struct State {
        var pending: [ContainerID: Pending] = [:]
        var extents = 0
        var blocks = 0
        var isRunning = false
        /// Whoever wants punched now what waited when they came.
        var flushers: [(since: MonotonicTime, waiter: CheckedContinuation<Void, Never>)] = []
        /// Whoever waits for there to be fewer than `Limits.most`.
        var waiting: [CheckedContinuation<Void, Never>] = []
        /// Of the task that gathers; cancelled when there is no time for that.
        var gathering: Task<Void, Never>?

        /// The container that has waited longest; and the flushers that nothing is left for.
        mutating func oldest() -> (Pending?, [CheckedContinuation<Void, Never>]) {
            let oldest = pending.values.min { $0.since < $1.since }
            if oldest == nil { isRunning = false }
            let served = flushers.filter { flusher in
                oldest.map { $0.since > flusher.since } ?? true
            }
            flushers.removeAll { flusher in oldest.map { $0.since > flusher.since } ?? true }
            return (oldest, served.map(\.waiter))
        }
    }

    private let state = Mutex(State())
    private let reactor: Reactor
    private let delay: Duration

    /// - Parameter delay: how long extents are gathered.
    init(reactor: Reactor, delay: Duration) {
        self.reactor = reactor
        self.delay = delay
    }

    /// Deleted blocks whose space has not been given back.
    var blocks: Int { state.withLock { $0.blocks } }

    /// Takes the extents of deleted blocks of `container`, whose records are durable.
    func add(_ container: Container, _ deleted: [(localID: UInt64, extents: [Range<Int>])]) {
        guard !deleted.isEmpty else { return }
        container.state.withLock { $0.unreclaimed += deleted.count }
        let mustStart = state.withLock { state in
            var pending =
                state.pending.removeValue(forKey: container.id)
                ?? Pending(container: container, since: reactor.now())
            for block in deleted {
                pending.localIDs.append(block.localID)
                pending.extents += block.extents
                state.extents += block.extents.count
            }
            state.blocks += deleted.count
            state.pending[container.id] = pending
            defer { state.isRunning = true }
            return !state.isRunning
        }
        if mustStart { Task(executorPreference: reactor) { await self.run() } }
    }

    /// Waits while too much is waiting already.
    func untilComfortable() async {
        await withCheckedContinuation { (waiter: CheckedContinuation<Void, Never>) in
            let mustWait = state.withLock { state in
                guard state.extents > Limits.most else { return false }
                state.waiting.append(waiter)
                return true
            }
            if !mustWait { waiter.resume() }
        }
    }

    /// Has everything punched that waits now, and returns when it is done.
    func flush() async {
        await withCheckedContinuation { (waiter: CheckedContinuation<Void, Never>) in
            let (isRunning, gathering) = state.withLock { state in
                if state.isRunning { state.flushers.append((reactor.now(), waiter)) }
                return (state.isRunning, state.gathering)
            }
            guard isRunning else { return waiter.resume() }
            gathering?.cancel()
        }
    }

    // MARK: The loop

    private func run() async {
        while let work = await next() {
            await punch(work)
            let waiters = state.withLock { state -> [CheckedContinuation<Void, Never>] in
                state.extents -= work.extents.count
                state.blocks -= work.localIDs.count
                guard state.extents <= Limits.most else { return [] }
                defer { state.waiting = [] }
                return state.waiting
            }
            for waiter in waiters { waiter.resume() }
        }
    }

    /// The container that has waited longest, when it has waited long enough; nil, and the loop
    /// ends, when nothing waits.
    private func next() async -> Pending? {
        while true {
            let (found, flushers) = state.withLock { $0.oldest() }
            for flusher in flushers { flusher.resume() }
            guard let oldest = found else { return nil }
            let due = oldest.since.advanced(by: delay)
            if reactor.now() >= due || isHurried(oldest.container.volume) {
                return state.withLock { $0.pending.removeValue(forKey: oldest.container.id) }
            }
            let gathering = Task(executorPreference: reactor) { [reactor] in
                // Cut short by somebody who wants it now.
                do throws(CancellationError) { try await reactor.sleep(until: due) } catch {}
            }
            let isWanted = state.withLock { state in
                state.gathering = gathering
                return !state.flushers.isEmpty
            }
            if isWanted { gathering.cancel() }
            await gathering.value
            state.withLock { $0.gathering = nil }
        }
    }

    private func isHurried(_ volume: Volume) -> Bool {
        state.withLock { !$0.flushers.isEmpty || $0.extents > Limits.comfortable }
            || volume.withState { $0.isFull }
    }

    private func punch(_ work: Pending) async {
        let ioClass: IOClass = isHurried(work.container.volume) ? .client : .background
        await work.container.reclaim(
            work.localIDs, Self.merged(work.extents), class: ioClass,
            atOnce: Limits.punchesAtOnce)
    }

    /// The union of `extents`, each as long as may be, in order.
    static func merged(_ extents: [Range<Int>]) -> [Range<Int>] {
        var merged: [Range<Int>] = []
        for extent in extents.sorted(by: { $0.lowerBound < $1.lowerBound }) where !extent.isEmpty {
            if let last = merged.last, last.upperBound >= extent.lowerBound {
                merged[merged.count - 1] =
                    last.lowerBound..<max(last.upperBound, extent.upperBound)
            } else {
                merged.append(extent)
            }
        }
        return merged
    }
}
