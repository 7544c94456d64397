import Bytes
import CLinux
import DequeModule
import HeapModule
import Glibc
import Synchronization

/// A core's event loop: one pinned thread that lives as long as the process, owning one I/O
/// backend and running Swift tasks as their executor.
///
/// As a `TaskExecutor` it runs tasks made with `Task(executorPreference:)`; actors that name
/// `asUnownedSerialExecutor()` as their `unownedExecutor` are isolated to its thread. These two are
/// different executors to Swift: a task of the first kind runs as nobody's, so that what is not
/// isolated to an actor is called and returns without a job of its own. Files and sockets belong to one
/// reactor; their operations may be awaited from anywhere and are cheapest from tasks that run
/// on it: then an operation costs an entry in the ring, a continuation, and no lock.
///
/// `@unchecked Sendable`: `local` is touched by the reactor's thread alone (each function that
/// does so is either called by the loop or checks `isCurrent` first); `inbox` lies behind a lock.
public final class Reactor: TaskExecutor, @unchecked Sendable {
    public enum Limits {
        /// Jobs run before the ring is looked at again.
        public static let jobsPerTurn = 256
        /// Cancellations that found no timer, kept in case theirs is still on its way.
        public static let rememberedCancellations = 1024
    }

    /// What the reactor's thread alone may touch.
    struct Local {
        var jobs = Deque<ReactorJob>()
        var requests: [IORequest] = []
        var completed: [IOCompletion] = []
        /// By number; see `Reactor.admit`.
        var disks: [Disk?] = []
        var timers = Heap<TimerEntry>()
        var cancelledTimers: Set<UInt64> = []
        var cancelledBefore: Set<UInt64> = []
        var clock = TurnClock()
        /// Of disks' operations: handed to the kernel and not completed, and in `requests`.
        var diskRequests = 0
        var newDiskRequests = 0
    }

    struct Inbox {
        var jobs: [ReactorJob] = []
        var requests: [IORequest] = []
        var timers: [TimerEntry] = []
        var cancelledTimers: [UInt64] = []
        var diskChanges: [DiskChange] = []
        /// The thread is waiting in the kernel, or about to; who adds something wakes it.
        var isWaiting = false
        var isStopping = false

        var isEmpty: Bool {
            jobs.isEmpty && requests.isEmpty && timers.isEmpty && cancelledTimers.isEmpty
                && diskChanges.isEmpty && !isStopping
        }
    }

    var local = Local()
    /// What its actors are isolated to.
    private let isolation = ReactorIsolation()
    /// The thread of somebody else that it lives on; nil: it has one of its own.
    let host: (any ReactorHost)?
    /// Whether there is one: asked for each job.
    let isHosted: Bool
    /// What it has instead of a kernel, if a simulator steps it.
    let simulation: SimulatedRing?
    /// On a host's thread, and touched there alone: the ring; whether a turn is under way; whether
    /// one was asked for; and for when.
    var hostedRing: HostedRing?
    var isTurning = false
    var isTurnWanted = false
    var hostedAlarms: [MonotonicTime] = []
    let inbox = Mutex(Inbox())
    let diskNumbers = Mutex(DiskNumbers())
    let thread = Atomic<UInt>(0)
    let wakeDescriptor = Atomic<Int32>(-1)
    private let nextTimerID = Atomic<UInt64>(1)
    let stopped = Gate()
    private let started = Gate()
    /// The pool that `File` and `Socket` operations take their buffers from.
    public let pool: BufferPool
    let options: Options
    let chosenBackend = Mutex("")

    public struct Options: Sendable {
        public enum Backend: Sendable {
            /// io_uring, or `poll` where the kernel refuses a ring.
            case automatic
            case uring
            case poll
            /// The injector's faults over `automatic`.
            case faulty(FaultInjector)
        }
        public var backend: Backend
        /// Index of the core to pin to, among those the process may use; nil: not pinned.
        public var core: Int?
        public var pool: BufferPool
        /// Register the pool's arena with the ring while it is much used. Pins its pages.
        public var registersArena: Bool
        /// Operations gathered before they are handed to the kernel. Many cost fewer system calls;
        /// few leave a disk no idle moment while other jobs run. At least 1.
        public var requestsPerTurn = Limits.jobsPerTurn

        public init(
            backend: Backend = .automatic, core: Int? = nil, pool: BufferPool = .process,
            registersArena: Bool = false
        ) {
            self.backend = backend
            self.core = core
            self.pool = pool
            self.registersArena = registersArena
        }
    }

    init(
        options: Options, host: (any ReactorHost)? = nil, simulated simulation: SimulatedRing? = nil
    ) {
        self.options = options
        self.simulation = simulation
        self.host = host
        isHosted = host != nil
        pool = options.pool
        isolation.belong(to: self)
    }

