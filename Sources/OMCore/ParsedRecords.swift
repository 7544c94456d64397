import Model
import Synchronization
import SwiftProtobuf
import Wire

/// Records that nearly every request looks at, parsed: by their bytes, so that what is here can
/// never be out of date. Thread-safe.
final class ParsedRecords<Record: SwiftProtobuf.Message & Sendable>: Sendable {
    enum Limits {
        /// Records kept; when there are more all are forgotten.
        static var records: Int { 4096 }
        /// Bytes of the largest record that is kept.
        static var recordBytes: Int { 4096 }
    }

    private struct Key: Hashable {
        var bytes: [UInt8]

        func hash(into hasher: inout Hasher) {
            bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
        }
    }

    private let records = Mutex<[Key: Record]>([:])

    func parse(_ bytes: [UInt8]) throws(StoreError) -> Record {
        let key = Key(bytes: bytes)
        if let known = records.withLock({ $0[key] }) { return known }
        let record = try Record(parsing: bytes)
        guard bytes.count <= Limits.recordBytes else { return record }
        records.withLock { records in
            if records.count >= Limits.records { records.removeAll(keepingCapacity: true) }
            records[key] = record
        }
        return record
    }
}

/// The kinds of records that are kept parsed.
enum Parsed {
    static let buckets = ParsedRecords<OMBucketRecord>()
    static let users = ParsedRecords<OMUserRecord>()
}
