import Model

/// The first 4 KiB of a container's data file and of its journal: whose bytes follow.
public struct ContainerHeader: Hashable, Sendable {
    public enum File: String, Hashable, Sendable {
        case data
        case journal

        var magic: String {
            switch self {
            case .data: "APUSDATA"
            case .journal: "APUSJRNL"
            }
        }
        var what: String { "container \(rawValue) file" }
    }

    public var containerID: ContainerID
    public var replication: ReplicationConfig
    /// 1…d data, d+1…d+p parity.
    public var replicaIndex: Int

    /// Bytes of the header in the file.
    public static let size = SealedBlock.size
    /// The format version written. 2 is read as well: its journals have no generation, and none of
    /// the records of repair, replication and appending (docs/internals/formats.md).
    public static let version: UInt32 = 3
    /// What is read. Version 1 had a checksum for each 16 KiB.
    public static let versions: ClosedRange<UInt32> = 2...3

    /// Precondition: the replica index is one of the replication's.
    public init(containerID: ContainerID, replication: ReplicationConfig, replicaIndex: Int) {
        precondition(
            replicaIndex >= 1 && replicaIndex <= replication.width,
            "replica indexes of \(replication) are 1 to \(replication.width)")
        self.containerID = containerID
        self.replication = replication
        self.replicaIndex = replicaIndex
    }

    /// The header as `size` bytes.
    /// - Parameter version: of the file that it begins; one of `versions`.
    public func encoded(for file: File, version: UInt32 = Self.version) -> [UInt8] {
        SealedBlock.seal(magic: file.magic, version: version, body: body)
    }

    /// Parses the beginning of a file.
    public init(parsing bytes: UnsafeRawBufferPointer, of file: File) throws(FormatError) {
        self = try Self.parse(bytes, of: file).header
    }

    /// The header, the version of the file, and the header's checksum, which the records of a
    /// journal are bound to.
    static func parse(
        _ bytes: UnsafeRawBufferPointer, of file: File
    ) throws(FormatError) -> (header: Self, version: UInt32, checksum: UInt32) {
        let (version, body, checksum) = try SealedBlock.open(
            bytes, magic: file.magic, versions: versions, what: file.what)
        return (try Self(body: body, what: file.what), version, checksum)
    }

    /// Shared with the footer.
    var body: [UInt8] {
        var writer = ByteWriter()
        writer.append(containerID.rawValue)
        writer.append(UInt8(replicaIndex))
        let name = Array(replication.description.utf8)
        writer.append(UInt8(name.count))
        writer.append(name)
        return writer.bytes
    }

    init(body: [UInt8], what: String) throws(FormatError) {
        let (id, index, name) = try body.withReader(of: what) { (reader) throws(FormatError) in
            let id = try reader.read(UInt64.self)
            let index = try reader.read(UInt8.self)
            return (id, index, try reader.readBytes(Int(try reader.read(UInt8.self))))
        }
        let replication: ReplicationConfig
        do throws(ReplicationError) {
            replication = try ReplicationConfig(String(decoding: name, as: UTF8.self))
        } catch { throw .invalid("the \(what) is unreadable: \(error.description)") }
        guard (1...replication.width).contains(Int(index)) else {
            throw .invalid("the \(what) has replica index \(index) of \(replication)")
        }
        self.init(
            containerID: ContainerID(id), replication: replication, replicaIndex: Int(index))
    }
}
