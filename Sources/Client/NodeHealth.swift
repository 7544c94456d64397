import Model
import Reactor
import Synchronization

/// What this process has seen of datanodes lately: which did not answer, and how long the others
/// take. Shared by all readers and writers; decides whom to ask first, never what is true.
final class NodeHealth: Sendable {
    enum Limits {
        /// A node that failed is not asked for so long, if there is a way without it.
        static let avoidance = Duration.seconds(2)
        /// Latencies remembered for each node.
        static let samples = 64
        /// Answers after which it is judged anew what is late.
        static let judged = 8
        /// A read is late beyond this many times the node's 95th percentile…
        static let lateFactor: UInt64 = 3
        /// …and beyond this.
        static let lateFloorNanoseconds: UInt64 = 100_000_000
    }

    private struct Node {
        var avoidUntil = MonotonicTime(nanoseconds: 0)
        var latencies: [UInt64] = []
        var next = 0
        /// When a read counts as late, judged anew every `Limits.judged` answers.
        var lateNanoseconds: UInt64?
    }

    private let nodes = Mutex<[DatanodeID: Node]>([:])
    private let onFailure: (@Sendable (DatanodeID) -> Void)?

    /// - Parameter onFailure: told of each node that did not answer.
    init(onFailure: (@Sendable (DatanodeID) -> Void)? = nil) { self.onFailure = onFailure }

    func failed(_ id: DatanodeID, at now: MonotonicTime) {
        onFailure?(id)
        nodes.withLock { $0[id, default: Node()].avoidUntil = now.advanced(by: Limits.avoidance) }
    }

    func answered(_ id: DatanodeID, in nanoseconds: UInt64) {
        nodes.withLock { nodes in
            var node = nodes[id] ?? Node()
            node.avoidUntil = MonotonicTime(nanoseconds: 0)
            if node.latencies.count < Limits.samples {
                node.latencies.append(nanoseconds)
            } else {
                node.latencies[node.next] = nanoseconds
                node.next = (node.next + 1) % Limits.samples
            }
            if node.latencies.count >= Limits.judged,
                node.lateNanoseconds == nil || node.next % Limits.judged == 0
            {
                let p95 = node.latencies.sorted()[node.latencies.count * 95 / 100]
                node.lateNanoseconds = max(p95 * Limits.lateFactor, Limits.lateFloorNanoseconds)
            }
            nodes[id] = node
        }
    }

    func shouldAvoid(_ id: DatanodeID, at now: MonotonicTime) -> Bool {
        nodes.withLock { ($0[id]?.avoidUntil ?? MonotonicTime(nanoseconds: 0)) > now }
    }

    /// When a read from this node counts as late.
    func lateAfter(_ id: DatanodeID) -> Duration {
        guard let late = nodes.withLock({ $0[id]?.lateNanoseconds }) else { return .seconds(1) }
        return .nanoseconds(Int64(late))
    }
}
