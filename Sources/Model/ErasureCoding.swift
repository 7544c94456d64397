/// How a stripe is cut and coded: codec, data and parity counts, cell size.
///
/// Written `codec-d-p-cell` as in Ozone, for example `rs-6-3-1024k`. Without the `k` the cell is
/// in bytes. What is true of erasure coding alone is here and not on `ReplicationConfig`, so that
/// nobody asks whole copies for their parity.
public struct ErasureCoding: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    public enum Codec: String, Hashable, Sendable, BitwiseCopyable, CaseIterable {
        /// Reed–Solomon with ISA-L's systematic Cauchy matrix over GF(2^8), polynomial 0x11D.
        case rs
        /// One parity cell, the exclusive or of the data cells.
        case xor
    }

    public let codec: Codec
    /// Number of data cells in a stripe, d.
    public let data: Int
    /// Number of parity cells in a stripe, p.
    public let parity: Int
    /// Bytes of a full cell. A multiple of `cellStep`.
    public let cellSize: Int

    /// Cells of a stripe, and replicas of a container: d + p.
    public var width: Int { data + parity }
    /// User bytes of a full stripe: d × cell.
    public var stripeSize: Int { data * cellSize }

    /// A full cell is a multiple of this.
    public static let cellStep = 16 * 1024
    /// The largest cell.
    public static let maximumCellSize = 16 * 1024 * 1024

    /// User bytes that fit into one block group: d × 256 MiB, rounded down to whole stripes.
    public var blockGroupSize: Int { ReplicationConfig.blockSize / cellSize * stripeSize }

    /// Throws `ReplicationError` with the reason if the combination cannot be coded.
    public init(codec: Codec, data: Int, parity: Int, cellSize: Int) throws(ReplicationError) {
        let most = ReplicationConfig.maximumWidth
        guard data >= 1, parity >= 1, data <= most, parity <= most, data + parity <= most else {
            throw ReplicationError(
                "data and parity must each be at least 1 and together at most "
                    + "\(most), not \(data) and \(parity)")
        }
        guard codec != .xor || parity == 1 else {
            throw ReplicationError("xor has one parity cell, not \(parity); use rs for more")
        }
        guard cellSize > 0, cellSize % Self.cellStep == 0, cellSize <= Self.maximumCellSize
        else {
            throw ReplicationError(
                "a cell must be a multiple of 16 KiB and at most 16 MiB, not \(cellSize) bytes")
        }
        self.codec = codec
        self.data = data
        self.parity = parity
        self.cellSize = cellSize
    }

    /// Parses `codec-d-p-cell`. Throws `ReplicationError`, which names the forms of all
    /// replications: who wrote something else may have meant one of the others.
    public init(_ text: some StringProtocol) throws(ReplicationError) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 4, let data = Int(parts[1]), let parity = Int(parts[2]) else {
            throw ReplicationError("\(ReplicationConfig.forms); got '\(text)'")
        }
        guard let codec = Codec(rawValue: parts[0].lowercased()) else {
            throw ReplicationError("'\(parts[0])' is no codec: \(ReplicationConfig.forms)")
        }
        let inKibibytes = parts[3].hasSuffix("k") || parts[3].hasSuffix("K")
        guard let cell = Int(inKibibytes ? parts[3].dropLast() : parts[3]), cell > 0,
            cell <= Self.maximumCellSize
        else { throw ReplicationError("\(ReplicationConfig.forms); got '\(text)'") }
        try self.init(
            codec: codec, data: data, parity: parity, cellSize: inKibibytes ? cell * 1024 : cell)
    }

    public var description: String {
        let cell = cellSize % 1024 == 0 ? "\(cellSize / 1024)k" : "\(cellSize)"
        return "\(codec.rawValue)-\(data)-\(parity)-\(cell)"
    }
}
