import Model
import Wire

// Uploads that outlived their bucket.

extension OMReads {
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
}
