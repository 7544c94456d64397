import Model

/// The file `scrubbed` of a volume: when each container replica was last read in full and found
/// whole, so that a restart goes on with the oldest.
public struct ScrubTimes: Hashable, Sendable {
    /// Milliseconds since 1970, by container.
    public var verified: [ContainerID: Int64]

    /// The version written, and the only one read.
    public static let version: UInt32 = 1
    /// The longest file that is looked at.
    public static let largestSize = 64 << 20
    private static let kind = "apus-scrub"
    private static let what = "volume's record of verified containers"

    /// Times by container, in milliseconds since 1970.
    public init(verified: [ContainerID: Int64] = [:]) { self.verified = verified }

    /// The file's bytes.
    public func encoded() -> [UInt8] {
        let lines = verified.sorted { $0.key < $1.key }.map { "\($0.key.rawValue) \($0.value)" }
        return SealedText.encoded(kind: Self.kind, version: Self.version, lines: lines)
    }

    /// Parses the whole file. Throws `notA`, `unknownVersion`, `checksum`, `invalid`.
    public init(parsing bytes: [UInt8]) throws(FormatError) {
        verified = [:]
        let lines = try SealedText.lines(
            of: bytes, kind: Self.kind, version: Self.version, called: Self.what)
        for words in lines {
            guard words.count == 2, let id = UInt64(words[0]), let time = Int64(words[1]) else {
                throw .invalid("the \(Self.what) has the line '\(words.joined(separator: " "))'")
            }
            verified[ContainerID(id)] = time
        }
    }
}
