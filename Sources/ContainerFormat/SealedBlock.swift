import Checksum

/// One 4 KiB block that begins or ends a file: magic, version, length, checksum, body, zeros.
///
/// The first 20 bytes have this meaning in every version for ever, so that an unknown version can
/// be told from damage: magic (8), version (4), body length (4), CRC32C of these 16
/// and the body (4).
enum SealedBlock {
    static let size = 4096
    static let prefix = 20

    static func seal(magic: String, version: UInt32, body: [UInt8]) -> [UInt8] {
        precondition(magic.utf8.count == 8, "a magic has eight bytes")
        precondition(body.count <= size - prefix, "the body of a block fits into 4 KiB")
        var head = ByteWriter()
        head.append(Array(magic.utf8))
        head.append(version)
        head.append32(body.count)
        var crc = CRC32C()
        head.bytes.withUnsafeBytes { crc.update($0) }
        body.withUnsafeBytes { crc.update($0) }
        head.append(crc.value)
        head.append(body)
        return head.bytes + [UInt8](repeating: 0, count: size - head.bytes.count)
    }

    /// The version, the body and its checksum, after magic, checksum and version were found right.
    static func open(
        _ bytes: UnsafeRawBufferPointer, magic: String, versions: ClosedRange<UInt32>, what: String
    ) throws(FormatError) -> (version: UInt32, body: [UInt8], checksum: UInt32) {
        guard bytes.count >= prefix else { throw .truncated(what) }
        guard bytes.prefix(8).elementsEqual(magic.utf8) else { throw .notA(what) }
        var reader = ByteReader(bytes, of: what)
        _ = try reader.read(UInt64.self)
        let found = try reader.read(UInt32.self)
        let length = try reader.read32()
        let checksum = try reader.read(UInt32.self)
        guard length <= size - prefix, bytes.count >= prefix + length else {
            throw .checksum(of: what)
        }
        var crc = CRC32C()
        crc.update(UnsafeRawBufferPointer(rebasing: bytes[..<16]))
        crc.update(UnsafeRawBufferPointer(rebasing: bytes[prefix..<prefix + length]))
        guard crc.value == checksum else { throw .checksum(of: what) }
        guard versions.contains(found) else {
            throw .unknownVersion(of: what, found: found, known: versions)
        }
        return (found, try reader.readBytes(length), checksum)
    }
}
