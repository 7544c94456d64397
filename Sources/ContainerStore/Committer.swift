import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

/// The group commit of one volume.
///
/// One loop at a time, on the volume's reactor, started when something is ready and ended when
/// nothing is. Each round takes what all writers of all containers have ready, syncs each data
/// file once and, at the same time, writes and syncs each journal once, then answers everybody. Who comes during a
/// round is served by the next: that is what makes groups.
final class Committer: Sendable {
    private struct State {
        var waiting: [Container] = []
        var isRunning = false
        /// Containers whose journals have no mark behind their last records.
        var unmarked: [Container] = []
        var isMarkScheduled = false
        var statistics = StoreStatistics()
        /// How long a round waits for company, when the last one had some.
        var delayNanoseconds: UInt64 = 0
        var hadCompany = false
    }

    private let state = Mutex(State())
    private let reactor: Reactor
    private let durability: ContainerStore.Durability

    private let proofInterval: Duration

    init(reactor: Reactor, durability: ContainerStore.Durability, proofInterval: Duration) {
        self.reactor = reactor
        self.durability = durability
        self.proofInterval = proofInterval
    }

    var statistics: StoreStatistics { state.withLock { $0.statistics } }

    func count(_ change: (inout StoreStatistics) -> Void) {
        state.withLock { change(&$0.statistics) }
    }

    /// Lets each round that follows one with several writers begin so much later: on a disk whose
    /// syncs are dear, fewer with more in each are faster. 0, the default, waits for nobody.
    func delay(nanoseconds: UInt64) { state.withLock { $0.delayNanoseconds = nanoseconds } }

    /// Has `container` looked at in the next round.
    func add(_ container: Container) {
        let mustStart = state.withLock { state in
            if !state.waiting.contains(where: { $0 === container }) {
                state.waiting.append(container)
            }
            defer { state.isRunning = true }
            return !state.isRunning
        }
        if mustStart { Task(executorPreference: reactor) { await self.run() } }
    }

    private func run() async {
        while true {
            let delay = state.withLock { $0.hadCompany ? $0.delayNanoseconds : 0 }
            if delay > 0 { try? await reactor.sleep(for: .nanoseconds(Int64(delay))) }
            let containers: [Container]? = state.withLock { state in
                guard !state.waiting.isEmpty else {
                    state.isRunning = false
                    return nil
                }
                defer { state.waiting.removeAll(keepingCapacity: true) }
                return state.waiting
            }
            guard let containers else { return }
            await round(containers)
        }
    }

    private struct Work: Sendable {
        var container: Container
        var batch: ContainerState.Batch
    }

    private func round(_ containers: [Container]) async {
        let work = containers.compactMap { container in
            container.takeBatch().map { Work(container: container, batch: $0) }
        }
        guard !work.isEmpty else { return }
        let isSynced = durability == .sync
        // Both at once: should the power fail between them, the records of this round prove
        // nothing, and the next start looks at the bytes themselves (`Volume.firstLostCell`).
        await inParallel(work) { item in
            guard isSynced else { return await item.container.writeJournal(item.batch) }
            async let data: Void = item.batch.hasCells ? item.container.syncData() : ()
            // One operation instead of two; the zeros ahead are too long to be written so.
            let isShort = item.batch.ahead == nil
            await item.container.writeJournal(item.batch, isDurable: isShort)
            if !isShort { await item.container.journalWriter.synchronize() }
            await data
        }
        state.withLock { state in
            state.statistics.commits += 1
            state.hadCompany = work.reduce(0) { $0 + $1.batch.appends } > 1
            for item in work {
                state.statistics.writers += item.batch.appends + item.batch.extras.count
                guard isSynced else { continue }
                state.statistics.journalSyncs += 1
                if item.batch.hasCells { state.statistics.dataSyncs += 1 }
            }
        }
        for item in work { item.container.complete(item.batch, isSynced: isSynced) }
        markLater(work.map(\.container))
    }

    // MARK: Marks

    /// Has a mark written behind the records of `containers` once nothing has been committed for
    /// a while: only a later record tells damage to the last ones from a torn write.
    private func markLater(_ containers: [Container]) {
        let mustSchedule = state.withLock { state in
            for container in containers where container.needsMark {
                if !state.unmarked.contains(where: { $0 === container }) {
                    state.unmarked.append(container)
                }
            }
            guard !state.unmarked.isEmpty, !state.isMarkScheduled else { return false }
            state.isMarkScheduled = true
            return true
        }
        guard mustSchedule else { return }
        Task(executorPreference: reactor) { [weak self, reactor, durability, proofInterval] in
            // In writeback nothing says that anything is durable, however long it goes on.
            let latest =
                durability == .writeback ? reactor.now().advanced(by: proofInterval) : nil
            var before = -1
            while let self, self.statistics.commits != before,
                latest.map({ reactor.now() < $0 }) ?? true
            {
                before = self.statistics.commits
                do throws(CancellationError) {
                    try await self.reactor.sleep(for: ContainerStore.Limits.quietBeforeMark)
                } catch { break }
            }
            await self?.markNow()
        }
    }

    private func markNow() async {
        let containers = state.withLock { state in
            defer { state.unmarked.removeAll() }
            state.isMarkScheduled = false
            return state.unmarked
        }
        // Nothing is written to a volume that is out: one that is used in its place is the later one.
        for container in containers where container.needsMark && container.volume.failure == nil {
            if durability == .writeback {
                await container.prove()
            } else {
                container.note(.mark)
            }
        }
    }

    /// Runs `body` for all of `work`, at the same time if there are several.
    private func inParallel(
        _ work: [Work], _ body: @escaping @Sendable (Work) async -> Void
    ) async {
        if work.count == 1 { return await body(work[0]) }
        await withDiscardingTaskGroup { group in
            for item in work { group.addTask { await body(item) } }
        }
    }
}
