import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Telemetry

/// One member of the group that keeps a role's metadata: its log, its tables, and the state
/// machine between them.
///
/// A proposed command is logged together with all others that wait, made durable on a majority of
/// the members, applied to the tables with all others that are committed, and then answered. So
/// an answered command survives a crash, and a read that begins afterwards sees it.
///
/// Everything of the group runs on its reactor, except the tables, which GRDB keeps on queues of
/// its own. Calls may come from any executor.
public final class MetadataGroup<Machine: StateMachine>: Sendable {
    @usableFromInline let machine: Machine
    /// The same with what it remembers of calls.
    @usableFromInline let sessions: SessionMachine<Machine>
    public let engine: MetadataEngine

    public var reactor: Reactor { engine.reactor }
    public var directory: String { engine.directory }

    private init(sessions: SessionMachine<Machine>, engine: MetadataEngine) {
        machine = sessions.machine
        self.sessions = sessions
        self.engine = engine
    }

    /// Opens the group's files in `directory` (`metadata.db`, `log/` and `snapshots/`), making
    /// them if they are absent, and starts its member. A member that is alone has applied
    /// everything in its log when this returns.
    ///
    /// - Parameters:
    ///   - role: written into the tables, which refuse to be opened as another's.
    ///   - transport: how the other members are reached.
    /// - Throws: `corrupt` if log and tables do not fit together, `versionMismatch`, `io`.
    public static func open(
        directory: String, role: String, reactor: Reactor, stateMachine: Machine,
        options: MetadataGroupOptions = MetadataGroupOptions(),
        transport: some RaftTransport = NoTransport(),
        generator: sending some RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
    ) async throws(StoreError) -> MetadataGroup {
        let sessions = SessionMachine(stateMachine, clock: SessionClock { reactor.now() })
        var options = options
        // Looked up with every call, as the records are that the role itself looks up.
        options.cache.tables.formUnion(SessionTable.all)
        let engine = try await MetadataEngine.open(
            directory: directory, role: role, reactor: reactor,
            replay: ReplayedCommands(sessions), options: options, transport: transport,
            generator: generator)
        return MetadataGroup(sessions: sessions, engine: engine)
    }

    /// Has `command` logged and applied, and returns what the state machine answered.
    ///
    /// With the identity of the call that asks for it, it is applied once: where it was before, it
    /// is not again, and the first answer is returned, as the state machine remembers it. Throws
    /// `forgotten` then if that is too long ago, `overloaded` if too many clients are remembered.
    ///
    /// When it throws `io`, `connection` or `cancelled` the command may still have been, or may
    /// yet be, applied. Not cancellable once it waits: a command that was handed over takes its
    /// course.
    /// - Throws: `overloaded` if too many wait already, `invalidArgument` if the command is too
    ///   large, `notLeader` once the group is closed or where its member does not lead,
    ///   `connection` if leadership was lost or the group was closed on the way, `noSpace` while
    ///   log or tables have no room for what is under way already, `io` if they fail; after `io`
    ///   every further proposal fails until the group is opened again.
    @inlinable
    public func propose(
        _ command: Machine.Command, for call: CallID? = nil
    ) async throws(StoreError) -> Machine.Answer {
        guard let call else { return try await log(command, machine) }
        let time = sessions.clock.read()
        let bytes = try checked(
            SessionMachine<Machine>.envelope(.call, call, time, machine.encode(command)))
        let result: Result<Machine.Answer, StoreError> = await withUnsafeContinuation { proposer in
            engine.member.propose(
                PendingCall(sessions, command, call, time: time, bytes: bytes, proposer))
        }
        return try result.get()
    }

    /// Has `error` logged as the answer to `call`, unless it was answered: it will not be carried
    /// out any more, though an earlier attempt may be on its way still. Returns what it was
    /// answered before; throws what `propose` does, and `error` if it is the answer.
    public func settle(
        _ call: CallID, _ error: StoreError
    ) async throws(StoreError) -> Machine.Answer {
        try await log(.settled(call, time: sessions.clock.read(), error), sessions).get()
    }

    /// What was answered to `call` before; nil if nothing was. An attempt that is on its way may be
    /// answered yet. Throws the answer where it is a refusal of the group's, `forgotten`, and what
    /// `read` does.
    public func answer(to call: CallID) async throws(StoreError) -> Machine.Answer? {
        let sessions = sessions
        return try await read { tables throws(StoreError) in
            try sessions.answer(to: call, in: tables)
        }?.get()
    }

    @inlinable
    func log<Logged: StateMachine>(
        _ command: Logged.Command, _ machine: Logged
    ) async throws(StoreError) -> Logged.Answer {
        let bytes = try checked(machine.encode(command))
        precondition(
            Logged.self != Machine.self || bytes.first != 0, "a command does not begin with 0")
        let result: Result<Logged.Answer, StoreError> = await withUnsafeContinuation { proposer in
            engine.member.propose(Pending(machine, command, bytes: bytes, proposer))
        }
        return try result.get()
    }

    @usableFromInline
    func checked(_ command: [UInt8]) throws(StoreError) -> [UInt8] {
        guard command.count <= engine.maximumCommandSize else {
            throw StoreError(
                .invalidArgument,
                "a request of \(command.count) bytes is too large: at most "
                    + "\(engine.maximumCommandSize)")
        }
        return command
    }

