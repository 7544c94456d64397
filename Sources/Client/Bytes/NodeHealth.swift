import Model
import Reactor
import Synchronization

/// What this process has seen of datanodes lately: which did not answer, and how long the others
/// take. Shared by all readers and writers; decides whom to ask first, never what is true.
///
/// Two things are kept apart. A node that *failed* is left alone for `Limits.avoidance`. One that
/// was *late* against the others is on `Probation`, for readers or for writers. Thread-safe.
final class NodeHealth: Sendable {
    enum Limits {
        /// A node that failed is not asked for so long, if there is a way without it.
        static let avoidance = ClientLimits.avoidance
        /// Latencies remembered for each node.
        static let samples = 64
        /// Answers after which it is judged anew what is late.
        static let judged = 8
        /// A call is late beyond this many times the node's 95th percentile…
        static let lateFactor: UInt64 = 3
        /// …or, where that is less, this many times what three of four calls to any node take; a
        /// read not within this.
        static let paceFactor: UInt64 = 5
        static let lateFloorNanoseconds: UInt64 = 100_000_000
        /// A writer does without a node only by writing elsewhere anew. Where nothing is there to
        /// compare with, a write is late beyond this…
        static let lateWriteFloorNanoseconds: UInt64 = 600_000_000
        /// …and in any case beyond this.
        static let lateWriteCapNanoseconds: UInt64 = 10_000_000_000
        /// A cell is late as well beyond this many times what the slowest took of its stripe that
        /// are there.
        static let stripeFactor: UInt64 = 2
        /// How long no group without some nodes is asked for after there was none. To look costs a
        /// call; not to look costs a wait for the slow node with each write.
        static let searchPause = Duration.seconds(1)
        /// Sets of nodes that there is no group without, of which that is remembered: the last ones.
        static let hopeless = 8
        /// Of the cells of a stripe one of so many may be missing, one in any case, for those that
        /// are to be late against the others.
        static let missingShare = 3
        /// Nodes that are late and avoided at a time: as many as there is parity or as this; in a
        /// large cluster one of so many.
        static let leastAvoided = 3
        static let avoidedShare = 10
    }

    /// How long the last calls took.
    private struct Latencies {
        private var calls = RecentCalls(capacity: Limits.samples)
        /// The 95th percentile times `Limits.lateFactor`, judged anew every `Limits.judged` answers.
        var lateNanoseconds: UInt64?

        mutating func add(_ nanoseconds: UInt64) {
            calls.add(nanoseconds)
            guard calls.count % Limits.judged == 0 else { return }
            lateNanoseconds = calls.percentile(95) * Limits.lateFactor
        }

        /// When a read is late, in nanoseconds; three of four to any node take up to `quartile`.
        func lateRead(quartile: UInt64?) -> UInt64 {
            guard let late = lateNanoseconds else { return 1_000_000_000 }
            let pace = quartile.map { $0 * Limits.paceFactor } ?? .max
            return max(min(late, pace), Limits.lateFloorNanoseconds)
        }

        /// When a write is late by what its node is used to.
        var lateWrite: Duration {
            guard let late = lateNanoseconds else { return .seconds(1) }
            return .nanoseconds(
                Int64(
                    min(
                        max(late, Limits.lateWriteFloorNanoseconds),
                        Limits.lateWriteCapNanoseconds)))
        }
    }

    private struct Node {
        /// It failed.
        var avoidUntil = MonotonicTime(nanoseconds: 0)
        var reads = Latencies()
        var writes = Latencies()
        var reading = Probation()
        var writing = Probation()

        /// It has answered a read at `now`; three of four calls to any node take up to `quartile`.
        mutating func answered(_ nanoseconds: UInt64, quartile: UInt64?, at now: MonotonicTime) {
            avoidUntil = MonotonicTime(nanoseconds: 0)
            reads.add(nanoseconds)
            // Given up when it was late, it would not have come as far as this.
            guard reading.isTried(at: now) else { return }
            reading.answered(inTime: nanoseconds <= reads.lateRead(quartile: quartile), at: now)
        }
    }

    /// When cells on their way to some nodes are late, as known at one moment.
    struct LateWrites {
        /// When a cell counts as late by the habit of the node that it goes to, whatever the others
        /// do: something is wrong with it. In the order of the nodes; for no node nothing counts.
        fileprivate(set) var habits: [Duration]
        /// What three of four cells took, in nanoseconds; nil while too little is known.
        fileprivate var quartile: UInt64?

        /// When a cell counts as late against the others of its stripe, of which all but a few are
        /// there and the slowest of these took `slowest` nanoseconds; nil while too little is known.
        func behind(slowest: UInt64) -> Duration? {
            NodeHealth.behind(quartile: quartile, slowest: slowest).map { .nanoseconds(Int64($0)) }
        }
    }

