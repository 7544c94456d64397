import NIOCore

/// Runs tasks on the thread of an event loop: a request is served where its bytes arrive, without
/// a change of thread between the parsing of HTTP and the operation.
final class EventLoopExecutor: TaskExecutor {
    private let loop: any EventLoop

    init(_ loop: any EventLoop) { self.loop = loop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}
