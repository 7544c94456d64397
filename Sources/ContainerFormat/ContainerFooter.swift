import Model

/// The last 4 KiB of a closed container's data file.
public struct ContainerFooter: Hashable, Sendable {
    public var header: ContainerHeader
    /// Counts the data files of the replica: 0 until it is compacted for the first time.
    public var generation: UInt64 = 0
    public var blockCount: Int
    /// Bytes of cells, without padding.
    public var usedBytes: Int
    public var tableOffset: Int
    /// Bytes, without the padding to 4 KiB.
    public var tableLength: Int
    public var tableChecksum: UInt32

    public static let size = SealedBlock.size
    /// The version of index and footer written. 2 is read as well; it has no generation.
    public static let version: UInt32 = 3
    public static let versions: ClosedRange<UInt32> = 2...3
    private static let magic = "APUSFOOT"
    private static let what = "container footer"

    func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.append64(blockCount)
        writer.append64(usedBytes)
        writer.append64(tableOffset)
        writer.append64(tableLength)
        writer.append(tableChecksum)
        writer.append(generation)
        writer.append(header.body)
        return SealedBlock.seal(magic: Self.magic, version: Self.version, body: writer.bytes)
    }

    init(
        header: ContainerHeader, blockCount: Int, usedBytes: Int, tableOffset: Int,
        tableLength: Int, tableChecksum: UInt32
    ) {
        self.header = header
        self.blockCount = blockCount
        self.usedBytes = usedBytes
        self.tableOffset = tableOffset
        self.tableLength = tableLength
        self.tableChecksum = tableChecksum
    }

    /// Parses `bytes`, the footer's block.
    public init(parsing bytes: UnsafeRawBufferPointer) throws(FormatError) {
        let (version, body, _) = try SealedBlock.open(
            bytes, magic: Self.magic, versions: Self.versions, what: Self.what)
        self = try body.withReader(of: Self.what) { (reader) throws(FormatError) in
            try Self(&reader, version: version)
        }
    }

    private init(_ reader: inout ByteReader, version: UInt32) throws(FormatError) {
        blockCount = try reader.read64()
        usedBytes = try reader.read64()
        tableOffset = try reader.read64()
        tableLength = try reader.read64()
        tableChecksum = try reader.read(UInt32.self)
        if version >= 3 { generation = try reader.read(UInt64.self) }
        header = try ContainerHeader(body: try reader.readBytes(reader.remaining), what: Self.what)
        guard tableOffset % DataFile.alignment == 0, tableLength <= ContainerIndex.Limits.table
        else {
            throw .invalid("the footer has a table of \(tableLength) bytes at \(tableOffset)")
        }
    }
}
