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
        /// Answers so far.
        var answers = 0
        /// When a read counts as late, judged anew every `Limits.judged` answers.
        var lateNanoseconds: UInt64?

        mutating func answered(in nanoseconds: UInt64) {
            avoidUntil = MonotonicTime(nanoseconds: 0)
            if latencies.count < Limits.samples {
                latencies.append(nanoseconds)
            } else {
                latencies[answers % Limits.samples] = nanoseconds
            }
            answers += 1
            guard answers % Limits.judged == 0 else { return }
            let p95 = latencies.sorted()[latencies.count * 95 / 100]
            lateNanoseconds = max(p95 * Limits.lateFactor, Limits.lateFloorNanoseconds)
        }
    }

    private let nodes = Mutex<[DatanodeID: Node]>([:])
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
        nodes.withLock { $0[id, default: Node()].answered(in: nanoseconds) }
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
