import Synchronization

/// Lets one at a time do something that is not to be done twice at once, in the order in which they
/// come. Who waits for something that hangs waits with it. Thread-safe.
final class Turn: Sendable {
    private struct State {
        var isTaken = false
        var waiting: [UnsafeContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())

    /// Runs `body` when those before have ended.
    func run<R: Sendable, E: Error>(_ body: () async throws(E) -> R) async throws(E) -> R {
        await take()
        defer { give() }
        return try await body()
    }

    private func take() async {
        await withUnsafeContinuation { (waiter: UnsafeContinuation<Void, Never>) in
            let isMine = state.withLock { state in
                if state.isTaken { state.waiting.append(waiter) }
                defer { state.isTaken = true }
                return !state.isTaken
            }
            if isMine { waiter.resume() }
        }
    }

    private func give() {
        let next = state.withLock { state -> UnsafeContinuation<Void, Never>? in
            guard !state.waiting.isEmpty else {
                state.isTaken = false
                return nil
            }
            return state.waiting.removeFirst()
        }
        next?.resume()
    }
}
