import Bytes
import CLiburing
import CLinux
import Glibc

/// The io_uring backend: one ring owned by one thread (`SINGLE_ISSUER`, `DEFER_TASKRUN`).
///
/// Every operation is one entry; a batch costs one `io_uring_enter`, which also waits.
/// Operations on names, and those that the ring does not know on older kernels (`ftruncate`), are
/// done by the threads of their disks (`BlockingThreads`).
struct UringBackend: IOBackend, ~Copyable {
    enum Limits {
        static let submissionEntries: UInt32 = 512
        static let completionEntries: UInt32 = 8192
        static let files: UInt32 = 4096
        /// Threads that the kernel has for a ring's operations that block in it, such as syncs. All
        /// disks share them: so many that a disk that hangs does not hold them all.
        static let workers: UInt32 = 256
        /// Operations of clients and repair on the arena in an interval (between two `.endInterval`,
        /// of some seconds) that make it worth while to register it: the kernel saves less than a
        /// microsecond with each, and registering costs some milliseconds.
        static let operationsToRegister = 512
        /// Intervals with fewer after which the registration ends.
        static let quietIntervals = 3
    }

    /// RWF_DSYNC, a macro.
    private static let durableWrite: UInt32 = 2

    private let ring: UnsafeMutablePointer<io_uring>
    let wakeDescriptor: Int32
    private let wakeValue: UnsafeMutablePointer<UInt64>
    private let cqes: UnsafeMutablePointer<UnsafeMutablePointer<io_uring_cqe>?>
    /// Whose arena is to be registered while it is much used; nil: nobody's.
    private let pool: BufferPool?
    /// The arena is registered.
    private var hasFixedBuffer = false
    /// The ring has a table of buffers, of one entry, and nothing was refused.
    private var mayRegister = false
    /// Operations on the arena in this interval, and how many before it had few.
    private var arenaOperations = 0
    private var quietIntervals = 0
    private let isHosted: Bool
    private let threads: BlockingThreads
    private var freeSlots: [Int32]
    private var unsubmitted = 0
    private var isWakeArmed = false

    var name: String { "io_uring" }

    /// A ring, or nil with the reason if the kernel refuses one.
    ///
    /// `isHosted`: its thread waits elsewhere, for `wakeDescriptor`, which then tells of
    /// completions too; `reap` never waits. `pool`: whose arena it registers when it has much to do
    /// with it. `gate`: called on a disk's thread before each operation.
    static func make(
        pool: BufferPool?, isHosted: Bool = false,
        gate: (@Sendable (IORequest.Operation) -> Void)? = nil
    ) throws(IOError) -> UringBackend {
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        ring.initialize(to: io_uring())
        var parameters = io_uring_params()
        parameters.flags = UInt32(APUS_SETUP_OWNED) | UInt32(APUS_SETUP_CQSIZE)
        if isHosted { parameters.flags |= UInt32(APUS_SETUP_TASKRUN_FLAG) }
        parameters.cq_entries = Limits.completionEntries
        let result = io_uring_queue_init_params(Limits.submissionEntries, ring, &parameters)
        guard result == 0 else {
            ring.deallocate()
            throw IOError(code: -result, operation: "io_uring_setup", path: "")
        }
        let descriptor = eventfd(0, Int32(isHosted ? EFD_CLOEXEC | EFD_NONBLOCK : EFD_CLOEXEC))
        guard descriptor >= 0 else {
            let code = errno
            io_uring_queue_exit(ring)
            ring.deallocate()
            throw IOError(code: code, operation: "eventfd", path: "")
        }
        let told = isHosted ? io_uring_register_eventfd(ring, descriptor) : 0
        guard told == 0 else {
            io_uring_queue_exit(ring)
            ring.deallocate()
            Glibc.close(descriptor)
            throw IOError(code: -told, operation: "io_uring_register", path: "eventfd")
        }
        return UringBackend(
            ring: ring, wakeDescriptor: descriptor, pool: pool, isHosted: isHosted, gate: gate)
    }