    /// Starts a reactor; returns when its thread serves. Throws if the backend was asked for by
    /// name and cannot be had.
    public static func start(_ options: Options = Options()) throws(IOError) -> Reactor {
        let reactor = Reactor(options: options)
        if case .uring = options.backend {
            // Tried here first so that the caller, not the thread, sees the refusal.
            _ = try UringBackend.make(pool: nil)
        }
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        pthread_attr_setstacksize(&attributes, 8 << 20)
        defer { pthread_attr_destroy(&attributes) }
        var id = pthread_t()
        let context = Unmanaged.passRetained(reactor).toOpaque()
        let result = pthread_create(
            &id, &attributes,
            { context in
                Unmanaged<Reactor>.fromOpaque(context!).takeRetainedValue().runThread()
                return nil
            }, context)
        guard result == 0 else {
            Unmanaged<Reactor>.fromOpaque(context).release()
            throw IOError(code: result, operation: "pthread_create", path: "")
        }
        reactor.started.wait()
        return reactor
    }

    /// Ends the loop and waits for its thread, unless called on it. Operations in flight are
    /// abandoned: their tasks never resume. For tests; a process keeps its reactors.
    public func stop() {
        inbox.withLock { $0.isStopping = true }
        wake()
        if !isCurrent { stopped.wait() }
    }

    /// `io_uring`, `poll`, or one of these with `faulty` before it.
    public var backendName: String { chosenBackend.withLock { $0 } }

    /// Whether the calling thread is this reactor's.
    public var isCurrent: Bool {
        thread.load(ordering: .relaxed) == UInt(pthread_self())
    }

    // MARK: Executor

    public func enqueue(_ job: consuming ExecutorJob) {
        add(ReactorJob(job: UnownedJob(job), isIsolated: false))
    }

    func add(_ job: ReactorJob) {
        if isCurrent {
            local.jobs.append(job)
            if isHosted { wantTurn() }
        } else {
            post { $0.jobs.append(job) }
        }
    }

    public func asUnownedSerialExecutor() -> UnownedSerialExecutor {
        UnownedSerialExecutor(ordinary: isolation)
    }

    // MARK: Work from elsewhere

    func post(_ add: (inout sending Inbox) -> Void) {
        let mustWake = inbox.withLock { inbox in
            add(&inbox)
            defer { inbox.isWaiting = false }
            return inbox.isWaiting
        }
        if mustWake { wake() }
    }

    private func wake() {
        if simulation != nil { return }
        var one: UInt64 = 1
        _ = Glibc.write(wakeDescriptor.load(ordering: .acquiring), &one, 8)
    }

