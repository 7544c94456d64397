import MetadataStore
import Model
import RaftLog
import Reactor
import Synchronization
import Telemetry

/// The members that keep one role's metadata: its log, its tables, and the state machine between
/// them. For now a group of one member.
///
/// A proposed command is written to the log together with all others that wait, synced once,
/// applied to the tables in one transaction with all others that are durable, and then answered.
/// So an answered command survives a crash, and a read that begins afterwards sees it.
///
/// Everything of the group runs on its reactor, except the tables, which GRDB keeps on queues of
/// its own. Calls may come from any executor.
public final class MetadataGroup<Machine: StateMachine>: Sendable {
    public typealias Limits = MetadataGroupLimits
    public typealias Options = MetadataGroupOptions

    private struct Proposal {
        var command: Machine.Command
        var bytes: [UInt8]
        var answer: CheckedContinuation<Result<Machine.Answer, StoreError>, Never>
    }

    private struct Durable {
        var index: UInt64
        var proposal: Proposal
    }

    private struct State {
        var waiting: [Proposal] = []
        var waitingBytes = 0
        var durable: [Durable] = []
        /// The loops, while they have nothing to do.
        var idleWriter: CheckedContinuation<Void, Never>?
        var idleApplier: CheckedContinuation<Void, Never>?
        /// Why nothing can be proposed any more.
        var refusal: StoreError?
        var isWriterDone = false
        var bytesSinceCheckpoint = 0
        var checkpoint: Task<Void, Never>?
        var lastCheckpointError: StoreError?
        var loops: [Task<Void, Never>] = []
    }

    private let machine: Machine
    private let store: MetadataStore
    private let log: RaftLog
    private let options: Options
    private let state = Mutex(State())
    let measures = GroupMeasures()
    public let reactor: Reactor
    public let directory: String

    private init(
        directory: String, reactor: Reactor, machine: Machine, store: MetadataStore,
        log: RaftLog, options: Options
    ) {
        self.directory = directory
        self.reactor = reactor
        self.machine = machine
        self.store = store
        self.log = log
        self.options = options
    }

    /// Opens the group's files in `directory` (`metadata.db` and `log/`), making them if they are
    /// absent, and applies what the log holds beyond the tables.
    ///
    /// - Parameter role: written into the tables, which refuse to be opened as another's.
    /// - Throws: `corrupt` if log and tables do not fit together, `versionMismatch`, `io`.
    public static func open(
        directory: String, role: String, reactor: Reactor, stateMachine: Machine,
        options: Options = Options()
    ) async throws(StoreError) -> MetadataGroup {
        do throws(IOError) {
            try await reactor.makeDirectory(directory)
        } catch {
            throw StoreError(error)
        }
        let store = try await MetadataStore.open(
            path: "\(directory)/metadata.db", role: role, tables: stateMachine.tables,
            cache: options.cache)
        do throws(StoreError) {
            let log = try await RaftLog.open(
                directory: "\(directory)/log", appliedIndex: store.appliedIndex, on: reactor,
                options: options.log
            ) { firstIndex, commands throws(StoreError) in
                var decoded: [Machine.Command] = []
                for bytes in commands { decoded.append(try stateMachine.decode(bytes)) }
                let commands = decoded
                try await store.apply(through: firstIndex + UInt64(commands.count) - 1) { tables in
                    for (offset, command) in commands.enumerated() {
                        _ = stateMachine.apply(
                            command, at: firstIndex + UInt64(offset), in: tables)
                    }
                }
            }
            do throws(IOError) {
                try await reactor.synchronizeDirectory(directory)
            } catch {
                throw StoreError(error)
            }
            let group = MetadataGroup(
                directory: directory, reactor: reactor, machine: stateMachine, store: store,
                log: log, options: options)
            let size = await log.size
            group.state.withLock { $0.bytesSinceCheckpoint = size }
            group.start()
            return group
        } catch {
            try? await store.close()
            throw error
        }
    }

    private func start() {
        let loops = [
            Task(executorPreference: reactor) { await self.write() },
            Task(executorPreference: reactor) { await self.apply() },
        ]
        state.withLock { $0.loops = loops }
    }

    /// Index of the last command whose changes can be read.
    public var appliedIndex: UInt64 { store.appliedIndex }

    /// The largest command that is taken, in bytes.
    public var maximumCommandSize: Int { options.log.batchSize / 2 }

    /// Commands that wait to be written to the log.
    var waitingCommands: Int { state.withLock { $0.waiting.count } }

