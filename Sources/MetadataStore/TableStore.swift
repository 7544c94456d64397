import Model

/// Where a member of a group keeps the tables that its commands are applied to, beside the index of
/// the last one: `MetadataStore`, or something that does the same in a machine that is simulated.
///
/// What is applied is visible at once and durable later; `checkpoint` says what is. A restart finds
/// the state after some earlier command, whole, with its index.
public protocol TableStore: Sendable {
    /// Index of the last command whose changes can be read; 0 if none.
    var appliedIndex: UInt64 { get }
    /// Bytes that a start would have to read again, beside the log of commands; a checkpoint makes
    /// them few.
    var logBytes: Int { get }

    /// Runs `step` for each of `count` commands, in order; their changes become visible together,
    /// with `index` as the applied index. A step may run again. Throws `noSpace`, before anything is
    /// changed, if there is no room. Precondition: `index` is not below `appliedIndex`; one call at a
    /// time.
    func apply(
        _ count: Int, through index: UInt64,
        _ step: @Sendable @escaping (_ number: Int, _ tables: StoredTables) -> Void
    ) async throws(StoreError)

    /// Runs `body` on a snapshot of the tables that includes every `apply` that has returned. It may
    /// run a second time.
    func read<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R

    /// The same; `body` runs once.
    func readStored<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R

    /// Makes durable what is applied. Returns the index up to which everything is; nil if that was
    /// not possible now.
    func checkpoint() async throws(StoreError) -> UInt64?

    /// Writes all that is applied to a file at `path`, which must not exist, and returns the index
    /// that it has applied.
    func copy(to path: String) async throws(StoreError) -> UInt64

    /// Takes all tables from the file at `path`, a copy whose applied index is `index`, in place of
    /// what is there; durable when it returns. A crash leaves the old tables, none with 0 as their
    /// applied index, or the new ones. Precondition: nothing is applied meanwhile.
    func replace(with path: String, index: UInt64) async throws(StoreError)

    /// Has `copy` and `replace` fail soon, with `cancelled`, where they take long.
    func interrupt()

    /// Has `replace` go on without rests, or with them again.
    func hurry(_ isHurried: Bool)

    /// Gives back what is only kept to be quick.
    func releaseMemory()

    /// Ends the use of the tables. Further calls fail.
    func close() async throws(StoreError)
}

extension TableStore {
    public func interrupt() {}
    public func hurry(_ isHurried: Bool) {}
}

extension MetadataStore: TableStore {}
