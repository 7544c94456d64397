import Bytes
import Client
import Foundation
import Linearizability
import Model
import Reactor
import Synchronization

/// The load of `apus bench consistency`: clients that put, get and delete the same keys, and the
/// check of what they saw.
///
/// A key is given up for a new one after some hundred operations, or when many were not answered, so
/// that the search for an order stays short and what is kept stays small.
struct ConsistencyLoad: Sendable {
    enum Limits {
        /// Operations on one key.
        static let operations = 300
        /// Operations on one key that may be unanswered.
        static let unanswered = 16
        /// Bytes of a value, at least and at most.
        static let bytes = 8...4096
        /// After a failure.
        static let pause = Duration.milliseconds(20)
        /// Pauses that are told one by one.
        static let pauses = 1000
        static let toldPause = 0.3
        /// Histories of violations that are written down.
        static let histories = 10
    }

    let client: ClusterClient
    /// The clients that read, in the order of the workers; never none.
    let readers: [ClusterClient]
    let bucket: BucketPath
    let user: String
    let workers: Int
    let keys: Int
    let operations: Int
    let seconds: Double
    let seed: UInt64
    let out: String
    let stop: StopSignal

    func run() async -> ConsistencyReport {
        let board = ConsistencyBoard(
            keys: keys, prefix: String(UInt64.random(in: 0 ... .max), radix: 36), seed: seed)
        let start = MonotonicTime.now()
        let end = start.advanced(by: .nanoseconds(Int64(min(seconds, 1e9) * 1e9)))
        let next = Counter()
        await withDiscardingTaskGroup { group in
            for number in 0..<workers {
                group.addTask {
                    var random = BenchRandom(seed: seed &+ UInt64(number) &* 0x9e37_79b9)
                    while !stop.isSet, next.take() < operations, MonotonicTime.now() < end {
                        await step(number, board, &random)
                    }
                }
            }
        }
        board.pauses.end()
        for history in board.rest() { await conclude(history, board) }
        return board.report(since: start)
    }

    /// One operation of a client.
    private func step(
        _ worker: Int, _ board: ConsistencyBoard, _ random: inout BenchRandom
    ) async {
        let slot = Int.random(in: 0..<keys, using: &random)
        let history = board.begin(slot)
        let action = choose(history, board, &random)
        let length = Int.random(in: Limits.bytes, using: &random)
        let began = MonotonicTime.now().nanoseconds
        let reader = readers[worker % readers.count]
        let outcome = await perform(action, on: history.name, length: length, reader)
        let ended = MonotonicTime.now().nanoseconds
        var operation: KeyOperation?
        switch outcome {
        case .answered(let answer):
            operation = KeyOperation(action, answer, from: began, to: ended, client: worker)
        case .unknown: operation = KeyOperation(unanswered: action, from: began, client: worker)
        case .notMade: break
        }
        board.note(outcome, of: action)
        if let finished = board.end(history, operation) { await conclude(finished, board) }
        if case .answered = outcome { return }
        // Nobody cancels this task.
        try? await Task.sleep(for: Limits.pause)
    }

