import Model

/// The key of a record within its table. Hashed as a whole, not byte by byte as an array is.
struct RecordBytes: Hashable, Comparable, Sendable {
    var bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func hash(into hasher: inout Hasher) {
        bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
    }

    static func < (left: Self, right: Self) -> Bool {
        left.bytes.lexicographicallyPrecedes(right.bytes)
    }
}

/// A record of all tables.
struct RecordKey: Hashable, Sendable {
    var table: MetadataTable
    var bytes: [UInt8]

    func hash(into hasher: inout Hasher) {
        hasher.combine(table.rawValue)
        bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
    }
}
