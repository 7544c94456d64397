import CChecksum
import CISAL

/// CRC-32C (Castagnoli): the checksum of every 4 KiB that the store holds. By carry-less
/// multiplication of 64-byte vectors where the processor has it, by ISA-L elsewhere.
///
/// The check value of "123456789" is 0xE3069283.
public struct CRC32C: Sendable {
    /// The scalar reference, with the polynomial 0x1EDC6F41 reversed.
    public static let reference = ReflectedCRC<UInt32>(polynomial: 0x82F6_3B78)

    /// The checksum of what was taken so far. 0 at the start.
    public private(set) var value: UInt32 = 0

    public init() {}

    /// Takes more bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        value = Self.update(value, bytes)
    }

    /// The checksum of `bytes`.
    public static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 { update(0, bytes) }

    /// The checksum of an array's bytes; for headers and records rather than payloads.
    public static func of(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { of($0) } }

    /// The checksum of what `crc` covers followed by `bytes`.
    public static func update(_ crc: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        guard canFold, let start = bytes.baseAddress else { return updateByISAL(crc, bytes) }
        // The kernels work on the bare register.
        return ~apus_crc32c(~crc, start, bytes.count)
    }

    static let canFold = apus_crc32c_can_fold() != 0

    /// The same as `update`, by ISA-L.
    static func updateByISAL(_ crc: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        // ISA-L works on the bare register and counts in `int`.
        var register = ~crc
        var rest = bytes
        while !rest.isEmpty {
            let piece = UnsafeRawBufferPointer(rebasing: rest.prefix(ISALLimits.bytesPerCall))
            // The header lacks `const`; the bytes are only read.
            let start = UnsafeMutableRawPointer(mutating: piece.baseAddress!)
            register = crc32_iscsi(
                start.assumingMemoryBound(to: UInt8.self), Int32(piece.count), register)
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(piece.count))
        }
        return ~register
    }

    /// The checksum of A followed by B, from both checksums and B's length in bytes.
    public static func combine(_ crcA: UInt32, _ crcB: UInt32, lengthB: Int) -> UInt32 {
        reference.combine(crcA, crcB, lengthB: lengthB)
    }
}

/// What ISA-L's interfaces allow.
enum ISALLimits {
    /// CRC32C's length is a C `int`.
    static let bytesPerCall = 1 << 30
}
