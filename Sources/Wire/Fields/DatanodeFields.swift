import SwiftProtobuf

// Messages of datanode.proto by hand: what writing and reading a cell takes.

extension DNWriteCellRequest: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &block)
            case 0x12: fields.message(into: &replication)
            case 0x18: replicaIndex = fields.number32()
            case 0x20: offset = fields.varint()
            case 0x2A: fields.packed32(into: &checksums)
            case 0x30: groupLength = fields.varint()
            case 0x38: endOfBlock = fields.varint() != 0
            case 0x41: mayCreate = fields.fixed64()
            case 0x4A: token = fields.octets()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasBlock { fields.message(1, block) }
        if hasReplication { fields.message(2, replication) }
        fields.number(3, UInt64(replicaIndex))
        fields.number(4, offset)
        fields.packed32(5, checksums)
        fields.number(6, groupLength)
        fields.number(7, endOfBlock ? 1 : 0)
        fields.fixed64(8, mayCreate)
        fields.octets(9, token)
    }
}

extension DNWriteCellResponse: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: durableLength = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, durableLength)
    }
}

extension DNReadBlockRequest: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &block)
            case 0x10: offset = fields.varint()
            case 0x18: length = fields.varint()
            case 0x20: replicaIndex = fields.number32()
            case 0x2A: token = fields.octets()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasBlock { fields.message(1, block) }
        fields.number(2, offset)
        fields.number(3, length)
        fields.number(4, UInt64(replicaIndex))
        fields.octets(5, token)
    }
}

extension DNReadBlockResponse: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: offset = fields.varint()
            case 0x12: fields.packed32(into: &checksums)
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, offset)
        fields.packed32(2, checksums)
    }
}
