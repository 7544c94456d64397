import SwiftProtobuf

/// Reads the fields of a protobuf message from its bytes, one after the other, without the
/// machinery that serves every message there is: for the few that each request consists of.
///
/// It knows no more than its messages ask for. Whatever else it meets (fields of a later version,
/// bytes that are no message) makes it incomplete, and the generated parser decides instead.
///
/// Lives as long as the bytes that it was made on.
public struct FieldReader {
    @usableFromInline let bytes: UnsafeRawBufferPointer
    @usableFromInline var position = 0
    /// Where the message that is being read ends.
    @usableFromInline var end: Int
    /// Whether all was understood so far.
    public private(set) var isComplete = true

    /// What a field is encoded as; the low bits of its tag.
    enum Form {
        static let varint: UInt32 = 0
        static let fixed64: UInt32 = 1
        static let counted: UInt32 = 2
    }

    @usableFromInline
    init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
        end = bytes.count
    }

    /// The tag of the next field, number and form in one (`number << 3 | form`); nil at the end
    /// of the message. Its value must be read before the next call.
    mutating func next() -> UInt32? {
        guard isComplete, position < end else { return nil }
        let tag = varint()
        guard isComplete, tag <= UInt64(UInt32.max) else {
            refuse()
            return nil
        }
        return UInt32(truncatingIfNeeded: tag)
    }

    /// Something is not understood here: nothing of what was read is used.
    mutating func refuse() {
        isComplete = false
        position = end
    }

    mutating func varint() -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < end, shift < 64 {
            let byte = bytes[position]
            position += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        refuse()
        return 0
    }

    mutating func number32() -> UInt32 { UInt32(truncatingIfNeeded: varint()) }

    /// The number of a case of an enumeration.
    mutating func enumeration() -> Int { Int(Int32(truncatingIfNeeded: varint())) }

    mutating func fixed64() -> UInt64 {
        guard end - position >= 8 else {
            refuse()
            return 0
        }
        let value = bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self)
        position += 8
        return UInt64(littleEndian: value)
    }

    /// The bytes of a field that tells its length.
    mutating func counted() -> UnsafeRawBufferPointer {
        let count = varint()
        guard isComplete, count <= UInt64(end - position) else {
            refuse()
            return UnsafeRawBufferPointer(start: nil, count: 0)
        }
        let start = position
        position += Int(count)
        return UnsafeRawBufferPointer(rebasing: bytes[start..<position])
    }

    mutating func packed32(into values: inout [UInt32]) {
        let bytes = counted()
        guard bytes.count % 4 == 0 else { return refuse() }
        values.reserveCapacity(values.count + bytes.count / 4)
        for place in stride(from: 0, to: bytes.count, by: 4) {
            values.append(
                UInt32(
                    littleEndian: bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
        }
    }

    mutating func packed64(into values: inout [UInt64]) {
        let bytes = counted()
        guard bytes.count % 8 == 0 else { return refuse() }
        for place in stride(from: 0, to: bytes.count, by: 8) {
            values.append(
                UInt64(
                    littleEndian: bytes.loadUnaligned(fromByteOffset: place, as: UInt64.self)))
        }
    }

    mutating func text() -> String {
        let bytes = counted()
        guard let text = String(validating: bytes, as: UTF8.self) else {
            refuse()
            return ""
        }
        return text
    }

    /// Reads a message within this one into `message`: what is set there and not here stays.
    mutating func message<M: FieldReadable>(into message: inout M) {
        let count = varint()
        guard isComplete, count <= UInt64(end - position) else {
            refuse()
            return
        }
        let outer = end
        end = position + Int(count)
        message.read(&self)
        if isComplete, position != end { isComplete = false }
        end = outer
        if !isComplete { position = outer }
    }

    mutating func message<M: FieldReadable>() -> M {
        var found = M()
        message(into: &found)
        return found
    }
}
