import Model
import SwiftProtobuf
import Wire

/// What the Ozone Manager answers from its tables without changing them.
///
/// Block groups in its answers have no nodes: where containers are is SCM's knowledge.
///
/// Not generic over its tables: those of OM's database are of a module that this one does not
/// know, so that generic code would look up its types again and again.
public struct OMReads {
    let reader: any MetadataReader

    public init(_ reader: any MetadataReader) { self.reader = reader }

    /// The record at `key`, nil if there is none; `corrupt` if it cannot be parsed.
    func record<M: StoredRecord>(
        _ table: MetadataTable, _ key: [UInt8], as type: M.Type = M.self
    ) throws(StoreError) -> M? {
        guard let bytes = reader.get(table, key) else { return nil }
        return try parse(bytes, in: table)
    }

    /// The same for records that are kept parsed.
    func record<M: SwiftProtobuf.Message & Sendable>(
        _ table: MetadataTable, _ key: [UInt8], parsed: ParsedRecords<M>
    ) throws(StoreError) -> M? {
        guard let bytes = reader.get(table, key) else { return nil }
        do {
            return try parsed.parse(bytes)
        } catch {
            throw StoreError(.corrupt, "a record of \(table) is damaged: \(error.message)")
        }
    }

    func parse<M: StoredRecord>(
        _ bytes: [UInt8], in table: MetadataTable
    ) throws(StoreError) -> M {
        do {
            return try M(stored: bytes)
        } catch {
            throw StoreError(.corrupt, "a record of \(table) is damaged: \(error.message)")
        }
    }

    // MARK: Users

    public func user(named name: String) throws(StoreError) -> OMUser? {
        try record(OMTable.users, OMTableKey.user(name), as: OMUserRecord.self)?.user
    }

    public func user(accessKeyID: String) throws(StoreError) -> OMUser? {
        guard let name = reader.get(OMTable.accessKeys, OMTableKey.accessKey(accessKeyID))
        else { return nil }
        return try user(named: String(decoding: name, as: UTF8.self))
    }

    /// All users by name.
    public func users() throws(StoreError) -> [OMUser] {
        try all(OMTable.users, prefix: [], as: OMUserRecord.self).map(\.user)
    }

    /// The user on whose behalf something is done; `accessDenied` if there is no such user.
    func caller(_ name: String) throws(StoreError) -> OMUserRecord {
        guard
            let user = try record(OMTable.users, OMTableKey.user(name), parsed: Parsed.users)
        else {
            throw StoreError(.accessDenied, "there is no user '\(name)'")
        }
        return user
    }

    // MARK: Volumes and buckets

    func volume(_ name: String) throws(StoreError) -> OMVolume {
        guard let volume: OMVolume = try record(OMTable.volumes, OMTableKey.volume(name)) else {
            throw StoreError(.noSuchVolume, "there is no volume '\(name)'")
        }
        return volume
    }

    /// The volumes that `user` owns, and the one that all may use; all of them for an
    /// administrator.
    public func volumes(user: String) throws(StoreError) -> [OMVolume] {
        let caller = try caller(user)
        return try all(OMTable.volumes, prefix: [], as: OMVolume.self).filter {
            caller.user.isAdministrator || $0.owner == user || $0.name == OMStateMachine.s3Volume
        }
    }

    /// The bucket, if `user` may use it. `noSuchBucket` or `accessDenied` otherwise.
    func bucket(_ path: OMBucketPath, user: String) throws(StoreError) -> OMBucketRecord {
        guard
            let bucket = try record(
                OMTable.buckets, OMTableKey.bucket(path), parsed: Parsed.buckets)
        else {
            throw StoreError(
                .noSuchBucket, "there is no bucket '/\(path.volume)/\(path.bucket)'")
        }
        let caller = try caller(user)
        guard caller.user.isAdministrator || bucket.bucket.owner == user else {
            throw StoreError(
                .accessDenied,
                "the bucket '/\(path.volume)/\(path.bucket)' does not belong to '\(user)'")
        }
        return bucket
    }

    public func bucket(_ request: OMBucketRequest) throws(StoreError) -> OMBucket {
        try bucket(request.bucket, user: request.user).bucket
    }

    public func buckets(_ request: OMListBucketsRequest) throws(StoreError) -> [OMBucket] {
        let caller = try caller(request.user)
        _ = try volume(request.volume)
        return try all(
            OMTable.buckets, prefix: OMTableKey.bucketPrefix(volume: request.volume),
            as: OMBucketRecord.self
        ).map(\.bucket).filter { caller.user.isAdministrator || $0.owner == request.user }
    }

    // MARK: Keys and uploads

    /// The key with its blocks and parts. `noSuchKey` if it is absent.
    public func key(_ path: OMKeyPath, user: String) throws(StoreError) -> OMKey {
        let bucket = try bucket(path.bucket, user: user)
        let name = try NameRules.checkKey(path.name.octets)
        guard let found = try keyRecord(bucket: bucket.number, name: name.bytes) else {
            throw StoreError(.noSuchKey, "there is no key '\(name)' in '\(path.bucket.bucket)'")
        }
        return try found.key(named: name.bytes)
    }