    /// Why the last checkpoint failed; nil if it did not.
    public var checkpointError: StoreError? { state.withLock { $0.lastCheckpointError } }

    // MARK: Proposals

    /// Has `command` logged and applied, and returns what the state machine answered.
    ///
    /// When it throws `io` or `cancelled` the command may still have been, or may yet be, applied.
    /// Not cancellable once it waits: a command that was handed over takes its course.
    /// - Throws: `overloaded` if too many wait already, `invalidArgument` if the command is too
    ///   large, `notReady` once the group is closed, `io` or `noSpace` if the log or the tables
    ///   fail; after `io` every further proposal fails until the group is opened again.
    public func propose(_ command: Machine.Command) async throws(StoreError) -> Machine.Answer {
        let bytes = machine.encode(command)
        guard bytes.count <= maximumCommandSize else {
            throw StoreError(
                .invalidArgument,
                "a request of \(bytes.count) bytes is too large: at most \(maximumCommandSize)")
        }
        let result = await withCheckedContinuation { answer in
            let proposal = Proposal(command: command, bytes: bytes, answer: answer)
            let (refusal, writer) = state.withLock { state in enqueue(proposal, &state) }
            if let refusal { answer.resume(returning: .failure(refusal)) }
            writer?.resume()
        }
        return try result.get()
    }

    private func enqueue(
        _ proposal: Proposal, _ state: inout State
    ) -> (StoreError?, CheckedContinuation<Void, Never>?) {
        if let refusal = state.refusal { return (refusal, nil) }
        guard state.waiting.count < Limits.waitingCommands,
            state.waitingBytes + proposal.bytes.count <= Limits.waitingBytes
        else {
            return (
                StoreError(
                    .overloaded, "\(state.waiting.count) changes wait already: try again later"),
                nil
            )
        }
        state.waiting.append(proposal)
        state.waitingBytes += proposal.bytes.count
        defer { state.idleWriter = nil }
        return (nil, state.idleWriter)
    }

    /// The loop that writes what waits, all of it with one sync.
    private func write() async {
        while let batch = await nextBatch() {
            let first: UInt64
            let start = MonotonicTime.now()
            do throws(StoreError) {
                first = try await log.append(batch.map(\.bytes))
            } catch {
                let isLasting = error.code != .noSpace
                if isLasting { refuse(error) }
                for proposal in batch { proposal.answer.resume(returning: .failure(error)) }
                continue
            }
            let bytes = batch.reduce(0) { $0 + $1.bytes.count }
            measures.noteAppend(of: batch.count, bytes: bytes, since: start)
            let applier = state.withLock { state in
                for (offset, proposal) in batch.enumerated() {
                    state.durable.append(
                        Durable(index: first + UInt64(offset), proposal: proposal))
                }
                // A batch of few bytes takes a block all the same.
                state.bytesSinceCheckpoint += max(bytes, 4096)
                defer { state.idleApplier = nil }
                return state.idleApplier
            }
            applier?.resume()
        }
        let applier = state.withLock { state in
            state.isWriterDone = true
            defer { state.idleApplier = nil }
            return state.idleApplier
        }
        applier?.resume()
    }

    /// The commands to write next; suspends until there are any, nil when the group closes.
    private func nextBatch() async -> [Proposal]? {
        while true {
            let (batch, isDone) = state.withLock { state -> ([Proposal], Bool) in
                guard !state.waiting.isEmpty else { return ([], state.refusal != nil) }
                var count = 0
                var bytes = 0
                for proposal in state.waiting.prefix(Limits.batchCommands) {
                    // 8 bytes: what the log adds to a command, rounded up.
                    let next = bytes + proposal.bytes.count + 8
                    if count > 0, next > options.log.batchSize { break }
                    bytes = next
                    count += 1
                }
                let batch = Array(state.waiting.prefix(count))
                state.waiting.removeFirst(count)
                state.waitingBytes -= batch.reduce(0) { $0 + $1.bytes.count }
                return (batch, false)
            }
            if !batch.isEmpty { return batch }
            if isDone { return nil }
            await withCheckedContinuation { continuation in
                let isNeeded = state.withLock { state in
                    guard state.waiting.isEmpty, state.refusal == nil else { return true }
                    state.idleWriter = continuation
                    return false
                }
                if isNeeded { continuation.resume() }
            }
        }
    }

