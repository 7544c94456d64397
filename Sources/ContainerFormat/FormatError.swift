/// Why bytes on a disk were not taken for what they should be.
public enum FormatError: Error, Hashable, Sendable, CustomStringConvertible {
    /// A format version that this program does not know.
    case unknownVersion(of: String, found: UInt32, known: ClosedRange<UInt32>)
    /// A journal record of a kind that this program does not know.
    case unknownRecord(kind: UInt8)
    /// Something that the format has, and that this program does not act on yet.
    case unsupported(String)
    /// The bytes do not begin as the thing does.
    case notA(String)
    /// Checksum and bytes differ.
    case checksum(of: String)
    /// The bytes end before the thing does.
    case truncated(String)
    /// A field has a value that it cannot have.
    case invalid(String)

    public var description: String {
        switch self {
        case .unknownVersion(let what, let found, let known):
            "\(what) has format version \(found); this program knows "
                + (known.count == 1
                    ? "version \(known.lowerBound)"
                    : "versions \(known.lowerBound) to \(known.upperBound)")
        case .unknownRecord(let kind):
            "the journal has a record of kind \(kind), which this program does not know"
        case .unsupported(let what):
            "\(what) is of a newer program: this one does not act on it"
        case .notA(let what): "this is not a \(what)"
        case .checksum(let what): "the checksum of the \(what) does not match its bytes"
        case .truncated(let what): "the \(what) is cut short"
        case .invalid(let why): why
        }
    }
}
