import CLinux
import Glibc
import Synchronization
import Telemetry

/// A disk of one reactor: bounds and orders what is in flight on it by I/O class, and measures it.
///
/// Files opened with a disk send their operations through it. While nothing waits and the depth is
/// not reached an operation passes straight on, in the caller's turn, without a lock or an
/// allocation. An operation whose task is cancelled is carried out all the same, as without a disk.
///
/// May be made, read and closed from any thread. `@unchecked Sendable`: `queue` is touched by the
/// reactor's thread alone (by functions that `Reactor.admit`, `finish` and `apply` call); the rest
/// is constant or atomic.
public final class Disk: @unchecked Sendable {
    public enum Limits {
        /// The most operations in flight.
        public static let depth = 4096
        /// The heaviest weight of a class.
        public static let weight = 1000
        /// Operations of one class that may wait; what comes then fails with `isOverload`.
        public static let queuedOperations = 16384
        /// Disks of one reactor at a time.
        public static let disksPerReactor = 4096
    }

    /// What the disk is called in statistics: the path of its volume.
    public let name: String
    public let reactor: Reactor
    let number: Int
    private var queue: DiskQueue
    private let measures: InlineArray<4, ClassMeasures> = InlineArray { _ in ClassMeasures() }
    private let isClosed = Atomic<Bool>(false)
    private let completed = Atomic<UInt64>(0)
    private var isWaking = false
    /// When the queue is looked at next for deadlines that have passed; `UInt64.max` if not at all.
    private var expiryLook = UInt64.max
    /// Who waited beyond the deadline, to be told.
    private(set) var expired: [UInt64] = []

    /// What is measured of one I/O class.
    private struct ClassMeasures: ~Copyable {
        let read = LatencyHistogram()
        let write = LatencyHistogram()
        let synchronize = LatencyHistogram()
        let wait = LatencyHistogram()
        let bytesRead = Atomic<UInt64>(0)
        let bytesWritten = Atomic<UInt64>(0)
        let errors = Atomic<UInt64>(0)
        let refused = Atomic<UInt64>(0)
        let expired = Atomic<UInt64>(0)
        let inFlight = Atomic<Int>(0)
        let queued = Atomic<Int>(0)
    }

    /// A disk of `reactor`. It stays until `close()` or the reactor's end.
    public init(name: String, on reactor: Reactor, settings: DiskSettings = DiskSettings()) {
        self.name = name
        self.reactor = reactor
        number = reactor.diskNumbers.withLock { $0.take() }
        queue = DiskQueue(settings: settings, tag: UInt64(number) << 1 | 1)
        reactor.change(.add(self))
    }

    /// Works by `settings` from now on.
    public func set(_ settings: DiskSettings) { reactor.change(.set(self, settings)) }

    /// While suspended, operations that wait or come fail at once (`IOError.Kind.suspended`). Those
    /// under way go on: when one ends, the disk answers again.
    public func suspend(_ isSuspended: Bool) { reactor.change(.suspend(self, isSuspended)) }

    /// Takes the disk off its reactor, unless operations are in flight. What follows on its files
    /// goes straight on, unmeasured.
    public func close() {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        reactor.change(.remove(self))
    }

    var isOpen: Bool { !isClosed.load(ordering: .relaxed) }

    // MARK: On the reactor's thread

    /// Takes an operation: starts it as returned, keeps it, or refuses it. One that has expired is
    /// among the `expired`.
    @inline(__always)
    func submit(_ request: IORequest) -> DiskQueue.Admission {
        let index = Int(request.ioClass.rawValue)
        let admission = queue.submit(request, now: reactor.now().nanoseconds)
        switch admission {
        case .start:
            measures[index].inFlight.store(queue.lanes[index].inFlight, ordering: .relaxed)
        case .wait:
            measures[index].queued.store(waiting(index), ordering: .relaxed)
            wakeLater()
        case .refuse: measures[index].refused.wrappingAdd(1, ordering: .relaxed)
        case .expire: note(expired: request)
        }
        return admission
    }

    /// Notes a completion, starts what may follow, and returns whose it is.
    func complete(
        _ completion: IOCompletion, now: UInt64, requests: inout [IORequest]
    ) -> UInt64 {
        let done = queue.complete(slot: Int(completion.userData >> 16), now: now)
        completed.wrappingAdd(1, ordering: .relaxed)
        let index = Int(done.ioClass.rawValue)
        record(done, completion.result, nanoseconds: now &- min(now, done.startedAt))
        if queue.queued > 0 { startWaiting(now: now, to: &requests) }
        measures[index].inFlight.store(queue.lanes[index].inFlight, ordering: .relaxed)
        return done.userData
    }

