import HeapModule
import Model
import Wire

/// What is missing and waits for being repaired, in the order in which it will be: least remaining
/// redundancy first, and of those what waits for longest.
///
/// The leader's memory of what it found. All of it can be found again from the tables and the
/// datanodes' reports, and is by who leads next: repairs under way are in the containers' rows.
/// A container is looked at when something changed that may matter to it: a report, a row, a node of
/// it that died, came back, or is dead for long enough.
///
/// Pure; not thread-safe.
struct RepairQueue: Sendable {
    /// A closed container that is not whole, or of which something is to be elsewhere.
    struct Degraded: Hashable, Sendable {
        var redundancy: Int
        var missing: Int
        /// Whether nodes of it may be away: what stays is enough.
        var isSpared = true
        /// Of `missing`, and of what is to be elsewhere: that nobody makes by now.
        var waiting: Int
        var isRepairable: Bool
        /// When it was found first.
        var since: UInt64
    }

    private struct Entry: Comparable, Sendable {
        var redundancy: Int
        var since: UInt64
        var id: ContainerID

        static func < (a: Self, b: Self) -> Bool {
            (a.redundancy, a.since, a.id) < (b.redundancy, b.since, b.id)
        }
    }

    private struct Later: Comparable, Sendable {
        var due: UInt64
        var id: ContainerID

        static func < (a: Self, b: Self) -> Bool { (a.due, a.id) < (b.due, b.id) }
    }

    /// What was last reported of a repair that is under way.
    struct Progress: Sendable {
        var usedBytes: UInt64 = 0
        var blocks: UInt64 = 0
        /// When that was other than before, or when this member saw the repair first.
        var at: UInt64
    }

    /// How much has been copied away from a node that leaves service.
    struct Drain: Sendable {
        /// When the first copy began, as far as this member saw.
        var began: UInt64
        /// Bytes of the replicas whose copies have ended.
        var moved: UInt64 = 0
    }

    /// To be looked at.
    private(set) var unseen: Set<ContainerID> = []
    private(set) var degraded: [ContainerID: Degraded] = [:]
    /// Those that can be repaired as soon as there are targets.
    private var queued: [ContainerID: Entry] = [:]
    /// All of `queued`, and what has been in it before.
    private var order: Heap<Entry> = []
    private var later: Heap<Later> = []
    /// Containers whose last repairs failed: how often, and until when none is begun.
    private var failures: [ContainerID: (count: Int, until: UInt64)] = [:]
    /// Nodes that did not do what they were asked to: until when they are not asked.
    private var avoided: [DatanodeID: UInt64] = [:]
    /// Racks with nodes that can be given replicas: how many of these each has.
    var racks: [Int] = []
    /// Containers of which something is to be made and no node can: until when nobody looks for one,
    /// and how many replicas were missing. They hold up nobody.
    private var resting: [ContainerID: (until: UInt64, missing: Int)] = [:]
    private var receivers: Set<DatanodeID> = []
    var phases: [DatanodeID: SCMState.NodePhase] = [:]
    var progress: [UInt64: Progress] = [:]
    var drains: [DatanodeID: Drain] = [:]
    var meter = RebuildMeter()
    /// Orders for replicas that were there before: they say nothing of how fast one is made.
    var adopted: Set<UInt64> = []
    /// When the next replica may begin to be moved to an emptier node; and bytes of those that were.
    var nextMove: UInt64 = 0
    var moved: UInt64 = 0
    var heals = HealLedger()
    /// Since this member began to lead.
    var begun = 0
    var ended = 0
    var givenUp = 0
    /// How often a container was looked at.
    var looks = 0

    /// Containers that wait for their turn.
    var count: Int { queued.count }

    mutating func look(at id: ContainerID) { unseen.insert(id) }
    mutating func look(at ids: some Sequence<ContainerID>) { unseen.formUnion(ids) }

    /// Some of those that are to be looked at.
    mutating func takeUnseen(atMost count: Int) -> Set<ContainerID> {
        guard unseen.count > count else {
            defer { unseen = [] }
            return unseen
        }
        let some = Set(unseen.prefix(count))
        unseen.subtract(some)
        return some
    }

