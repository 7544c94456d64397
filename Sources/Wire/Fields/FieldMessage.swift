import Model
import SwiftProtobuf

/// A message whose fields are read by hand where that matters: those of the requests and records
/// that every key needs. Equal in all to what the generated parser reads.
public protocol FieldReadable: SwiftProtobuf.Message {
    /// Reads fields until there are none, over what is set already.
    mutating func read(_ fields: inout FieldReader)
}

/// A message whose fields are written by hand. Its bytes are those of the generated encoder.
public protocol FieldWritable: SwiftProtobuf.Message {
    func write(_ fields: inout FieldWriter)
}

extension FieldReadable {
    /// Parses `bytes`. Throws `badRequest` with the type's name if they are not such a message.
    @inlinable
    public init(parsing bytes: [UInt8]) throws(StoreError) {
        self.init()
        let isRead = bytes.withUnsafeBytes { bytes in
            var fields = FieldReader(bytes)
            read(&fields)
            return fields.isComplete
        }
        if !isRead { self = try Self(generatedParsing: bytes) }
    }
}

extension FieldWritable {
    /// The bytes of this message. Equal messages give equal bytes, which members of a group that
    /// apply the same commands rely on.
    @inlinable
    public var encoded: [UInt8] {
        var fields = FieldWriter(capacity: 256)
        write(&fields)
        return fields.isComplete ? fields.bytes : generatedEncoded
    }
}
