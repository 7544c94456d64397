import Checksum
import Model

/// The file `VERSION` of a volume: text, so that a person can see whose disk it is.
///
///     apus-volume 2
///     datanode 01234567-89ab-4def-8123-456789abcdef
///     cluster none
///     crc32c 89abcdef
public struct VolumeVersion: Hashable, Sendable {
    public var datanode: DatanodeID
    /// `nil` until the datanode has registered for the first time.
    public var cluster: ClusterID?

    /// The version of the volume's layout written, and the only one read: 2 since checksums in
    /// containers are of 4 KiB.
    public static let version: UInt32 = 2
    /// The longest file that is looked at.
    public static let largestSize = 4096

    public init(datanode: DatanodeID, cluster: ClusterID?) {
        self.datanode = datanode
        self.cluster = cluster
    }

    public func encoded() -> [UInt8] {
        let text =
            "apus-volume \(Self.version)\ndatanode \(datanode)\n"
            + "cluster \(cluster.map(\.description) ?? "none")\n"
        let sum = CRC32C.of(Array(text.utf8))
        return Array((text + "crc32c \(String(sum, radix: 16))\n").utf8)
    }

    /// Parses the whole file.
    public init(parsing bytes: [UInt8]) throws(FormatError) {
        let what = "volume's VERSION file"
        let lines = bytes.split(
            separator: UInt8(ascii: "\n"), maxSplits: 4, omittingEmptySubsequences: false)
        func value(_ line: Int, _ name: String) -> Substring? {
            guard lines.count == 5 else { return nil }
            let words = Substring(decoding: lines[line], as: UTF8.self)
                .split(separator: " ", omittingEmptySubsequences: false)
            return words.count == 2 && words[0] == name ? words[1] : nil
        }
        guard let first = lines.first,
            Substring(decoding: first, as: UTF8.self).hasPrefix("apus-volume ")
        else { throw .notA(what) }
        guard let sum = value(3, "crc32c").flatMap({ UInt32($0, radix: 16) }), lines[4].isEmpty,
            CRC32C.of(Array(bytes[..<lines[3].startIndex])) == sum
        else { throw .checksum(of: what) }
        guard let found = value(0, "apus-volume").flatMap({ UInt32($0) }) else {
            throw .notA(what)
        }
        guard found == Self.version else {
            throw .unknownVersion(of: what, found: found, known: Self.version...Self.version)
        }
        guard let datanode = value(1, "datanode").flatMap({ DatanodeID($0) }),
            let name = value(2, "cluster")
        else { throw .invalid("the \(what) does not name a datanode and a cluster") }
        self.datanode = datanode
        if name == "none" {
            cluster = nil
        } else {
            guard let id = ClusterID(name) else {
                throw .invalid("the \(what) has the cluster '\(name)'")
            }
            cluster = id
        }
    }
}