    /// What was found of a container; nil: it is whole, or is not to be.
    ///
    /// - Parameter isDue: whether it can be repaired now.
    mutating func note(_ id: ContainerID, _ found: Degraded?, isDue: Bool, at now: UInt64) {
        guard var found else {
            degraded[id] = nil
            queued[id] = nil
            failures[id] = nil
            resting[id] = nil
            return
        }
        found.since = degraded[id]?.since ?? found.since
        degraded[id] = found
        let isResting = resting[id].map { $0.until > now && found.missing <= $0.missing } ?? false
        let hasFailed = failures[id].map { $0.until > now } ?? false
        if isDue, !isResting, !hasFailed {
            let entry = Entry(redundancy: found.redundancy, since: found.since, id: id)
            guard queued.updateValue(entry, forKey: id) != entry else { return }
            order.insert(entry)
            dropOld()
        } else {
            queued[id] = nil
        }
    }

    /// What is in `order` and not in `queued` any more goes when it is most of all.
    private mutating func dropOld() {
        guard order.count > 2 * queued.count + 1024 else { return }
        order = Heap(queued.values)
    }

    /// The next that waits; to be given to `putBack` afterwards.
    mutating func next() -> ContainerID? {
        while let entry = order.popMin() {
            if queued[entry.id] == entry { return entry.id }
        }
        return nil
    }

    mutating func putBack(_ ids: [ContainerID]) {
        for id in ids {
            if let entry = queued[id] { order.insert(entry) }
        }
    }

    // MARK: Failures

    /// A repair was given up for what its node did or did not do.
    mutating func noteFailure(of id: ContainerID, on node: DatanodeID, at now: UInt64) {
        let count = (failures[id]?.count ?? 0) + 1
        let delay = SCMState.Limits.repairRetryNanoseconds << min(count - 1, 4)
        failures[id] = (count, now + delay)
        later.insert(Later(due: now + delay, id: id))
        avoided[node] = now + SCMState.Limits.avoidedNanoseconds
    }

    /// No node can make what a container lacks.
    mutating func rest(_ id: ContainerID, until time: UInt64) {
        resting[id] = (time, degraded[id]?.missing ?? 0)
        queued[id] = nil
        later.insert(Later(due: time, id: id))
    }

    /// Nodes that can be given replicas: one that could not before may make what no other could.
    mutating func note(receivers: Set<DatanodeID>) {
        defer { self.receivers = receivers }
        guard !receivers.isSubset(of: self.receivers) else { return }
        unseen.formUnion(resting.keys)
        resting = [:]
    }

    /// A node says something new of the container: what stood in the way may be gone.
    mutating func lookAnew(at id: ContainerID) {
        resting[id] = nil
        look(at: id)
    }

    func isAvoided(_ node: DatanodeID, at now: UInt64) -> Bool {
        avoided[node].map { $0 > now } ?? false
    }

    /// Has what failed looked at again once its time has come.
    mutating func wakeUp(at now: UInt64) {
        while let first = later.min, first.due <= now {
            later.removeMin()
            if let rest = resting[first.id], rest.until <= now { resting[first.id] = nil }
            unseen.insert(first.id)
        }
        if !avoided.isEmpty { avoided = avoided.filter { $0.value > now } }
    }
}

extension SCMState.Limits {
    /// Repairs that are begun with one command.
    public static let repairsPerCommand = 512
    /// After so many containers in a row whose repair cannot begin now, for nodes are at their bounds,
    /// those that wait behind them wait on.
    static let examinedInVain = 128
    /// Containers put to rest at a time, since no node can make what they lack.
    static let restedAtOnce = 1024
    /// How long a container waits after its repair failed; twice as long with each failure, up
    /// to 16 times.
    static let repairRetryNanoseconds: UInt64 = 30_000_000_000
    /// How long a container that no node can make a replica of waits before one is looked for again.
    static let restNanoseconds: UInt64 = 60_000_000_000
    /// How long a node that failed to rebuild a replica is not asked to rebuild another one.
    static let avoidedNanoseconds: UInt64 = 300_000_000_000
    /// Replicas that a node is told to remove with one heartbeat, and those looked at for that.
    static let removalsPerHeartbeat = 64
    static let straysPerHeartbeat = 256
}
