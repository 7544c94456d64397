import Logging
import Model
import OMCore
import RaftDriver
import Reactor
import Wire

// Buckets that are older than the counters of usage are counted in the background, once.

extension OzoneManager {
    /// Counts the keys of all buckets that are not counted, and ends. What cannot be done now is
    /// tried again after a while.
    func countOldBuckets() async {
        while !Task.isCancelled {
            do {
                guard leads else {
                    try await group.reactor.sleep(for: options.deletionInterval)
                    continue
                }
                if try await countBuckets() { return }
                try await group.reactor.sleep(for: options.expiryInterval)
            } catch is CancellationError {
                return
            } catch {
                logger.warning("buckets are not counted for now: \(error)")
                do {
                    try await group.reactor.sleep(for: options.expiryInterval)
                } catch {
                    return
                }
            }
        }
    }

    /// One walk over the buckets. Whether all whose records can be read are counted now.
    func countBuckets() async throws -> Bool {
        var next: [UInt8]? = []
        var isWhole = true
        while let start = next {
            let page = try await read { reads in
                reads.uncountedBuckets(from: start, limit: OMLimits.expiryBatch)
            }
            next = page.next
            for error in page.unreadable {
                isWhole = false
                logger.error("a bucket is not counted: \(error.message)")
            }
            for bucket in page.found { try await count(bucket) }
        }
        return isWhole
    }

    /// Counts one bucket, a bounded command at a time.
    private func count(_ bucket: OMReads.UncountedBucket) async throws {
        var command = OMCountUsageCommand()
        command.bucket = bucket.bucket
        command.number = bucket.number
        command.limit = UInt32(OMLimits.countedKeys)
        while true {
            _ = try await propose(.countUsage(command))
            let isCounted = try await read { reads throws(StoreError) in
                try reads.isCounted(bucket)
            }
            if isCounted { break }
            try await group.reactor.sleep(for: options.countingInterval)
        }
        let path = "/\(bucket.bucket.volume)/\(bucket.bucket.bucket)"
        logger.info("the keys of \(path) are counted")
    }
}