    /// Whether there is such a key.
    public func exists(_ path: OMKeyPath, user: String) throws(StoreError) -> Bool {
        let bucket = try bucket(path.bucket, user: user)
        let name = try NameRules.checkKey(path.name.octets)
        let key = OMTableKey.key(bucket: bucket.number, name: name.bytes)
        return reader.get(OMTable.keys, key) != nil
    }

    func keyRecord(bucket: UInt64, name: [UInt8]) throws(StoreError) -> OMKeyRecord? {
        try record(OMTable.keys, OMTableKey.key(bucket: bucket, name: name))
    }

    /// What a writer of `path` needs to know before blocks are taken for it: the replication of
    /// the upload `part` belongs to, of the bucket otherwise.
    public func replication(
        _ path: OMKeyPath, upload: WireIdentity?, user: String
    ) throws(StoreError) -> WireReplication {
        let bucket = try bucket(path.bucket, user: user)
        let name = try NameRules.checkKey(path.name.octets)
        guard let upload else { return bucket.bucket.replication }
        return try self.upload(bucket: bucket.number, name: name.bytes, upload).upload.replication
    }

    /// The open key, if `user` opened it.
    public func open(_ id: UInt64, user: String) throws(StoreError) -> OMOpenRecord {
        guard let open: OMOpenRecord = try record(OMTable.opens, OMTableKey.open(id)) else {
            throw StoreError(
                .conflict, "open key \(id) is gone: it was committed, aborted or has expired")
        }
        try checkOwner(of: open, id: id, user: user)
        return open
    }

    func checkOwner(of open: OMOpenRecord, id: UInt64, user: String) throws(StoreError) {
        guard open.user == user else {
            throw StoreError(.accessDenied, "open key \(id) does not belong to '\(user)'")
        }
    }

    func upload(
        bucket: UInt64, name: [UInt8], _ upload: WireIdentity
    ) throws(StoreError) -> OMUploadRecord {
        let key = OMTableKey.upload(bucket: bucket, name: name, upload: upload)
        guard let record: OMUploadRecord = try record(OMTable.uploads, key) else {
            throw StoreError(
                .noSuchUpload, "there is no upload \(Identity128(upload)) of this key")
        }
        return record
    }

    public func upload(_ request: OMUploadRequest) throws(StoreError) -> OMUpload {
        let bucket = try bucket(request.key.bucket, user: request.user)
        return try upload(
            bucket: bucket.number, name: request.key.name.octets, request.upload
        ).upload
    }

    public func parts(_ request: OMListPartsRequest) throws(StoreError) -> OMListPartsResponse {
        let bucket = try bucket(request.key.bucket, user: request.user)
        _ = try upload(bucket: bucket.number, name: request.key.name.octets, request.upload)
        let limit = min(Int(request.limit), OMLimits.listLimit)
        let from = OMTableKey.part(request.upload, number: min(request.after, 0xFFFE) + 1)
        let entries = reader.entries(
            OMTable.parts, prefix: OMTableKey.parts(request.upload), from: from, limit: limit + 1)
        var response = OMListPartsResponse()
        for entry in entries.prefix(limit) {
            let record: OMPartRecord = try parse(entry.value, in: OMTable.parts)
            response.parts.append(record.part)
        }
        response.isTruncated = entries.count > limit
        return response
    }

    // MARK: What the background loops look for

    /// Keys of uploads initiated before `before`, by looking at `limit` uploads from `start`
    /// on; and where to go on, nil at the end of the table.
    public func oldUploads(
        before: Int64, from start: [UInt8], limit: Int
    ) throws(StoreError) -> (keys: [[UInt8]], next: [UInt8]?) {
        let entries = reader.entries(OMTable.uploads, prefix: [], from: start, limit: limit)
        var keys: [[UInt8]] = []
        for entry in entries {
            let record: OMUploadRecord = try parse(entry.value, in: OMTable.uploads)
            if record.upload.initiated < before { keys.append(entry.key) }
        }
        return (keys, entries.count < limit ? nil : entries.last.map { $0.key + [0] })
    }

    /// Whether the upload at `key` of the upload table is one of a bucket that was deleted.
    func isOrphan(_ record: OMUploadRecord, at key: [UInt8]) throws(StoreError) -> Bool {
        let bucket = try self.record(
            OMTable.buckets, OMTableKey.bucket(record.bucket), parsed: Parsed.buckets)
        let number: UInt64 = key.bigEndian(at: 0)
        return bucket?.number != number
    }

