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
        return try parse(bytes, in: table, at: key)
    }

    /// The same for records that are kept parsed.
    func record<M: SwiftProtobuf.Message & Sendable>(
        _ table: MetadataTable, _ key: [UInt8], parsed: ParsedRecords<M>
    ) throws(StoreError) -> M? {
        guard let bytes = reader.get(table, key) else { return nil }
        do {
            return try parsed.parse(bytes)
        } catch {
            throw Self.damaged(table, key, error)
        }
    }

    func parse<M: StoredRecord>(
        _ bytes: [UInt8], in table: MetadataTable, at key: [UInt8]? = nil
    ) throws(StoreError) -> M {
        do {
            return try M(stored: bytes)
        } catch {
            throw Self.damaged(table, key, error)
        }
    }

    private static func damaged(
        _ table: MetadataTable, _ key: [UInt8]?, _ error: StoreError
    ) -> StoreError {
        let place = key.map { " at key \($0.hexadecimal)" } ?? ""
        return StoreError(
            .corrupt, "the record of OM's \(table)\(place) is damaged: \(error.message)")
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

    /// Users by name, a page of them.
    public func users(_ request: OMListUsersRequest) throws(StoreError) -> OMListUsersResponse {
        var response = OMListUsersResponse()
        (response.users, response.next) = try page(
            OMTable.users, after: request.startAfter, limit: request.limit
        ) { (record: OMUserRecord) in
            let user = record.user
            return (
                user, user.name,
                user.name.utf8.count + user.accessKeyID.utf8.count
                    + user.secretAccessKey.utf8.count + user.canonicalID.utf8.count
                    + user.displayName.utf8.count
            )
        }
        return response
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

    /// The volumes that the user owns, and the one that all may use; all of them for an
    /// administrator. A page of them.
    public func volumes(
        _ request: OMListVolumesRequest
    ) throws(StoreError) -> OMListVolumesResponse {
        let isAdministrator = try caller(request.user).user.isAdministrator
        var response = OMListVolumesResponse()
        (response.volumes, response.next) = try page(
            OMTable.volumes, after: request.startAfter, limit: request.limit
        ) { (volume: OMVolume) in
            guard
                isAdministrator || volume.owner == request.user
                    || volume.name == OMStateMachine.s3Volume
            else { return nil }
            return (volume, volume.name, volume.name.utf8.count + volume.owner.utf8.count)
        }
        return response
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
        try Self.check(bucket.bucket.layout, of: path)
        return bucket
    }

    /// Throws `unsupported` with its number for a layout that is not known.
    static func check(_ layout: OMBucketLayout, of path: OMBucketPath) throws(StoreError) {
        guard case .UNRECOGNIZED(let number) = layout else { return }
        throw StoreError(
            .unsupported,
            "the bucket '/\(path.volume)/\(path.bucket)' has layout \(number), which is not known "
                + "to this version: it knows \(OMBucketLayout.objectStore.rawValue), object store")
    }

    public func bucket(_ request: OMBucketRequest) throws(StoreError) -> OMBucket {
        try bucket(request.bucket, user: request.user).bucket
    }

    /// The buckets of a volume that the user owns, all of them for an administrator. A page of
    /// them.
    public func buckets(
        _ request: OMListBucketsRequest
    ) throws(StoreError) -> OMListBucketsResponse {
        let isAdministrator = try caller(request.user).user.isAdministrator
        _ = try volume(request.volume)
        var response = OMListBucketsResponse()
        (response.buckets, response.next) = try page(
            OMTable.buckets, in: OMTableKey.bucketPrefix(volume: request.volume),
            after: request.startAfter, limit: request.limit
        ) { (record: OMBucketRecord) in
            let bucket = record.bucket
            guard isAdministrator || bucket.owner == request.user else { return nil }
            return (
                bucket, bucket.name,
                bucket.volume.utf8.count + bucket.name.utf8.count + bucket.owner.utf8.count
                    + bucket.ownerCanonicalID.utf8.count + bucket.ownerDisplayName.utf8.count
            )
        }
        return response
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

    /// Answers a look-up: what was asked for of the key, without the places of its blocks.
    public func key(_ request: OMLookupKeyRequest) throws(StoreError) -> OMKeyResponse {
        let path = request.key
        let bucket = try bucket(path.bucket, user: request.user)
        let name = try NameRules.checkKey(path.name.octets)
        guard let found = try keyRecord(bucket: bucket.number, name: name.bytes) else {
            throw StoreError(.noSuchKey, "there is no key '\(name)' in '\(path.bucket.bucket)'")
        }
        return try found.answer(request.selection, named: name.bytes)
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

    // MARK: What the background loops look for

    /// The latest time in the log, milliseconds since 1970; nil if none was logged yet.
    public var logTime: Int64? {
        guard let value = reader.get(OMTable.clock, []), value.count == 8 else { return nil }
        return Int64(bitPattern: value.bigEndian(at: 0))
    }

    /// Keys of uploads initiated before `before`, by looking at `limit` uploads from `start` on,
    /// as long as they have fewer than `parts` parts together; one may have more alone. Where to
    /// go on, nil at the end of the table; and why records could not be read.
    public func oldUploads(
        before: Int64, from start: [UInt8], limit: Int, parts: Int = OMLimits.expirySize
    ) -> (keys: [[UInt8]], next: [UInt8]?, unreadable: [StoreError]) {
        let entries = reader.entries(OMTable.uploads, prefix: [], from: start, limit: limit)
        var keys: [[UInt8]] = []
        var unreadable: [StoreError] = []
        var room = parts
        for entry in entries {
            let record: OMUploadRecord
            do throws(StoreError) {
                record = try parse(entry.value, in: OMTable.uploads, at: entry.key)
            } catch {
                unreadable.append(error)
                continue
            }
            guard record.beganAt < before else { continue }
            let count = countParts(record.upload.upload, upTo: parts)
            guard keys.isEmpty || count <= room else { return (keys, entry.key, unreadable) }
            keys.append(entry.key)
            room -= count
        }
        return (keys, entries.count < limit ? nil : entries.last.map { $0.key + [0] }, unreadable)
    }

    /// Open keys that have been open for too long.
    public struct OldOpens: Sendable {
        /// Opened under a name.
        public var named: [UInt64] = []
        /// Reserved, and not committed.
        public var reserved: [UInt64] = []
        /// Where to go on; nil if there are no more.
        public var next: [UInt8]?
        /// Why records could not be read.
        public var unreadable: [StoreError] = []
    }

    /// Open keys created before `before`, and those only reserved before `reservedBefore`, by
    /// looking at `limit` open keys from `start` on, until those found have `blocks` blocks
    /// together. A younger one says nothing of those behind it: the clock may have been wrong.
    public func oldOpens(
        before: Int64, reservedBefore: Int64, from start: [UInt8], limit: Int,
        blocks: Int = OMLimits.expirySize
    ) -> OldOpens {
        var found = OldOpens()
        var count = 0
        var looked = 0
        // One after the other: an open key may have a hundred thousand blocks.
        reader.scan(OMTable.opens, from: start) { key, value in
            looked += 1
            do throws(StoreError) {
                let record: OMOpenRecord = try parse(value, in: OMTable.opens, at: key)
                let id: UInt64 = key.bigEndian(at: 0)
                if record.hasKey, record.created < before {
                    found.named.append(id)
                    count += record.blocks.count
                } else if !record.hasKey, record.created < reservedBefore {
                    found.reserved.append(id)
                    count += record.blocks.count
                }
            } catch {
                found.unreadable.append(error)
            }
            guard looked < limit, count < blocks else {
                found.next = key + [0]
                return false
            }
            return true
        }
        return found
    }
}

extension OMKeyRecord {
    /// As a client sees it, with blocks and parts.
    func key(named name: [UInt8]) throws(StoreError) -> OMKey {
        var key = head(named: name)
        let layout = try OMKeyLayout(parsing: self.layout.octets)
        key.groups = try groups(of: layout.blocks)
        key.parts = layout.parts
        return key
    }

    private func groups(of blocks: some Collection<OMStoredBlock>) throws(StoreError) -> [WireGroup]
    {
        var groups: [WireGroup] = []
        groups.reserveCapacity(blocks.count)
        for block in blocks {
            guard block.isWithin else {
                throw StoreError(
                    .corrupt,
                    "\(block.count) bytes from \(block.offset) on are not within the "
                        + "\(block.length) of block \(BlockID(block.block))")
            }
            groups.append(block.group(replication))
        }
        return groups
    }

    /// All of it, but of block groups no more than go into one answer.
    private func whole(named name: [UInt8]) throws(StoreError) -> OMKeyResponse {
        let layout = try OMKeyLayout(parsing: self.layout.octets)
        let blocks = layout.blocks.prefix(OMLimits.groupsPerAnswer)
        var key = head(named: name)
        key.groups = try groups(of: blocks)
        key.parts = layout.parts
        var response = OMKeyResponse()
        response.key = key
        if blocks.count < layout.blocks.count {
            response.excerpt = [.with { $0.groupsEnd = blocks.reduce(0) { $0 + $1.bytesReferred } }]
        }
        return response
    }

    /// What a look-up asked for. Of a long key only that is looked at.
    func answer(
        _ selection: OMKeySelection, named name: [UInt8]
    ) throws(StoreError) -> OMKeyResponse {
        switch selection.kind {
        case .all: return try whole(named: name)
        case .head: return try answer(0..<0, named: name)
        case .range:
            let end = selection.end == 0 ? length : min(selection.end, length)
            return try answer(min(selection.start, end)..<end, named: name)
        case .suffix:
            return try answer(length - min(selection.count, length)..<length, named: name)
        case .part: return try answer(part: selection.part, named: name)
        case .UNRECOGNIZED(let value):
            throw StoreError(.unsupported, "look-up \(value) is not known to this version")
        }
    }

    /// The groups that hold bytes of `range`, and no parts.
    private func answer(
        _ range: Range<UInt64>, named name: [UInt8]
    ) throws(StoreError) -> OMKeyResponse {
        var response = OMKeyResponse()
        var key = head(named: name)
        if !range.isEmpty {
            let found = try LayoutExcerpt(
                of: layout, bytes: range, limit: OMLimits.groupsPerAnswer)
            key.groups = try groups(of: found.blocks)
            if found.offset > 0 || found.isCut {
                var excerpt = OMKeyExcerpt()
                excerpt.groupsOffset = found.offset
                if found.isCut { excerpt.groupsEnd = found.end }
                response.excerpt = [excerpt]
            }
        }
        response.key = key
        return response
    }

    /// The part that was uploaded with this number, and the groups that hold its bytes.
    private func answer(
        part number: UInt32, named name: [UInt8]
    ) throws(StoreError) -> OMKeyResponse {
        let parts = try OMKeyLayout(parsing: layout.octets).parts
        guard !parts.isEmpty else {
            return try answer(number == 1 ? 0..<length : 0..<0, named: name)
        }
        guard let place = parts.firstIndex(where: { $0.number == number }) else {
            var response = try answer(0..<0, named: name)
            response.excerpt = [.with { $0.partsCount = UInt32(parts.count) }]
            return response
        }
        let start = parts[..<place].reduce(0) { $0 + $1.length }
        var response = try answer(start..<start + parts[place].length, named: name)
        response.key.parts = [parts[place]]
        var excerpt = response.excerpt.first ?? OMKeyExcerpt()
        excerpt.partsCount = UInt32(parts.count)
        excerpt.partOffset = start
        response.excerpt = [excerpt]
        return response
    }

    /// As a listing shows it, without blocks and parts.
    func head(named name: [UInt8]) -> OMKey {
        var key = OMKey()
        key.name = .octets(name)
        key.length = length
        key.etag = etag
        key.modified = modified
        key.replication = replication
        if hasAttributes { key.attributes = attributes }
        if hasChecksum { key.checksum = checksum }
        key.generation = generation
        return key
    }
}

extension OMStoredBlock {
    /// Whether what is referred to is there. An offset comes with a count.
    var isWithin: Bool {
        let (end, isBeyond) = offset.addingReportingOverflow(count)
        return !isBeyond && end <= length && (count > 0 || offset == 0)
    }

    /// As a client sees it, without nodes.
    func group(_ replication: WireReplication) -> WireGroup {
        var group = WireGroup()
        group.block = block
        group.replication = replication
        group.length = length
        group.offset = offset
        group.count = count
        return group
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
extension OMHistoryRecord: StoredRecord {}
extension OMSettingRecord: StoredRecord {}
extension OMUsageRecord: StoredRecord {}