    private init(
        ring: UnsafeMutablePointer<io_uring>, wakeDescriptor: Int32, pool: BufferPool?,
        isHosted: Bool, gate: (@Sendable (IORequest.Operation) -> Void)?
    ) {
        self.ring = ring
        threads = BlockingThreads(wakeDescriptor: wakeDescriptor, gate: gate)
        self.pool = pool
        self.isHosted = isHosted
        self.wakeDescriptor = wakeDescriptor
        wakeValue = .allocate(capacity: 1)
        wakeValue.initialize(to: 0)
        cqes = .allocate(capacity: Int(Limits.completionEntries))
        _ = io_uring_register_ring_fd(ring)
        // Bounded work, which is that of files, and the other kind, which stays as it is. Kernels
        // before 5.15 have no such setting, and as many as the ring has entries.
        var workers: (UInt32, UInt32) = (Limits.workers, 0)
        withUnsafeMutablePointer(to: &workers) { pointer in
            pointer.withMemoryRebound(to: UInt32.self, capacity: 2) {
                _ = io_uring_register_iowq_max_workers(ring, $0)
            }
        }
        if io_uring_register_files_sparse(ring, Limits.files) == 0 {
            freeSlots = (0..<Int32(Limits.files)).reversed()
        } else {
            freeSlots = []
        }
        if let pool, pool.arenaBytes > 0 {
            mayRegister = io_uring_register_buffers_sparse(ring, 1) == 0
        }
    }

    deinit {
        threads.end()
        io_uring_queue_exit(ring)
        if hasFixedBuffer { pool?.endRegistration() }
        ring.deallocate()
        cqes.deallocate()
        wakeValue.deallocate()
        Glibc.close(wakeDescriptor)
    }

    mutating func submit(
        _ requests: UnsafeBufferPointer<IORequest>, completed: inout [IOCompletion]
    ) {
        for request in requests { submit(request, completed: &completed) }
    }

    private mutating func submit(_ request: IORequest, completed: inout [IOCompletion]) {
        switch request.operation {
        case .read(let transfer):
            push(
                transfer, request,
                transfer.isFixedBuffer && usesFixedBuffer(request.ioClass)
                    ? IORING_OP_READ_FIXED : IORING_OP_READ)
        case .write(let transfer, let isDurable):
            push(
                transfer, request,
                transfer.isFixedBuffer && usesFixedBuffer(request.ioClass)
                    ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE,
                flags: isDurable ? Self.durableWrite : 0)
        // IORING_FSYNC_DATASYNC, a macro.
        case .synchronize(let file): push(file, request, IORING_OP_FSYNC, flags: 1)
        case .allocate(let file, let mode, let offset, let length):
            // The ring wants the length in `addr` and the mode in `len`.
            push(
                file, request, IORING_OP_FALLOCATE, address: UInt(length), length: mode,
                offset: offset)
        case .open, .close, .remove, .makeDirectory, .rename, .truncate, .synchronizeDirectory,
            .call:
            if let result = threads.begin(request) { complete(request, result, &completed) }
        case .accept, .connect, .receive, .send, .receiveMessage: pushOnSocket(request)
        case .closeSocket: complete(request, performBlocking(request.operation), &completed)
        case .register(let descriptor): complete(request, register(descriptor), &completed)
        case .unregister(let slot):
            var none: Int32 = -1
            _ = io_uring_register_files_update(ring, UInt32(slot), &none, 1)
            freeSlots.append(slot)
            complete(request, 0, &completed)
        case .endInterval:
            endInterval()
            complete(request, hasFixedBuffer ? 1 : 0, &completed)
        }
    }

