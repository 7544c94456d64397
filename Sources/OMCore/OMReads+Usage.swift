import Model
import Wire

extension OMReads {
    /// How much a bucket holds.
    public struct Usage: Hashable, Sendable {
        /// Keys that are committed. Open ones and the parts of uploads are not among them.
        public var keys: UInt64
        /// Their bytes, as users count them.
        public var bytes: UInt64
        /// Whether all keys are counted: those of a bucket from before there was usage may not yet be.
        public var isComplete: Bool
    }

    public func usage(_ request: OMBucketRequest) throws(StoreError) -> Usage {
        let bucket = try bucket(request.bucket, user: request.user)
        return try usage(of: bucket.number)
    }

    func usage(of bucket: UInt64) throws(StoreError) -> Usage {
        let found: OMUsageRecord? = try record(OMTable.usage, OMTableKey.number(bucket))
        let record = found ?? OMUsageRecord()
        return Usage(keys: record.keys, bytes: record.bytes, isComplete: record.isCounted)
    }

    /// A bucket whose keys are not all counted.
    public struct UncountedBucket: Sendable {
        public var bucket: OMBucketPath
        public var number: UInt64
    }

    /// Whether nothing is left to count: all is, or the bucket is gone.
    public func isCounted(_ bucket: UncountedBucket) throws(StoreError) -> Bool {
        let record: OMBucketRecord? = try record(
            OMTable.buckets, OMTableKey.bucket(bucket.bucket))
        guard record?.number == bucket.number else { return true }
        return try usage(of: bucket.number).isComplete
    }

    /// Looks at `limit` buckets from `start` on for those whose keys are not all counted. Where to
    /// go on, nil at the end; and why records could not be read.
    public func uncountedBuckets(
        from start: [UInt8], limit: Int
    ) -> (found: [UncountedBucket], next: [UInt8]?, unreadable: [StoreError]) {
        let entries = reader.entries(OMTable.buckets, prefix: [], from: start, limit: limit)
        var found: [UncountedBucket] = []
        var unreadable: [StoreError] = []
        for entry in entries {
            do throws(StoreError) {
                let record: OMBucketRecord = try parse(
                    entry.value, in: OMTable.buckets, at: entry.key)
                guard try !usage(of: record.number).isComplete else { continue }
                var path = OMBucketPath()
                path.volume = record.bucket.volume
                path.bucket = record.bucket.name
                found.append(UncountedBucket(bucket: path, number: record.number))
            } catch {
                unreadable.append(error)
            }
        }
        return (found, entries.count < limit ? nil : entries.last.map { $0.key + [0] }, unreadable)
    }
}
