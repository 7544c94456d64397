/// A running digest of 64 bits over numbers and bytes: the same in each process, unlike `Hasher`.
///
/// It tells runs, entries and states apart where nobody means harm; it is not a checksum of a
/// format.
public struct Digest: Equatable, Sendable {
    /// The digest of all that was added so far.
    public private(set) var value: UInt64

    /// A digest of nothing, or one that goes on from `value`.
    public init(_ value: UInt64 = 0x6A09_E667_F3BC_C908) { self.value = value }

    /// Adds a number; the order of additions counts.
    @inline(__always)
    public mutating func add(_ number: UInt64) {
        value = mixed(value &+ 0x9E37_79B9_7F4A_7C15) ^ mixed(number &+ 0xD1B5_4A32_D192_ED03)
    }

    /// Adds bytes and their count, eight at a time.
    public mutating func add(_ bytes: [UInt8]) {
        add(UInt64(bytes.count))
        var word: UInt64 = 0
        var filled = 0
        for byte in bytes {
            word = word << 8 | UInt64(byte)
            filled += 1
            if filled == 8 {
                add(word)
                word = 0
                filled = 0
            }
        }
        if filled > 0 { add(word) }
    }
}
