import Bytes
import ErasureCode
import Model
import Synchronization

/// Who makes what was written a key, or gives it up.
protocol KeyCommitter: Sendable {
    /// Makes an open key or part visible; it consists of `groups`, with their lengths, in order.
    func commit(
        _ open: OpenKey, groups: [BlockGroup], _ commit: KeyCommit
    ) async throws(StoreError) -> KeyInfo
    /// Gives an open key up. No error if it is gone.
    func abort(_ open: OpenKey) async throws(StoreError)
}

/// Writes one key or part: bytes are copied into a stripe in the caller's thread, coded there when
/// the stripe is full, and sent by an `ECWriter`.
///
/// A full stripe is held back until it is known whether it is the last, so that the last frame can
/// say so. Used by one task at a time.
public final class KeyWriter: ObjectWriter {
    private struct State {
        var stripe: Stripe
        var length = 0
        var failure: StoreError?
        var isFinished = false
    }

    private let open: OpenKey
    private let announced: Int?
    private let names: any KeyCommitter
    private let writer: ECWriter
    private let codec: Codec
    private let pool: BufferPool
    // Uncontended: one task at a time writes. It is what makes the state shareable.
    private let state: Mutex<State>

    init(
        open: OpenKey, length: Int?, names: any KeyCommitter, writer: ECWriter, codec: Codec,
        pool: BufferPool
    ) {
        self.open = open
        announced = length
        self.names = names
        self.writer = writer
        self.codec = codec
        self.pool = pool
        state = Mutex(State(stripe: Stripe(codec.coding, expecting: length, pool: pool)))
    }

    public func write(_ bytes: UnsafeRawBufferPointer) async throws(StoreError) {
        var rest = bytes
        while !rest.isEmpty {
            let full: Result<Stripe?, StoreError> = state.withLock { state in
                if let failure = state.failure { return .failure(failure) }
                var full: Stripe?
                if state.stripe.isFull {
                    full = state.stripe
                    state.stripe = Stripe(
                        codec.coding, expecting: announced.map { $0 - state.length },
                        pool: pool)
                }
                let taken = state.stripe.fill(rest)
                state.length += taken
                rest = UnsafeRawBufferPointer(rebasing: rest[taken...])
                return .success(full)
            }
            if let stripe = try full.get() { try await send(stripe, isLast: false) }
        }
    }

    private func send(_ stripe: Stripe, isLast: Bool) async throws(StoreError) {
        var stripe = stripe
        stripe.encode(codec)
        do throws(StoreError) {
            try await writer.send(stripe, isLast: isLast)
        } catch {
            state.withLock { $0.failure = error }
            throw error
        }
    }

    public func commit(_ commit: KeyCommit) async throws(StoreError) -> KeyInfo {
        let last: Result<Stripe?, StoreError> = state.withLock { state in
            if let failure = state.failure { return .failure(failure) }
            precondition(!state.isFinished, "a writer commits once")
            state.isFinished = true
            return .success(state.stripe.length > 0 ? state.stripe : nil)
        }
        if let stripe = try last.get() { try await send(stripe, isLast: true) }
        let groups: [BlockGroup]
        do throws(StoreError) {
            groups = try await writer.finish()
        } catch {
            state.withLock { $0.failure = error }
            throw error
        }
        let total = groups.reduce(0) { $0 + $1.length }
        let expected = state.withLock { $0.length }
        guard total == expected else {
            throw StoreError(
                .internal, "\(expected) bytes were written, \(total) acknowledged; not committed")
        }
        return try await names.commit(open, groups: groups, commit)
    }

    public func abort() async {
        state.withLock { state in
            if state.failure == nil {
                state.failure = StoreError(.cancelled, "the writer was aborted")
            }
        }
        // OM expires what it does not hear of again.
        try? await names.abort(open)
    }
}