    /// Keys of uploads whose bucket was deleted, with at least one of them and, if there are
    /// more, no more than `limit` uploads and `partLimit` parts together.
    ///
    /// Buckets that are there cost a seek each, however many uploads they have.
    public func orphanUploads(limit: Int, partLimit: Int) throws(StoreError) -> [[UInt8]] {
        var keys: [[UInt8]] = []
        var parts = 0
        var next: [UInt8]? = []
        while let start = next, keys.count < limit, parts < partLimit {
            guard
                let entry = reader.entries(OMTable.uploads, prefix: [], from: start, limit: 1)
                    .first
            else { break }
            let record: OMUploadRecord = try parse(entry.value, in: OMTable.uploads)
            guard try isOrphan(record, at: entry.key) else {
                next = Array(entry.key.prefix(8)).prefixSuccessor
                continue
            }
            next = entry.key + [0]
            let scope = OMTableKey.parts(record.upload.upload)
            parts += reader.entries(OMTable.parts, prefix: scope, limit: partLimit).count
            guard keys.isEmpty || parts <= partLimit else { break }
            keys.append(entry.key)
        }
        return keys
    }

    /// Open keys that have been open for too long.
    public struct OldOpens: Sendable {
        /// Opened under a name.
        public var named: [UInt64] = []
        /// Reserved, and not committed.
        public var reserved: [UInt64] = []
        /// Where to go on; nil if there are no more.
        public var next: [UInt8]?
    }

    /// Open keys created before `before`, and those only reserved before `reservedBefore`, by
    /// looking at `limit` open keys from `start` on, oldest first.
    public func oldOpens(
        before: Int64, reservedBefore: Int64, from start: [UInt8], limit: Int
    ) throws(StoreError) -> OldOpens {
        var found = OldOpens()
        let entries = reader.entries(OMTable.opens, prefix: [], from: start, limit: limit)
        for entry in entries {
            let record: OMOpenRecord = try parse(entry.value, in: OMTable.opens)
            // Open IDs grow with time, so all others are younger.
            guard record.created < max(before, reservedBefore) else { return found }
            let id: UInt64 = entry.key.bigEndian(at: 0)
            if record.hasKey {
                if record.created < before { found.named.append(id) }
            } else if record.created < reservedBefore {
                found.reserved.append(id)
            }
        }
        if entries.count == limit { found.next = entries.last.map { $0.key + [0] } }
        return found
    }

    /// Deleted blocks that wait for SCM, deleted before `before`, at most about `limit` blocks;
    /// with the keys that `PurgeDeletedCommand` forgets them by.
    public func deletedBlocks(
        before: Int64, limit: Int
    ) throws(StoreError) -> (keys: [[UInt8]], blocks: [BlockID]) {
        var keys: [[UInt8]] = []
        var blocks: [BlockID] = []
        var failure: StoreError?
        reader.scan(OMTable.deleted, from: []) { key, value in
            do throws(StoreError) {
                let record: OMDeletedRecord = try parse(value, in: OMTable.deleted)
                guard record.deleted < before else { return false }
                keys.append(key)
                blocks += record.blocks.map { BlockID($0) }
            } catch {
                failure = error
                return false
            }
            return blocks.count < limit
        }
        if let failure { throw failure }
        return (keys, blocks)
    }

    private func all<M: StoredRecord>(
        _ table: MetadataTable, prefix: [UInt8], as type: M.Type
    ) throws(StoreError) -> [M] {
        var records: [M] = []
        for entry in reader.entries(table, prefix: prefix, limit: .max) {
            records.append(try parse(entry.value, in: table))
        }
        return records
    }
}

extension OMKeyRecord {
    /// As a client sees it, with blocks and parts.
    func key(named name: [UInt8]) throws(StoreError) -> OMKey {
        var key = head(named: name)
        let layout = try OMKeyLayout(parsing: self.layout.octets)
        key.groups = layout.blocks.map { block in
            var group = WireGroup()
            group.block =
                BlockID(
                    containerID: ContainerID(block.container), localID: block.local
                ).message
            group.replication = replication
            group.length = block.length
            return group
        }
        key.parts = layout.parts
        return key
    }

    /// As a listing shows it, without blocks and parts.
    func head(named name: [UInt8]) -> OMKey {
        var key = OMKey()
        key.name = .octets(name)
        key.length = length
        key.etag = etag
        key.modified = modified
        key.replication = replication
        key.attributes = attributes
        if hasChecksum { key.checksum = checksum }
        return key
    }
}

/// A record of a table, made from its bytes: by hand where the message can be, by the generated
/// parser otherwise.
protocol StoredRecord: SwiftProtobuf.Message {
    init(stored bytes: [UInt8]) throws(StoreError)
}

extension StoredRecord {
    init(stored bytes: [UInt8]) throws(StoreError) { try self.init(parsing: bytes) }
}

extension StoredRecord where Self: FieldReadable {
    init(stored bytes: [UInt8]) throws(StoreError) { try self.init(parsing: bytes) }
}

extension OMUserRecord: StoredRecord {}
extension OMVolume: StoredRecord {}
extension OMBucketRecord: StoredRecord {}
extension OMKeyRecord: StoredRecord {}
extension OMOpenRecord: StoredRecord {}
extension OMUploadRecord: StoredRecord {}
extension OMPartRecord: StoredRecord {}
extension OMDeletedRecord: StoredRecord {}
