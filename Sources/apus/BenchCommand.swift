import ArgumentParser
import Client
import Foundation
import Model
import Reactor
import Synchronization
import Telemetry

/// `apus bench`: load on a running cluster through the native client.
struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Put load on a cluster and measure it.",
        discussion: """
            Clients each keep one operation in flight. Without --rate a client begins the next \
            when the last has ended (closed loop). With --rate operations begin at fixed times, \
            and latency counts from when an operation was due, also when all clients were busy \
            (open loop).

            Every byte read is compared with what was written. What a run writes it removes at \
            its end, unless --keep. Exit 1 if any operation failed.
            """,
        subcommands: [
            BenchPut.self, BenchGet.self, BenchRange.self, BenchMixed.self, BenchList.self,
            BenchOM.self, BenchConsistency.self,
        ])
}

/// What all kinds of load have in common.
struct BenchOptions: ParsableArguments {
    @OptionGroup var cluster: ClusterOptions
    @Option(help: "/volume/bucket; made, and removed again, if it is not there.")
    var bucket = "/\(BucketPath.s3Volume)/bench"
    @Option(help: "What key names begin with. Reads use the keys that are there under it, if any.")
    var prefix: String?
    @Option(help: "Operations in flight at most.") var clients = 8
    @Option(help: "Operations a second to begin: an open loop.") var rate: Double?
    @Option(help: "How long: 30s, 5m. 30s if there is no --count either.")
    var duration: BenchTime?
    @Option(help: "How many operations.") var count: Int?
    @Option(help: ReplicationArgument.help, transform: ReplicationArgument.parse)
    var replication: ReplicationConfig?
    @Flag(help: "Leave what was written, and tell its prefix.") var keep = false

    func validate() throws {
        guard (1...BenchLoad.Limits.clients).contains(clients) else {
            throw ValidationError("--clients takes 1 to \(BenchLoad.Limits.clients)")
        }
        if let rate, !(rate > 0 && rate <= 10_000_000) {
            throw ValidationError("--rate takes more than 0 operations a second")
        }
        if let count, count < 1 { throw ValidationError("--count takes 1 and more") }
        if let prefix, prefix.utf8.count > 900 {
            throw ValidationError("--prefix takes at most 900 bytes")
        }
        _ = try ObjectPath.bucket(bucket)
    }

    fileprivate var load: (seconds: Double, count: Int) {
        (duration?.seconds ?? (count == nil ? 30 : .infinity), count ?? .max)
    }
}

/// Sizes of what is written.
struct BenchSizes: ParsableArguments {
    @Option(
        help: """
            Bytes of each key: 4k; 64k-64m (uniform in the logarithm); @FILE with lines \
            SIZE-OR-RANGE WEIGHT.
            """)
    var size = SizeDistribution(argument: "1m")!
}

/// One run of `apus bench`: connects, prepares, measures, reports, cleans up.
struct BenchSession {
    private let name: String
    private let options: BenchOptions
    private let runtime: Runtime
    private let stop = StopSignal()
    let keys: BenchKeys
    private let madeBucket: Bool

    /// Connects and makes the bucket if it is not there.
    init(_ name: String, _ options: BenchOptions, _ sizes: SizeDistribution) async throws {
        self.name = name
        self.options = options
        runtime = try Runtime(name: "apus bench", memory: .datanodes)
        let client = try await options.cluster.client(runtime)
        let bucket = try ObjectPath.bucket(options.bucket)
        let replication = options.replication
        var made = false
        do throws(StoreError) {
            _ = try await client.bucket(bucket, user: options.cluster.user)
        } catch {
            guard error.code == .noSuchBucket else { throw error }
            try await client.createBucket(
                bucket, replication: nil, user: options.cluster.user)
            made = true
        }
        madeBucket = made
        let run = UInt32.random(in: .min ... .max)
        let base = options.prefix ?? "apus-bench/"
        keys = BenchKeys(
            client: client, bucket: bucket, base: base, run: UInt64(run) << 32,
            prefix: base + String(run, radix: 36) + "/",
            user: options.cluster.user, replication: replication, sizes: sizes)
    }

    /// The keys under `--prefix`, if it was given and there are some.
    func given() async throws -> [KeyPath]? {
        guard let prefix = options.prefix else { return nil }
        let found = try await keys.existing(under: prefix)
        return found.isEmpty ? nil : found
    }

    /// The keys under `--prefix`, or `count` new ones.
    func existingOrNew(_ kind: String, count: Int, bytes: Int? = nil) async throws -> [KeyPath] {
        if let found = try await given() { return found }
        note("writing \(count) keys to work on")
        return try await keys.prepare(kind, count: count, bytes: bytes, clients: options.clients)
    }

    /// Prepares the work, runs it, prints the report, and removes what was written.
    /// Throws `ExitCode.failure` if an operation failed.
    func run<Work: BenchWork>(_ prepare: (BenchSession) async throws -> Work) async throws {
        stop.listen()
        var hasErrors = false
        do {
            let work = try await prepare(self)
            hasErrors = try await measure(work)
        } catch {
            // The first error is the one to tell.
            try? await cleanUp()
            throw error
        }
        try await cleanUp()
        if hasErrors { throw ExitCode.failure }
    }

    private func measure(_ work: some BenchWork) async throws -> Bool {
        let recorder = BenchRecorder(kinds: work.kinds)
        let (seconds, count) = options.load
        let load = BenchLoad(
            clients: options.clients, rate: options.rate, seconds: seconds, count: count,
            reactors: runtime.reactors)
        let outcome = await load.run(
            work, recorder, stop: stop,
            isShown: Escaping.errorIsTerminal && !options.cluster.json)
        let report = report(recorder, outcome)
        if options.cluster.json {
            try printJSON(report)
        } else {
            report.print()
        }
        // Before the clean-up tells of itself on standard error.
        fflush(nil)
        return report.hasErrors
    }

    private func report(_ recorder: BenchRecorder, _ outcome: BenchLoad.Outcome) -> BenchReport {
        let seconds = max(outcome.seconds, 1e-9)
        let operations = recorder.kinds.map { kind in
            let count = kind.operations.load(ordering: .relaxed)
            let bytes = kind.bytes.load(ordering: .relaxed)
            return BenchReport.Operation(
                name: kind.name, count: count, errors: kind.failures.load(ordering: .relaxed),
                bytes: bytes, perSecond: Double(count) / seconds,
                mibPerSecond: Double(bytes) / 1_048_576 / seconds,
                latencyMilliseconds: .init(kind.latency.snapshot()))
        }
        return BenchReport(
            work: name, bucket: options.bucket, prefix: keys.prefix, clients: options.clients,
            rate: options.rate, sizes: keys.sizes.description, seconds: seconds,
            operations: operations,
            errors: recorder.errorCounts.map { .init(kind: $0, count: $1, example: $2) },
            series: outcome.series)
    }

    private func cleanUp() async throws {
        if options.keep { return note("kept under --prefix \(keys.prefix)") }
        let removed = try await keys.removeAll(clients: options.clients)
        if removed > 0 { note("removed \(removed) keys") }
        if madeBucket {
            try await keys.client.deleteBucket(keys.bucket, user: options.cluster.user)
        }
    }

    private func note(_ text: String) { apus.note(text, of: "apus bench") }
}
