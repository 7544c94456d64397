import Checksum
import Crypto
import Model

/// A checksum of S3 while its bytes go by.
struct RunningChecksum: Sendable {
    let algorithm: ObjectChecksum.Algorithm
    private var crc32 = CRC32()
    private var crc32c = CRC32C()
    private var crc64nvme = CRC64NVME()
    private var sha1: Insecure.SHA1?
    private var sha256: SHA256?

    init(_ algorithm: ObjectChecksum.Algorithm) {
        self.algorithm = algorithm
        if algorithm == .sha1 { sha1 = Insecure.SHA1() }
        if algorithm == .sha256 { sha256 = SHA256() }
    }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        switch algorithm {
        case .crc32: crc32.update(bytes)
        case .crc32c: crc32c.update(bytes)
        case .crc64nvme: crc64nvme.update(bytes)
        case .sha1: sha1?.update(bufferPointer: bytes)
        case .sha256: sha256?.update(bufferPointer: bytes)
        }
    }

    /// The bytes of the checksum, most significant first.
    func finalize() -> [UInt8] {
        switch algorithm {
        case .crc32: bigEndian(crc32.value)
        case .crc32c: bigEndian(crc32c.value)
        case .crc64nvme: bigEndian(crc64nvme.value)
        case .sha1: sha1.map { Array($0.finalize()) } ?? []
        case .sha256: sha256.map { Array($0.finalize()) } ?? []
        }
    }

    /// The checksum of `bytes`.
    static func of(_ bytes: [UInt8], _ algorithm: ObjectChecksum.Algorithm) -> [UInt8] {
        var running = RunningChecksum(algorithm)
        bytes.withUnsafeBytes { running.update($0) }
        return running.finalize()
    }
}

/// The bytes of `value`, most significant first.
func bigEndian(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.bigEndian) { Array($0) }
}

/// Reads a number, most significant byte first.
private func number<Word: FixedWidthInteger>(_ bytes: [UInt8]) -> Word {
    bytes.reduce(Word(0)) { $0 << 8 | Word(truncatingIfNeeded: $1) }
}

extension ObjectChecksum {
    /// The checksum of a multipart object from those of its parts.
    ///
    /// FULL_OBJECT combines the parts' CRCs into that of all bytes; COMPOSITE is the checksum of
    /// the parts' checksums, with `-` and their number behind.
    /// - Parameter parts: in order. Precondition: not empty.
    /// - Returns: nil if a part has no checksum of this algorithm.
    init?(_ upload: (algorithm: Algorithm, kind: Kind), parts: [PartInfo]) {
        precondition(!parts.isEmpty, "an object is made of at least one part")
        var values: [[UInt8]] = []
        values.reserveCapacity(parts.count)
        for part in parts {
            guard let checksum = part.checksum, checksum.algorithm == upload.algorithm,
                let bytes = Base64.decode(checksum.value), bytes.count == upload.algorithm.byteCount
            else { return nil }
            values.append(bytes)
        }
        switch upload.kind {
        case .composite:
            let whole = RunningChecksum.of(Array(values.joined()), upload.algorithm)
            self.init(
                algorithm: upload.algorithm, kind: .composite,
                value: "\(Base64.encode(whole))-\(parts.count)")
        case .fullObject:
            guard let whole = Self.combine(upload.algorithm, values, parts.map(\.length)) else {
                return nil
            }
            self.init(
                algorithm: upload.algorithm, kind: .fullObject, value: Base64.encode(whole))
        }
    }

    private static func combine(
        _ algorithm: Algorithm, _ values: [[UInt8]], _ lengths: [Int]
    ) -> [UInt8]? {
        func fold<Word: FixedWidthInteger>(_ combine: (Word, Word, Int) -> Word) -> [UInt8] {
            var whole: Word = number(values[0])
            for index in 1..<max(1, values.count) {
                whole = combine(whole, number(values[index]), lengths[index])
            }
            return bigEndian(whole)
        }
        switch algorithm {
        case .crc32: return fold { CRC32.combine($0, $1, lengthB: $2) }
        case .crc32c: return fold { CRC32C.combine($0, $1, lengthB: $2) }
        case .crc64nvme: return fold { CRC64NVME.combine($0, $1, lengthB: $2) }
        case .sha1, .sha256: return nil
        }
    }
}
