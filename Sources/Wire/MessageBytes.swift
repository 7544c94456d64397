// The generated messages keep `bytes` fields in Foundation's `Data`; this file is the border.
import FoundationEssentials
import Model
import SwiftProtobuf

extension Data {
    /// `bytes` as a field of a message takes them.
    public static func octets(_ bytes: some Sequence<UInt8>) -> Data { Data(bytes) }

    /// The bytes of a field.
    public var octets: [UInt8] { withUnsafeBytes { [UInt8]($0) } }
}

extension SwiftProtobuf.Message {
    /// Parses `bytes`. Throws `badRequest` with the type's name if they are not such a message.
    public init(parsing bytes: [UInt8]) throws(StoreError) {
        try self.init(generatedParsing: bytes)
    }

    /// The same by the generated parser, whatever there is beside it.
    @usableFromInline
    init(generatedParsing bytes: [UInt8]) throws(StoreError) {
        do {
            try self.init(serializedBytes: bytes)
        } catch {
            throw StoreError(
                .badRequest, "\(bytes.count) bytes are not a valid \(Self.protoMessageName)")
        }
    }

    /// The bytes of this message. Equal messages give equal bytes, which members of a group that
    /// apply the same commands rely on.
    public var encoded: [UInt8] { generatedEncoded }

    /// The same by the generated encoder, whatever there is beside it.
    @usableFromInline
    var generatedEncoded: [UInt8] {
        var options = BinaryEncodingOptions()
        options.useDeterministicOrdering = true
        do {
            return try serializedBytes(options: options)
        } catch {
            // Fails for absent required fields, which proto3 does not have, and beyond 2 GiB.
            preconditionFailure("a \(Self.protoMessageName) cannot be encoded: \(error)")
        }
    }
}

extension FieldReader {
    /// The bytes of a field, as messages keep them.
    mutating func octets() -> Data {
        let bytes = counted()
        guard let base = bytes.baseAddress, bytes.count > 0 else { return Data() }
        return Data(bytes: base, count: bytes.count)
    }
}

extension FieldWriter {
    mutating func octets(_ field: UInt32, _ value: Data) {
        guard !value.isEmpty else { return }
        counted(field, value.count)
        value.withUnsafeBytes { bytes.append(contentsOf: $0) }
    }
}
