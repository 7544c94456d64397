import MetadataStore
import Model
import Raft
import Synchronization

/// A command that was proposed on this member for a call with an identity: what `SessionMachine` does
/// with one that it reads from the log, without reading it from there.
@usableFromInline
final class PendingCall<Machine: StateMachine>: PendingCommand {
    /// What became of it.
    @usableFromInline
    struct Outcome: Sendable {
        @usableFromInline var result: Result<Machine.Answer, StoreError>
        /// It was carried out, and not before.
        @usableFromInline var isFresh: Bool

        @usableFromInline
        init(_ result: Result<Machine.Answer, StoreError>, isFresh: Bool) {
            self.result = result
            self.isFresh = isFresh
        }
    }

    @usableFromInline let sessions: SessionMachine<Machine>
    @usableFromInline let command: Machine.Command
    @usableFromInline let call: CallID
    @usableFromInline let time: UInt64
    @usableFromInline let bytes: [UInt8]
    @usableFromInline let outcome: Mutex<Outcome?>
    @usableFromInline
    let proposer: UnsafeContinuation<Result<Machine.Answer, StoreError>, Never>

    @inlinable
    init(
        _ sessions: SessionMachine<Machine>, _ command: Machine.Command, _ call: CallID,
        time: UInt64, bytes: [UInt8],
        _ proposer: UnsafeContinuation<Result<Machine.Answer, StoreError>, Never>
    ) {
        self.sessions = sessions
        self.command = command
        self.call = call
        self.time = time
        self.bytes = bytes
        outcome = Mutex(nil)
        self.proposer = proposer
    }

    @inlinable
    func apply(at index: LogIndex, in tables: StoredTables) {
        let found: Outcome
        switch CallBeginning(of: call, at: time, in: tables, sessions.limits) {
        case .fresh(let fresh):
            let machine = sessions.machine
            let answer = machine.apply(command, at: index, in: tables)
            fresh.remember(machine.encode(answer, to: command))
            found = Outcome(.success(answer), isFresh: true)
        case .remembered(let answer):
            found = Outcome(sessions.result(answer), isFresh: false)
        case .refused(let error): found = Outcome(.failure(error), isFresh: false)
        }
        outcome.withLock { $0 = found }
    }

    @inlinable
    func succeed(at index: LogIndex) {
        guard let found = outcome.withLock({ $0 }) else {
            preconditionFailure("a command is answered after it was applied")
        }
        sessions.observe(time)
        if found.isFresh, case .success(let answer) = found.result {
            sessions.machine.applied(command, answer: answer, at: index)
        }
        proposer.resume(returning: found.result)
    }

    @inlinable
    func fail(_ error: StoreError) { proposer.resume(returning: .failure(error)) }
}
