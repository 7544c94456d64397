/// The durable part of a member's log, as the core reads it.
///
/// A class, because two share it: the core reads, and the driver appends what a ``Ready`` asked
/// it to persist. All calls come from the thread that steps the core and never wait for I/O:
/// what is not in memory is refused with ``StorageError/temporarilyUnavailable``. Terms are
/// always known: from `firstIndex - 1` to `lastIndex`, ``term(of:)`` answers at once.
public protocol RaftStorage: AnyObject {
    /// What was persisted before the start.
    func initialState() throws(StorageError) -> (HardState, ConfState)

    /// Entries `lo..<hi`, at least the first and then as many as fit into `maxSize` bytes
    /// (``Entry/byteCount``).
    ///
    /// - Throws: `compacted` if `lo` is before `firstIndex`, `unavailable` if `hi` is beyond the
    ///   end, `temporarilyUnavailable` if they must be fetched first.
    func entries(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) throws(StorageError) -> [Entry]

    /// The term of an entry; that of the snapshot's last entry too.
    func term(of index: LogIndex) throws(StorageError) -> Term

    /// The first entry that is there: the one after the snapshot.
    var firstIndex: LogIndex { get }
    /// The last entry that is there, or the snapshot's index.
    var lastIndex: LogIndex { get }

    /// A snapshot at `index` or later for `peer`.
    ///
    /// - Throws: `snapshotTemporarilyUnavailable` while it is being made.
    func snapshot(index: LogIndex, to peer: PeerID) throws(StorageError) -> Snapshot
}
