import Foundation
import Model
import Reactor
import Synchronization
import Telemetry

/// What a load generator does: one operation at a time, numbered.
protocol BenchWork: Sendable {
    /// Names of the kinds of operations, in the order of the numbers that `perform` returns.
    var kinds: [String] { get }
    /// The kind of operation `index`.
    func kind(of index: Int) -> Int
    /// Carries out operation `index` and returns the user bytes it moved.
    func perform(_ index: Int) async throws -> Int
}

/// Runs a work for some time or some number of operations, with clients that each have one
/// operation in flight.
///
/// Closed loop: a client begins its next operation when the last has ended. Open loop: operation
/// i is due at i / rate; its latency counts from then, also when all clients were busy, so that a
/// slow store cannot hide by slowing its callers down (coordinated omission; Tene, "How not to
/// measure latency").
struct BenchLoad: Sendable {
    var clients: Int
    /// Operations a second, nil for a closed loop.
    var rate: Double?
    /// Seconds after which no operation begins.
    var seconds: Double
    /// Operations after which none begins.
    var count: Int
    let reactors: ReactorGroup

    enum Limits {
        /// The most clients.
        static let clients = 4096
    }

    /// What a run found.
    struct Outcome: Sendable {
        var seconds: Double
        var series: [BenchReport.Second]
    }

    /// Runs `work`. `stop` ends it early when it becomes true; no operation begins afterwards.
    func run(
        _ work: some BenchWork, _ recorder: BenchRecorder, stop: StopSignal, isShown: Bool
    ) async -> Outcome {
        precondition((1...Limits.clients).contains(clients), "1 to \(Limits.clients) clients")
        let next = Counter()
        let start = MonotonicTime.now()
        let end = start.advanced(by: .nanoseconds(Int64(min(seconds, 1e9) * 1e9)))
        let watching = Task { await watch(recorder, from: start, isShown: isShown) }
        await withDiscardingTaskGroup { group in
            for _ in 0..<clients {
                let reactor = reactors.next()
                group.addTask(executorPreference: reactor) {
                    await serve(work, recorder, next, start, end, stop, reactor)
                }
            }
        }
        let elapsed = start.duration(to: .now()).seconds
        watching.cancel()
        return Outcome(seconds: elapsed, series: await watching.value)
    }

    /// One client.
    private func serve(
        _ work: some BenchWork, _ recorder: BenchRecorder, _ next: Counter,
        _ start: MonotonicTime, _ end: MonotonicTime, _ stop: StopSignal, _ reactor: Reactor
    ) async {
        while !stop.isSet {
            let index = next.take()
            guard index < count else { return }
            var begin = MonotonicTime.now()
            if let rate {
                let due = start.advanced(by: .nanoseconds(Int64(Double(index) / rate * 1e9)))
                guard due < end else { return }
                if begin < due {
                    // Cut short only when the process ends.
                    try? await reactor.sleep(until: due)
                }
                begin = due
            }
            guard begin < end else { return }
            let kind = work.kind(of: index)
            do {
                let bytes = try await work.perform(index)
                let taken = begin.duration(to: .now()).nanoseconds
                recorder.succeeded(kind, nanoseconds: taken, bytes: bytes)
            } catch {
                recorder.failed(kind, error)
            }
        }
    }

    /// Notes every second what has ended in it, until cancelled.
    private func watch(
        _ recorder: BenchRecorder, from start: MonotonicTime, isShown: Bool
    ) async -> [BenchReport.Second] {
        var series: [BenchReport.Second] = []
        var before = BenchTotals()
        while !Task.isCancelled {
            let due = start.advanced(by: .seconds(series.count + 1))
            do {
                try await Task.sleep(for: MonotonicTime.now().duration(to: due))
            } catch { break }
            let totals = recorder.totals()
            let since = totals.since(before)
            before = totals
            let latency = BenchReport.Latency(since.latency)
            series.append(
                BenchReport.Second(
                    second: series.count + 1, operations: since.operations,
                    errors: since.failures, bytes: since.bytes, p50: latency.p50,
                    p99: latency.p99, max: latency.max))
            if isShown { show(series[series.count - 1]) }
        }
        return series
    }

    private func show(_ second: BenchReport.Second) {
        let line = String(
            format: "%5d s %8d/s %9.1f MiB/s   p50 %8.2f ms   p99 %8.2f ms%@\n", second.second,
            second.operations, Double(second.bytes) / 1_048_576, second.p50, second.p99,
            second.errors > 0 ? "   \(second.errors) errors" : "")
        FileHandle.standardError.write(Data(line.utf8))
    }
}

/// Numbers handed out one after the other.
final class Counter: Sendable {
    private let value = Atomic(0)
    func take() -> Int { value.wrappingAdd(1, ordering: .relaxed).oldValue }
    /// How many were taken.
    var taken: Int { value.load(ordering: .relaxed) }
}

/// Whether the user wants the run to end: set by SIGINT and SIGTERM.
final class StopSignal: Sendable {
    private let flag = Atomic(false)

    var isSet: Bool { flag.load(ordering: .relaxed) }

    /// Begins to listen; a second signal ends the process as usual.
    func listen() {
        Task { [self] in
            await StopRequest().wait()
            flag.store(true, ordering: .relaxed)
            for number in [SIGINT, SIGTERM] { signal(number, SIG_DFL) }
        }
    }
}

extension Duration {
    fileprivate var nanoseconds: UInt64 {
        UInt64(max(0, components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000))
    }
    fileprivate var seconds: Double { Double(nanoseconds) / 1e9 }
}
