import ContainerStore
import Logging
import Model
import Reactor
import Synchronization
import Wire

/// What a datanode tells each SCM of itself, and what it has heard of them.
///
/// Thread-safe.
final class ReportedNode: Sendable {
    enum Limits {
        /// How old what several SCMs are told of the replicas may be.
        static let reportAge = Duration.milliseconds(300)
    }

    let address: DatanodeAddress
    let store: ContainerStore
    let storeNumber: UInt64
    let commands: CommandQueue
    let group: Mutex<SCMGroup>
    private let volumes = Mutex<[VolumeReport]>([])
    private let adoption: Adoption
    private let reactor: Reactor
    private let lastReport = Mutex(LastReport())
    private let logger: Logger

    init(
        address: DatanodeAddress, store: ContainerStore, storeNumber: UInt64, scms: [String],
        repairs: ReconstructionQueue, reactor: Reactor, logger: Logger
    ) {
        self.address = address
        self.store = store
        self.storeNumber = storeNumber
        self.logger = logger
        commands = CommandQueue(
            store: store, repairs: repairs, reactor: reactor, logger: logger)
        group = Mutex(SCMGroup(scms, at: reactor.now()))
        adoption = Adoption(store: store, reactor: reactor)
        self.reactor = reactor
    }

    // MARK: Disks

    /// Looks at the space of the disks, which may take its time; what was seen last is reported.
    func lookAtVolumes() async {
        let found = await store.volumes()
        let before = volumes.withLock { volumes in
            defer { volumes = found }
            return volumes
        }
        for volume in found { tell(volume, before: before.first { $0.path == volume.path }) }
    }

    /// Tells the log what has changed with a volume; of one that is seen first, what is not as it
    /// should be.
    private func tell(_ volume: VolumeReport, before: VolumeReport?) {
        if volume.isFailed != (before?.isFailed ?? false) {
            if volume.isFailed {
                logger.error("volume \(volume.path) is out: \(volume.reason ?? "it failed")")
            } else {
                logger.info("volume \(volume.path) is in use again")
            }
        }
        if volume.isFull != (before?.isFull ?? false) {
            let free = "\(volume.available >> 20) of \(volume.capacity >> 20) MiB"
            if volume.isFull {
                logger.warning("volume \(volume.path) is full: \(free) may be written")
            } else {
                logger.info("volume \(volume.path) has room again: \(free) may be written")
            }
        }
        for problem in volume.problems where before?.problems.contains(problem) != true {
            logger.warning("\(problem)")
        }
    }

    var volumeMessages: [DNVolume] { volumes.withLock { $0 }.map(\.message) }

    /// What is told of the replicas, and the epoch that it belongs to.
    struct Replicas: Sendable {
        var epoch: UInt64
        var reports: [ContainerID: SCMReplicaReport]
    }

    /// What was put together last. One SCM that is told something older than before would take what
    /// came in between for lost, so an older report never takes the place of a newer one.
    ///
    /// Pure; not thread-safe.
    struct LastReport: Sendable {
        private var kept: (begun: MonotonicTime, replicas: Replicas)?

        /// Keeps what was begun to be put together at `begun`.
        mutating func keep(_ replicas: Replicas, begun: MonotonicTime) {
            if let kept, kept.begun > begun { return }
            kept = (begun, replicas)
        }

        /// What may be told at `now` of `epoch`; nil: it is to be put together anew.
        func usable(at now: MonotonicTime, epoch: UInt64) -> Replicas? {
            guard let kept, kept.replicas.epoch == epoch,
                kept.begun.duration(to: now) < Limits.reportAge
            else { return nil }
            return kept.replicas
        }
    }

    /// The replicas, with those that are lost, and the containers of which there is none and none
    /// is made any more. Put together once for SCMs that are told at about the same time, unless
    /// something has changed that one of them waits for.
    ///
    /// Where two are put together at the same time, what is kept is what was begun later, so what one
    /// SCM is told is never older than what it was told before.
    ///
    /// - Parameter isNew: whether they are to be as they are now: a change was taken from `commands`.
    func replicas(isNew: Bool) async -> Replicas {
        let now = reactor.now()
        if !isNew, !commands.isAwaited,
            let last = lastReport.withLock({ $0.usable(at: now, epoch: store.epoch) })
        {
            return last
        }
        // The epoch before the replicas: of one that begins now nothing would be known.
        var replicas = Replicas(epoch: store.epoch, reports: [:])
        for id in store.retiredContainers {
            var message = SCMReplicaReport()
            message.container = id.rawValue
            message.state = .none
            replicas.reports[id] = message
        }
        for report in await store.report() { replicas.reports[report.id] = report.message }
        lastReport.withLock { [replicas] in $0.keep(replicas, begun: now) }
        return replicas
    }

    // MARK: SCMs

    /// The volumes belong to `cluster` from now on, if they belonged to none.
    /// Throws `invalidArgument` if they belong to another.
    func adopt(_ cluster: ClusterID) async throws(StoreError) {
        if store.cluster == cluster { return }
        try await adoption.adopt(cluster)
    }

    /// Whether the SCM at `address` leads, as far as is known here.
    func isLed(by address: String) -> Bool { group.withLock { $0.leader == address } }
}

/// Has volumes adopted by one cluster once, though several SCMs answer at a time.
private actor Adoption {
    private let store: ContainerStore
    private let reactor: Reactor
    private var turn: Task<Result<Void, StoreError>, Never>?

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(store: ContainerStore, reactor: Reactor) {
        self.store = store
        self.reactor = reactor
    }

    func adopt(_ cluster: ClusterID) async throws(StoreError) {
        let store = store
        let own =
            turn
            ?? Task(executorPreference: reactor) { () -> Result<Void, StoreError> in
                do throws(StoreError) {
                    return .success(try await store.adopt(cluster: cluster))
                } catch {
                    return .failure(error)
                }
            }
        turn = own
        let result = await own.value
        if turn == own { turn = nil }
        try result.get()
        // Nothing is to be done, unless who came first was told of another cluster: that is
        // refused.
        if store.cluster != cluster { try await store.adopt(cluster: cluster) }
    }
}
