import DequeModule
import Model
import Synchronization

/// Bytes that answers under way may take together: reserved before the memory of an answer is
/// allocated, given back when the answer has been sent.
///
/// Who finds too little left waits, in the order of asking and without overtaking; where too many
/// wait already, the request is refused with `overloaded`. A budget may lie within another one:
/// each connection has a share of the process's, so that one client that asks for much and takes
/// nothing leaves the others what is theirs.
///
/// Thread-safe: one lock, held for a few instructions.
public final class AnswerBudget: Sendable {
    private struct Waiter {
        var id: UInt64
        var bytes: Int
        var continuation: UnsafeContinuation<Outcome, Never>
    }

    private enum Outcome { case granted, refused, cancelled }

    private struct State {
        var taken = 0
        var waiting = Deque<Waiter>()
        var lastID: UInt64 = 0
    }

    /// Bytes of all answers together. An answer larger than that takes all of it.
    public let bytes: Int
    /// Requests that may wait; what comes then is refused.
    public let waiters: Int
    private let outer: AnswerBudget?
    private let state = Mutex(State())

    /// That of this process.
    public static let process = AnswerBudget(bytes: TransportLimits.answerBytes)

    /// A budget of `bytes`, at least 1, of its own or within `outer`, which has as many at least.
    public init(
        bytes: Int, waiters: Int = TransportLimits.waitingAnswers, within outer: AnswerBudget? = nil
    ) {
        precondition(bytes > 0, "a budget has bytes")
        precondition(bytes <= outer?.bytes ?? bytes, "a part is no larger than the whole")
        self.bytes = bytes
        self.waiters = waiters
        self.outer = outer
    }

    /// Bytes taken, and requests that wait, at about this moment.
    public var load: (taken: Int, waiting: Int) {
        state.withLock { ($0.taken, $0.waiting.count) }
    }

    /// Takes `count` bytes, as soon as they are there.
    ///
    /// Throws `overloaded` where too many wait, `cancelled` when the task is cancelled meanwhile.
    public func reserve(_ count: Int) async throws(StoreError) -> AnswerHold {
        let count = min(max(count, 0), bytes)
        try await take(count)
        if let outer {
            do throws(StoreError) {
                try await outer.take(count)
            } catch {
                giveBackHere(count)
                throw error
            }
        }
        return AnswerHold(count, of: self)
    }

    private func take(_ count: Int) async throws(StoreError) {
        let id: UInt64? = state.withLock { state in
            if grant(count, &state) { return nil }
            state.lastID += 1
            return state.lastID
        }
        guard let id else { return }
        switch await wait(id, count) {
        case .granted: return
        case .cancelled: throw StoreError(.cancelled, "the call was cancelled")
        case .refused:
            throw StoreError(
                .overloaded,
                "\(waiters) requests wait for memory already: answers under way may take "
                    + "\(bytes) bytes")
        }
    }

    private func wait(_ id: UInt64, _ count: Int) async -> Outcome {
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                let outcome: Outcome? = state.withLock { state in
                    // Looked at under the lock: whoever cancels later finds the waiter.
                    if Task.isCancelled { return .cancelled }
                    if grant(count, &state) { return .granted }
                    guard state.waiting.count < waiters else { return .refused }
                    state.waiting.append(Waiter(id: id, bytes: count, continuation: continuation))
                    return nil
                }
                if let outcome { continuation.resume(returning: outcome) }
            }
        } onCancel: {
            cancel(id)
        }
    }

    /// Takes the bytes, unless there are too few or others were there before.
    private func grant(_ count: Int, _ state: inout State) -> Bool {
        guard state.waiting.isEmpty, state.taken + count <= bytes else { return false }
        state.taken += count
        return true
    }

    private func cancel(_ id: UInt64) {
        let cancelled: Waiter? = state.withLock { state in
            guard let place = state.waiting.firstIndex(where: { $0.id == id }) else { return nil }
            return state.waiting.remove(at: place)
        }
        cancelled?.continuation.resume(returning: .cancelled)
        // Those behind it may need less.
        if cancelled != nil { giveBackHere(0) }
    }

    /// - Parameter isAbandoned: what lies within an outer budget was given back before.
    fileprivate func giveBack(_ count: Int, isAbandoned: Bool) {
        outer?.giveBackHere(count)
        if outer == nil || !isAbandoned { giveBackHere(count) }
    }

    fileprivate func giveBackShare(_ count: Int) { if outer != nil { giveBackHere(count) } }

    private func giveBackHere(_ count: Int) {
        let served = state.withLock { state in
            state.taken -= count
            precondition(state.taken >= 0, "more was given back than was taken")
            var served: [Waiter] = []
            while let first = state.waiting.first, state.taken + first.bytes <= bytes {
                state.taken += first.bytes
                served.append(state.waiting.removeFirst())
            }
            return served
        }
        for waiter in served { waiter.continuation.resume(returning: .granted) }
    }
}

/// Bytes of an `AnswerBudget`, given back when the last reference goes.
public final class AnswerHold: Sendable {
    private let count: Int
    private let budget: AnswerBudget
    private let isAbandoned = Atomic<Bool>(false)

    fileprivate init(_ count: Int, of budget: AnswerBudget) {
        self.count = count
        self.budget = budget
    }

    deinit { budget.giveBack(count, isAbandoned: isAbandoned.load(ordering: .relaxed)) }

    /// The caller has gone, though the answer's memory may still be waited for, by a disk that
    /// hangs. What it has of its connection's share is there for others; of the process's memory it
    /// keeps what it has.
    public func abandon() {
        guard !isAbandoned.exchange(true, ordering: .relaxed) else { return }
        budget.giveBackShare(count)
    }
}
