import SwiftProtobuf

/// Writes the fields of a protobuf message, one after the other: the counterpart of
/// `FieldReader`. A message that holds what it does not know (fields of a later version) makes
/// it incomplete, and the generated encoder writes it instead.
///
/// Fields are to be written in the order of their numbers, as the generated encoder does: both
/// give the same bytes.
public struct FieldWriter {
    @usableFromInline var bytes: [UInt8] = []
    /// Whether all could be written so far.
    public private(set) var isComplete = true

    @usableFromInline
    init(capacity: Int) { bytes.reserveCapacity(capacity) }

    /// There is something that only the generated encoder can write.
    mutating func refuse() { isComplete = false }

    /// To be called with what a message kept of fields that it does not know.
    mutating func check(_ unknown: UnknownStorage) {
        if !unknown.data.isEmpty { refuse() }
    }

    mutating func varint(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: value))
    }

    /// A number; 0 is not written, as absent means the same.
    mutating func number(_ field: UInt32, _ value: UInt64) {
        if value != 0 { present(field, value) }
    }

    /// A number that is written even if it is 0.
    mutating func present(_ field: UInt32, _ value: UInt64) {
        varint(UInt64(field << 3 | FieldReader.Form.varint))
        varint(value)
    }

    mutating func fixed64(_ field: UInt32, _ value: UInt64) {
        guard value != 0 else { return }
        varint(UInt64(field << 3 | FieldReader.Form.fixed64))
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    /// Fixed numbers of 32 bits, one behind the other.
    mutating func packed32(_ field: UInt32, _ values: [UInt32]) {
        guard !values.isEmpty else { return }
        counted(field, values.count * 4)
        for value in values {
            withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
        }
    }

    /// Fixed numbers of 64 bits, one behind the other.
    mutating func packed64(_ field: UInt32, _ values: [UInt64]) {
        guard !values.isEmpty else { return }
        counted(field, values.count * 8)
        for value in values {
            withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
        }
    }

    mutating func text(_ field: UInt32, _ value: String) {
        if !value.isEmpty { presentText(field, value) }
    }

    mutating func presentText(_ field: UInt32, _ value: String) {
        counted(field, value.utf8.count)
        bytes.append(contentsOf: value.utf8)
    }

    /// The head of a field of `count` bytes, which follow.
    mutating func counted(_ field: UInt32, _ count: Int) {
        varint(UInt64(field << 3 | FieldReader.Form.counted))
        varint(UInt64(count))
    }

    mutating func message(_ field: UInt32, _ message: some FieldWritable) {
        varint(UInt64(field << 3 | FieldReader.Form.counted))
        // Most are shorter than 128 bytes: then the length takes the one byte left for it.
        let place = bytes.count
        bytes.append(0)
        message.write(&self)
        var length = bytes.count - place - 1
        guard length >= 0x80 else {
            bytes[place] = UInt8(length)
            return
        }
        var head: [UInt8] = []
        while length >= 0x80 {
            head.append(UInt8(truncatingIfNeeded: length) | 0x80)
            length >>= 7
        }
        head.append(UInt8(length))
        bytes.replaceSubrange(place...place, with: head)
    }
}
