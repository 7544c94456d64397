import CChecksum

/// CRC-64/NVME, S3's default checksum: folded by carry-less multiplication where the processor
/// can, by tables sixteen bytes at a time elsewhere and for short runs.
///
/// The check value of "123456789" is 0xAE8B14860A799888.
public struct CRC64NVME: Sendable {
    /// The scalar reference, with the polynomial 0xAD93D23594C93659 reversed.
    public static let reference = ReflectedCRC<UInt64>(polynomial: 0x9A6C_9329_AC4B_C9B5)

    /// The checksum of what was taken so far. 0 at the start.
    public private(set) var value: UInt64 = 0

    public init() {}

    /// Takes more bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        value = Self.update(value, bytes)
    }

    /// The checksum of `bytes`.
    public static func of(_ bytes: UnsafeRawBufferPointer) -> UInt64 { update(0, bytes) }

    /// The checksum of what `crc` covers followed by `bytes`.
    public static func update(_ crc: UInt64, _ bytes: UnsafeRawBufferPointer) -> UInt64 {
        guard canFold, bytes.count >= leastToFold, let start = bytes.baseAddress else {
            return updateByTables(crc, bytes)
        }
        let folding = bytes.count & ~15
        let tail = UnsafeRawBufferPointer(start: start + folding, count: bytes.count - folding)
        let register = withUnsafeTemporaryAllocation(byteCount: 16, alignment: 16) { folded in
            apus_crc64nvme_fold(~crc, start, folding, folded.baseAddress)
            return advance(0, UnsafeRawBufferPointer(folded))
        }
        return ~advance(register, tail)
    }

    /// The same as `update` without the processor's help.
    static func updateByTables(_ crc: UInt64, _ bytes: UnsafeRawBufferPointer) -> UInt64 {
        ~advance(~crc, bytes)
    }

    /// The checksum of A followed by B, from both checksums and B's length in bytes.
    public static func combine(_ crcA: UInt64, _ crcB: UInt64, lengthB: Int) -> UInt64 {
        reference.combine(crcA, crcB, lengthB: lengthB)
    }

    private static let canFold = apus_crc64nvme_can_fold() != 0
    /// What the folding kernel asks for.
    private static let leastToFold = 256
    private static let slices = 16

    /// Entry 256 × s + b: the register after byte b followed by s zero bytes.
    private static let table: [UInt64] = {
        var table = [UInt64](repeating: 0, count: 256 * slices)
        for byte in 0..<256 {
            var register = UInt64(byte)
            for _ in 0..<8 {
                register = (register >> 1) ^ (register & 1 == 0 ? 0 : reference.polynomial)
            }
            table[byte] = register
        }
        for index in 256..<table.count {
            let before = table[index - 256]
            table[index] = (before >> 8) ^ table[Int(before & 0xFF)]
        }
        return table
    }()

    /// The bare register after `bytes`.
    private static func advance(_ start: UInt64, _ bytes: UnsafeRawBufferPointer) -> UInt64 {
        table.withUnsafeBufferPointer { table in
            var register = start
            var offset = 0
            while bytes.count - offset >= slices {
                var low = register ^ word(bytes, at: offset)
                var high = word(bytes, at: offset + 8)
                register = 0
                for slice in 0..<8 {
                    register ^= table[256 * (15 - slice) + Int(low & 0xFF)]
                    register ^= table[256 * (7 - slice) + Int(high & 0xFF)]
                    low >>= 8
                    high >>= 8
                }
                offset += slices
            }
            while offset < bytes.count {
                let index = Int((register ^ UInt64(bytes[offset])) & 0xFF)
                register = (register >> 8) ^ table[index]
                offset += 1
            }
            return register
        }
    }

    private static func word(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> UInt64 {
        UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
}
