import Crypto
import Model

/// A checksum of S3 while its bytes go by.
enum RunningChecksum {
    case crc32(PlainCRC<UInt32>)
    case crc32c(PlainCRC<UInt32>)
    case crc64nvme(PlainCRC<UInt64>)
    case sha1(Insecure.SHA1)
    case sha256(SHA256)

    init(_ algorithm: ObjectChecksum.Algorithm) {
        self =
            switch algorithm {
            case .crc32: .crc32(PlainCRC(.crc32))
            case .crc32c: .crc32c(PlainCRC(.crc32c))
            case .crc64nvme: .crc64nvme(PlainCRC(.crc64nvme))
            case .sha1: .sha1(Insecure.SHA1())
            case .sha256: .sha256(SHA256())
            }
    }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        switch self {
        case .crc32(var crc):
            crc.update(bytes)
            self = .crc32(crc)
        case .crc32c(var crc):
            crc.update(bytes)
            self = .crc32c(crc)
        case .crc64nvme(var crc):
            crc.update(bytes)
            self = .crc64nvme(crc)
        case .sha1(var hash):
            hash.update(bufferPointer: bytes)
            self = .sha1(hash)
        case .sha256(var hash):
            hash.update(bufferPointer: bytes)
            self = .sha256(hash)
        }
    }

    /// The bytes of the checksum, most significant first.
    func finalize() -> [UInt8] {
        switch self {
        case .crc32(let crc), .crc32c(let crc): bigEndian(crc.value)
        case .crc64nvme(let crc): bigEndian(crc.value)
        case .sha1(let hash): Array(hash.finalize())
        case .sha256(let hash): Array(hash.finalize())
        }
    }
}

/// The bytes of `value`, most significant first.
func bigEndian(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.bigEndian) { Array($0) }
}

/// A reflected CRC, one table look-up a byte.
struct PlainCRC<Word: FixedWidthInteger & UnsignedInteger & Sendable> {
    struct Table: Sendable {
        let entries: [Word]
        init(polynomial: Word) {
            entries = (0..<256).map { index in
                (0..<8).reduce(Word(index)) { word, _ in
                    word & 1 == 1 ? word >> 1 ^ polynomial : word >> 1
                }
            }
        }
    }
    private let table: Table
    private var state = Word.max

    init(_ table: Table) { self.table = table }

    var value: Word { ~state }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        table.entries.withUnsafeBufferPointer { entries in
            for byte in bytes {
                state = entries[Int(UInt8(truncatingIfNeeded: state) ^ byte)] ^ state >> 8
            }
        }
    }
}

private let crc32Table = PlainCRC<UInt32>.Table(polynomial: 0xEDB8_8320)
private let crc32cTable = PlainCRC<UInt32>.Table(polynomial: 0x82F6_3B78)
private let crc64nvmeTable = PlainCRC<UInt64>.Table(polynomial: 0x9A6C_9329_AC4B_C9B5)

extension PlainCRC.Table where Word == UInt32 {
    static var crc32: Self { crc32Table }
    static var crc32c: Self { crc32cTable }
}

extension PlainCRC.Table where Word == UInt64 {
    static var crc64nvme: Self { crc64nvmeTable }
}