    /// Runs `body` on a snapshot of the tables that has every change that was answered before.
    /// `body` runs on a queue of the database, or at once where all it asks for is in memory: it
    /// may take its time, but not wait for anything.
    public func read<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        try await readBarrier()
        return try await engine.store.read(body)
    }

    /// Returns when what was answered anywhere in the group before the call can be read here: to
    /// be called before something is answered from a cache, as `read` does it for the tables. At
    /// once in a group of one.
    ///
    /// - Throws: `notLeader` if there is no leader, or it could not be confirmed as such.
    public func readBarrier() async throws(StoreError) { try await engine.member.readBarrier() }

    /// Whether this member leads. Any thread.
    public var leadership: Leadership { engine.member.leading.withLock { $0 } }

    /// What is answered here to a request that only the leader answers.
    public var notLeader: StoreError { engine.member.notLeader }

    /// What opening it took.
    public var start: MetadataStart { engine.start }

    /// Index of the last command whose changes can be read.
    public var appliedIndex: UInt64 { engine.store.appliedIndex }

    /// The largest command that is taken, in bytes.
    public var maximumCommandSize: Int { engine.maximumCommandSize }

    /// Why the last checkpoint failed; nil if it did not.
    public var checkpointError: StoreError? { engine.tables.checkpointError }

    /// Makes the tables durable and drops the part of the log that they no longer need. Happens
    /// by itself as the log grows.
    public func checkpoint() async throws(StoreError) { try await engine.tables.checkpoint() }

    /// Writes a whole copy of the tables to `path`, which must not exist.
    public func copyTables(to path: String) async throws(StoreError) {
        _ = try await engine.tables.writeSnapshot(to: path)
    }

    /// Lets no more proposals in, finishes those that are being written, and closes the files.
    /// Those that only wait are failed with `notLeader`. Later calls fail.
    public func close() async throws(StoreError) { try await engine.close() }

    /// Adds what is measured of log and tables to the pages of `metrics`.
    public func addMetrics(to metrics: MetricsRegistry) { engine.addMetrics(to: metrics) }
}

/// How entries are applied that were not proposed here: commands of a certain state machine.
protocol CommandReplay: Sendable {
    var tables: [MetadataTable] { get }
    var format: TablesFormat { get }
    /// Applies commands of the log. Throws, before it changes anything, if one cannot be read.
    func prepare(_ commands: [CommittedCommand]) throws(StoreError) -> PreparedCommands
    /// The tables were opened, or a snapshot took their place: first this, then `reset`. Each may
    /// run more than once.
    func setClock(by tables: StoredTables)
    func reset(from tables: StoredTables) throws(StoreError)
}

/// What a batch does to the tables; its answers are left with those who proposed here.
struct PreparedCommands: Sendable {
    /// Applies the command of a number of the batch. May be called again with the same.
    var run: @Sendable (_ number: Int, _ tables: StoredTables) -> Void
    /// To be called when the changes can be read: for commands of other members.
    var applied: @Sendable () -> Void
}

struct ReplayedCommands<Inner: StateMachine>: CommandReplay {
    private typealias Machine = SessionMachine<Inner>
    private let machine: SessionMachine<Inner>

    init(_ machine: SessionMachine<Inner>) { self.machine = machine }

    var tables: [MetadataTable] { machine.tables }
    var format: TablesFormat { machine.format }

    func setClock(by tables: StoredTables) { machine.setClock(by: tables) }

    func reset(from tables: StoredTables) throws(StoreError) { try machine.reset(from: tables) }

    func prepare(_ commands: [CommittedCommand]) throws(StoreError) -> PreparedCommands {
        let machine = machine
        guard commands.contains(where: { $0.pending == nil && !$0.bytes.isEmpty }) else {
            return PreparedCommands(
                run: { number, tables in
                    let command = commands[number]
                    command.pending?.apply(at: command.index, in: tables)
                }, applied: {})
        }
        var foreign: [Machine.Command?] = []
        foreign.reserveCapacity(commands.count)
        for command in commands {
            let isHere = command.pending != nil || command.bytes.isEmpty
            foreign.append(isHere ? nil : try machine.decode(command.bytes))
        }
        let decoded = foreign
        let answers = Shared<[Machine.Answer?]>(Array(repeating: nil, count: commands.count))
        return PreparedCommands(
            run: { number, tables in
                let command = commands[number]
                if let pending = command.pending {
                    pending.apply(at: command.index, in: tables)
                } else if let foreign = decoded[number] {
                    let answer = machine.apply(foreign, at: command.index, in: tables)
                    answers.change { $0[number] = answer }
                }
            },
            applied: {
                let answers = answers.value
                for (number, command) in commands.enumerated() {
                    guard let foreign = decoded[number], let answer = answers[number] else {
                        continue
                    }
                    machine.applied(foreign, answer: answer, at: command.index)
                }
            })
    }
}

/// A value that is set in one closure and read in another.
private final class Shared<Value: Sendable>: Sendable {
    private let mutex: Mutex<Value>
    init(_ value: Value) { mutex = Mutex(value) }
    var value: Value { mutex.withLock { $0 } }
    func change(_ body: (inout sending Value) -> Void) { mutex.withLock { body(&$0) } }
}
