import CISAL

/// CRC-32 (ISO-HDLC, the one of gzip and S3's `CRC32`), by ISA-L.
///
/// The check value of "123456789" is 0xCBF43926.
public struct CRC32: Sendable {
    /// The scalar reference, with the polynomial 0x04C11DB7 reversed.
    public static let reference = ReflectedCRC<UInt32>(polynomial: 0xEDB8_8320)

    /// The checksum of what was taken so far. 0 at the start.
    public private(set) var value: UInt32 = 0

    public init() {}

    /// Takes more bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        value = Self.update(value, bytes)
    }

    /// The checksum of `bytes`.
    public static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 { update(0, bytes) }

    /// The checksum of what `crc` covers followed by `bytes`.
    public static func update(_ crc: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        guard let start = bytes.baseAddress, bytes.count > 0 else { return crc }
        // This one inverts before and after by itself.
        return crc32_gzip_refl(
            crc, start.assumingMemoryBound(to: UInt8.self), UInt64(bytes.count))
    }

    /// The checksum of A followed by B, from both checksums and B's length in bytes.
    public static func combine(_ crcA: UInt32, _ crcB: UInt32, lengthB: Int) -> UInt32 {
        reference.combine(crcA, crcB, lengthB: lengthB)
    }
}
