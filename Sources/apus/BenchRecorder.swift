import Foundation
import Model
import Synchronization
import Telemetry

/// What kinds of operations took, counted from any thread.
final class BenchRecorder: Sendable {
    /// One kind of operation.
    final class Kind: Sendable {
        let name: String
        let latency = LatencyHistogram()
        let operations = Atomic(0)
        let failures = Atomic(0)
        let bytes = Atomic(0)

        init(_ name: String) { self.name = name }
    }

    let kinds: [Kind]
    private let errors = Mutex<[String: (count: Int, example: String)]>([:])

    init(kinds: [String]) { self.kinds = kinds.map(Kind.init) }

    /// Counts an operation that ended well.
    func succeeded(_ kind: Int, nanoseconds: UInt64, bytes: Int) {
        kinds[kind].latency.record(nanoseconds: nanoseconds)
        kinds[kind].operations.wrappingAdd(1, ordering: .relaxed)
        kinds[kind].bytes.wrappingAdd(bytes, ordering: .relaxed)
    }

    /// Counts one that did not. Its time does not count among the latencies.
    func failed(_ kind: Int, _ error: any Error) {
        kinds[kind].failures.wrappingAdd(1, ordering: .relaxed)
        let name =
            switch error {
            case let error as StoreError: "\(error.code)"
            case is BenchMismatch: "mismatch"
            default: "\(type(of: error))"
            }
        errors.withLock { errors in
            errors[name, default: (0, "\(error)")].count += 1
        }
    }

    /// Errors by kind, most frequent first, each with the text of the first.
    var errorCounts: [(kind: String, count: Int, example: String)] {
        errors.withLock { $0.map { ($0.key, $0.value.count, $0.value.example) } }
            .sorted { ($1.count, $0.kind) < ($0.count, $1.kind) }
    }

    /// Everything so far.
    func totals() -> BenchTotals {
        var totals = BenchTotals()
        for kind in kinds {
            totals.operations += kind.operations.load(ordering: .relaxed)
            totals.failures += kind.failures.load(ordering: .relaxed)
            totals.bytes += kind.bytes.load(ordering: .relaxed)
            totals.latency.merge(kind.latency.snapshot())
        }
        return totals
    }
}

/// Counts of all kinds together at one moment.
struct BenchTotals: Sendable {
    var operations = 0
    var failures = 0
    var bytes = 0
    var latency = LatencySnapshot()

    /// What came since `earlier`.
    func since(_ earlier: Self) -> Self {
        Self(
            operations: operations - earlier.operations, failures: failures - earlier.failures,
            bytes: bytes - earlier.bytes, latency: latency.since(earlier.latency))
    }
}

/// Bytes that came back otherwise than they were written.
struct BenchMismatch: Error, CustomStringConvertible {
    var description: String
}
