import Model

/// The end of a journal that is being written: turns records into aligned blocks.
///
/// Blocks are 4 KiB. The last, partly filled one is written again with the same bytes and more,
/// so a torn write of it cannot hurt what was there.
public struct JournalTail: Sendable {
    public let journal: Journal
    /// Where the next record begins.
    public private(set) var end: Int
    /// The journal is durable up to here.
    public private(set) var syncedTo: Int
    /// The bytes from the last block boundary to `end`.
    private var partial: [UInt8]

    /// The tail of a new journal, whose header block the caller writes.
    public init(_ journal: Journal) {
        self.journal = journal
        end = Journal.start
        syncedTo = Journal.start
        partial = []
    }

    /// The tail of the journal file `bytes`, that `contents` were parsed from.
    public init(_ contents: Journal.Contents, of bytes: UnsafeRawBufferPointer) {
        journal = Journal(contents.header, version: contents.version)
        end = contents.end
        syncedTo = contents.end
        partial = Array(bytes[contents.end / 4096 * 4096..<contents.end])
    }

    /// Bytes to write at `offset`, a multiple of 4 KiB; `bytes` is whole blocks, zero-padded.
    public struct Write: Sendable {
        public var offset: Int
        public var bytes: [UInt8]
    }

    /// Appends `records` and returns what to write for them.
    public mutating func append(_ records: some Sequence<JournalRecord>) -> Write {
        let offset = end - partial.count
        var bytes = partial
        for record in records {
            bytes += journal.encode(record, at: offset + bytes.count, syncedTo: syncedTo)
        }
        end = offset + bytes.count
        let keep = bytes.count % 4096
        partial = Array(bytes.suffix(keep))
        if keep > 0 { bytes += [UInt8](repeating: 0, count: 4096 - keep) }
        return Write(offset: offset, bytes: bytes)
    }

    /// The partly filled last block with zeros behind, to cut a torn tail with; `nil` if the
    /// journal ends with a block.
    public var lastBlock: Write? {
        guard !partial.isEmpty else { return nil }
        return Write(
            offset: end - partial.count,
            bytes: partial + [UInt8](repeating: 0, count: 4096 - partial.count))
    }

    /// Everything appended so far is durable.
    public mutating func synced() { syncedTo = end }

    /// Everything up to `position`, where a record ended once, is durable with the cells that the
    /// records there tell of.
    public mutating func synced(to position: Int) {
        precondition(position <= end, "a journal is durable where nothing was written")
        syncedTo = max(syncedTo, position)
    }
}
