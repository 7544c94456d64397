/// What a group of members computes from its log: the same commands in the same order give the
/// same tables and the same answers on every member.
public protocol StateMachine: Sendable {
    associatedtype Command: Sendable
    /// What the proposer of a command is told. Not part of the replicated state, but for what is
    /// remembered of calls that bear an identity.
    associatedtype Answer: Sendable

    /// The tables that commands are applied to.
    var tables: [MetadataTable] { get }
    /// Which forms of their records it reads and writes.
    var format: TablesFormat { get }

    /// The bytes of a command in the log. The first of them is not 0: that is how commands are told
    /// from what a group logs of its own.
    func encode(_ command: Command) -> [UInt8]

    /// The command with these bytes; `versionMismatch` or `corrupt` if there is none. A command
    /// that one member cannot read must not be passed over: its group stops there.
    func decode(_ bytes: [UInt8]) throws(StoreError) -> Command

    /// Applies the command at `index` of the log and returns its answer.
    ///
    /// Depends on nothing but its arguments: no clock, no random numbers, no other state. It may
    /// run again with the same arguments on the tables as they were before, after a crash.
    /// A command that is refused changes nothing and says so in its answer.
    func apply(
        _ command: Command, at index: UInt64, in transaction: some MetadataTransaction
    ) -> Answer

    /// What is remembered of the answer to `command`, for whoever asks for the same again. The same
    /// on every member.
    func encode(_ answer: Answer, to command: Command) -> [UInt8]

    /// The answer that was remembered as these bytes; it has what the first proposer had at hand
    /// beside the answer. `corrupt` or `versionMismatch` if there is none.
    func decode(answer bytes: [UInt8]) throws(StoreError) -> Answer

    /// Called once the changes of the command at `index` can be read, before its proposer has
    /// its answer: the place to drop what was cached, and where what is kept in memory beside the
    /// tables follows them. On every member, in the order of the log, one call at a time; also for
    /// what is replayed at a start.
    func applied(_ command: Command, answer: Answer, at index: UInt64)

    /// Called once the tables have been opened, before anything is applied to them, and once a
    /// snapshot has taken their place, before anything of it is read: whatever is kept in memory
    /// beside them is made anew. Throws if they cannot be read; the member stops then.
    func reset(from tables: some MetadataReader) throws(StoreError)

    /// Called once where the majority of a group is lost for good and one member goes on alone, in
    /// the transaction in which its tables become those of a new group: whatever the lost ones had
    /// applied beyond them, numbers that they may have given must not be given again. The index of
    /// the next command is far beyond any of theirs.
    func recovered(in transaction: some MetadataTransaction)
}

/// The forms of the records in a role's tables, by the numbers of the versions of all of them.
///
/// Tables of an older version that is still read are not rewritten when they are opened: records
/// in them stay as they are until they are changed. Their file bears the number of the current
/// version from then on, which keeps older programs from what they would misread.
public struct TablesFormat: Hashable, Sendable, CustomStringConvertible {
    /// What is written.
    public var current: Int
    /// The oldest that is read.
    public var oldest: Int

    public init(current: Int, oldest: Int) {
        precondition(1 <= oldest && oldest <= current, "an older version comes before this one")
        self.current = current
        self.oldest = oldest
    }

    /// That of tables whose records have had one form alone.
    public static let first = TablesFormat(current: 1, oldest: 1)

    /// Whether tables of `version` can be read.
    public func reads(_ version: Int) -> Bool { oldest <= version && version <= current }

    public var description: String {
        oldest == current ? "format \(current)" : "formats \(oldest) to \(current)"
    }
}

extension StateMachine {
    public var format: TablesFormat { .first }

    public func applied(_ command: Command, answer: Answer, at index: UInt64) {}

    public func reset(from tables: some MetadataReader) throws(StoreError) {}

    public func recovered(in transaction: some MetadataTransaction) {}
}

extension StateMachine where Answer == [UInt8] {
    public func encode(_ answer: [UInt8], to command: Command) -> [UInt8] { answer }

    public func decode(answer bytes: [UInt8]) throws(StoreError) -> [UInt8] { bytes }
}

extension StateMachine where Answer == UInt64 {
    public func encode(_ answer: UInt64, to command: Command) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(answer)
        return bytes
    }

    public func decode(answer bytes: [UInt8]) throws(StoreError) -> UInt64 {
        guard bytes.count == 8 else {
            throw StoreError(.corrupt, "an answer is a number of 8 bytes, not of \(bytes.count)")
        }
        return bytes.bigEndian(at: 0)
    }
}

extension StateMachine where Answer == UInt64? {
    /// No bytes stand for nil.
    public func encode(_ answer: UInt64?, to command: Command) -> [UInt8] {
        var bytes: [UInt8] = []
        if let answer { bytes.appendBigEndian(answer) }
        return bytes
    }

    public func decode(answer bytes: [UInt8]) throws(StoreError) -> UInt64? {
        guard bytes.isEmpty || bytes.count == 8 else {
            throw StoreError(
                .corrupt, "an answer is nothing or a number of 8 bytes, not of \(bytes.count)")
        }
        return bytes.isEmpty ? nil : bytes.bigEndian(at: 0)
    }
}