    /// The loop that applies what is durable, all of it in one transaction.
    private func apply() async {
        while let batch = await nextDurable() {
            let last = batch[batch.count - 1].index
            let machine = machine
            let commands = batch.map { ($0.index, $0.proposal.command) }
            let start = MonotonicTime.now()
            do throws(StoreError) {
                let answers = try await store.apply(through: last) { tables in
                    Self.run(machine, commands, in: tables)
                }
                measures.transactions.record(start.duration(to: .now()))
                for (entry, answer) in zip(batch, answers) {
                    machine.applied(entry.proposal.command, answer: answer, at: entry.index)
                    entry.proposal.answer.resume(returning: .success(answer))
                }
            } catch {
                // Nothing after these commands may be applied before them.
                refuse(error)
                for entry in batch { entry.proposal.answer.resume(returning: .failure(error)) }
                await failDurable(error)
                return
            }
            checkpointIfDue()
        }
    }

    private static func run(
        _ machine: Machine, _ commands: [(UInt64, Machine.Command)], in tables: StoredTables
    ) -> [Machine.Answer] {
        commands.map { machine.apply($0.1, at: $0.0, in: tables) }
    }

    private func nextDurable() async -> [Durable]? {
        while true {
            let (batch, isDone) = state.withLock { state -> ([Durable], Bool) in
                let batch = Array(state.durable.prefix(Limits.transactionCommands))
                state.durable.removeFirst(batch.count)
                return (batch, state.isWriterDone)
            }
            if !batch.isEmpty { return batch }
            if isDone { return nil }
            await withCheckedContinuation { continuation in
                let isNeeded = state.withLock { state in
                    guard state.durable.isEmpty, !state.isWriterDone else { return true }
                    state.idleApplier = continuation
                    return false
                }
                if isNeeded { continuation.resume() }
            }
        }
    }

    /// After the tables failed: answers what is durable but will not be applied before the group
    /// is opened again, until the writer has ended.
    private func failDurable(_ error: StoreError) async {
        while let batch = await nextDurable() {
            for entry in batch { entry.proposal.answer.resume(returning: .failure(error)) }
        }
    }

    /// Lets no more proposals in and fails those that wait to be written.
    private func refuse(_ error: StoreError) {
        let (waiting, writer) = state.withLock { state in
            if state.refusal == nil { state.refusal = error }
            defer {
                state.waiting = []
                state.waitingBytes = 0
                state.idleWriter = nil
            }
            return (state.waiting, state.idleWriter)
        }
        for proposal in waiting { proposal.answer.resume(returning: .failure(error)) }
        writer?.resume()
    }

    // MARK: Reads

    /// Runs `body` on a snapshot of the tables that has every change that was answered before.
    /// `body` runs on a queue of the database: it may take its time, but not wait for anything.
    public func read<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        try await store.read(body)
    }

    // MARK: Checkpoints

    private func checkpointIfDue() {
        state.withLock { state in
            guard state.bytesSinceCheckpoint >= options.checkpointBytes, state.checkpoint == nil
            else { return }
            state.bytesSinceCheckpoint = 0
            state.checkpoint = Task(executorPreference: reactor) {
                let failure: StoreError?
                do throws(StoreError) {
                    try await self.checkpoint()
                    failure = nil
                } catch {
                    failure = error
                }
                self.state.withLock { state in
                    state.checkpoint = nil
                    state.lastCheckpointError = failure
                }
            }
        }
    }

    /// Makes the tables durable and drops the part of the log that they no longer need. Happens
    /// by itself as the log grows.
    public func checkpoint() async throws(StoreError) {
        guard let index = try await store.checkpoint() else { return }
        try await log.removePrefix(through: index)
    }

    /// Writes a whole copy of the tables to `path`, which must not exist.
    public func copyTables(to path: String) async throws(StoreError) {
        try await store.copy(to: path)
    }

    /// Lets no more proposals in, finishes those that are being written, and closes the files.
    /// Those that only wait are failed with `notReady`. Later calls fail.
    public func close() async throws(StoreError) {
        refuse(StoreError(.notReady, "the metadata in \(directory) is closed"))
        let loops = state.withLock { state in
            defer { state.loops = [] }
            return state.loops
        }
        guard !loops.isEmpty else { return }
        for loop in loops { await loop.value }
        // Only now can no new one begin.
        await state.withLock { $0.checkpoint }?.value
        // The log alone would do; this makes the next start quick.
        _ = try await store.checkpoint()
        try await log.close()
        try await store.close()
    }
}
