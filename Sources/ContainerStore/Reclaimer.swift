import ContainerFormat
import Model
import Reactor
import Synchronization

/// Gives the space of deleted blocks back to a volume's file system.
///
/// A deletion is done when its record is durable; the holes are punched after that. They are
/// gathered for a while, since each hole costs the file system a change of its extents, and the
/// disk a discard if it is mounted so, whatever its size: extents that lie side by side become
/// one hole. Clients go first (`IOClass.background`) as long as little waits. Beyond
/// `Limits.comfortable` holes, beyond twice the bytes that may wait, or on a full volume, they are
/// punched as if a client waited, and beyond `Limits.most` deletions wait for them: what is pending
/// has a bound, whatever the load.
///
/// A crash loses nothing: the records list the extents, and the next start punches those that no
/// `reclaimed` record tells of. One task at a time works, on the volume's reactor. Thread-safe.
final class Reclaimer: Sendable {
    enum Limits {
        /// Extents that wait before clients' operations are no longer preferred.
        static let comfortable = 65_536
        /// Extents that wait before deletions do.
        static let most = 131_072
        /// Holes punched at a time.
        static let punchesAtOnce = 4
        /// The part of what is still free on the volume that may wait.
        static let shareOfFree = 16
        /// How long a hole waits that the disk's queue had no place for.
        static let pauseAfterRefusal = Duration.milliseconds(50)
    }

    /// What waits of one container.
    private struct Pending {
        var container: Container
        var localIDs: [UInt64] = []
        var extents: [Range<Int>] = []
        var bytes = 0
        var since: MonotonicTime
    }

    /// Somebody who wants what waited when they came punched now: all, or one container's.
    private struct Flusher {
        var container: ContainerID?
        var since: MonotonicTime
        var waiter: CheckedContinuation<Void, Never>
    }

    private struct State {
        var pending: [ContainerID: Pending] = [:]
        var extents = 0
        var bytes = 0
        var blocks = 0
        var isRunning = false
        var flushers: [Flusher] = []
        /// Whoever waits for there to be fewer than `Limits.most`.
        var waiting: [CheckedContinuation<Void, Never>] = []
        /// Of the task that gathers; cancelled when there is no time for that.
        var gathering: Task<Void, Never>?

        var oldest: Pending? { pending.values.min { $0.since < $1.since } }

        /// Whether somebody waits for what `container` has pending.
        func isWanted(_ container: ContainerID) -> Bool {
            flushers.contains { $0.container == nil || $0.container == container }
        }

        /// Takes those out whose wish is fulfilled.
        mutating func served() -> [Flusher] {
            let oldest = oldest?.since
            func isServed(_ flusher: Flusher) -> Bool {
                if let container = flusher.container { return pending[container] == nil }
                return oldest.map { $0 > flusher.since } ?? true
            }
            defer { flushers.removeAll(where: isServed) }
            return flushers.filter(isServed)
        }

        func isTooMuch(bytesToWait: Int, isFull: Bool) -> Bool {
            isFull || bytes > bytesToWait || extents > Limits.comfortable
        }

        /// The container to punch next, by who waits and by what is too much; and whether it may
        /// go on gathering.
        func choice(bytesToWait: Int, isFull: Bool) -> (Pending, mayWait: Bool)? {
            guard let oldest else { return nil }
            if flushers.contains(where: { $0.container == nil }) { return (oldest, false) }
            if let wanted = flushers.lazy.compactMap(\.container).compactMap({ pending[$0] }).first
            {
                return (wanted, false)
            }
            if isTooMuch(bytesToWait: bytesToWait, isFull: isFull) {
                return (pending.values.max { $0.bytes < $1.bytes } ?? oldest, false)
            }
            return (oldest, true)
        }
    }

    private let state = Mutex(State())
    private let reactor: Reactor
    private let delay: Duration
    private let bytes: Int