    /// Has the queue looked at again when no completion will do it. Not while the reactor's lists
    /// are being changed: it queues a task.
    @inline(__always)
    func wakeLater() {
        if queue.queued > 0 { wakeForWaiting() }
    }

    private func wakeForWaiting() {
        if let expiry = queue.expiry, expiry < expiryLook { look(at: expiry) }
        guard !isWaking, let time = queue.wakeUp(now: reactor.now().nanoseconds) else { return }
        isWaking = true
        Task(executorPreference: reactor) {
            do throws(CancellationError) {
                try await self.reactor.sleep(until: MonotonicTime(nanoseconds: time))
            } catch { preconditionFailure("nobody cancels this task") }
            self.isWaking = false
            self.reactor.startWaiting(of: self)
        }
    }

    /// Has the queue looked at for deadlines at `time`.
    private func look(at time: UInt64) {
        expiryLook = time
        Task(executorPreference: reactor) {
            do throws(CancellationError) {
                try await self.reactor.sleep(until: MonotonicTime(nanoseconds: time))
            } catch { preconditionFailure("nobody cancels this task") }
            // An earlier look has been asked for since, and has had its own task.
            guard self.expiryLook == time else { return }
            self.expiryLook = .max
            self.reactor.expireWaiting(of: self)
        }
    }

    /// Takes out what has waited beyond its deadline. On the reactor's thread.
    func expireWaiting() {
        let now = reactor.now().nanoseconds
        for waiting in queue.expire(now: now) { end(waiting, now: now) }
    }

    /// Who waited beyond the deadline. The caller tells them.
    func takeExpired() -> [UInt64] {
        defer { expired.removeAll(keepingCapacity: true) }
        return expired
    }

    @inline(never)
    private func note(expired request: IORequest) {
        measures[Int(request.ioClass.rawValue)].expired.wrappingAdd(1, ordering: .relaxed)
        expired.append(request.userData)
    }

    /// Ends an operation that has waited beyond its deadline.
    private func end(_ waiting: DiskQueue.Waiting, now: UInt64) {
        note(expired: waiting.request)
        noteWait(of: waiting, now: now)
    }

    private func noteWait(of waiting: DiskQueue.Waiting, now: UInt64) {
        let index = Int(waiting.request.ioClass.rawValue)
        measures[index].wait.record(nanoseconds: now &- min(now, waiting.since))
        measures[index].queued.store(self.waiting(index), ordering: .relaxed)
    }

    /// Starts what may start now. On the reactor's thread.
    func startWaiting(to requests: inout [IORequest]) {
        startWaiting(now: reactor.now().nanoseconds, to: &requests)
    }

    private func startWaiting(now: UInt64, to requests: inout [IORequest]) {
        while let turn = queue.next(now: now) {
            switch turn {
            case .start(let waiting):
                let index = Int(waiting.request.ioClass.rawValue)
                noteWait(of: waiting, now: now)
                measures[index].inFlight.store(queue.lanes[index].inFlight, ordering: .relaxed)
                requests.append(waiting.request)
            case .expire(let waiting): end(waiting, now: now)
            }
        }
    }

    private func waiting(_ index: Int) -> Int { queue.lanes[index].waiting.count }

    private func record(_ done: DiskQueue.Slot, _ result: Int32, nanoseconds: UInt64) {
        let index = Int(done.ioClass.rawValue)
        guard result >= 0 else {
            if result != -EINTR && result != -EAGAIN {
                measures[index].errors.wrappingAdd(1, ordering: .relaxed)
            }
            return
        }
        switch done.kind {
        case .read:
            measures[index].read.record(nanoseconds: nanoseconds)
            measures[index].bytesRead.wrappingAdd(UInt64(result), ordering: .relaxed)
        case .write:
            measures[index].write.record(nanoseconds: nanoseconds)
            measures[index].bytesWritten.wrappingAdd(UInt64(result), ordering: .relaxed)
        case .synchronize:
            measures[index].synchronize.record(nanoseconds: nanoseconds)
            // A durable write has bytes as well.
            if done.length > 0 {
                measures[index].bytesWritten.wrappingAdd(UInt64(result), ordering: .relaxed)
            }
        case .other: break
        }
    }

    /// Works by `settings`, and starts what they allow in addition.
    func apply(_ settings: DiskSettings, to requests: inout [IORequest]) {
        queue.set(settings)
        startWaiting(to: &requests)
    }

    /// Refuses what comes from now on, or no longer. Returns what waits, to be refused.
    func apply(isSuspended: Bool) -> [IORequest] {
        let dropped = queue.suspend(isSuspended)
        for index in 0..<4 { measures[index].queued.store(waiting(index), ordering: .relaxed) }
        return dropped
    }

