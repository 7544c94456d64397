import ArgumentParser
import Client
import Foundation
import Model
import Reactor
import Transport

/// `apus bench consistency`: whether what clients see of keys is what they would see of one copy.
struct BenchConsistency: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "consistency",
        abstract: "Write, read and delete a few keys from many clients, and check what they see.",
        discussion: """
            Clients put (also under a condition), get and delete the same few keys at once. \
            Afterwards a search looks for an order of the operations on each key that explains \
            every answer and that real time allows. An operation whose answer was lost may have \
            happened at any time since, or never.

            Exit 0 only if there is such an order for every key. The history of a key without \
            one is written to a file.
            """)

    @OptionGroup var cluster: ClusterOptions
    @Option(help: "/volume/bucket; made if it is not there.")
    var bucket = "/\(BucketPath.s3Volume)/consistency"
    @Option(help: "How many operations.") var operations: Int?
    @Option(help: "How long at most; 30 if there are no --operations either.") var seconds: Double?
    @Option(help: "Clients at once.") var workers = 16
    @Option(help: "Keys that are worked on at once.") var keys = 6
    @Option(help: "Of the random choices: which key, what to do with it, how many bytes.")
    var seed: UInt64?
    @Option(help: "Which OMs answer reads: the leader, the members in turn, or half of each.")
    var reads = ConsistencyReads.both
    @Option(help: "Where the history of a key goes that cannot be explained.") var out = "."

    func validate() throws {
        guard (1...1024).contains(workers) else {
            throw ValidationError("--workers takes 1 to 1024")
        }
        guard (1...1024).contains(keys) else { throw ValidationError("--keys takes 1 to 1024") }
        if let operations, operations < 1 {
            throw ValidationError("--operations takes 1 and more")
        }
        if let seconds, !(seconds > 0 && seconds < 1e7) {
            throw ValidationError("--seconds takes more than 0 seconds")
        }
        _ = try ObjectPath.bucket(bucket)
    }

    func run() async throws {
        let runtime = try Runtime(name: "apus bench", memory: .datanodes)
        let client = try await cluster.client(runtime, reads: .leader)
        var readers: [ClusterClient] = []
        if reads != .members { readers.append(client) }
        if reads != .leader {
            readers.append(try await cluster.client(runtime, reads: .members))
        }
        let path = try ObjectPath.bucket(bucket)
        do throws(StoreError) {
            _ = try await client.bucket(path, user: cluster.user)
        } catch {
            guard error.code == .noSuchBucket else { throw error }
            try await client.createBucket(path, replication: nil, user: cluster.user)
        }
        let seed = seed ?? UInt64.random(in: 1 ... .max)
        let stop = StopSignal()
        stop.listen()
        let load = ConsistencyLoad(
            client: client, readers: readers, bucket: path, user: cluster.user, workers: workers,
            keys: keys,
            operations: operations ?? .max,
            seconds: seconds ?? (operations == nil ? 30 : .infinity), seed: seed, out: out,
            stop: stop)
        let report = await load.run()
        if cluster.json { try printJSON(report) } else { report.print() }
        fflush(nil)
        if report.verdict != .linearizable { throw ExitCode.failure }
    }
}

/// Who answers the reads of `apus bench consistency`.
enum ConsistencyReads: String, CaseIterable, ExpressibleByArgument { case leader, members, both }

/// What a run of `apus bench consistency` found.
struct ConsistencyReport: Encodable, Sendable {
    enum Verdict: String, Encodable, Sendable { case linearizable, undecided, violated }

    /// A time in which no write succeeded.
    struct Pause: Encodable, Sendable {
        /// When it began, seconds since 1970.
        var began: Double
        var seconds: Double
    }

    var seed: UInt64
    var seconds = 0.0
    /// Operations that are part of a history.
    var operations = 0
    var keys = 0
    /// Answers by operation and kind.
    var outcomes: [String: Int] = [:]
    /// Operations of which it is not known whether they were carried out.
    var unanswered = 0
    /// What failed, by code; some of it is among what is unanswered.
    var errors: [String: Int] = [:]
    /// Of each of them the last message.
    var examples: [String: String] = [:]
    var longestPauseSeconds = 0.0
    /// Those of 0.3 s and more, the first 1000.
    var pauses: [Pause] = []
    var verdict = Verdict.linearizable
    /// Files with histories that are not explained.
    var histories: [String] = []

    func print() {
        Swift.print(
            "\(operations) operations on \(keys) keys in \(rounded(seconds)) s, seed \(seed)")
        for (name, count) in outcomes.sorted(by: { $0.key < $1.key }) {
            Swift.print("  \(name): \(count)")
        }
        Swift.print("  unanswered: \(unanswered)")
        for (code, count) in errors.sorted(by: { $0.key < $1.key }) {
            let example = examples[code].map { ", as \(shown($0))" } ?? ""
            Swift.print("  failed with \(code): \(count)\(example)")
        }
        Swift.print("longest time without a successful write: \(rounded(longestPauseSeconds)) s")
        for file in histories { Swift.print("not explained: \(file)") }
        Swift.print(verdict.rawValue)
    }

    private func rounded(_ value: Double) -> String { String(format: "%.3f", value) }
}