    /// Starts `request` and suspends until it has completed: its result, or -errno.
    @inline(__always)
    func perform(_ request: IORequest) async -> Int32 {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Int32, Never>) in
            var request = request
            request.userData = unsafeBitCast(continuation, to: UInt64.self)
            if isCurrent {
                admit(request)
                if isHosted { wantTurn() }
            } else {
                post { $0.requests.append(request) }
            }
        }
    }

    // MARK: Time

    /// `CLOCK_MONOTONIC`, or the clock of the machine that is simulated.
    public func now() -> MonotonicTime {
        if let simulation { return simulation.kernel.now }
        return .now()
    }

    /// A number that nobody can foretell; from the seed where a machine is simulated.
    public func randomNumber() -> UInt64 {
        if let simulation { return simulation.kernel.randomNumber() }
        var generator = SystemRandomNumberGenerator()
        return generator.next()
    }

    /// When the reactor came upon what it does now, on the same clock: what has just been received
    /// or completed was so then. Read once for all of it, and never the same twice. Elsewhere than
    /// in a turn of the reactor it is the present time.
    public func turnTime() -> MonotonicTime {
        guard isCurrent, host == nil || isTurning, simulation == nil else { return now() }
        return MonotonicTime(nanoseconds: local.clock.now(on: self))
    }

    /// Suspends for at least `duration`; throws at once when the task is cancelled.
    public func sleep(for duration: Duration) async throws(CancellationError) {
        try await sleep(until: now().advanced(by: duration))
    }

    public func sleep(until deadline: MonotonicTime) async throws(CancellationError) {
        let id = nextTimerID.wrappingAdd(1, ordering: .relaxed).oldValue
        let wasCancelled = await withTaskCancellationHandler {
            await withUnsafeContinuation { (continuation: UnsafeContinuation<Int32, Never>) in
                let entry = TimerEntry(
                    deadline: deadline, id: id,
                    userData: unsafeBitCast(continuation, to: UInt64.self))
                post { $0.timers.append(entry) }
            }
        } onCancel: {
            post { $0.cancelledTimers.append(id) }
        }
        if wasCancelled != 0 || Task.isCancelled { throw CancellationError() }
    }

    // MARK: The loop

    private func runThread() {
        if let core = options.core {
            // Not fatal: a container may forbid it, and the loop works unpinned.
            _ = apus_pin_thread(apus_core_at(Int32(core)))
        }
        apus_name_thread("reactor-\(options.core ?? 0)")
        thread.store(UInt(pthread_self()), ordering: .relaxed)
        let registered = options.registersArena ? pool : nil
        switch options.backend {
        case .poll: run(PollBackend())
        case .automatic, .uring:
            if let uring = try? UringBackend.make(pool: registered) {
                run(uring)
            } else {
                run(PollBackend())
            }
        case .faulty(let injector):
            let gate: @Sendable (IORequest.Operation) -> Void = { injector.waitWhileHung($0) }
            if injector.prefersUring,
                let uring = try? UringBackend.make(pool: registered, gate: gate)
            {
                run(FaultBackend(over: uring, injector: injector))
            } else {
                run(FaultBackend(over: PollBackend(gate: gate), injector: injector))
            }
        }
        thread.store(0, ordering: .relaxed)
        stopped.open()
    }

    private func run<Backend: IOBackend & ~Copyable>(_ backend: consuming Backend) {
        wakeDescriptor.store(backend.wakeDescriptor, ordering: .releasing)
        let name = backend.name
        chosenBackend.withLock { $0 = name }
        started.open()
        while turn(&backend, waits: true) != .stopped {}
        // They refer to the reactor in turn.
        local.disks = []
        wakeDescriptor.store(-1, ordering: .releasing)
    }

    /// How a turn has ended.
    enum TurnEnd {
        case worked
        /// There was nothing to do, and nothing is there to be done before a wake-up or a timer.
        case idle
        case stopped
    }

    /// One turn: run jobs, take what others sent, hand operations over, wait if there was nothing
    /// to do and it may, resume.
    ///
    /// Jobs make room for the kernel once as many operations of disks are new as it has: a disk
    /// that has run dry gets work at once, not when the processor is through with all it brought,
    /// and a busy one is asked in few calls.
    func turn<Backend: IOBackend & ~Copyable>(
        _ backend: inout Backend, waits: Bool, jobs: Int = Limits.jobsPerTurn
    ) -> TurnEnd {
        var budget = jobs
        while budget > 0, local.requests.count < options.requestsPerTurn,
            local.newDiskRequests < max(1, local.diskRequests),
            let job = local.jobs.popFirst()
        {
            if job.isIsolated {
                job.job.runSynchronously(
                    isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
            } else {
                job.job.runSynchronously(on: asUnownedTaskExecutor())
            }
            budget -= 1
        }
        let mayWait = local.jobs.isEmpty
        let (taken, isStopping) = takeInbox(mayWait: mayWait)
        if isStopping { return .stopped }
        let timeout = fireTimers()
        let submits = !local.requests.isEmpty
        if submits {
            let requests = local.requests
            local.requests.removeAll(keepingCapacity: true)
            local.diskRequests += local.newDiskRequests
            local.newDiskRequests = 0
            requests.withUnsafeBufferPointer { batch in
                backend.submit(batch, completed: &local.completed)
            }
        }
        let isIdle = mayWait && !taken && local.completed.isEmpty && local.jobs.isEmpty
        backend.reap(waiting: isIdle && waits ? timeout : 0, completed: &local.completed)
        local.clock.reset()
        if waits {
            inbox.withLock { $0.isWaiting = false }
        } else if isIdle, !submits, local.completed.isEmpty {
            return .idle
        }
        resumeCompleted()
        return .worked
    }

    private func resumeCompleted() {
        guard !local.completed.isEmpty else { return }
        let completed = local.completed
        local.completed.removeAll(keepingCapacity: true)
        for completion in completed where completion.userData != IOCompletion.ignored {
            let waiting = completion.isOfDisk ? finish(completion) : completion.userData
            unsafeBitCast(waiting, to: UnsafeContinuation<Int32, Never>.self)
                .resume(returning: completion.result)
        }
    }

    /// Moves what others sent into `local`. Where nothing came and the loop may wait, announces
    /// that it does.
    private func takeInbox(mayWait: Bool) -> (taken: Bool, isStopping: Bool) {
        let taken: Inbox? = inbox.withLock { inbox in
            if inbox.isEmpty {
                inbox.isWaiting = mayWait
                return nil
            }
            var copy = Inbox()
            copy.isStopping = inbox.isStopping
            inbox.isStopping = false
            swap(&copy.jobs, &inbox.jobs)
            swap(&copy.requests, &inbox.requests)
            swap(&copy.timers, &inbox.timers)
            swap(&copy.cancelledTimers, &inbox.cancelledTimers)
            swap(&copy.diskChanges, &inbox.diskChanges)
            return copy
        }
        guard let taken else { return (false, false) }
        local.jobs.append(contentsOf: taken.jobs)
        if !taken.diskChanges.isEmpty { apply(taken.diskChanges) }
        for request in taken.requests { admit(request) }
        for timer in taken.timers { insert(timer) }
        if !taken.cancelledTimers.isEmpty { cancel(taken.cancelledTimers) }
        return (true, taken.isStopping)
    }

    private func insert(_ timer: TimerEntry) {
        let isCancelled =
            local.cancelledTimers.remove(timer.id) != nil
            || local.cancelledBefore.remove(timer.id) != nil
        if isCancelled {
            local.completed.append(IOCompletion(userData: timer.userData, result: 1))
        } else {
            local.timers.insert(timer)
        }
    }

    private func cancel(_ ids: [UInt64]) {
        // Rare and few timers: rebuild the heap without them.
        let ids = Set(ids)
        var kept: [TimerEntry] = []
        for entry in local.timers.unordered {
            if ids.contains(entry.id) {
                local.completed.append(IOCompletion(userData: entry.userData, result: 1))
            } else {
                kept.append(entry)
            }
        }
        // A timer cancelled before it was seen: it is remembered until it arrives.
        let seen = Set(local.timers.unordered.map(\.id))
        local.cancelledTimers.formUnion(ids.subtracting(seen))
        // Most of these are left over from sleeps that had ended before: forgotten in two steps,
        // long after the timer of any of them can be on its way.
        if local.cancelledTimers.count > Limits.rememberedCancellations {
            local.cancelledBefore = local.cancelledTimers
            local.cancelledTimers = []
        }
        local.timers = Heap(kept)
    }

    /// Completes due timers. Nanoseconds to the next one, nil if there is none.
    private func fireTimers() -> UInt64? {
        guard !local.timers.isEmpty else { return nil }
        let now = now()
        while let next = local.timers.min {
            if next.deadline > now {
                return next.deadline.nanoseconds - now.nanoseconds
            }
            local.timers.removeMin()
            local.completed.append(IOCompletion(userData: next.userData, result: 0))
        }
        return nil
    }
}

