import Model

/// The file `volume.id` of a volume: what tells it from one that was emptied and formatted anew.
///
///     apus-volume-id 1
///     id 01234567-89ab-4def-8123-456789abcdef
///     crc32c 89abcdef
public struct VolumeIdentity: Hashable, Sendable {
    public var id: Identity128

    public static let fileName = "volume.id"
    /// The longest file that is looked at.
    public static let largestSize = 4096
    static let kind = "apus-volume-id"
    static let version: UInt32 = 1

    public init(id: Identity128) { self.id = id }

    public func encoded() -> [UInt8] {
        SealedText.encoded(kind: Self.kind, version: Self.version, lines: ["id \(id)"])
    }

    /// Parses the whole file.
    public init(parsing bytes: [UInt8]) throws(FormatError) {
        let lines = try SealedText.lines(
            of: bytes, kind: Self.kind, version: Self.version, called: "volume's identity")
        guard lines.count == 1, lines[0].count == 2, lines[0][0] == "id",
            let id = Identity128(lines[0][1])
        else { throw .invalid("a volume's identity is a UUID") }
        self.id = id
    }
}

/// The file `store.id` of a datanode: a number that stands for what its volumes hold, and the
/// volumes that it stands for. When one of these is missing, another number is drawn.
///
///     apus-store-id 1
///     store 0123456789abcdef
///     volume 01234567-89ab-4def-8123-456789abcdef
///     crc32c 89abcdef
public struct StoreIdentity: Hashable, Sendable {
    /// Not 0.
    public var number: UInt64
    public var volumes: Set<Identity128>

    public static let fileName = "store.id"
    /// The longest file that is looked at.
    public static let largestSize = 256 << 10
    static let kind = "apus-store-id"
    static let version: UInt32 = 1

    public init(number: UInt64, volumes: Set<Identity128>) {
        precondition(number != 0, "0 stands for no store")
        self.number = number
        self.volumes = volumes
    }

    public func encoded() -> [UInt8] {
        SealedText.encoded(
            kind: Self.kind, version: Self.version,
            lines: ["store \(String(number, radix: 16))"] + volumes.sorted().map { "volume \($0)" })
    }

    /// Parses the whole file.
    public init(parsing bytes: [UInt8]) throws(FormatError) {
        let lines = try SealedText.lines(
            of: bytes, kind: Self.kind, version: Self.version, called: "store's identity")
        guard let first = lines.first, first.count == 2, first[0] == "store",
            let number = UInt64(first[1], radix: 16), number != 0
        else { throw .invalid("a store's identity is a number that is not 0") }
        self.number = number
        volumes = []
        for line in lines.dropFirst() {
            guard line.count == 2, line[0] == "volume", let id = Identity128(line[1]) else {
                throw .invalid("a store's identity names its volumes by their UUIDs")
            }
            volumes.insert(id)
        }
    }

    /// What stands for the store now that `present` are its volumes: the same number, unless one
    /// is missing that it stood for. Further volumes take nothing away.
    public func continued(
        with present: Set<Identity128>, using random: inout some RandomNumberGenerator
    ) -> Self {
        guard volumes.isSubset(of: present) else {
            return Self(number: .random(in: 1...(.max), using: &random), volumes: present)
        }
        return Self(number: number, volumes: present)
    }
}
