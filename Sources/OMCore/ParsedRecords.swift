import Model
import Synchronization
import SwiftProtobuf
import Wire

/// Records that nearly every request looks at, parsed: by where their bytes are in memory, which
/// are kept, so that what is here can never be out of date and costs no look at them. Bytes from
/// a cache of records are at the same place each time. Thread-safe.
final class ParsedRecords<Record: SwiftProtobuf.Message & Sendable>: Sendable {
    enum Limits {
        /// Records kept; when there are more all are forgotten.
        static var records: Int { 4096 }
        /// Bytes of the largest record that is kept.
        static var recordBytes: Int { 4096 }
    }

    private struct Known {
        /// Kept: nothing else can come to their place, and nobody can change them there.
        var bytes: [UInt8]
        var record: Record
    }

    private let records = Mutex<[UInt: Known]>([:])

    func parse(_ bytes: [UInt8]) throws(StoreError) -> Record {
        let place = bytes.withUnsafeBufferPointer { UInt(bitPattern: $0.baseAddress) }
        let known = records.withLock { records -> Record? in
            guard let known = records[place], known.bytes.count == bytes.count else { return nil }
            return known.record
        }
        if let known { return known }
        let record = try Record(parsing: bytes)
        guard bytes.count <= Limits.recordBytes else { return record }
        records.withLock { records in
            if records.count >= Limits.records { records.removeAll(keepingCapacity: true) }
            records[place] = Known(bytes: bytes, record: record)
        }
        return record
    }
}

/// The kinds of records that are kept parsed.
enum Parsed {
    static let buckets = ParsedRecords<OMBucketRecord>()
    static let users = ParsedRecords<OMUserRecord>()
}
