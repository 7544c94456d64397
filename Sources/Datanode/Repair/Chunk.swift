import ErasureCode
import Model
import Synchronization

/// A part of a cell that is rebuilt at a time: pure arithmetic.
struct Chunk: Hashable, Sendable {
    private let geometry: StripeGeometry
    private let stripe: Int
    /// Of the wanted cell.
    private let part: Range<Int>
    /// Of the replica that is rebuilt, from 1.
    let index: Int
    /// Whether the block replica ends with it.
    let isLast: Bool

    /// Of the bytes from `start` on of the block replica `index`: as many as lie in one cell, at most
    /// `Reconstruction.Limits.chunk`. No bytes where the replica is no longer than that.
    init(_ geometry: StripeGeometry, index: Int, from start: Int) {
        let length = geometry.replicaLength(index: index)
        precondition(start >= 0 && start <= length, "byte \(start) of a replica of \(length)")
        self.geometry = geometry
        self.index = index
        let size = geometry.coding.cellSize
        let stripe = start < length ? start / size : max(geometry.stripeCount - 1, 0)
        self.stripe = stripe
        guard start < length else {
            part = 0..<0
            offset = length
            isLast = true
            return
        }
        let first = start % size
        let end = min(
            geometry.cellLength(stripe: stripe, cell: index - 1),
            first + Reconstruction.Limits.chunk)
        part = first..<end
        offset = start
        isLast = start + part.count == length
    }

    /// The bytes `range` of the block replica `index`, which lie in one cell.
    init(_ geometry: StripeGeometry, index: Int, range: Range<Int>) {
        let size = geometry.coding.cellSize
        precondition(
            !range.isEmpty && range.upperBound <= geometry.replicaLength(index: index)
                && range.lowerBound / size == (range.upperBound - 1) / size,
            "bytes \(range) of a replica do not lie in one of its cells")
        self.geometry = geometry
        self.index = index
        stripe = range.lowerBound / size
        part = range.lowerBound % size..<range.lowerBound % size + range.count
        offset = range.lowerBound
        isLast = range.upperBound == geometry.replicaLength(index: index)
    }

    /// Where it begins in the block replica.
    let offset: Int
    var count: Int { part.count }

    /// What the group's length is once it is there.
    var groupLength: Int {
        isLast
            ? geometry.groupLength
            : min(geometry.groupLength, (stripe + 1) * geometry.coding.stripeSize)
    }

    /// The bytes of the block replica `index` that the chunk is decoded from.
    func range(of index: Int) -> Range<Int> {
        guard !part.isEmpty else { return 0..<0 }
        return geometry.cellRange(stripe: stripe, cell: index - 1, part).replicaRange
    }

    /// Bytes that it takes in memory at most.
    var cost: Int {
        max((geometry.coding.data + 1) * part.count, Reconstruction.Limits.leastCost)
    }

    /// The sources to read beside those that are there already, so that the chunk can be decoded. None:
    /// those that are there are enough. Nil: there are too few.
    ///
    /// Data cells that the group does not reach cost nothing and need no source.
    /// - Parameter turn: which come first, so that many containers do not all read the same ones.
    func choose(
        from usable: Set<Int>, have: Set<Int>, coding: ErasureCoding, turn: Int
    ) -> [Int]? {
        let others = (1...coding.width).filter { $0 != index && !have.contains($0) }
        let free = others.count { range(of: $0).isEmpty }
        let needed = coding.data - have.count - free
        if needed <= 0 { return [] }
        let candidates = others.filter { usable.contains($0) && !range(of: $0).isEmpty }
        guard candidates.count >= needed else { return nil }
        let first = (turn % candidates.count + candidates.count) % candidates.count
        return (0..<needed).map { candidates[(first + $0) % candidates.count] }
    }
}

/// What the chunks of one block share.
///
/// Thread-safe.
final class BlockWork: Sendable {
    private struct State {
        /// Sources that are not asked for this block any more.
        var excluded: [Int: StoreError] = [:]
        /// It was deleted meanwhile.
        var isGone = false
        var isDeleted = false
        var hasFailed = false
    }

    let block: BlockID
    let goal: BlockSurvey.Goal
    private let geometry: StripeGeometry
    /// Whether a source that has no such block says that it is deleted; else it is merely no source.
    private let endsWithSources: Bool
    private let state = Mutex(State())

    init(
        _ block: BlockID, _ goal: BlockSurvey.Goal, _ coding: ErasureCoding,
        endsWithSources: Bool = true
    ) {
        self.block = block
        self.goal = goal
        self.endsWithSources = endsWithSources
        geometry = StripeGeometry(coding, groupLength: goal.groupLength)
    }

    func chunk(from start: Int, of order: ReconstructionOrder) -> Chunk {
        Chunk(geometry, index: order.index, from: start)
    }

    /// Indexes that have the block and have not failed for it.
    var sources: Set<Int> { state.withLock { goal.sources.subtracting($0.excluded.keys) } }

    func exclude(_ index: Int, _ error: StoreError) {
        state.withLock { if $0.excluded[index] == nil { $0.excluded[index] = error } }
    }

    var troubles: String {
        let excluded = state.withLock { $0.excluded }.sorted { $0.key < $1.key }
        return excluded.map { "index \($0.key): \($0.value.message)" }.joined(separator: "; ")
    }

    /// Whether it was deleted while it was rebuilt.
    var isGone: Bool { state.withLock { $0.isGone } }

    /// The source `index` has no such block.
    func noteGone(at index: Int, _ error: StoreError) {
        guard endsWithSources else { return exclude(index, error) }
        state.withLock { $0.isGone = true }
    }

    /// Notes that it is gone. True the first time: then what there is of it is to be removed.
    func go() -> Bool {
        state.withLock { state in
            state.isGone = true
            defer { state.isDeleted = true }
            return !state.isDeleted
        }
    }

    /// Whether one of its chunks failed: those behind it cannot be appended.
    var hasFailed: Bool { state.withLock { $0.hasFailed } }

    func fail() { state.withLock { $0.hasFailed = true } }
}

/// Lets one wait until another has had its turn.
///
/// Thread-safe; waited for by one task.
final class Turn: Sendable {
    private struct State {
        var hasPassed = false
        var waiter: CheckedContinuation<Void, Never>?
    }

    private let state = Mutex(State())

    /// Has whoever waits go on. Again changes nothing.
    func pass() {
        let waiter = state.withLock { state in
            state.hasPassed = true
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    func wait() async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let hasPassed = state.withLock { state in
                if !state.hasPassed {
                    precondition(state.waiter == nil, "a turn is waited for by one task")
                    state.waiter = continuation
                }
                return state.hasPassed
            }
            if hasPassed { continuation.resume() }
        }
    }
}
