import Glibc
import Synchronization

/// One run of a plan by all clients.
final class LoadRun: Sendable {
    private let plan: Plan
    private let options: Options
    private let content = Content()
    private let next = Atomic(0)
    private let results = Mutex(Results())
    private let elapsed = Atomic<UInt64>(0)

    /// What the clients found, in nanoseconds.
    private struct Results {
        var total: [UInt64] = []
        var firstByte: [UInt64] = []
        var mark: [UInt64] = []
        var bytes = 0
        var errors: [RequestFailure: Int] = [:]
        var reconnects = 0

        mutating func add(_ other: Results) {
            total += other.total
            firstByte += other.firstByte
            mark += other.mark
            bytes += other.bytes
            errors.merge(other.errors, uniquingKeysWith: +)
            reconnects += other.reconnects
        }
    }

    init(plan: Plan, options: Options) {
        self.plan = plan
        self.options = options
    }

    var hasErrors: Bool { results.withLock { !$0.errors.isEmpty } }

    /// Starts the clients' threads and waits until the plan is done.
    func carryOut() {
        let begin = nanoseconds()
        var threads: [pthread_t] = []
        for _ in 0..<min(options.clients, plan.requests.count) {
            var thread = pthread_t()
            let context = Unmanaged.passRetained(self).toOpaque()
            let result = pthread_create(
                &thread, nil,
                { context in
                    Unmanaged<LoadRun>.fromOpaque(context!).takeRetainedValue().serveClient()
                    return nil
                }, context)
            precondition(result == 0, "a thread for each client")
            threads.append(thread)
        }
        for thread in threads { pthread_join(thread, nil) }
        elapsed.store(nanoseconds() - begin, ordering: .relaxed)
    }

    /// One client: takes requests until there are no more.
    private func serveClient() {
        var mine = Results()
        var index = next.wrappingAdd(1, ordering: .relaxed).oldValue
        while index < plan.requests.count {
            do throws(RequestFailure) {
                try useConnection(&index, &mine)
            } catch {
                mine.errors[error, default: 0] += 1
                index = next.wrappingAdd(1, ordering: .relaxed).oldValue
            }
        }
        results.withLock { $0.add(mine) }
    }

    /// Carries out requests on one connection while it lasts. `index` is the next to do.
    private func useConnection(_ index: inout Int, _ mine: inout Results) throws(RequestFailure) {
        var connection = try Connection(host: options.host, port: options.port)
        var served = 0
        repeat {
            if options.pauseMilliseconds > 0 { usleep(UInt32(options.pauseMilliseconds) * 1000) }
            let timing: RequestTiming
            do throws(RequestFailure) {
                timing = try connection.perform(
                    plan.requests[index], content, mark: options.mark,
                    stopAfter: options.stopAfter, verifies: options.verifies)
            } catch {
                // A server may end an idle connection at any time: the request goes out again.
                guard error == .closedEarly && served > 0 else { throw error }
                mine.reconnects += 1
                return
            }
            served += 1
            mine.total.append(timing.total)
            mine.firstByte.append(timing.firstByte)
            if timing.mark > 0 { mine.mark.append(timing.mark) }
            mine.bytes += timing.bytes
            index = next.wrappingAdd(1, ordering: .relaxed).oldValue
        } while connection.isUsable && index < plan.requests.count
    }

    /// The result as one JSON object; times in milliseconds.
    var summary: String {
        results.withLock { results in
            let errors = results.errors.map { "\"\($0.key)\": \($0.value)" }.sorted()
            let seconds = Double(elapsed.load(ordering: .relaxed)) / 1e9
            return """
                {"requests": \(results.total.count), "bytes": \(results.bytes), \
                "seconds": \(seconds), "reconnects": \(results.reconnects), \
                "errors": {\(errors.joined(separator: ", "))}, \
                "latency_ms": \(percentiles(results.total)), \
                "first_byte_ms": \(percentiles(results.firstByte)), \
                "mark_ms": \(percentiles(results.mark))}
                """
        }
    }

    private func percentiles(_ times: [UInt64]) -> String {
        guard !times.isEmpty else { return "null" }
        let sorted = times.sorted()
        let wanted = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1)]
        let fields = wanted.map { name, share in
            let rank = min(Int((Double(sorted.count) * share).rounded(.up)), sorted.count)
            return "\"\(name)\": \(Double(sorted[max(rank, 1) - 1]) / 1e6)"
        }
        return "{\(fields.joined(separator: ", "))}"
    }
}
