/// How the bytes of a key are spread over datanodes: coded in stripes, or as whole copies.
///
/// Here is what means something for both. What is of one kind alone has to be asked of that kind,
/// so that the compiler finds whoever forgets the other.
public enum ReplicationConfig: Hashable, Sendable, BitwiseCopyable {
    /// Data and parity cells on d + p datanodes.
    case erasureCoded(ErasureCoding)
    /// Each datanode of the container has all bytes.
    case replicated(Factor)

    /// How many whole copies there are. The raw value is their number.
    public enum Factor: Int, Hashable, Sendable, BitwiseCopyable, CaseIterable {
        case one = 1
        case three = 3
    }

    /// Bytes covered by one CRC32C.
    public static let checksumUnit = 4 * 1024
    /// Bytes of one full block replica.
    public static let blockSize = 256 * 1024 * 1024
    /// The most replicas that a container may have, and cells that a stripe may.
    public static let maximumWidth = 32

    /// Replicas of a container, with indexes from 1 to this.
    public var width: Int {
        switch self {
        case .erasureCoded(let coding): coding.width
        case .replicated(let factor): factor.rawValue
        }
    }

    /// Replicas that must be there for all bytes to be readable: d, or one.
    public var minimumReplicas: Int {
        switch self {
        case .erasureCoded(let coding): coding.data
        case .replicated: 1
        }
    }

    /// Replicas that may be lost before bytes are.
    public var redundancy: Int { width - minimumReplicas }

    /// User bytes that fit into one block group: a block of each data replica, in whole stripes; of
    /// copies, a block.
    public var blockGroupSize: Int {
        switch self {
        case .erasureCoded(let coding): coding.blockGroupSize
        case .replicated: Self.blockSize
        }
    }

    /// The erasure coding, for the many who can do nothing else yet.
    ///
    /// Throws `unsupported`, which says what would be right, of copies: their containers need
    /// Ratis pipelines.
    public func erasureCoding() throws(StoreError) -> ErasureCoding {
        switch self {
        case .erasureCoded(let coding): return coding
        case .replicated(let factor):
            throw StoreError(
                .unsupported,
                "\(self) keeps \(factor == .one ? "one whole copy" : "three whole copies"), which "
                    + "needs Ratis pipelines, and these are not there yet; choose an erasure "
                    + "coding, as in rs-3-2-1024k or xor-2-1-1024k")
        }
    }
}

extension ReplicationConfig: CustomStringConvertible {
    /// How a replication is written, for those who wrote something else.
    static let forms =
        "a replication is written codec-data-parity-cell, as in rs-6-3-1024k or xor-2-1-64k, or "
        + "ratis-1 or ratis-3 for whole copies"

    /// Parses `codec-d-p-cell`, `ratis-1` and `ratis-3`; of the latter also what Ozone writes,
    /// `RATIS/ONE` and `RATIS/THREE`. Case does not matter.
    public init(_ text: some StringProtocol) throws(ReplicationError) {
        let name = text.lowercased()
        switch name {
        case "ratis-1", "ratis/one": self = .replicated(.one)
        case "ratis-3", "ratis/three": self = .replicated(.three)
        case _ where name.hasPrefix("ratis"):
            throw ReplicationError(
                "there are one or three whole copies, written ratis-1 and ratis-3, not '\(text)'")
        default: self = .erasureCoded(try ErasureCoding(text))
        }
    }

    public var description: String {
        switch self {
        case .erasureCoded(let coding): coding.description
        case .replicated(let factor): "ratis-\(factor.rawValue)"
        }
    }
}

/// Why a replication was refused, in words for the person who asked for it.
public struct ReplicationError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
