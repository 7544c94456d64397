import Model
import Wire

// What the background loops look for: bounded looks at a table, each with where to go on.

extension OMReads {
    /// Keys of uploads initiated before `before`, by looking at `limit` uploads from `start` on,
    /// as long as they have fewer than `parts` parts together; one may have more alone. And where
    /// to go on, nil at the end of the table.
    public func oldUploads(
        before: Int64, from start: [UInt8], limit: Int, parts: Int = OMLimits.expirySize
    ) throws(StoreError) -> (keys: [[UInt8]], next: [UInt8]?) {
        let entries = reader.entries(OMTable.uploads, prefix: [], from: start, limit: limit)
        var keys: [[UInt8]] = []
        var room = parts
        for entry in entries {
            let record: OMUploadRecord = try parse(entry.value, in: OMTable.uploads)
            guard record.upload.initiated < before else { continue }
            let count = countParts(record.upload.upload, upTo: parts)
            guard keys.isEmpty || count <= room else { return (keys, entry.key) }
            keys.append(entry.key)
            room -= count
        }
        return (keys, entries.count < limit ? nil : entries.last.map { $0.key + [0] })
    }

    private func countParts(_ upload: WireIdentity, upTo limit: Int) -> Int {
        let prefix = OMTableKey.parts(upload)
        var count = 0
        reader.scan(OMTable.parts, from: prefix) { key, _ in
            guard key.starts(with: prefix) else { return false }
            count += 1
            return count < limit
        }
        return count
    }

    /// Whether the upload at `key` of the upload table is one of a bucket that was deleted.
    func isOrphan(_ record: OMUploadRecord, at key: [UInt8]) throws(StoreError) -> Bool {
        let bucket = try self.record(
            OMTable.buckets, OMTableKey.bucket(record.bucket), parsed: Parsed.buckets)
        let number: UInt64 = key.bigEndian(at: 0)
        return bucket?.number != number
    }

    /// Keys of uploads whose bucket was deleted, with at least one of them and, if there are
    /// more, no more than `limit` uploads and `partLimit` parts together.
    ///
    /// Buckets that are there cost a seek each, however many uploads they have.
    public func orphanUploads(limit: Int, partLimit: Int) throws(StoreError) -> [[UInt8]] {
        var keys: [[UInt8]] = []
        var parts = 0
        var next: [UInt8]? = []
        while let start = next, keys.count < limit, parts < partLimit {
            guard
                let entry = reader.entries(OMTable.uploads, prefix: [], from: start, limit: 1)
                    .first
            else { break }
            let record: OMUploadRecord = try parse(entry.value, in: OMTable.uploads)
            guard try isOrphan(record, at: entry.key) else {
                next = Array(entry.key.prefix(8)).prefixSuccessor
                continue
            }
            next = entry.key + [0]
            let scope = OMTableKey.parts(record.upload.upload)
            parts += reader.entries(OMTable.parts, prefix: scope, limit: partLimit).count
            guard keys.isEmpty || parts <= partLimit else { break }
            keys.append(entry.key)
        }
        return keys
    }

    /// Open keys that have been open for too long.
    public struct OldOpens: Sendable {
        /// Opened under a name.
        public var named: [UInt64] = []
        /// Reserved, and not committed.
        public var reserved: [UInt64] = []
        /// Where to go on; nil if there are no more.
        public var next: [UInt8]?
    }

    /// Open keys created before `before`, and those only reserved before `reservedBefore`, by
    /// looking at `limit` open keys from `start` on, oldest first, until those found have `blocks`
    /// blocks together.
    public func oldOpens(
        before: Int64, reservedBefore: Int64, from start: [UInt8], limit: Int,
        blocks: Int = OMLimits.expirySize
    ) throws(StoreError) -> OldOpens {
        var found = OldOpens()
        var count = 0
        let entries = reader.entries(OMTable.opens, prefix: [], from: start, limit: limit)
        for entry in entries {
            let record: OMOpenRecord = try parse(entry.value, in: OMTable.opens)
            // Open IDs grow with time, so all others are younger.
            guard record.created < max(before, reservedBefore) else { return found }
            let id: UInt64 = entry.key.bigEndian(at: 0)
            if record.hasKey {
                guard record.created < before else { continue }
                found.named.append(id)
            } else {
                guard record.created < reservedBefore else { continue }
                found.reserved.append(id)
            }
            count += record.blocks.count
            if count >= blocks {
                found.next = entry.key + [0]
                return found
            }
        }
        if entries.count == limit { found.next = entries.last.map { $0.key + [0] } }
        return found
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
