import Bytes
import Foundation
import Reactor
import Synchronization

/// Has a process give memory back that it has not needed for some time.
///
/// Nothing of it happens in the way of requests: what is in use stays, and so does what was used in
/// the last seconds, because whoever uses it again pays for new pages. A role that goes from load
/// to none is at its smallest after `interval` times `intervalsUntilRelease`, twice.
enum IdleMemory {
    private enum Limits {
        /// How often rings are asked what they had to do.
        static let interval = Duration.seconds(5)
        /// So many intervals between two looks at what has not been used since the last.
        static let intervalsUntilRelease = 3
        /// Of a core, in these intervals: less is little to do.
        static let idleShare = 0.05
        /// CPU seconds since the heap was trimmed last that make it worth while to do it again.
        static let workBeforeTrim = 0.2
    }

    /// Looks after the memory of this process, as long as it lives.
    static func watch(_ runtime: Runtime) {
        Task.detached(priority: .background) {
            var memory = Watched()
            while true {
                for _ in 0..<Limits.intervalsUntilRelease {
                    do { try await Task.sleep(for: Limits.interval) } catch { return }
                    for reactor in runtime.reactors.reactors { await reactor.endInterval() }
                }
                await memory.release(runtime.idle)
            }
        }
    }

    private struct Watched {
        private var trimmedAt = 0.0
        private var cpuBefore = cpuSeconds()

        mutating func release(_ work: IdleWork) async {
            BufferPool.process.releaseIdle()
            let cpu = Self.cpuSeconds()
            let elapsed =
                Double(Limits.interval.components.seconds)
                * Double(Limits.intervalsUntilRelease)
            let isIdle = cpu - cpuBefore < elapsed * Limits.idleShare
            cpuBefore = cpu
            // Once after work: what a process with nothing to do allocates is little.
            guard isIdle, cpu - trimmedAt > Limits.workBeforeTrim else { return }
            await work.run()
            Heap.trim()
            trimmedAt = Self.cpuSeconds()
            cpuBefore = trimmedAt
        }

        private static func cpuSeconds() -> Double {
            Double(clock()) / Double(CLOCKS_PER_SEC)
        }
    }
}

/// What roles of a process have done once, after work, when there is nothing to do.
final class IdleWork: Sendable {
    private let bodies = Mutex<[@Sendable () async -> Void]>([])

    func add(_ body: @escaping @Sendable () async -> Void) { bodies.withLock { $0.append(body) } }

    func run() async {
        for body in bodies.withLock(\.self) { await body() }
    }
}