    /// - Parameters:
    ///   - delay: how long extents are gathered.
    ///   - bytes: what may wait meanwhile, on a volume with much space left.
    init(reactor: Reactor, delay: Duration, bytes: Int) {
        self.reactor = reactor
        self.delay = delay
        self.bytes = bytes
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
                let bytes = block.extents.reduce(0) { $0 + $1.count }
                pending.bytes += bytes
                state.bytes += bytes
                state.extents += block.extents.count
            }
            state.blocks += deleted.count
            state.pending[container.id] = pending
            defer { state.isRunning = true }
            return !state.isRunning
        }
        if mustStart { Task(executorPreference: reactor) { await self.run() } }
        look(at: container.volume)
    }

    /// Gives up what waits of `container`, whose files are removed: another one may take its number,
    /// and is not to be mixed up with it.
    func forget(_ container: Container) {
        let (count, waiters) = state.withLock {
            state -> (Int, [CheckedContinuation<Void, Never>]) in
            guard let pending = state.pending[container.id], pending.container === container
            else { return (0, []) }
            state.pending[container.id] = nil
            state.extents -= pending.extents.count
            state.bytes -= pending.bytes
            state.blocks -= pending.localIDs.count
            guard state.extents <= Limits.most else { return (pending.localIDs.count, []) }
            defer { state.waiting = [] }
            return (pending.localIDs.count, state.waiting)
        }
        container.state.withLock { $0.unreclaimed -= count }
        for waiter in waiters { waiter.resume() }
    }

    /// Stops gathering if more waits than may, which what is free on the volume decides.
    func look(at volume: Volume) {
        let (bytesToWait, isFull) = room(on: volume)
        let gathering = state.withLock { state in
            state.isTooMuch(bytesToWait: bytesToWait, isFull: isFull) ? state.gathering : nil
        }
        gathering?.cancel()
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

    /// Has punched now what waits, of one container or of all, and returns when it is done.
    func flush(_ container: ContainerID? = nil) async {
        await withCheckedContinuation { (waiter: CheckedContinuation<Void, Never>) in
            let (isRunning, gathering) = state.withLock { state in
                if state.isRunning {
                    state.flushers.append(
                        Flusher(container: container, since: reactor.now(), waiter: waiter))
                }
                return (state.isRunning, state.gathering)
            }
            guard isRunning else { return waiter.resume() }
            gathering?.cancel()
        }
    }

    // MARK: The loop

    private func run() async {
        while let work = await next() {
            await work.container.reclaim(
                work.localIDs, Self.merged(work.extents), atOnce: Limits.punchesAtOnce)
            let waiters = state.withLock { state -> [CheckedContinuation<Void, Never>] in
                state.extents -= work.extents.count
                state.bytes -= work.bytes
                state.blocks -= work.localIDs.count
                guard state.extents <= Limits.most else { return [] }
                defer { state.waiting = [] }
                return state.waiting
            }
            for waiter in waiters { waiter.resume() }
        }
    }

    /// The container whose turn it is, when that has come; nil, and the loop ends, when nothing
    /// waits.
    private func next() async -> Pending? {
        while true {
            let (flushers, volume) = state.withLock { state in
                defer { state.isRunning = !state.pending.isEmpty }
                return (state.served(), state.pending.values.first?.container.volume)
            }
            for flusher in flushers { flusher.waiter.resume() }
            guard let volume else { return nil }
            let (bytesToWait, isFull) = room(on: volume)
            let (gathering, work) = state.withLock { state -> (Task<Void, Never>?, Pending?) in
                guard let (chosen, mayWait) = state.choice(bytesToWait: bytesToWait, isFull: isFull)
                else { return (nil, nil) }
                let due = chosen.since.advanced(by: delay)
                if !mayWait || reactor.now() >= due {
                    return (nil, state.pending.removeValue(forKey: chosen.container.id))
                }
                // Begun within the lock: whoever comes later finds it, and cuts it short.
                let gathering = Task(executorPreference: reactor) { [reactor] in
                    do throws(CancellationError) { try await reactor.sleep(until: due) } catch {}
                }
                state.gathering = gathering
                return (gathering, nil)
            }
            if let work { return work }
            await gathering?.value
            state.withLock { $0.gathering = nil }
        }
    }

    /// Bytes that may wait, fewer than were asked for where little is free; and whether the volume
    /// is full.
    private func room(on volume: Volume) -> (bytesToWait: Int, isFull: Bool) {
        let (available, isFull) = volume.withState { ($0.available, $0.isFull) }
        return (min(bytes, available / Limits.shareOfFree), isFull)
    }

    /// As what the next hole of `container` is punched.
    func context(for container: Container) -> IOContext {
        let (bytesToWait, isFull) = room(on: container.volume)
        let isPressing = state.withLock { state in
            state.isWanted(container.id)
                || state.isTooMuch(bytesToWait: 2 * bytesToWait, isFull: isFull)
        }
        return isPressing ? .client : .background
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