    private func choose(
        _ history: ConsistencyHistory, _ board: ConsistencyBoard, _ random: inout BenchRandom
    ) -> Register.Action {
        let seen = history.lastSeen
        let condition: Register.Condition =
            seen.map { .ifValue($0) } ?? .ifAbsent
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<30: return .get
        case 30..<52: return .put(board.newValue(), .none)
        case 52..<65: return .put(board.newValue(), .ifAbsent)
        case 65..<90: return .put(board.newValue(), condition)
        case 90..<95: return .delete(.none)
        default: return .delete(seen.map { .ifValue($0) } ?? .none)
        }
    }

    /// How an operation came out.
    enum Outcome {
        case answered(Register.Answer)
        /// It may have been carried out, or may yet be.
        case unknown(StoreError)
        /// It changed nothing and never will.
        case notMade(StoreError)
    }

    private func perform(
        _ action: Register.Action, on name: String, length: Int, _ reader: ClusterClient
    ) async -> Outcome {
        guard let keyName = KeyName(name) else { preconditionFailure("names are made here") }
        let key = KeyPath(bucket: bucket, name: keyName)
        return switch action {
        case .get: await get(key, reader)
        case .put(let value, let condition): await put(key, value, condition, length: length)
        case .delete(let condition): await delete(key, condition)
        }
    }

    // MARK: Operations

    private func put(
        _ key: Client.KeyPath, _ value: UInt64, _ condition: Register.Condition, length: Int
    ) async -> Outcome {
        let writer: KeyWriter
        do throws(StoreError) {
            writer = try await client.openWriter(
                key, length: length, replication: nil, user: user)
            let bytes = Self.content(value, length: length)
            let written: Result<Void, StoreError> = await Self.write(bytes, to: writer)
            try written.get()
        } catch {
            // A key is not there before it is committed.
            return .notMade(error)
        }
        do throws(StoreError) {
            _ = try await writer.commit(
                KeyCommit(etag: Self.etag(value), condition: condition.ofStore))
            return .answered(.done)
        } catch {
            return Self.refusal(error)
        }
    }

    private static func write(
        _ bytes: [UInt8], to writer: KeyWriter
    ) async -> Result<Void, StoreError> {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 64)
        defer { copy.deallocate() }
        copy.copyBytes(from: bytes)
        do throws(StoreError) {
            try await writer.write(UnsafeRawBufferPointer(copy))
            return .success(())
        } catch {
            return .failure(error)
        }
    }

    private func delete(
        _ key: Client.KeyPath, _ condition: Register.Condition
    ) async -> Outcome {
        do throws(StoreError) {
            let existed = try await client.deleteKey(
                key, condition: condition.ofStore, user: user)
            return .answered(.deleted(existed: existed))
        } catch {
            return Self.refusal(error)
        }
    }

    private func get(_ key: Client.KeyPath, _ reader: ClusterClient) async -> Outcome {
        do throws(StoreError) {
            let info = try await reader.key(key, .all, user: user)
            guard let value = UInt64(info.etag, radix: 16) else {
                throw StoreError(.corrupt, "the key has the ETag '\(info.etag)'")
            }
            // Bytes that are not those of the value are a value that nobody has written.
            return .answered(.value(try await hasContent(info, value) ? value : 0))
        } catch {
            switch error.code {
            case .noSuchKey: return .answered(.value(nil))
            // Nor has anybody written what does not match its checksums.
            case .corrupt: return .answered(.value(0))
            default: return .notMade(error)
            }
        }
    }

    private func hasContent(_ info: KeyInfo, _ value: UInt64) async throws(StoreError) -> Bool {
        let found = Mutex<[UInt8]>([])
        do {
            let reader = try await client.openReader(info)
            try await reader.read(0..<info.length) { payload in
                let bytes = payload.withBytes { Array($0) }
                found.withLock { $0 += bytes }
            }
        } catch let error as StoreError {
            throw error
        } catch {
            throw StoreError(.io, "\(error)")
        }
        return found.withLock { $0 } == Self.content(value, length: info.length)
    }

    /// A refusal that is an answer; any other failure leaves open what came of it.
    private static func refusal(_ error: StoreError) -> Outcome {
        switch error.code {
        case .preconditionFailed: .answered(.preconditionFailed)
        case .noSuchKey: .answered(.noSuchKey)
        default: .unknown(error)
        }
    }

    private static func etag(_ value: UInt64) -> String { String(value, radix: 16) }

    private static func content(_ value: UInt64, length: Int) -> [UInt8] {
        var random = BenchRandom(seed: value)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(length + 8)
        while bytes.count < length {
            withUnsafeBytes(of: random.next().littleEndian) { bytes.append(contentsOf: $0) }
        }
        bytes.removeLast(bytes.count - length)
        return bytes
    }

    // MARK: The check

    /// Checks the history of a key that nobody works on any more, and takes the key away.
    private func conclude(_ history: ConsistencyHistory, _ board: ConsistencyBoard) async {
        let operations = history.operations
        let verdict = await board.checks.verdict(on: operations)
        var file: String?
        if verdict != .linearizable, board.mayTell {
            let name = "\(out)/consistency-\(history.name.replacing("/", with: "-")).txt"
            var text = "\(history.name): \(Self.told(verdict))\n"
            for operation in operations.sorted(by: { $0.began < $1.began }) {
                text += "\(operation)\n"
            }
            do {
                try Data(text.utf8).write(to: URL(fileURLWithPath: name))
                file = name
            } catch {
                note("cannot write \(name): \(error)", of: "apus bench")
            }
        }
        board.conclude(operations, verdict, file)
        guard let name = KeyName(history.name), verdict == .linearizable else { return }
        // What is left costs a few KiB; an unanswered write may bring it back anyway.
        _ = try? await client.deleteKey(
            KeyPath(bucket: bucket, name: name), condition: .none, user: user)
    }

    private static func told(_ verdict: LinearizabilityCheck.Verdict) -> String {
        switch verdict {
        case .linearizable: "linearizable"
        case .undecided: "no order was found in time"
        case .violated(let unexplained):
            "no order explains "
                + unexplained.prefix(5).map { "\($0)" }.joined(separator: "; ")
        }
    }
}

extension Register.Condition {
    fileprivate var ofStore: WriteCondition {
        switch self {
        case .none: .none
        case .ifAbsent: .ifAbsent
        case .ifValue(let value): .ifETag(String(value, radix: 16))
        }
    }
}
