/// The number of a container. A container's replicas carry the same number on every datanode.
public struct ContainerID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var rawValue: UInt64

    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    public var description: String { "#\(rawValue)" }
}

/// The number of a pipeline: the set of datanodes that a container's replicas are written to.
public struct PipelineID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var rawValue: UInt64

    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    public var description: String { "pipeline-\(rawValue)" }
}

/// The name of a block group: the container that holds it and its number within the cluster.
///
/// The same `BlockID` names the block on all d + p replicas of the container.
public struct BlockID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var containerID: ContainerID
    public var localID: UInt64

    public init(containerID: ContainerID, localID: UInt64) {
        self.containerID = containerID
        self.localID = localID
    }

    public static func < (a: Self, b: Self) -> Bool {
        (a.containerID, a.localID) < (b.containerID, b.localID)
    }
    public var description: String { "\(containerID)/\(localID)" }
}

/// A 128-bit random identity, printed like a UUID. Used for clusters, datanodes and uploads.
public struct Identity128: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// A random (version 4) identity from `generator`.
    public static func random(using generator: inout some RandomNumberGenerator) -> Self {
        let high = (generator.next() & ~0xF000) | 0x4000
        let low = (generator.next() & ~(0b11 << 62)) | (0b10 << 62)
        return Self(high: high, low: low)
    }

    /// Parses 32 hexadecimal digits; dashes are ignored. `nil` if there are more or fewer.
    public init?(_ text: some StringProtocol) {
        var digits = 0
        var high: UInt64 = 0
        var low: UInt64 = 0
        for character in text.utf8 where character != UInt8(ascii: "-") {
            guard let value = hexDigitValue(character), digits < 32 else { return nil }
            if digits < 16 {
                high = high << 4 | UInt64(value)
            } else {
                low = low << 4 | UInt64(value)
            }
            digits += 1
        }
        guard digits == 32 else { return nil }
        self.init(high: high, low: low)
    }

    public static func < (a: Self, b: Self) -> Bool { (a.high, a.low) < (b.high, b.low) }

    public var description: String {
        var text: [UInt8] = []
        text.reserveCapacity(36)
        for nibble in 0..<32 {
            if [8, 12, 16, 20].contains(nibble) { text.append(UInt8(ascii: "-")) }
            let word = nibble < 16 ? high : low
            let value = UInt8(truncatingIfNeeded: word >> UInt64(60 - 4 * (nibble % 16))) & 0xF
            text.append(value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10)
        }
        return String(decoding: text, as: UTF8.self)
    }
}

private func hexDigitValue(_ character: UInt8) -> UInt8? {
    switch character {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): character - UInt8(ascii: "A") + 10
    default: nil
    }
}

/// The identity of a datanode, written into each of its volumes when they are formatted.
public typealias DatanodeID = Identity128

/// The identity of a cluster, drawn by SCM when it is first started.
public typealias ClusterID = Identity128
