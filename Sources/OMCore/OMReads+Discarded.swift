import Model
import Wire

// Bounded looks at what a background loop is to take away.

extension OMReads {
    /// How many parts an upload has, as far as `limit`.
    func countParts(_ upload: WireIdentity, upTo limit: Int) -> Int {
        let prefix = OMTableKey.parts(upload)
        var count = 0
        reader.scan(OMTable.parts, from: prefix) { key, _ in
            guard key.starts(with: prefix) else { return false }
            count += 1
            return count < limit
        }
        return count
    }

    /// Blocks that wait for SCM.
    public struct Discarded: Sendable {
        /// What `PurgeDeletedCommand` forgets them by.
        public var key: [UInt8]
        /// By the clock of whoever made the command, in milliseconds since 1970.
        public var deleted: Int64
        public var blocks: [BlockID]
    }

    /// What one look at the table of discarded blocks found.
    public struct DiscardedPage: Sendable {
        public var records: [Discarded] = []
        /// Records that cannot be read: their keys, and why.
        public var unreadable: [(key: [UInt8], error: StoreError)] = []
        /// Where to go on.
        public var next: [UInt8]
        /// Whether what comes there is to be left alone for now, or nothing comes.
        public var isAtEnd = true
    }

    /// Blocks that commands up to `index` discarded, from the key `start` on: at most `limit`
    /// records, and none more once they have `blocks` blocks.
    public func discarded(
        from start: [UInt8], through index: UInt64, limit: Int, blocks: Int
    ) -> DiscardedPage {
        precondition(limit > 0 && blocks > 0, "a look at no records finds none ever")
        var page = DiscardedPage(next: start)
        var count = 0
        reader.scan(OMTable.deleted, from: start) { key, value in
            guard page.records.count + page.unreadable.count < limit, count < blocks else {
                page.isAtEnd = false
                return false
            }
            if key.count >= 8, key.bigEndian(at: 0) as UInt64 > index { return false }
            page.next = key + [0]
            do throws(StoreError) {
                guard key.count >= 8 else { throw StoreError(.corrupt, "it has no number") }
                let record: OMDeletedRecord = try parse(value, in: OMTable.deleted)
                page.records.append(
                    Discarded(
                        key: key, deleted: record.deleted,
                        blocks: record.blocks.map { BlockID($0) }))
                count += record.blocks.count
            } catch {
                page.unreadable.append((key, error))
            }
            return true
        }
        return page
    }
}
