import Bytes
import Glibc
import HeapModule
import Synchronization

// A reactor without a thread: whoever simulates a machine steps it, in a time that it makes up.
// Any number of them live on one thread, and what their tasks do follows from the steps alone, as
// long as nothing leaves for another thread: no Dispatch, no tasks without an executor preference.

extension Reactor {
    /// A reactor that does nothing but in `step`, over `kernel`'s files and by its clock.
    ///
    /// To be used on the calling thread alone, with everything that runs on it. It has no sockets.
    public static func simulated(
        over kernel: any SimulatedKernel, pool: BufferPool
    ) -> Reactor {
        let reactor = Reactor(options: Options(pool: pool), simulated: SimulatedRing(kernel))
        reactor.thread.store(UInt(pthread_self()), ordering: .relaxed)
        reactor.chosenBackend.withLock { $0 = "simulated" }
        return reactor
    }

    /// Runs at most `jobs` jobs that wait, hands over the operations they asked for, and takes what
    /// has completed and what timers are due. False if there was nothing to do.
    ///
    /// Precondition: it is simulated.
    public func step(jobs: Int = Limits.jobsPerTurn) -> Bool {
        guard let ring = simulation else { preconditionFailure("a real reactor runs by itself") }
        precondition(isCurrent, "a simulated reactor stays on its thread")
        local.clock.reset()
        return turn(&ring.backend, waits: false, jobs: jobs) == .worked
    }

    /// Ends operation `number`, which its kernel was asked for, with the result of its system call or
    /// -errno. Its task goes on in the next steps. Precondition: it is simulated.
    public func complete(_ number: UInt64, _ result: Int32) {
        guard let ring = simulation else { preconditionFailure("a real kernel tells of its own") }
        ring.backend.complete(number, result)
    }

    /// When the next timer is due by the kernel's clock; nil if there is none. To be asked when `step`
    /// found nothing to do.
    public var nextTimer: MonotonicTime? { local.timers.min?.deadline }
}
