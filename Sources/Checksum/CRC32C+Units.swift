/// Why bytes do not match the checksums that came with them.
public enum UnitMismatch: Error, Hashable, Sendable, CustomStringConvertible {
    /// There are not as many checksums as units.
    case count(expected: Int, found: Int)
    /// The bytes of unit `index` (from 0) have checksum `found`.
    case unit(index: Int, expected: UInt32, found: UInt32)

    public var description: String {
        switch self {
        case .count(let expected, let found):
            "\(expected) checksums expected, one per unit, but \(found) given"
        case .unit(let index, let expected, let found):
            "unit \(index) has CRC32C 0x\(hex(found)) instead of 0x\(hex(expected))"
        }
    }

    private func hex(_ value: UInt32) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}

extension CRC32C {
    /// Bytes covered by one checksum of the store.
    public static let unit = 4 * 1024

    /// How many units `count` bytes have: the last may be short. Precondition: `unit` > 0.
    @inlinable
    public static func unitCount(_ count: Int, unit: Int = unit) -> Int {
        precondition(unit > 0 && count >= 0, "a unit has at least one byte")
        return (count + unit - 1) / unit
    }

    /// The checksums of each `unit` bytes of `bytes`; the last unit may be short. None for none.
    public static func ofUnits(_ bytes: UnsafeRawBufferPointer, unit: Int = unit) -> [UInt32] {
        let count = unitCount(bytes.count, unit: unit)
        return [UInt32](unsafeUninitializedCapacity: count) { sums, initialized in
            for index in 0..<count { sums[index] = ofUnit(index, of: bytes, unit: unit) }
            initialized = count
        }
    }

    /// Checks `bytes` against the checksums of their units, naming the first that is wrong.
    public static func verifyUnits(
        _ bytes: UnsafeRawBufferPointer, against checksums: [UInt32], unit: Int = unit
    ) throws(UnitMismatch) {
        let wrong = checksums.withUnsafeBufferPointer { mismatch(bytes, $0, unit: unit) }
        if let wrong { throw wrong }
    }

    /// The same, against a part of a list.
    public static func verifyUnits(
        _ bytes: UnsafeRawBufferPointer, against checksums: ArraySlice<UInt32>, unit: Int = unit
    ) throws(UnitMismatch) {
        let wrong = checksums.withUnsafeBufferPointer { mismatch(bytes, $0, unit: unit) }
        if let wrong { throw wrong }
    }

    private static func mismatch(
        _ bytes: UnsafeRawBufferPointer, _ checksums: UnsafeBufferPointer<UInt32>, unit: Int
    ) -> UnitMismatch? {
        let count = unitCount(bytes.count, unit: unit)
        guard checksums.count == count else {
            return .count(expected: count, found: checksums.count)
        }
        for index in 0..<count {
            let found = ofUnit(index, of: bytes, unit: unit)
            guard found == checksums[index] else {
                return .unit(index: index, expected: checksums[index], found: found)
            }
        }
        return nil
    }

    private static func ofUnit(
        _ index: Int, of bytes: UnsafeRawBufferPointer, unit: Int
    ) -> UInt32 {
        let start = index * unit
        let end = min(start + unit, bytes.count)
        return of(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
    }
}