    @inline(__always)
    private mutating func pushOnSocket(_ request: IORequest) {
        switch request.operation {
        case .accept(let listener):
            push(listener, request, IORING_OP_ACCEPT, flags: UInt32(APUS_SOCK_CLOEXEC))
        case .connect(let socket, let address, let length):
            push(
                socket, request, IORING_OP_CONNECT, address: UInt(bitPattern: address),
                offset: UInt64(length))
        case .receive(let socket, let memory, let length, let all):
            push(
                socket, request, IORING_OP_RECV, address: UInt(bitPattern: memory),
                length: UInt32(length), flags: all ? UInt32(MSG_WAITALL) : 0)
        case .send(let socket, let message):
            push(
                socket, request, IORING_OP_SENDMSG, address: UInt(bitPattern: message),
                length: 1, flags: UInt32(MSG_NOSIGNAL) | UInt32(MSG_WAITALL))
        case .receiveMessage(let socket, let message):
            push(
                socket, request, IORING_OP_RECVMSG, address: UInt(bitPattern: message),
                length: 1, flags: UInt32(MSG_WAITALL) | UInt32(APUS_MSG_CMSG_CLOEXEC))
        default: preconditionFailure("\(request.operation) is not one of a socket")
        }
    }

    /// An operation that the kernel has nothing to do with, or had at once.
    private func complete(
        _ request: IORequest, _ result: Int32, _ completed: inout [IOCompletion]
    ) {
        completed.append(IOCompletion(userData: request.userData, result: result))
    }

    // MARK: The registered arena

    /// Counts an operation on the arena. Whether it can name it as the registered buffer.
    @inline(__always)
    private mutating func usesFixedBuffer(_ ioClass: IOClass) -> Bool {
        // What works in the background has a bounded rate: it alone keeps no memory.
        if ioClass.rawValue < IOClass.scrub.rawValue { arenaOperations += 1 }
        if !hasFixedBuffer, arenaOperations >= Limits.operationsToRegister, mayRegister {
            registerArena()
        }
        return hasFixedBuffer
    }

    /// Has the kernel hold the arena's pages; those that have none get them.
    @inline(never)
    private mutating func registerArena() {
        // Not while memory is given back: with the next operation then.
        guard let pool, pool.beginRegistration() else { return }
        let arena = pool.registeredArena
        // Refused where the limit on locked memory is low; it will not be higher later.
        hasFixedBuffer = setBuffer(iovec(iov_base: arena.baseAddress, iov_len: arena.count))
        mayRegister = hasFixedBuffer
        if !hasFixedBuffer { pool.endRegistration() }
    }

    /// An interval has passed. After some with little to do the arena's memory is let go, so that
    /// the pool can give it back.
    private mutating func endInterval() {
        quietIntervals =
            arenaOperations < Limits.operationsToRegister ? quietIntervals + 1 : 0
        arenaOperations = 0
        guard hasFixedBuffer, quietIntervals >= Limits.quietIntervals else { return }
        // Entries that name the buffer and are not with the kernel yet would not find it any more.
        // Those in flight keep it until they have completed.
        while io_uring_sq_ready(ring) > 0 {
            let submitted = io_uring_submit(ring)
            guard submitted > 0 else { return }
        }
        // By taking it out of the table: ending the registration of the table would wait, with some
        // kernels, for every operation in flight, those too that wait for a peer.
        guard setBuffer(iovec()) else { return }
        hasFixedBuffer = false
        pool?.endRegistration()
    }

    private func setBuffer(_ memory: iovec) -> Bool {
        var memory = memory
        var tag: UInt64 = 0
        return io_uring_register_buffers_update_tag(ring, 0, &memory, &tag, 1) == 1
    }

    // MARK: Entries

    @inline(__always)
    private mutating func push(
        _ transfer: IORequest.Transfer, _ request: IORequest, _ opcode: io_uring_op,
        flags: UInt32 = 0
    ) {
        push(
            transfer.file, request, opcode, address: UInt(bitPattern: transfer.memory),
            length: UInt32(transfer.length), offset: transfer.offset, flags: flags)
    }

