import Model
import Synchronization

/// One client in the sense of `CallID`: calls one after the other, so that whoever answers them
/// has one answer to remember, the last. Used by one call at a time.
final class CallLane: Sendable {
    private let client: Identity128
    private let sequence = Atomic<UInt64>(0)
    /// An attempt of the call went without its identity, to a program of before.
    private let isUnmarked = Atomic(false)

    init(_ client: Identity128) { self.client = client }

    /// The identity of the next call. All before were answered, or are given up.
    func next() -> CallID {
        isUnmarked.store(false, ordering: .relaxed)
        let number = sequence.wrappingAdd(1, ordering: .relaxed).newValue
        return CallID(client: client, sequence: number, answeredBelow: number)
    }

    func noteUnmarked() { isUnmarked.store(true, ordering: .relaxed) }

    /// Whether the call may be made again though it is not known what became of an attempt.
    var mayRepeat: Bool { !isUnmarked.load(ordering: .relaxed) }
}

/// The lanes of one channel: as many as it has had calls at once.
struct CallLanes {
    private let base: Identity128
    private var free: [CallLane] = []
    private var made: UInt64 = 0

    init(_ generator: inout some RandomNumberGenerator) { base = .random(using: &generator) }

    /// A lane that no call uses, the one used last if there is one. nil beyond `limit` of them.
    mutating func take(limit: Int) -> CallLane? {
        if let lane = free.popLast() { return lane }
        guard made < limit else { return nil }
        made += 1
        return CallLane(Identity128(high: base.high, low: base.low &+ made))
    }

    mutating func giveBack(_ lane: CallLane) { free.append(lane) }
}
