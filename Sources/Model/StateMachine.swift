/// What a group of members computes from its log: the same commands in the same order give the
/// same tables and the same answers on every member.
public protocol StateMachine: Sendable {
    associatedtype Command: Sendable
    /// What the proposer of a command is told. Not part of the replicated state.
    associatedtype Answer: Sendable

    /// The tables that commands are applied to.
    var tables: [MetadataTable] { get }

    /// The bytes of a command in the log.
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

    /// Called once the changes of the command at `index` can be read, before its proposer has
    /// its answer: the place to drop what was cached. Not called for what is replayed at start.
    func applied(_ command: Command, answer: Answer, at index: UInt64)
}

extension StateMachine {
    public func applied(_ command: Command, answer: Answer, at index: UInt64) {}
}
