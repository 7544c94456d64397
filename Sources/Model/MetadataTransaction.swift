/// The number of an ordered table of byte strings. OM and SCM each give theirs names.
///
/// Numbers are part of the format on disk: never reuse one for something else.
public struct MetadataTable: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt8

    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public init(_ rawValue: UInt8) { self.rawValue = rawValue }

    public var description: String { "table \(rawValue)" }
}

/// A consistent view of ordered tables whose keys and values are byte strings.
///
/// Keys are compared byte by byte, a prefix before what it is a prefix of.
///
/// Methods do not throw, so that the cores built on them need not carry errors of disks: an
/// implementation whose medium fails returns nothing from then on and remembers the failure, and
/// the driver that made it looks there before it uses what was computed. A core must therefore
/// not trap on a record that is absent.
///
/// Not thread-safe: belongs to one call of `apply` or one read.
public protocol MetadataReader {
    /// The value stored at `key`, or nil. O(log n).
    func get(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]?

    /// Calls `body` with the entries at and after `start` in ascending order of their keys, until
    /// it returns false or the table ends.
    ///
    /// `body` may read any table, also by scanning, but must not change the one being scanned.
    func scan(
        _ table: MetadataTable, from start: [UInt8],
        _ body: (_ key: [UInt8], _ value: [UInt8]) -> Bool)
}

/// A `MetadataReader` that can be changed. Reads see the changes made before them; all changes
/// take effect together or not at all.
public protocol MetadataTransaction: MetadataReader {
    /// Stores `value` at `key`, in place of an older one.
    func put(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8])
    /// Stores `value` at `key`, which was never used before and never will be again once it is
    /// removed: a record under a number of its own. An implementation may keep one that is soon
    /// removed again from ever being written. Does what `put` does.
    func add(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8])
    /// Removes the entry at `key`, if there is one.
    func delete(_ table: MetadataTable, _ key: [UInt8])
}

extension MetadataTransaction {
    public func add(_ table: MetadataTable, _ key: [UInt8], _ value: [UInt8]) {
        put(table, key, value)
    }
}

extension MetadataReader {
    /// The entries whose keys begin with `prefix`, from `start` on if that is further, at most
    /// `limit`.
    public func entries(
        _ table: MetadataTable, prefix: [UInt8], from start: [UInt8] = [], limit: Int
    ) -> [(key: [UInt8], value: [UInt8])] {
        var found: [(key: [UInt8], value: [UInt8])] = []
        guard limit > 0 else { return found }
        let bound = start.lexicographicallyPrecedes(prefix) ? prefix : start
        scan(table, from: bound) { key, value in
            guard key.starts(with: prefix) else { return false }
            found.append((key, value))
            return found.count < limit
        }
        return found
    }

    /// Whether any key of `table` begins with `prefix`.
    public func containsKey(_ table: MetadataTable, prefix: [UInt8]) -> Bool {
        var found = false
        scan(table, from: prefix) { key, _ in
            found = key.starts(with: prefix)
            return false
        }
        return found
    }
}

/// Keys of metadata tables are built from these, so that the order of the bytes is the order of
/// what they stand for.
extension [UInt8] {
    /// Appends `value` with its most significant byte first.
    @inlinable
    public mutating func appendBigEndian<T: FixedWidthInteger & UnsignedInteger>(_ value: T) {
        var shift = T.bitWidth - 8
        while shift >= 0 {
            append(UInt8(truncatingIfNeeded: value >> T(shift)))
            shift -= 8
        }
    }

    /// The number written at `offset` by `appendBigEndian`. Precondition: it lies within.
    @inlinable
    public func bigEndian<T: FixedWidthInteger & UnsignedInteger>(
        at offset: Int, as type: T.Type = T.self
    ) -> T {
        precondition(
            offset >= 0 && offset + T.bitWidth / 8 <= count, "a number outside of its key")
        var value: T = 0
        for index in offset..<offset + T.bitWidth / 8 { value = value << 8 | T(self[index]) }
        return value
    }

    /// Two digits a byte: a key as people are told it.
    public var hexadecimal: String {
        map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// The least byte string above every string that begins with this one; nil if there is none
    /// (no bytes, or all of them 0xFF). Seeking to it skips all that begin with this.
    public var prefixSuccessor: [UInt8]? {
        var bytes = self
        while let last = bytes.last {
            if last < 0xFF {
                bytes[bytes.count - 1] = last + 1
                return bytes
            }
            bytes.removeLast()
        }
        return nil
    }
}
