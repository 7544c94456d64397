import SwiftProtobuf

// Messages of common.proto by hand. The numbers are those of the fields, with their form: 0x0A is
// field 1 of counted bytes, 0x10 field 2 as a number.

extension WireReplication: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08:
                guard let known = Codec(rawValue: fields.enumeration()) else {
                    return fields.refuse()
                }
                codec = known
            case 0x10: data = fields.number32()
            case 0x18: parity = fields.number32()
            case 0x20: cellSize = fields.number32()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(truncatingIfNeeded: codec.rawValue))
        fields.number(2, UInt64(data))
        fields.number(3, UInt64(parity))
        fields.number(4, UInt64(cellSize))
    }
}

extension WireBlock: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: container = fields.varint()
            case 0x10: local = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, container)
        fields.number(2, local)
    }
}

extension WireIdentity: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x09: high = fields.fixed64()
            case 0x11: low = fields.fixed64()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.fixed64(1, high)
        fields.fixed64(2, low)
    }
}

extension WireAddress: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &id)
            case 0x12: host = fields.text()
            case 0x18: port = fields.number32()
            case 0x22: rack = fields.text()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasID { fields.message(1, id) }
        fields.text(2, host)
        fields.number(3, UInt64(port))
        fields.text(4, rack)
    }
}

extension WireGroup: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &block)
            case 0x12: fields.message(into: &replication)
            case 0x18: length = fields.varint()
            case 0x22: nodes.append(fields.message())
            case 0x3A: fields.packed64(into: &mayCreate)
            case 0x42: token = fields.octets()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasBlock { fields.message(1, block) }
        if hasReplication { fields.message(2, replication) }
        fields.number(3, length)
        for node in nodes { fields.message(4, node) }
        fields.packed64(7, mayCreate)
        fields.octets(8, token)
    }
}

extension SCMGroupsResponse: FieldReadable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: groups.append(fields.message())
            default: fields.refuse()
            }
        }
    }
}
