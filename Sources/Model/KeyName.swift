/// The name of a key within its bucket: 1 to 1024 bytes of UTF-8, ordered by bytes.
///
/// Not a `String`: two strings that differ only in Unicode normalisation are equal in Swift but
/// are two keys in S3.
public struct KeyName: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let bytes: [UInt8]

    public static let maximumLength = 1024

    /// `nil` if `bytes` is empty, longer than 1024, or not UTF-8.
    public init?(bytes: [UInt8]) {
        guard !bytes.isEmpty, bytes.count <= Self.maximumLength,
            String(validating: bytes, as: UTF8.self) != nil
        else { return nil }
        self.bytes = bytes
    }

    public init?(_ string: some StringProtocol) { self.init(bytes: Array(string.utf8)) }

    /// Takes bytes that were checked before, as those read back from a database.
    public init(unchecked bytes: [UInt8]) { self.bytes = bytes }

    public static func < (a: Self, b: Self) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }
    public var description: String { String(decoding: bytes, as: UTF8.self) }
}
