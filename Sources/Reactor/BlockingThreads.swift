import CLinux
import DequeModule
import Glibc
import Synchronization

/// Operations that the kernel has no asynchronous form for, or does in a pool of workers that all
/// disks of a ring share: opening, renaming, removing, truncating, asking for a status. Each disk of
/// a reactor has a thread of its own for them, and so have the files of no disk together: a disk that
/// hangs holds its own thread, never the reactor's and never another disk's.
///
/// Threads start with the first operation of their disk and stay as long as the backend. One after
/// the other is enough: these operations are rare, and those of one directory wait for each other in
/// the kernel anyway.
///
/// Made, given operations and asked for completions by the reactor's thread; completions are added by
/// the threads, which wake the reactor.
final class BlockingThreads: Sendable {
    /// The number of the thread that looks up names of hosts: no disk has it.
    static let lookingUp = UInt16.max

    enum Limits {
        /// Operations of one disk that may wait; what comes then fails with `isOverload`.
        static let queued = Disk.Limits.queuedOperations
        /// Bytes of a thread's stack.
        static let stackBytes = 256 << 10
    }

    private struct State {
        var threads: [UInt16: BlockingThread] = [:]
        var completed: [IOCompletion] = []
        /// The backend is gone, and its descriptor with it.
        var isEnded = false
    }

    private let state = Mutex(State())
    private let hasCompleted = Atomic<Bool>(false)
    private let wakeDescriptor: Int32
    /// Called on the thread before each operation: tests have a disk hang here.
    private let gate: (@Sendable (IORequest.Operation) -> Void)?

    /// - Parameter wakeDescriptor: the reactor's eventfd, until `end()`.
    init(wakeDescriptor: Int32, gate: (@Sendable (IORequest.Operation) -> Void)?) {
        self.wakeDescriptor = wakeDescriptor
        self.gate = gate
    }

    /// Has the thread of the request's disk do it. Returns what it fails with at once, nil if its
    /// completion is among those of a later `takeCompleted`.
    func begin(_ request: IORequest) -> Int32? {
        let thread: BlockingThread? = state.withLock { state in
            if let thread = state.threads[request.thread] { return thread }
            let thread = BlockingThread { self.perform($0) }
            let name = request.thread == Self.lookingUp ? "names" : "disk-\(request.thread)"
            guard thread.start(name: name) else { return nil }
            state.threads[request.thread] = thread
            return thread
        }
        // No thread to be had: better slow with a disk that hangs than not at all.
        guard let thread else { return performBlocking(request.operation) }
        // What is closed is not refused: nobody asks for it again.
        let isClose = if case .close = request.operation { true } else { false }
        return thread.add(request, limit: isClose ? Int.max : Limits.queued) ? nil : -ENOBUFS
    }

    private func perform(_ request: IORequest) {
        gate?(request.operation)
        let result = performBlocking(request.operation)
        guard request.userData != IOCompletion.ignored else { return }
        state.withLock { state in
            guard !state.isEnded else { return }
            state.completed.append(IOCompletion(userData: request.userData, result: result))
            hasCompleted.store(true, ordering: .releasing)
            // Under the lock: the descriptor is not closed before `end()` has had it.
            var one: UInt64 = 1
            _ = Glibc.write(wakeDescriptor, &one, 8)
        }
    }

    /// Appends what has completed. Costs a look where nothing has.
    @inline(__always)
    func takeCompleted(_ completed: inout [IOCompletion]) {
        if hasCompleted.load(ordering: .acquiring) { take(&completed) }
    }

    @inline(never)
    private func take(_ completed: inout [IOCompletion]) {
        state.withLock { state in
            completed.append(contentsOf: state.completed)
            state.completed.removeAll(keepingCapacity: true)
            hasCompleted.store(false, ordering: .relaxed)
        }
    }

    /// Nothing completes any more; the threads end once they have done what they were given.
    func end() {
        let threads = state.withLock { state in
            state.isEnded = true
            defer { state.threads = [:] }
            return Array(state.threads.values)
        }
        for thread in threads { thread.end() }
    }
}