    /// The result of a refused operation.
    var refusal: Int32 { queue.isSuspended ? -IOError.OwnCode.suspended : -ENOBUFS }

    /// Nothing is in flight and nothing waits.
    var isIdle: Bool { queue.inFlight == 0 && queue.queued == 0 }

    // MARK: Statistics

    /// Operations that have ended since the disk was made. From any thread.
    public var operationsCompleted: UInt64 { completed.load(ordering: .relaxed) }

    /// Operations in flight, of all classes, at about this moment. From any thread.
    public var operationsInFlight: Int {
        var sum = 0
        for index in 0..<4 { sum += measures[index].inFlight.load(ordering: .relaxed) }
        return sum
    }

    /// Operations in flight and waiting, of all classes, at about this moment. From any thread.
    public var load: Int {
        var sum = 0
        for index in 0..<4 {
            sum += measures[index].inFlight.load(ordering: .relaxed)
            sum += measures[index].queued.load(ordering: .relaxed)
        }
        return sum
    }

    /// How long clients' operations took since the disk was made. From any thread.
    public func clientLatencies() -> DiskLatencies {
        let index = Int(IOClass.client.rawValue)
        return DiskLatencies(
            reads: measures[index].read.snapshot(), writes: measures[index].write.snapshot(),
            synchronizations: measures[index].synchronize.snapshot())
    }

    /// What was measured since the disk was made. From any thread.
    public func statistics() -> DiskStatistics {
        var classes: [DiskStatistics.Class] = []
        for ioClass in IOClass.allCases {
            let index = Int(ioClass.rawValue)
            classes.append(
                DiskStatistics.Class(
                    ioClass: ioClass, reads: measures[index].read.snapshot(),
                    writes: measures[index].write.snapshot(),
                    synchronizations: measures[index].synchronize.snapshot(),
                    waits: measures[index].wait.snapshot(),
                    bytesRead: measures[index].bytesRead.load(ordering: .relaxed),
                    bytesWritten: measures[index].bytesWritten.load(ordering: .relaxed),
                    errors: measures[index].errors.load(ordering: .relaxed),
                    refused: measures[index].refused.load(ordering: .relaxed),
                    expired: measures[index].expired.load(ordering: .relaxed),
                    inFlight: measures[index].inFlight.load(ordering: .relaxed),
                    queued: measures[index].queued.load(ordering: .relaxed)))
        }
        return DiskStatistics(name: name, classes: classes)
    }
}

/// How long operations of a disk took, from their start to their end.
public struct DiskLatencies: Hashable, Sendable {
    public var reads, writes, synchronizations: LatencySnapshot

    public init(
        reads: LatencySnapshot, writes: LatencySnapshot, synchronizations: LatencySnapshot
    ) {
        self.reads = reads
        self.writes = writes
        self.synchronizations = synchronizations
    }
}

/// What was measured of a disk.
public struct DiskStatistics: Hashable, Sendable {
    /// What was measured of one I/O class. Times run from the start of an operation to its end;
    /// what it waited in the queue before is in `waits`.
    public struct Class: Hashable, Sendable {
        public var ioClass: IOClass
        public var reads: LatencySnapshot
        public var writes: LatencySnapshot
        public var synchronizations: LatencySnapshot
        /// Of the operations that had to wait, how long.
        public var waits: LatencySnapshot
        public var bytesRead: UInt64
        public var bytesWritten: UInt64
        /// Operations that failed.
        public var errors: UInt64
        /// Operations that found a full queue.
        public var refused: UInt64
        /// Operations whose deadline had passed before it was their turn.
        public var expired: UInt64
        /// Operations now in flight, and now waiting.
        public var inFlight: Int
        public var queued: Int
    }

    /// The name of the disk.
    public var name: String
    /// One for each class, in the order of `IOClass.allCases`.
    public var classes: [Class]

    public subscript(_ ioClass: IOClass) -> Class { classes[Int(ioClass.rawValue)] }

    /// All reads, of whatever class.
    public var reads: LatencySnapshot { merged(\.reads) }
    public var writes: LatencySnapshot { merged(\.writes) }
    public var synchronizations: LatencySnapshot { merged(\.synchronizations) }
    public var errors: UInt64 { classes.reduce(0) { $0 + $1.errors } }

    private func merged(_ part: KeyPath<Class, LatencySnapshot>) -> LatencySnapshot {
        classes.reduce(into: LatencySnapshot()) { $0.merge($1[keyPath: part]) }
    }
}
