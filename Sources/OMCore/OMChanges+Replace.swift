import Model
import Wire

// The one way by which a key comes to be, is replaced or goes.

extension OMChanges {
    /// The generation of a key that takes the place of `existing`: above it, as indexes grow.
    func generation(after existing: OMKeyRecord?) -> UInt64 {
        // By the rules of before there were generations.
        guard version >= 1 else { return existing?.generation ?? 0 }
        return index
    }

    /// Puts `record`, whose blocks are `blocks`, in the place of `existing`, the key as it is now.
    /// Without a record the key is deleted; without an existing one it is new.
    ///
    /// Changes the bucket's usage with it, and keeps what was there as history if the bucket does.
    /// Returns the blocks that are to be discarded, for the command to do so with any others.
    /// Throws `corrupt`, before anything is changed, if a record that it needs is damaged.
    /// Precondition: the record has its generation.
    func replace(
        _ existing: OMKeyRecord?, with record: OMKeyRecord?, blocks: [OMStoredBlock] = [],
        named name: [UInt8], in bucket: OMBucketRecord
    ) throws(StoreError) -> [WireBlock] {
        let key = OMTableKey.key(bucket: bucket.number, name: name)
        let usage = try usage(of: bucket.number, with: name, existing, record)
        var released: [WireBlock] = []
        if let existing {
            if bucket.keepsHistory {
                keep(existing, named: name, in: bucket.number)
            } else {
                released = BlockReferences.released(
                    by: try existing.allReferences(), keptBy: blocks)
            }
        }
        if let record {
            precondition(
                record.generation == generation(after: existing), "a key without its generation")
            put(OMTable.keys, key, record)
        } else {
            transaction.delete(OMTable.keys, key)
        }
        if let usage { put(OMTable.usage, OMTableKey.number(bucket.number), usage) }
        return released
    }

    /// The version of a key that ends with this command goes to the history table, and its blocks
    /// stay with it.
    private func keep(_ record: OMKeyRecord, named name: [UInt8], in bucket: UInt64) {
        var history = OMHistoryRecord()
        history.key = .octets(record.encoded)
        history.until = index
        let key = OMTableKey.history(bucket: bucket, name: name, generation: record.generation)
        put(OMTable.history, key, history)
    }

    // MARK: Usage

    /// The bucket's usage once the key `name` has changed from `existing` to `record`; nil if that
    /// does not change it: the key is not counted yet, and will be as it then is.
    private func usage(
        of bucket: UInt64, with name: [UInt8], _ existing: OMKeyRecord?, _ record: OMKeyRecord?
    ) throws(StoreError) -> OMUsageRecord? {
        guard
            var usage: OMUsageRecord = try reads.record(
                OMTable.usage, OMTableKey.number(bucket)),
            usage.includes(name)
        else { return nil }
        if let existing {
            usage.keys -= min(usage.keys, 1)
            usage.bytes -= min(usage.bytes, existing.length)
        }
        if let record {
            usage.keys += 1
            usage.bytes &+= record.length
        }
        return usage
    }

    /// A new bucket is counted from its first key on.
    func beginUsage(of bucket: UInt64) {
        guard version >= 1 else { return }
        var usage = OMUsageRecord()
        usage.isCounted = true
        put(OMTable.usage, OMTableKey.number(bucket), usage)
    }

    /// Counts some more keys of a bucket that is older than its usage.
    func countUsage(_ command: OMCountUsageCommand) throws(StoreError) {
        let bucket: OMBucketRecord? = try reads.record(
            OMTable.buckets, OMTableKey.bucket(command.bucket))
        guard let bucket, bucket.number == command.number else { return }
        let place = OMTableKey.number(command.number)
        var usage: OMUsageRecord = try reads.record(OMTable.usage, place) ?? OMUsageRecord()
        guard !usage.isCounted else { return }
        // Behind the last one, which is above all names that are counted; from the first at first.
        let last = usage.countedTo.octets
        let start = last.isEmpty ? place : place + last + [0]
        var count: UInt32 = 0
        usage.isCounted = true
        transaction.scan(OMTable.keys, from: start) { key, value in
            guard key.starts(with: place) else { return false }
            guard count < command.limit else {
                usage.isCounted = false
                return false
            }
            count += 1
            usage.keys += 1
            // One that cannot be read is a key all the same; it can be neither read nor replaced.
            let record = try? OMKeyRecord(head: value, attributes: false)
            usage.bytes &+= record?.length ?? 0
            usage.countedTo = .octets(Array(key.dropFirst(place.count)))
            return true
        }
        if usage.isCounted { usage.countedTo = .octets([]) }
        put(OMTable.usage, place, usage)
    }
}

extension OMUsageRecord {
    /// Whether a change of the key `name` is one of what is counted.
    func includes(_ name: [UInt8]) -> Bool {
        isCounted || !countedTo.octets.lexicographicallyPrecedes(name)
    }
}

extension OMKeyRecord {
    /// What it refers to, in the order of its bytes.
    func allReferences() throws(StoreError) -> [OMStoredBlock] {
        try OMKeyLayout(parsing: layout.octets).blocks
    }
}
