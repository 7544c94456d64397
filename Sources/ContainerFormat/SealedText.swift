import Checksum

/// A small file of a volume that people may read: a first line with kind and version, lines of
/// words, and a last line with the CRC32C of all before it.
///
///     apus-disk 1
///     depth 64
///     crc32c 89abcdef
enum SealedText {
    /// The bytes of a file of `kind` with `lines`.
    static func encoded(kind: String, version: UInt32, lines: [String]) -> [UInt8] {
        let text = (["\(kind) \(version)"] + lines).joined(separator: "\n") + "\n"
        return Array((text + "crc32c \(String(CRC32C.of(Array(text.utf8)), radix: 16))\n").utf8)
    }

    /// The words of each line between the first and the last. Throws `notA`, `unknownVersion` (looked
    /// at before anything else), `checksum`.
    static func lines(
        of bytes: [UInt8], kind: String, version: UInt32, called what: String
    ) throws(FormatError) -> [[String]] {
        let text = String(decoding: bytes, as: UTF8.self)
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            .map { $0.split(separator: " ").map(String.init) }
        guard let first = lines.first, first.count == 2, first[0] == kind,
            let found = UInt32(first[1])
        else { throw .notA(what) }
        guard found == version else {
            throw .unknownVersion(of: what, found: found, known: version...version)
        }
        guard lines.count >= 3, lines.removeLast() == [], let last = lines.popLast(),
            last.count == 2, last[0] == "crc32c", let sum = UInt32(last[1], radix: 16)
        else { throw .checksum(of: what) }
        let sealed = bytes.count - "crc32c \(last[1])\n".utf8.count
        guard sealed > 0, CRC32C.of(Array(bytes[..<sealed])) == sum else {
            throw .checksum(of: what)
        }
        return Array(lines.dropFirst())
    }
}
