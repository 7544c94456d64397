import Foundation
import Telemetry

/// The result of `apus bench`, for people and for programs.
struct BenchReport: Encodable {
    /// Milliseconds.
    struct Latency: Encodable {
        var p50, p90, p99, p999, max, mean: Double

        init(_ snapshot: LatencySnapshot) {
            func milliseconds(_ nanoseconds: UInt64) -> Double {
                (Double(nanoseconds) / 1e3).rounded() / 1e3
            }
            p50 = milliseconds(snapshot.p50)
            p90 = milliseconds(snapshot.value(atPercentile: 90))
            p99 = milliseconds(snapshot.p99)
            p999 = milliseconds(snapshot.p999)
            max = milliseconds(snapshot.maximum)
            mean = milliseconds(UInt64(snapshot.mean))
        }
    }

    struct Operation: Encodable {
        var name: String
        var count, errors, bytes: Int
        var perSecond, mibPerSecond: Double
        var latencyMilliseconds: Latency
    }

    /// What ended in one second of the run.
    struct Second: Encodable {
        var second: Int
        var operations, errors, bytes: Int
        var p50, p99, max: Double
    }

    struct ErrorKind: Encodable {
        var kind: String
        var count: Int
        var example: String
    }

    var work: String
    var bucket: String
    var prefix: String
    var clients: Int
    /// Operations a second that were intended (open loop); absent: closed loop.
    var rate: Double?
    var sizes: String
    var seconds: Double
    var operations: [Operation]
    var errors: [ErrorKind]
    var series: [Second]

    var hasErrors: Bool { !errors.isEmpty }

    /// The table for a terminal.
    func print() {
        let loop = rate.map { "open loop, \($0)/s, at most \(clients) at a time" } ?? "closed loop"
        Swift.print(
            "\(work): \(clients) clients, \(loop), sizes \(sizes), "
                + String(format: "%.1f s", seconds))
        printTable(
            [
                "operation", "count", "errors", "/s", "MiB/s", "p50 ms", "p90", "p99", "p99.9",
                "max",
            ],
            operations.map { row in
                let latency = row.latencyMilliseconds
                let times = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max]
                return [row.name, String(row.count), String(row.errors)]
                    + [row.perSecond, row.mibPerSecond].map { String(format: "%.1f", $0) }
                    + times.map { String(format: "%.2f", $0) }
            })
        for error in errors {
            Swift.print(
                "error \(error.kind): \(error.count) times, first: \(shown(error.example))")
        }
    }
}
