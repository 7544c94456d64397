import Model

/// What is said of bad bytes that were kept: the first 4 KiB of a file below a volume's `damaged`,
/// text for people, padded with line ends. The bytes themselves follow.
public struct DamageNote: Hashable, Sendable {
    public var block: BlockID
    public var replicaIndex: Int
    /// Of the block replica.
    public var range: Range<Int>
    /// Where they lay in the data file.
    public var fileOffset: Int
    /// When they were replaced.
    public var at: Timestamp
    /// CRC32C of each 4 KiB as it should have been.
    public var checksums: [UInt32]

    /// Bytes of the note in the file.
    public static let size = 4096
    /// Checksums that are named; those of more bytes are left out.
    static let mostChecksums = 64
    static let version: UInt32 = 1
    private static let kind = "apus-damaged"
    private static let what = "kept damage"

    public init(
        block: BlockID, replicaIndex: Int, range: Range<Int>, fileOffset: Int, at: Timestamp,
        checksums: [UInt32]
    ) {
        self.block = block
        self.replicaIndex = replicaIndex
        self.range = range
        self.fileOffset = fileOffset
        self.at = at
        self.checksums = Array(checksums.prefix(Self.mostChecksums))
    }

    /// The note as `size` bytes.
    public func encoded() -> [UInt8] {
        let sums = checksums.map { String($0, radix: 16) }.joined(separator: " ")
        let bytes = SealedText.encoded(
            kind: Self.kind, version: Self.version,
            lines: [
                "container \(block.containerID.rawValue)", "replica-index \(replicaIndex)",
                "block \(block.localID)", "offset \(range.lowerBound)", "bytes \(range.count)",
                "file-offset \(fileOffset)", "replaced-at-ms \(at.milliseconds)",
                "expected-crc32c \(sums)",
            ])
        precondition(bytes.count <= Self.size, "a note fits into its block")
        return bytes + [UInt8](repeating: UInt8(ascii: "\n"), count: Self.size - bytes.count)
    }

    /// Parses the beginning of a file. Throws `notA`, `unknownVersion`, `checksum`, `invalid`.
    public init(parsing bytes: [UInt8]) throws(FormatError) {
        guard bytes.count >= Self.size else { throw .truncated(Self.what) }
        let end = bytes[..<Self.size].lastIndex { $0 != UInt8(ascii: "\n") } ?? 0
        let lines = try SealedText.lines(
            of: Array(bytes[...end]) + [UInt8(ascii: "\n")], kind: Self.kind,
            version: Self.version, called: Self.what)
        func number(_ name: String) throws(FormatError) -> UInt64 {
            guard let line = lines.first(where: { $0.first == name }), line.count == 2,
                let value = UInt64(line[1]), value <= UInt64(Int64.max)
            else { throw .invalid("the \(Self.what) has no number '\(name)'") }
            return value
        }
        block = BlockID(
            containerID: ContainerID(try number("container")), localID: try number("block"))
        replicaIndex = Int(try number("replica-index"))
        let (start, count) = (Int(try number("offset")), Int(try number("bytes")))
        guard start <= 1 << 40, count <= 1 << 40 else {
            throw .invalid("the \(Self.what) is of \(count) bytes at \(start)")
        }
        range = start..<start + count
        fileOffset = Int(try number("file-offset"))
        at = Timestamp(milliseconds: Int64(try number("replaced-at-ms")))
        checksums =
            lines.first { $0.first == "expected-crc32c" }?.dropFirst()
            .compactMap { UInt32($0, radix: 16) } ?? []
    }
}