    private struct State {
        var nodes: [DatanodeID: Node] = [:]
        var reads = Pace()
        var writes = Pace()
        var budget = RewriteBudget()
        /// Those that writers were late with and that are not trusted again; one that is forgotten
        /// is among them until somebody begins to write.
        var suspects: Set<DatanodeID> = []
        /// Nodes that there was no whole group without, and until when none is looked for.
        var hopeless: [(nodes: Set<DatanodeID>, until: MonotonicTime)] = []

        /// How many nodes may be late and avoided at a time.
        /// - Parameter parity: of those who ask.
        func mostAvoided(parity: Int) -> Int {
            max(parity, nodes.count / Limits.avoidedShare)
        }

        /// Whether there was no whole group without `ids`, or without some of them, just now.
        func isHopeless(_ ids: Set<DatanodeID>, at now: MonotonicTime) -> Bool {
            hopeless.contains { $0.until > now && $0.nodes.isSubset(of: ids) }
        }

        /// `ids`, those first that are held to be worst.
        func worstFirst(_ ids: some Sequence<DatanodeID>) -> [DatanodeID] {
            ids.map { (until: nodes[$0]?.writing.avoidedUntil.nanoseconds ?? 0, id: $0) }
                .sorted { ($1.until, $0.id) < ($0.until, $1.id) }.map { $0.id }
        }

        /// Forgets those that are suspects no longer.
        mutating func forgetTrusted(at now: MonotonicTime) {
            suspects = suspects.filter { nodes[$0]!.writing.isSuspect(at: now) }
        }
    }

    /// When a cell is late against the others of its stripe, of which the slowest took `slowest`,
    /// and three of four of any `quartile`; nil while that is not known. All nanoseconds.
    private static func behind(quartile: UInt64?, slowest: UInt64) -> UInt64? {
        quartile.map {
            max(Limits.lateFloorNanoseconds, $0 * Limits.paceFactor, slowest * Limits.stripeFactor)
        }
    }

    private let state = Mutex(State())
    private let onFailure: (@Sendable (DatanodeID, MonotonicTime) -> Void)?

    /// - Parameter onFailure: told of each node that did not answer, or that a writer goes on
    ///   without, and when. One that is only late for a reader is not among them.
    init(onFailure: (@Sendable (DatanodeID, MonotonicTime) -> Void)? = nil) {
        self.onFailure = onFailure
    }

    /// A node did not answer: it is avoided, and what was planned with it is to be given up.
    func failed(_ id: DatanodeID, at now: MonotonicTime) {
        onFailure?(id, now)
        state.withLock {
            $0.nodes[id, default: Node()].avoidUntil = now.advanced(by: Limits.avoidance)
        }
    }

    // MARK: Reading

    /// A read from a node came to nothing.
    /// - Parameter isPatient: whether it was waited for as long as any read is. If not, a node
    ///   that did not answer in time is only late: others are asked for a while.
    func readFailed(
        _ id: DatanodeID, _ code: StoreError.Code, isPatient: Bool, at now: MonotonicTime
    ) {
        switch code {
        case .deadlineExceeded where !isPatient:
            state.withLock { $0.nodes[id, default: Node()].reading.wasLate(at: now) }
        case .connection, .deadlineExceeded: failed(id, at: now)
        default: break
        }
    }

    /// A node has answered a read at `now`.
    func answered(_ id: DatanodeID, in nanoseconds: UInt64, at now: MonotonicTime) {
        state.withLock { state in
            state.reads.add(nanoseconds)
            // Changed where it lies: a copy would take the latencies along for each answer.
            state.nodes[id, default: Node()].answered(
                nanoseconds, quartile: state.reads.quartile, at: now)
        }
    }

    /// Whether others are to be asked, if there are: the node failed or was late, and has not shown
    /// since that it is well.
    func shouldAvoid(_ id: DatanodeID, at now: MonotonicTime) -> Bool {
        state.withLock { state in
            guard let node = state.nodes[id] else { return false }
            return node.avoidUntil > now || node.reading.isSuspect(at: now)
        }
    }

    /// Whether the caller is to ask a node for a read that is to be avoided, to try it.
    func takeTrial(of id: DatanodeID, at now: MonotonicTime) -> Bool {
        state.withLock { state in
            guard let node = state.nodes[id], node.avoidUntil <= now else { return false }
            return state.nodes[id]!.reading.takeTrial(at: now)
        }
    }

    /// When a read from this node counts as late.
    func lateAfter(_ id: DatanodeID) -> Duration {
        state.withLock { state in
            let reads = state.nodes[id]?.reads ?? Latencies()
            return .nanoseconds(Int64(reads.lateRead(quartile: state.reads.quartile)))
        }
    }

    // MARK: Writing

