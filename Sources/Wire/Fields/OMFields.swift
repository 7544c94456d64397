import SwiftProtobuf

// Messages of om.proto by hand: what opening, committing and looking up a key takes.

extension OMBucketPath: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: volume = fields.text()
            case 0x12: bucket = fields.text()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.text(1, volume)
        fields.text(2, bucket)
    }
}

extension OMKeyPath: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &bucket)
            case 0x12: name = fields.octets()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasBucket { fields.message(1, bucket) }
        fields.octets(2, name)
    }
}

/// Those without names or values: with them, the generated code knows how maps are written.
extension OMAttributes: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        if fields.next() != nil { fields.refuse() }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if !headers.isEmpty || !metadata.isEmpty { fields.refuse() }
    }
}

extension OMChecksum: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08:
                guard let known = OMChecksumAlgorithm(rawValue: fields.enumeration()) else {
                    return fields.refuse()
                }
                algorithm = known
            case 0x10:
                guard let known = OMChecksumKind(rawValue: fields.enumeration()) else {
                    return fields.refuse()
                }
                kind = known
            case 0x1A: value = fields.text()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(truncatingIfNeeded: algorithm.rawValue))
        fields.number(2, UInt64(truncatingIfNeeded: kind.rawValue))
        fields.text(3, value)
    }
}

extension OMPart: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: number = fields.number32()
            case 0x10: length = fields.varint()
            case 0x1A: etag = fields.text()
            case 0x20: modified = Int64(bitPattern: fields.varint())
            case 0x2A: fields.message(into: &checksum)
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(number))
        fields.number(2, length)
        fields.text(3, etag)
        fields.number(4, UInt64(bitPattern: modified))
        if hasChecksum { fields.message(5, checksum) }
    }
}

extension OMCondition: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08:
                guard let known = Kind(rawValue: fields.enumeration()) else {
                    return fields.refuse()
                }
                kind = known
            case 0x12: etag = fields.text()
            case 0x18: generation = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(truncatingIfNeeded: kind.rawValue))
        fields.text(2, etag)
        fields.number(3, generation)
    }
}

extension OMOpenKeyRequest: FieldReadable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &key)
            case 0x10: length = fields.varint()
            case 0x1A: fields.message(into: &replication)
            case 0x22: user = fields.text()
            case 0x2A: avoiding.append(fields.message())
            default: fields.refuse()
            }
        }
    }
}

extension OMLookupKeyRequest: FieldReadable, FieldWritable {
    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasKey { fields.message(1, key) }
        fields.text(2, user)
        fields.number(3, refresh ? 1 : 0)
        if hasSelection { fields.message(4, selection) }
    }

    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &key)
            case 0x12: user = fields.text()
            case 0x18: refresh = fields.varint() != 0
            case 0x22: fields.message(into: &selection)
            default: fields.refuse()
            }
        }
    }
}

extension OMKeySelection: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08:
                guard let known = Kind(rawValue: fields.enumeration()) else {
                    return fields.refuse()
                }
                kind = known
            case 0x10: start = fields.varint()
            case 0x18: end = fields.varint()
            case 0x20: count = fields.varint()
            case 0x28: part = fields.number32()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(truncatingIfNeeded: kind.rawValue))
        fields.number(2, start)
        fields.number(3, end)
        fields.number(4, count)
        fields.number(5, UInt64(part))
    }
}

extension OMOpenResponse: FieldWritable {
    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, openID)
        if hasReplication { fields.message(2, replication) }
        for group in groups { fields.message(3, group) }
    }
}

extension OMCommitRequest: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: openID = fields.varint()
            case 0x12: groups.append(fields.message())
            case 0x1A: etag = fields.text()
            case 0x22: fields.message(into: &attributes)
            case 0x2A: fields.message(into: &checksum)
            case 0x32: fields.message(into: &condition)
            case 0x3A: user = fields.text()
            case 0x42: fields.message(into: &key)
            case 0x4A: fields.message(into: &upload)
            case 0x50: part = fields.number32()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, openID)
        for group in groups { fields.message(2, group) }
        fields.text(3, etag)
        if hasAttributes { fields.message(4, attributes) }
        if hasChecksum { fields.message(5, checksum) }
        if hasCondition { fields.message(6, condition) }
        fields.text(7, user)
        if hasKey { fields.message(8, key) }
        if hasUpload { fields.message(9, upload) }
        fields.number(10, UInt64(part))
    }
}

extension OMKey: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: name = fields.octets()
            case 0x10: length = fields.varint()
            case 0x1A: etag = fields.text()
            case 0x20: modified = Int64(bitPattern: fields.varint())
            case 0x2A: fields.message(into: &replication)
            case 0x32: fields.message(into: &attributes)
            case 0x3A: fields.message(into: &checksum)
            case 0x42: groups.append(fields.message())
            case 0x4A: parts.append(fields.message())
            case 0x50: generation = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.octets(1, name)
        fields.number(2, length)
        fields.text(3, etag)
        fields.number(4, UInt64(bitPattern: modified))
        if hasReplication { fields.message(5, replication) }
        if hasAttributes { fields.message(6, attributes) }
        if hasChecksum { fields.message(7, checksum) }
        for group in groups { fields.message(8, group) }
        for part in parts { fields.message(9, part) }
        fields.number(10, generation)
    }
}

extension OMKeyResponse: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &key)
            case 0x12: excerpt.append(fields.message())
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasKey { fields.message(1, key) }
        for excerpt in excerpt { fields.message(2, excerpt) }
    }
}

extension OMKeyExcerpt: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: groupsOffset = fields.varint()
            case 0x10: partsCount = fields.number32()
            case 0x18: partOffset = fields.varint()
            case 0x20: groupsEnd = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, groupsOffset)
        fields.number(2, UInt64(partsCount))
        fields.number(3, partOffset)
        fields.number(4, groupsEnd)
    }
}
