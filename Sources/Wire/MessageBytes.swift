// The generated messages keep `bytes` fields in Foundation's `Data`; this file is the border.
import FoundationEssentials
import Model
import SwiftProtobuf

extension Data {
    /// `bytes` as a field of a message takes them.
    public static func octets(_ bytes: some Sequence<UInt8>) -> Data { Data(bytes) }

    /// The bytes of a field.
    public var octets: [UInt8] { [UInt8](self) }
}

extension SwiftProtobuf.Message {
    /// Parses `bytes`. Throws `badRequest` with the type's name if they are not such a message.
    public init(parsing bytes: [UInt8]) throws(StoreError) {
        do {
            try self.init(serializedBytes: bytes)
        } catch {
            throw StoreError(
                .badRequest, "\(bytes.count) bytes are not a valid \(Self.protoMessageName)")
        }
    }

    /// The bytes of this message. Equal messages give equal bytes, which members of a group that
    /// apply the same commands rely on.
    public var encoded: [UInt8] {
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
