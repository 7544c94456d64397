import Model
import Wire

// Between the values of ObjectStore and the messages of om.proto.

extension UserInfo {
    init(_ message: OMUser) {
        self.init(
            name: message.name, accessKeyID: message.accessKeyID,
            secretAccessKey: message.secretAccessKey, canonicalID: message.canonicalID,
            displayName: message.displayName, isAdministrator: message.isAdministrator)
    }

    var message: OMUser {
        var message = OMUser()
        message.name = name
        message.accessKeyID = accessKeyID
        message.secretAccessKey = secretAccessKey
        message.canonicalID = canonicalID
        message.displayName = displayName
        message.isAdministrator = isAdministrator
        return message
    }
}

extension BucketPath {
    var message: OMBucketPath {
        var message = OMBucketPath()
        message.volume = volume
        message.bucket = bucket
        return message
    }
}

extension KeyPath {
    var message: OMKeyPath {
        var message = OMKeyPath()
        message.bucket = bucket.message
        message.name = .octets(name.bytes)
        return message
    }
}

extension BucketInfo {
    init(_ message: OMBucket) throws(StoreError) {
        self.init(
            volume: message.volume, name: message.name, owner: message.owner,
            ownerCanonicalID: message.ownerCanonicalID,
            ownerDisplayName: message.ownerDisplayName,
            created: Timestamp(milliseconds: message.created),
            replication: try ReplicationConfig(message.replication))
        layout = BucketLayout(rawValue: message.layout.rawValue)
    }
}

extension ObjectAttributes {
    init(_ message: OMAttributes) {
        self.init(headers: message.headers, metadata: message.metadata)
    }

    var message: OMAttributes {
        var message = OMAttributes()
        message.headers = headers
        message.metadata = metadata
        return message
    }
}

extension ObjectChecksum.Algorithm {
    init?(_ message: OMChecksumAlgorithm) {
        switch message {
        case .crc32: self = .crc32
        case .crc32C: self = .crc32c
        case .crc64Nvme: self = .crc64nvme
        case .sha1: self = .sha1
        case .sha256: self = .sha256
        case .UNRECOGNIZED: return nil
        }
    }

    var message: OMChecksumAlgorithm {
        switch self {
        case .crc32: .crc32
        case .crc32c: .crc32C
        case .crc64nvme: .crc64Nvme
        case .sha1: .sha1
        case .sha256: .sha256
        }
    }
}

extension ObjectChecksum.Kind {
    init?(_ message: OMChecksumKind) {
        switch message {
        case .fullObject: self = .fullObject
        case .composite: self = .composite
        case .UNRECOGNIZED: return nil
        }
    }

    var message: OMChecksumKind {
        switch self {
        case .fullObject: .fullObject
        case .composite: .composite
        }
    }
}

extension ObjectChecksum {
    /// nil if the algorithm is not known to this version: the object can be read without it.
    init?(_ message: OMChecksum) {
        guard let algorithm = Algorithm(message.algorithm), let kind = Kind(message.kind)
        else { return nil }
        self.init(algorithm: algorithm, kind: kind, value: message.value)
    }

    var message: OMChecksum {
        var message = OMChecksum()
        message.algorithm = algorithm.message
        message.kind = kind.message
        message.value = value
        return message
    }
}

extension UploadChecksum {
    init?(_ message: OMUploadChecksum) {
        guard let algorithm = ObjectChecksum.Algorithm(message.algorithm),
            let kind = ObjectChecksum.Kind(message.kind)
        else { return nil }
        self.init(algorithm: algorithm, kind: kind)
    }

    var message: OMUploadChecksum {
        var message = OMUploadChecksum()
        message.algorithm = algorithm.message
        message.kind = kind.message
        return message
    }
}

extension WriteCondition {
    var message: OMCondition {
        var message = OMCondition()
        switch self {
        case .none: message.kind = .none
        case .ifAbsent: message.kind = .ifAbsent
        case .ifPresent: message.kind = .ifPresent
        case .ifETag(let etag):
            message.kind = .ifEtag
            message.etag = etag
        case .ifGeneration(let generation):
            message.kind = .ifGeneration
            message.generation = generation
        }
        return message
    }
}

extension PartInfo {
    init(_ message: OMPart) {
        self.init(
            number: Int(message.number), length: Int(clamping: message.length),
            etag: message.etag, modified: Timestamp(milliseconds: message.modified),
            checksum: message.hasChecksum ? ObjectChecksum(message.checksum) : nil)
    }
}

extension KeyInfo {
    init(_ message: OMKey) throws(StoreError) {
        var groups: [BlockGroup] = []
        groups.reserveCapacity(message.groups.count)
        for group in message.groups { groups.append(try BlockGroup(group)) }
        self.init(
            name: KeyName(unchecked: message.name.octets), length: Int(clamping: message.length),
            etag: message.etag, modified: Timestamp(milliseconds: message.modified),
            replication: try ReplicationConfig(message.replication),
            attributes: ObjectAttributes(message.attributes),
            checksum: message.hasChecksum ? ObjectChecksum(message.checksum) : nil,
            blockGroups: groups, parts: message.parts.map { PartInfo($0) })
        generation = message.generation
    }
}

extension KeyInfo {
    /// - Parameter selection: what was asked for.
    init(_ response: OMKeyResponse, _ selection: KeySelection) throws(StoreError) {
        try self.init(response.key)
        let excerpt = response.excerpt.first ?? OMKeyExcerpt()
        groupsOffset = Int(clamping: excerpt.groupsOffset)
        guard case .part = selection, excerpt.partsCount > 0 else { return }
        selectedPart = SelectedPart(
            info: parts.first, offset: Int(clamping: excerpt.partOffset),
            count: Int(excerpt.partsCount))
        parts = []
    }
}

extension KeySelection {
    /// nil for all: who asked before there were selections asks for that.
    var message: OMKeySelection? {
        var message = OMKeySelection()
        switch self {
        case .all: return nil
        case .head: message.kind = .head
        case .range(let start, let end):
            message.kind = .range
            message.start = UInt64(clamping: start)
            message.end = UInt64(clamping: end ?? 0)
            // Up to the first byte is nothing; 0 would be all.
            if end == 0 { message.kind = .head }
        case .suffix(let count):
            message.kind = .suffix
            message.count = UInt64(clamping: count)
        case .part(let number):
            message.kind = .part
            message.part = UInt32(clamping: number)
        }
        return message
    }
}

extension UploadInfo {
    init(_ message: OMUpload) throws(StoreError) {
        self.init(
            key: KeyName(unchecked: message.key.octets),
            upload: UploadID(Identity128(message.upload)),
            initiated: Timestamp(milliseconds: message.initiated), initiator: message.initiator,
            attributes: ObjectAttributes(message.attributes),
            checksum: message.hasChecksum ? UploadChecksum(message.checksum) : nil,
            replication: try ReplicationConfig(message.replication))
    }
}
