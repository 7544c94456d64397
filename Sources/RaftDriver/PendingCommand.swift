import MetadataStore
import Model
import Raft
import Synchronization
import Wire

/// A command that was proposed on this member, on its way through the log, with its proposer.
///
/// Exactly one of `succeed` and `fail` is called in the end.
public protocol PendingCommand: AnyObject, Sendable {
    /// The command as it goes into the log; never empty.
    var bytes: [UInt8] { get }
    /// Applies it and keeps the answer.
    func apply(at index: LogIndex, in tables: StoredTables)
    /// Its changes can be read: the proposer gets the answer that `apply` kept.
    func succeed(at index: LogIndex)
    /// The proposer gets an error.
    func fail(_ error: StoreError)
}

/// A command of a certain state machine. Inlinable, so that the module that knows the machine
/// compiles it for that one.
public final class Pending<Machine: StateMachine>: PendingCommand {
    @usableFromInline let machine: Machine
    @usableFromInline let command: Machine.Command
    public let bytes: [UInt8]
    @usableFromInline let answer: Mutex<Machine.Answer?>
    @usableFromInline
    let proposer: UnsafeContinuation<Result<Machine.Answer, StoreError>, Never>

    @inlinable
    init(
        _ machine: Machine, _ command: Machine.Command, bytes: [UInt8],
        _ proposer: UnsafeContinuation<Result<Machine.Answer, StoreError>, Never>
    ) {
        self.machine = machine
        self.command = command
        self.bytes = bytes
        // Here and not where it is declared, so that it is compiled for the machine too.
        answer = Mutex(nil)
        self.proposer = proposer
    }

    @inlinable
    public func apply(at index: LogIndex, in tables: StoredTables) {
        let result = machine.apply(command, at: index, in: tables)
        answer.withLock { $0 = result }
    }

    @inlinable
    public func succeed(at index: LogIndex) {
        guard let result = answer.withLock({ $0 }) else {
            preconditionFailure("a command is answered after it was applied")
        }
        machine.applied(command, answer: result, at: index)
        proposer.resume(returning: .success(result))
    }

    @inlinable
    public func fail(_ error: StoreError) {
        proposer.resume(returning: .failure(error))
    }
}

/// An entry of the log that is committed and to be applied.
public struct CommittedCommand: Sendable {
    public var index: LogIndex
    /// Empty for entries that only the core needs: they change nothing but the applied index.
    public var bytes: [UInt8]
    /// Who proposed it, if that was here.
    public var pending: (any PendingCommand)?
    /// What it changes of the members' names and addresses.
    public var book: GroupBookChange?

    public init(
        index: LogIndex, bytes: [UInt8], pending: (any PendingCommand)? = nil,
        book: GroupBookChange? = nil
    ) {
        self.index = index
        self.bytes = bytes
        self.pending = pending
        self.book = book
    }
}

/// What a member's committed entries are applied to.
///
/// Called by one member, one call at a time.
public protocol CommandApplier: Sendable {
    /// Index of the last entry whose changes can be read.
    var appliedIndex: LogIndex { get }

    /// Applies entries that follow on `appliedIndex`, all of them or none. Does not answer their
    /// proposers.
    ///
    /// Throws if they cannot be applied: `noSpace` if they could be later, by the same call; after
    /// anything else the member stops.
    func apply(_ commands: [CommittedCommand]) async throws(StoreError)

    /// Writes the state, whole, to a file at `path`, and returns the index that it has applied.
    func writeSnapshot(to path: String) async throws(StoreError) -> LogIndex

    /// Takes the state from the file at `path`, whose last applied entry is `index`, in place of
    /// its own. May run again with the same file after a crash.
    func installSnapshot(from path: String, index: LogIndex) async throws(StoreError)

    /// The member ends: a snapshot that is being written or installed fails soon, where that takes
    /// long.
    func interrupt()

    /// A snapshot is installed without rests, or with them again: a member that installs one answers
    /// nothing else, also no request for its vote.
    func hurry(_ isHurried: Bool)
}

extension CommandApplier {
    func interrupt() {}
    func hurry(_ isHurried: Bool) {}
}