    /// A node has acknowledged a cell at `now`.
    func wrote(_ id: DatanodeID, in nanoseconds: UInt64, at now: MonotonicTime) {
        state.withLock { state in
            state.nodes[id, default: Node()].writes.add(nanoseconds)
            state.writes.add(nanoseconds)
            guard state.suspects.contains(id) else { return }
            let late =
                Self.behind(quartile: state.writes.quartile, slowest: 0)
                ?? Limits.lateWriteFloorNanoseconds
            state.nodes[id]!.writing.answered(inTime: nanoseconds <= late, at: now)
            if !state.nodes[id]!.writing.isSuspect(at: now) { state.suspects.remove(id) }
        }
    }

    /// All cells of a stripe of `bytes` were acknowledged.
    func acknowledged(bytes: Int) { state.withLock { $0.budget.acknowledged(bytes) } }

    /// When cells on their way to `nodes` are late.
    func lateWrites(to nodes: [DatanodeAddress?]) -> LateWrites {
        state.withLock { state in
            LateWrites(
                habits: nodes.map { node in
                    (node.flatMap { state.nodes[$0.id]?.writes } ?? Latencies()).lateWrite
                },
                quartile: state.writes.quartile)
        }
    }

    /// Whether so few are late that it says something against them: `ids`, and the others that are
    /// avoided. If more than `most` nodes are late at the same time, and more than a share of all, it
    /// is this process, the network, or a burst: then they are waited for.
    func areFew(_ ids: Set<DatanodeID>, most: Int, at now: MonotonicTime) -> Bool {
        state.withLock { state in
            let others = state.suspects.count {
                !ids.contains($0) && state.nodes[$0]!.writing.isAvoided(at: now)
            }
            return ids.count + others <= state.mostAvoided(parity: most)
        }
    }

    /// Whether writers may do without `ids`, which are late: they are few, and it is not known that
    /// there is no group without them.
    func mayGiveUpWriting(
        to ids: Set<DatanodeID>, most: Int, at now: MonotonicTime
    ) -> Bool {
        areFew(ids, most: most, at: now) && !state.withLock { $0.isHopeless(ids, at: now) }
    }

    /// Whether so many bytes might be written again because a node is merely late.
    func mayRewrite(bytes: Int) -> Bool { state.withLock { $0.budget.bytes >= bytes } }

    /// Whether so many bytes may be written again because a node is merely late; if so, they count.
    func takeRewrite(bytes: Int) -> Bool { state.withLock { $0.budget.take(bytes) } }

    /// A writer goes on without a node that was late: others do not begin with it for a while.
    func gaveUpWriting(to id: DatanodeID, at now: MonotonicTime) {
        state.withLock {
            $0.nodes[id, default: Node()].writing.wasLate(at: now)
            $0.suspects.insert(id)
        }
        failed(id, at: now)
    }

    /// There is no whole group without `ids`: it is not asked for again for a while, by any writer.
    /// Without fewer nodes there may be one.
    func foundNoOther(without ids: Set<DatanodeID>, at now: MonotonicTime) {
        guard !ids.isEmpty else { return }
        state.withLock { state in
            state.hopeless.removeAll { $0.until <= now || ids.isSubset(of: $0.nodes) }
            state.hopeless.append((ids, now.advanced(by: Limits.searchPause)))
            if state.hopeless.count > Limits.hopeless { state.hopeless.removeFirst() }
        }
    }

    /// Nodes that are late, those first that are to be done without before others.
    func worstFirst(_ ids: Set<DatanodeID>) -> [DatanodeID] {
        state.withLock { $0.worstFirst(ids) }
    }

    func shouldAvoidWriting(to id: DatanodeID, at now: MonotonicTime) -> Bool {
        state.withLock { $0.nodes[id]?.writing.isAvoided(at: now) ?? false }
    }

    /// What one who begins to write should know.
    struct Beginning: Equatable {
        /// Nodes to have no place on, if there are whole groups without.
        var avoiding: Set<DatanodeID>
        /// It is to try a node that others still avoid: nothing opened in advance is to be used.
        var isTrial: Bool
    }

    /// What to write to, for one who begins now.
    func beginning(at now: MonotonicTime) -> Beginning {
        state.withLock { state in
            guard !state.suspects.isEmpty else { return Beginning(avoiding: [], isTrial: false) }
            state.forgetTrusted(at: now)
            let tried = state.suspects.sorted().first {
                state.nodes[$0]!.writing.takeTrial(at: now)
            }
            var avoiding = state.worstFirst(state.suspects.filter { $0 != tried })
                .prefix(state.mostAvoided(parity: Limits.leastAvoided))
            while state.isHopeless(Set(avoiding), at: now) { avoiding.removeLast() }
            return Beginning(avoiding: Set(avoiding), isTrial: tried != nil)
        }
    }
}