    @inline(__always)
    private mutating func push(
        _ handle: IOHandle, _ request: IORequest, _ opcode: io_uring_op, address: UInt = 0,
        length: UInt32 = 0, offset: UInt64 = 0, flags: UInt32 = 0
    ) {
        let sqe = nextEntry()
        let isFixed = handle.slot >= 0
        apus_uring_fill(
            sqe, UInt8(opcode.rawValue), isFixed ? UInt8(APUS_IOSQE_FIXED_FILE) : 0,
            isFixed ? handle.slot : handle.descriptor, UInt64(address), length, offset, flags, 0,
            request.userData)
    }

    private mutating func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        while true {
            if let sqe = apus_uring_get_sqe(ring) {
                unsubmitted += 1
                return sqe
            }
            let submitted = io_uring_submit(ring)
            precondition(
                submitted >= 0 || submitted == -EBUSY || submitted == -EAGAIN
                    || submitted == -EINTR, "io_uring_submit failed: \(submitted)")
            unsubmitted = 0
        }
    }

    /// The descriptor's slot, or -errno.
    private mutating func register(_ descriptor: Int32) -> Int32 {
        guard let slot = freeSlots.popLast() else { return -ENFILE }
        var descriptor = descriptor
        let result = io_uring_register_files_update(ring, UInt32(slot), &descriptor, 1)
        guard result >= 1 else {
            freeSlots.append(slot)
            return result
        }
        return slot
    }

    mutating func reap(waiting nanoseconds: UInt64?, completed: inout [IOCompletion]) {
        let before = completed.count
        threads.takeCompleted(&completed)
        // There is something to go on with.
        let nanoseconds = completed.count > before ? 0 : nanoseconds
        if isHosted {
            guard unsubmitted > 0 || hasWork else { return }
        } else if !isWakeArmed {
            let sqe = nextEntry()
            apus_uring_fill(
                sqe, UInt8(IORING_OP_READ.rawValue), 0, wakeDescriptor,
                UInt64(UInt(bitPattern: wakeValue)), 8, 0, 0, 0, IOCompletion.wakeUp)
            isWakeArmed = true
        }
        var first: UnsafeMutablePointer<io_uring_cqe>?
        switch nanoseconds {
        case .some(0):
            // Also runs deferred task work, without which nothing would complete.
            _ = io_uring_submit_and_get_events(ring)
        case .some(let limit):
            var time = __kernel_timespec(
                tv_sec: Int64(limit / 1_000_000_000), tv_nsec: Int64(limit % 1_000_000_000))
            _ = io_uring_submit_and_wait_timeout(ring, &first, 1, &time, nil)
        case nil:
            _ = io_uring_submit_and_wait(ring, 1)
        }
        unsubmitted = 0
        let count = io_uring_peek_batch_cqe(ring, cqes, Limits.completionEntries)
        for index in 0..<Int(count) {
            let cqe = cqes[index]!.pointee
            if cqe.user_data == IOCompletion.wakeUp {
                isWakeArmed = false
            } else if cqe.user_data != IOCompletion.ignored && cqe.user_data != UInt64.max {
                // UInt64.max: the timeout that older kernels get as an entry of its own.
                completed.append(IOCompletion(userData: cqe.user_data, result: cqe.res))
            }
        }
        apus_uring_advance(ring, count)
        threads.takeCompleted(&completed)
    }

    /// Whether completions lie in the ring, or the kernel has some that it will hand over when
    /// asked. Costs no system call.
    private var hasWork: Bool { apus_uring_has_work(ring) != 0 }

    /// Hosted: completions tell the descriptor, or no longer do. Returns whether some came before
    /// they were told.
    func tellCompletions(_ isWanted: Bool) -> Bool {
        apus_uring_tell(ring, isWanted ? 1 : 0)
        return isWanted && hasWork
    }
}
