import Model
import Reactor
import Synchronization

/// Closes the containers of a volume that must be closed without SCM asking: the disk is full, the
/// journal could not be written, or they hold as much as one may. Of those that are closed already it
/// has a journal brought in order that could not be written.
///
/// What fails is tried again until it succeeds, the container is gone, or the volume is: a container
/// must not stay between open and closed, where it takes nothing and is reported as going on. One task
/// at a time, on the volume's reactor. Thread-safe.
final class Closer: Sendable {
    enum Limits {
        /// Between attempts: at first, and at most. Each is twice as long as the last.
        static let retryDelay: ClosedRange<Duration> = .milliseconds(100)...(.seconds(10))
    }

    private struct State {
        var waiting: [Container] = []
        var isStopped = false
        var task: Task<Void, Never>?
    }

    private let state = Mutex(State())
    private let reactor: Reactor

    init(reactor: Reactor) { self.reactor = reactor }

    /// Has `container` closed. Again for one that waits already changes nothing.
    func add(_ container: Container) {
        state.withLock { state in
            guard !state.isStopped, !state.waiting.contains(where: { $0 === container }) else {
                return
            }
            state.waiting.append(container)
            guard state.task == nil else { return }
            state.task = Task(executorPreference: reactor) { await self.run() }
        }
    }

    /// Closes nothing more; returns when nothing is being closed.
    func stop() async {
        let task = state.withLock { state in
            state.isStopped = true
            return state.task
        }
        task?.cancel()
        await task?.value
    }

    private func run() async {
        var delay = Limits.retryDelay.lowerBound
        while true {
            let waiting = state.withLock { $0.waiting }
            var failed: [Container] = []
            for container in waiting {
                if await !isOver(container) { failed.append(container) }
            }
            let mustGoOn = state.withLock { state in
                state.waiting.removeAll { container in
                    waiting.contains { $0 === container } && !failed.contains { $0 === container }
                }
                if state.waiting.isEmpty || state.isStopped { state.task = nil }
                return state.task != nil
            }
            guard mustGoOn else { return }
            if failed.isEmpty { continue }
            do throws(CancellationError) { try await reactor.sleep(for: delay) } catch { continue }
            delay = min(delay * 2, Limits.retryDelay.upperBound)
        }
    }

    /// Closes `container`. False if it failed and is to be tried again.
    private func isOver(_ container: Container) async -> Bool {
        do throws(StoreError) {
            try await container.close()
            return true
        } catch {
            return container.volume.failure != nil
                || container.state.withLock { state in
                    // A damaged one is closed by nobody; but the journal of one that is closed must
                    // be brought in order, or it could not be healed.
                    let isToBeMended = state.isClosed && state.journalTrouble == .unwritten
                    return state.phase == .deleted || state.recovery != nil
                        || state.damage != nil && !isToBeMended
                }
        }
    }
}
