/// What the core wants done since it was last asked.
///
/// With synchronous writes the driver, in this order: persists `snapshot`, then `entries`, and
/// `hardState` (a snapshot always durably, the rest if `mustSync`), sends `messages`, installs
/// `snapshot`, applies `committedEntries`, and calls ``RawNode/advance()``. With asynchronous
/// storage writes `messages` says it all: each goes to its address, among them one for the append
/// thread and one for the apply thread, and there is no advance.
public struct Ready: Equatable, Sendable {
    /// Leader and role, if they changed.
    public var softState: SoftState?
    /// Term, vote and commit index, if they changed.
    public var hardState: HardState?
    /// Reads that may now be served once their index is applied.
    public var readStates: [ReadState] = []
    /// Entries to persist before any message is sent.
    public var entries: [Entry] = []
    /// A snapshot to persist and to install.
    public var snapshot: Snapshot?
    /// Entries to apply; all are persisted here or in this very Ready.
    public var committedEntries: [Entry] = []
    /// Messages to send; to peers only, unless writes are asynchronous.
    public var messages: [Message] = []
    /// Whether entries, term or vote must be on the medium before anything is answered. A changed
    /// commit index alone need not be.
    public var mustSync = false

    /// Nothing to do.
    public init() {}
}
