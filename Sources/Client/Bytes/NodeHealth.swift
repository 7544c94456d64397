import Model
import Reactor
import Synchronization

/// What this process has seen of datanodes lately: which did not answer, and how long the others
/// take. Shared by all readers and writers; decides whom to ask first, never what is true.
final class NodeHealth: Sendable {
    enum Limits {
        /// A node that failed is not asked for so long, if there is a way without it.
        static let avoidance = ClientLimits.avoidance
        /// Latencies remembered for each node.
        static let samples = 64
        /// Answers after which it is judged anew what is late.
        static let judged = 8
        /// A read is late beyond this many times the node's 95th percentile…
        static let lateFactor: UInt64 = 3
        /// …and beyond this.
        static let lateFloorNanoseconds: UInt64 = 100_000_000
        /// A write waits for a disk's sync, and does without a node only by writing elsewhere
        /// anew: late beyond this…
        static let lateWriteFloorNanoseconds: UInt64 = 600_000_000
        /// …and in any case beyond this.
        static let lateWriteCapNanoseconds: UInt64 = 10_000_000_000
        /// How long no group without late nodes is asked for after there was none.
        static let searchPause = Duration.seconds(5)
    }

    /// How long the last calls took.
    private struct Latencies {
        var samples: [UInt64] = []
        /// Answers so far.
        var answers = 0
        /// The 95th percentile times `Limits.lateFactor`, judged anew every `Limits.judged` answers.
        var lateNanoseconds: UInt64?

        mutating func add(_ nanoseconds: UInt64) {
            if samples.count < Limits.samples {
                samples.append(nanoseconds)
            } else {
                samples[answers % Limits.samples] = nanoseconds
            }
            answers += 1
            guard answers % Limits.judged == 0 else { return }
            lateNanoseconds = samples.sorted()[samples.count * 95 / 100] * Limits.lateFactor
        }
    }

    private struct Node {
        var avoidUntil = MonotonicTime(nanoseconds: 0)
        /// Writers that have a way without it do not begin with it.
        var avoidWritingUntil = MonotonicTime(nanoseconds: 0)
        var reads = Latencies()
        var writes = Latencies()
    }

    private let nodes = Mutex<[DatanodeID: Node]>([:])
    /// Until then no other group is looked for: the last look found none.
    private let nothingUntil = Mutex(MonotonicTime(nanoseconds: 0))
    private let onFailure: (@Sendable (DatanodeID, MonotonicTime) -> Void)?

    /// - Parameter onFailure: told of each node that did not answer, and when. One that is only
    ///   late is not among them.
    init(onFailure: (@Sendable (DatanodeID, MonotonicTime) -> Void)? = nil) {
        self.onFailure = onFailure
    }

    /// A node did not answer: it is avoided, and what was planned with it is to be given up.
    func failed(_ id: DatanodeID, at now: MonotonicTime) {
        onFailure?(id, now)
        avoid(id, at: now)
    }

    /// A read from a node came to nothing.
    /// - Parameter isPatient: whether it was waited for as long as any read is. If not, a node
    ///   that did not answer in time is only late: others are asked for a while.
    func readFailed(
        _ id: DatanodeID, _ code: StoreError.Code, isPatient: Bool, at now: MonotonicTime
    ) {
        switch code {
        case .deadlineExceeded where !isPatient: avoid(id, at: now)
        case .connection, .deadlineExceeded: failed(id, at: now)
        default: break
        }
    }

    private func avoid(_ id: DatanodeID, at now: MonotonicTime) {
        nodes.withLock { $0[id, default: Node()].avoidUntil = now.advanced(by: Limits.avoidance) }
    }

    func answered(_ id: DatanodeID, in nanoseconds: UInt64) {
        // Changed where it lies: a copy would take the latencies along for each answer.
        nodes.withLock { nodes in
            nodes[id, default: Node()].avoidUntil = MonotonicTime(nanoseconds: 0)
            nodes[id]!.reads.add(nanoseconds)
        }
    }

    /// A node has acknowledged a cell.
    func wrote(_ id: DatanodeID, in nanoseconds: UInt64) {
        nodes.withLock { $0[id, default: Node()].writes.add(nanoseconds) }
    }

    func shouldAvoid(_ id: DatanodeID, at now: MonotonicTime) -> Bool {
        nodes.withLock { ($0[id]?.avoidUntil ?? MonotonicTime(nanoseconds: 0)) > now }
    }

    /// When a read from this node counts as late.
    func lateAfter(_ id: DatanodeID) -> Duration {
        guard let late = nodes.withLock({ $0[id]?.reads.lateNanoseconds }) else {
            return .seconds(1)
        }
        return .nanoseconds(Int64(max(late, Limits.lateFloorNanoseconds)))
    }

    // MARK: Writing

    /// When a cell on its way to this node counts as late.
    func lateWriteAfter(_ id: DatanodeID) -> Duration {
        guard let late = nodes.withLock({ $0[id]?.writes.lateNanoseconds }) else {
            return .seconds(1)
        }
        return .nanoseconds(
            Int64(
                min(
                    max(late, Limits.lateWriteFloorNanoseconds), Limits.lateWriteCapNanoseconds)))
    }

    /// Whether writers may do without `ids`, which are late. If more than `most` nodes are late at
    /// the same time it is this process, the network, or a burst: then they are waited for.
    func mayGiveUpWriting(
        to ids: Set<DatanodeID>, most: Int, at now: MonotonicTime
    ) -> Bool {
        guard nothingUntil.withLock({ $0 <= now }) else { return false }
        let others = nodes.withLock { nodes in
            nodes.count { $0.value.avoidWritingUntil > now && !ids.contains($0.key) }
        }
        return ids.count + others <= most
    }

    /// A writer goes on without a node that was late: others do not begin with it for a while.
    func gaveUpWriting(to id: DatanodeID, at now: MonotonicTime) {
        nodes.withLock {
            $0[id, default: Node()].avoidWritingUntil = now.advanced(by: Limits.avoidance)
        }
        failed(id, at: now)
    }

    /// There is no whole group without the nodes that are late: it is not asked for again for a
    /// while, by any writer.
    func foundNoOther(at now: MonotonicTime) {
        nothingUntil.withLock { $0 = now.advanced(by: Limits.searchPause) }
    }

    func shouldAvoidWriting(to id: DatanodeID, at now: MonotonicTime) -> Bool {
        nodes.withLock { ($0[id]?.avoidWritingUntil ?? MonotonicTime(nanoseconds: 0)) > now }
    }
}