/// A job, and whether it runs isolated to an actor of the reactor.
struct ReactorJob: Sendable {
    var job: UnownedJob
    var isIsolated: Bool
}

/// The executor of a reactor's actors. Owned by the reactor, which its actors keep.
final class ReactorIsolation: SerialExecutor {
    private let address = Atomic<UInt>(0)

    private var reactor: Reactor {
        guard
            let address = UnsafeRawPointer(bitPattern: address.load(ordering: .relaxed))
        else { preconditionFailure("a reactor's isolation belongs to it from its start") }
        return Unmanaged<Reactor>.fromOpaque(address).takeUnretainedValue()
    }

    func belong(to reactor: Reactor) {
        address.store(
            UInt(bitPattern: Unmanaged.passUnretained(reactor).toOpaque()), ordering: .relaxed)
    }

    func enqueue(_ job: consuming ExecutorJob) {
        reactor.add(ReactorJob(job: UnownedJob(job), isIsolated: true))
    }

    func asUnownedSerialExecutor() -> UnownedSerialExecutor {
        UnownedSerialExecutor(ordinary: self)
    }

    func checkIsolated() {
        precondition(reactor.isCurrent, "not on the reactor's thread")
    }

    func isIsolatingCurrentContext() -> Bool? { reactor.isCurrent }
}

struct TimerEntry: Comparable {
    var deadline: MonotonicTime
    var id: UInt64
    var userData: UInt64

    static func < (a: Self, b: Self) -> Bool { (a.deadline, a.id) < (b.deadline, b.id) }
    static func == (a: Self, b: Self) -> Bool { a.id == b.id }
}

/// A point in time of `CLOCK_MONOTONIC`, which neither jumps nor runs back.
public struct MonotonicTime: Hashable, Comparable, Sendable {
    public var nanoseconds: UInt64

    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    public static func now() -> Self { Self(nanoseconds: apus_monotonic_ns()) }
    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }

    /// This time moved by `duration`, not before 0.
    public func advanced(by duration: Duration) -> Self {
        let (seconds, attoseconds) = duration.components
        let delta = seconds * 1_000_000_000 + attoseconds / 1_000_000_000
        return Self(nanoseconds: UInt64(max(0, Int64(nanoseconds) + delta)))
    }

    public func duration(to later: Self) -> Duration {
        .nanoseconds(Int64(later.nanoseconds) - Int64(nanoseconds))
    }
}

/// A gate that threads wait at until it is opened, once.
final class Gate: Sendable {
    private let isOpen = Atomic<Bool>(false)

    func open() { isOpen.store(true, ordering: .releasing) }

    func wait() {
        while !isOpen.load(ordering: .acquiring) { usleep(100) }
    }
}
