import Model
import SwiftProtobuf

// Messages of om_store.proto by hand: the records of a key, and the commands that make it.

extension OMStoredBlock: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: container = fields.varint()
            case 0x10: local = fields.varint()
            case 0x18: length = fields.varint()
            case 0x20: offset = fields.varint()
            case 0x28: count = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, container)
        fields.number(2, local)
        fields.number(3, length)
        fields.number(4, offset)
        fields.number(5, count)
    }
}

extension OMKeyLayout: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: blocks.append(fields.message())
            case 0x12: parts.append(fields.message())
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        for block in blocks { fields.message(1, block) }
        for part in parts { fields.message(2, part) }
    }
}

extension OMKeyRecord: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: length = fields.varint()
            case 0x12: etag = fields.text()
            case 0x18: modified = Int64(bitPattern: fields.varint())
            case 0x22: fields.message(into: &replication)
            case 0x2A: fields.message(into: &attributes)
            case 0x32: fields.message(into: &checksum)
            case 0x3A: layout = fields.octets()
            case 0x40: openID = fields.varint()
            case 0x4A: upload.append(fields.message())
            case 0x50: generation = fields.varint()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, length)
        fields.text(2, etag)
        fields.number(3, UInt64(bitPattern: modified))
        if hasReplication { fields.message(4, replication) }
        if hasAttributes { fields.message(5, attributes) }
        if hasChecksum { fields.message(6, checksum) }
        fields.octets(7, layout)
        fields.number(8, openID)
        for upload in upload { fields.message(9, upload) }
        fields.number(10, generation)
    }
}

extension OMKeyRecord {
    /// What a listing shows of the record in `bytes`: all but its layout and where it came from,
    /// and its attributes only if they are wanted, which the generated parser reads.
    public init(head bytes: [UInt8], attributes isWanted: Bool) throws(StoreError) {
        var size = 0
        try self.init(head: bytes, attributes: isWanted, size: &size)
    }

    /// The same; adds to `size` the bytes that this takes.
    public init(
        head bytes: [UInt8], attributes isWanted: Bool, size: inout Int
    ) throws(StoreError) {
        self.init()
        var skipped = 0
        let isRead = bytes.withUnsafeBytes { bytes in
            var fields = FieldReader(bytes)
            while let tag = fields.next() {
                switch tag {
                case 0x08: length = fields.varint()
                case 0x12: etag = fields.text()
                case 0x18: modified = Int64(bitPattern: fields.varint())
                case 0x22: fields.message(into: &replication)
                case 0x2A where isWanted: fields.message(into: &attributes)
                case 0x2A, 0x3A, 0x4A: skipped += fields.counted().count
                case 0x32: fields.message(into: &checksum)
                case 0x40: _ = fields.varint()
                case 0x50: generation = fields.varint()
                default: fields.refuse()
                }
            }
            return fields.isComplete
        }
        if isRead {
            size += bytes.count - skipped
            return
        }
        self = try Self(generatedParsing: bytes)
        size += bytes.count - layout.count
        if !isWanted { clearAttributes() }
    }
}

extension OMOpenRecord: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &key)
            case 0x10: bucketNumber = fields.varint()
            case 0x1A: user = fields.text()
            case 0x20: created = Int64(bitPattern: fields.varint())
            case 0x2A: fields.message(into: &replication)
            case 0x32: blocks.append(fields.message())
            case 0x3A: fields.message(into: &upload)
            case 0x40: part = fields.number32()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasKey { fields.message(1, key) }
        fields.number(2, bucketNumber)
        fields.text(3, user)
        fields.number(4, UInt64(bitPattern: created))
        if hasReplication { fields.message(5, replication) }
        for block in blocks { fields.message(6, block) }
        if hasUpload { fields.message(7, upload) }
        fields.number(8, UInt64(part))
    }
}

extension OMDeletedRecord: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: deleted = Int64(bitPattern: fields.varint())
            case 0x12: blocks.append(fields.message())
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(bitPattern: deleted))
        for block in blocks { fields.message(2, block) }
    }
}

extension OMOpenCommand: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x0A: fields.message(into: &key)
            case 0x12: fields.message(into: &replication)
            case 0x1A: user = fields.text()
            case 0x22: blocks.append(fields.message())
            case 0x2A: fields.message(into: &upload)
            case 0x30: part = fields.number32()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        if hasKey { fields.message(1, key) }
        if hasReplication { fields.message(2, replication) }
        fields.text(3, user)
        for block in blocks { fields.message(4, block) }
        if hasUpload { fields.message(5, upload) }
        fields.number(6, UInt64(part))
    }
}

/// Those that open and commit; others are left to the generated code.
extension OMCommand: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: time = Int64(bitPattern: fields.varint())
            case 0x42 where body == nil: body = .open(fields.message())
            case 0x52 where body == nil: body = .commit(fields.message())
            case 0xB8: version = fields.number32()
            case 0xC0: logTime = Int64(bitPattern: fields.varint())
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, UInt64(bitPattern: time))
        switch body {
        case .open(let command): fields.message(8, command)
        case .commit(let request): fields.message(10, request)
        default: fields.refuse()
        }
        fields.number(23, UInt64(version))
        fields.number(24, UInt64(bitPattern: logTime))
    }
}

extension OMUsageRecord: FieldReadable, FieldWritable {
    public mutating func read(_ fields: inout FieldReader) {
        while let tag = fields.next() {
            switch tag {
            case 0x08: keys = fields.varint()
            case 0x10: bytes = fields.varint()
            case 0x18: isCounted = fields.varint() != 0
            case 0x22: countedTo = fields.octets()
            default: fields.refuse()
            }
        }
    }

    public func write(_ fields: inout FieldWriter) {
        fields.check(unknownFields)
        fields.number(1, keys)
        fields.number(2, bytes)
        fields.number(3, isCounted ? 1 : 0)
        fields.octets(4, countedTo)
    }
}