/// A thread, and the operations that wait for it, first come, first served.
///
/// `@unchecked Sendable`: `queue` and `isEnded` are touched under `mutex` alone; the rest is constant.
private final class BlockingThread: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var queue = Deque<IORequest>()
    private var isEnded = false
    private let perform: @Sendable (IORequest) -> Void

    init(_ perform: @escaping @Sendable (IORequest) -> Void) {
        self.perform = perform
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    /// Whether the system had a thread.
    func start(name: String) -> Bool {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        pthread_attr_setstacksize(&attributes, BlockingThreads.Limits.stackBytes)
        defer { pthread_attr_destroy(&attributes) }
        let context = Unmanaged.passRetained(Start(thread: self, name: name)).toOpaque()
        var id = pthread_t()
        let result = pthread_create(
            &id, &attributes,
            { context in
                let start = Unmanaged<Start>.fromOpaque(context!).takeRetainedValue()
                apus_name_thread(start.name)
                start.thread.run()
                return nil
            }, context)
        if result != 0 { Unmanaged<Start>.fromOpaque(context).release() }
        return result == 0
    }

    private final class Start {
        let thread: BlockingThread
        let name: String

        init(thread: BlockingThread, name: String) {
            self.thread = thread
            self.name = name
        }
    }

    /// Queues an operation, unless `limit` wait already.
    func add(_ request: IORequest, limit: Int) -> Bool {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        guard queue.count < limit else { return false }
        queue.append(request)
        pthread_cond_signal(condition)
        return true
    }

    func end() {
        pthread_mutex_lock(mutex)
        isEnded = true
        pthread_cond_signal(condition)
        pthread_mutex_unlock(mutex)
    }

    private func run() {
        while let request = next() { perform(request) }
    }

    private func next() -> IORequest? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while queue.isEmpty {
            if isEnded { return nil }
            pthread_cond_wait(condition, mutex)
        }
        return queue.removeFirst()
    }
}

/// Something to be done on a disk's thread that takes more than plain arguments.
///
/// Whoever waits for it keeps it.
final class BlockingCall: Sendable {
    /// What it is about.
    let path: String
    private let body: @Sendable () -> Void

    init(_ path: String, _ body: @escaping @Sendable () -> Void) {
        self.path = path
        self.body = body
    }

    func run() { body() }
}

extension Reactor {
    /// Runs `body` on the thread of `disk`, or on that of the files of no disk, and returns what it
    /// returns. Throws what it throws, or `isOverload` where too much waits for that thread.
    func onThread<Value: Sendable>(
        of disk: Disk?, _ operation: String, _ path: String,
        _ body: @escaping @Sendable () -> Result<Value, IOError>
    ) async throws(IOError) -> Value {
        try await onThread(threadNumber(of: disk), operation, path, body)
    }

    /// The same on the thread of that number.
    func onThread<Value: Sendable>(
        _ number: UInt16, _ operation: String, _ path: String,
        _ body: @escaping @Sendable () -> Result<Value, IOError>
    ) async throws(IOError) -> Value {
        let result = ThreadResult<Value>()
        let call = BlockingCall(path) { result.value.withLock { $0 = body() } }
        var request = IORequest(.call(Unmanaged.passUnretained(call)))
        request.thread = number
        let code = await perform(request)
        withExtendedLifetime(call) {}
        guard let value = result.value.withLock({ $0 }) else {
            throw IOError(code: -code, operation: operation, path: path)
        }
        return try value.get()
    }

    /// The thread of `disk`, one of this reactor; 0: that of the files of no disk.
    func threadNumber(of disk: Disk?) -> UInt16 {
        guard let disk else { return 0 }
        precondition(disk.reactor === self, "a disk serves its own reactor")
        return UInt16(disk.number)
    }
}

private final class ThreadResult<Value: Sendable>: Sendable {
    let value = Mutex<Result<Value, IOError>?>(nil)
}
