import Model
import Reactor
import Synchronization

/// A call to a role of the same process. As over a connection, its caller waits no longer than until
/// its deadline, or until it is cancelled; the handler is cancelled then, and where it cannot end (the
/// kernel has its operation, for a disk that hangs) it goes on without anybody.
final class LocalCall: Sendable {
    typealias Outcome = Result<RPCReply, StoreError>

    private struct State {
        var waiter: UnsafeContinuation<Outcome, Never>?
        var isOver = false
        var tasks: [Task<Void, Never>] = []
    }

    private let state = Mutex(State())

    private init() {}

    /// Runs `handle` on `reactor`, in the order of the calls from there.
    static func outcome(
        of handle: @escaping @Sendable () async -> Outcome, until deadline: MonotonicTime,
        at address: String, on reactor: Reactor
    ) async -> Outcome {
        let call = LocalCall()
        return await withTaskCancellationHandler {
            await withUnsafeContinuation { waiter in
                call.state.withLock { $0.waiter = waiter }
                let work = Task(executorPreference: reactor) { call.end(await handle()) }
                let alarm = Task(executorPreference: reactor) {
                    do throws(CancellationError) { try await reactor.sleep(until: deadline) } catch
                    {
                        return
                    }
                    call.end(
                        .failure(
                            StoreError(.deadlineExceeded, "\(address) did not answer in time")))
                }
                call.keep([work, alarm])
                // Cancelled before there was anybody to tell.
                if Task.isCancelled { call.cancel() }
            }
        } onCancel: {
            call.cancel()
        }
    }

    private func cancel() {
        end(.failure(StoreError(.cancelled, "the call was cancelled")))
    }

    /// The first outcome is the call's.
    private func end(_ outcome: Outcome) {
        let (waiter, tasks) = state.withLock { state in
            // Not before there is somebody to tell: whoever comes to wait looks again.
            guard !state.isOver, state.waiter != nil else {
                return (nil as UnsafeContinuation<Outcome, Never>?, [Task<Void, Never>]())
            }
            state.isOver = true
            defer {
                state.waiter = nil
                state.tasks = []
            }
            return (state.waiter, state.tasks)
        }
        for task in tasks { task.cancel() }
        waiter?.resume(returning: outcome)
    }

    /// Tasks to be cancelled when the call is over, if it is not over already.
    private func keep(_ tasks: [Task<Void, Never>]) {
        let isOver = state.withLock { state in
            if !state.isOver { state.tasks = tasks }
            return state.isOver
        }
        if isOver { for task in tasks { task.cancel() } }
    }
}
