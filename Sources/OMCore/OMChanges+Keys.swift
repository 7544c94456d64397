import Model
import Wire

// Keys: opened, given blocks, committed or aborted, deleted. The blocks of an open key stand in
// its record from the moment they are handed out, so that none is lost when its writer dies.

extension OMChanges {
    func open(_ command: OMOpenCommand) throws(StoreError) -> OMOpenResponse {
        let bucket = try reads.bucket(command.key.bucket, user: command.user)
        let name = try NameRules.checkKey(command.key.name.octets)
        _ = try ReplicationConfig(writable: command.replication)
        if command.hasUpload {
            _ = try reads.upload(bucket: bucket.number, name: name.bytes, command.upload)
            try checkPartNumber(command.part)
        }
        var record = OMOpenRecord()
        record.key = command.key
        record.bucketNumber = bucket.number
        record.user = command.user
        record.created = logTime
        record.replication = command.replication
        record.blocks = command.blocks
        if command.hasUpload { record.upload = command.upload }
        record.part = command.part
        let id = OMTableKey.openID(of: index, place: 0)
        add(OMTable.opens, OMTableKey.open(id), record)

        var response = OMOpenResponse()
        response.openID = id
        response.replication = command.replication
        return response
    }

    func addBlock(_ command: OMAddBlockCommand) throws(StoreError) -> OMAllocateGroupResponse {
        var record = try reads.open(command.openID, user: command.user)
        guard record.blocks.count < OMLimits.blocksPerKey else {
            throw StoreError(
                .invalidArgument, "a key consists of at most \(OMLimits.blocksPerKey) blocks")
        }
        record.blocks.append(command.block)
        put(OMTable.opens, OMTableKey.open(command.openID), record)
        var response = OMAllocateGroupResponse()
        response.group.block = command.block
        response.group.replication = record.replication
        return response
    }

    /// Makes an open key or part visible in place of an older one.
    func commit(_ request: OMCommitRequest) throws(StoreError) -> OMKeyResponse {
        let openKey = OMTableKey.open(request.openID)
        guard let found: OMOpenRecord = try reads.record(OMTable.opens, openKey) else {
            return try repeatedCommit(request)
        }
        try reads.checkOwner(of: found, id: request.openID, user: request.user)
        let open = try named(found, by: request)
        let bucket = try reads.bucket(open.key.bucket, user: open.user)
        guard bucket.number == open.bucketNumber else {
            throw StoreError(
                .noSuchBucket, "the bucket '\(open.key.bucket.bucket)' was deleted meanwhile")
        }
        try checkAttributes(request.attributes)
        let layout = try checkedLayout(request, of: open)
        var response = OMKeyResponse()
        if open.hasUpload {
            response.key = try putPart(request, open: open, layout: layout)
        } else {
            response.key = try putKey(request, open: open, layout: layout, in: bucket)
        }
        transaction.delete(OMTable.opens, openKey)
        return response
    }

    private struct Layout {
        var blocks: [OMStoredBlock]
        var length: UInt64
        /// Handed out for the key but not used by it.
        var unused: [WireBlock]
    }

    /// The blocks that the writer says it wrote, checked against those it was given.
    private func checkedLayout(
        _ request: OMCommitRequest, of open: OMOpenRecord
    ) throws(StoreError) -> Layout {
        let replication = try ReplicationConfig(open.replication)
        var unused = Set(open.blocks.map { BlockID($0) })
        var layout = Layout(blocks: [], length: 0, unused: [])
        for group in request.groups where group.length > 0 {
            let id = BlockID(group.block)
            guard group.offset == 0, group.count == 0 || group.count == group.length else {
                throw StoreError(
                    .unsupported, "a key consists of whole blocks; of block \(id) a part is named")
            }
            guard unused.remove(id) != nil else {
                throw StoreError(
                    .badRequest, "block \(id) was not given to open key \(request.openID)")
            }
            guard group.length <= replication.blockGroupSize else {
                throw StoreError(
                    .badRequest,
                    "block \(id) holds at most \(replication.blockGroupSize) bytes, "
                        + "not \(group.length)")
            }
            var block = OMStoredBlock()
            block.container = group.block.container
            block.local = group.block.local
            block.length = group.length
            layout.blocks.append(block)
            layout.length += group.length
        }
        // In the order in which they were handed out: a set has none that all members share.
        layout.unused = open.blocks.filter { unused.contains(BlockID($0)) }
        return layout
    }

    private func putKey(
        _ request: OMCommitRequest, open: OMOpenRecord, layout: Layout, in bucket: OMBucketRecord
    ) throws(StoreError) -> OMKey {
        let name = open.key.name.octets
        let existing = try reads.keyRecord(bucket: bucket.number, name: name)
        try checkCondition(request.condition, existing, name: name)

        var record = OMKeyRecord()
        record.length = layout.length
        record.etag = request.etag
        record.modified = time
        record.replication = open.replication
        record.attributes = request.attributes
        if request.hasChecksum { record.checksum = request.checksum }
        var stored = OMKeyLayout()
        stored.blocks = layout.blocks
        record.layout = .octets(stored.encoded)
        record.openID = request.openID
        record.generation = generation(after: existing)
        let key = try record.key(named: name)
        let released = try replace(
            existing, with: record, blocks: layout.blocks, named: name, in: bucket)
        discard(released + layout.unused)
        return key
    }

    private func putPart(
        _ request: OMCommitRequest, open: OMOpenRecord, layout: Layout
    ) throws(StoreError) -> OMKey {
        let name = open.key.name.octets
        _ = try reads.upload(bucket: open.bucketNumber, name: name, open.upload)
        let key = OMTableKey.part(open.upload, number: open.part)
        let existing: OMPartRecord? = try reads.record(OMTable.parts, key)

        var record = OMPartRecord()
        record.part.number = open.part
        record.part.length = layout.length
        record.part.etag = request.etag
        record.part.modified = time
        if request.hasChecksum { record.part.checksum = request.checksum }
        record.blocks = layout.blocks
        record.openID = request.openID
        let answer = record.key(named: name, replication: open.replication)
        put(OMTable.parts, key, record)
        discard(BlockReferences.released(by: existing?.blocks ?? []) + layout.unused)
        return answer
    }

    /// A commit of an open key that is gone: the answer again if it was this very commit that
    /// took it, for a client that lost the first answer.
    private func repeatedCommit(_ request: OMCommitRequest) throws(StoreError) -> OMKeyResponse {
        let gone = StoreError(
            .conflict,
            "open key \(request.openID) is gone: it was aborted, has expired, or was replaced "
                + "since it was committed")
        guard request.hasKey else { throw gone }
        let bucket = try reads.bucket(request.key.bucket, user: request.user)
        let name = request.key.name.octets
        var response = OMKeyResponse()
        if request.hasUpload {
            let upload = try reads.upload(bucket: bucket.number, name: name, request.upload)
            let key = OMTableKey.part(request.upload, number: request.part)
            let part: OMPartRecord? = try reads.record(OMTable.parts, key)
            guard let part, part.openID == request.openID else { throw gone }
            response.key = part.key(named: name, replication: upload.upload.replication)
        } else {
            let key = try reads.keyRecord(bucket: bucket.number, name: name)
            guard let key, key.openID == request.openID else { throw gone }
            response.key = try key.key(named: name)
        }
        return response
    }

    /// Gives up an open key. One that is gone is no error: aborting may be repeated.
    func abortOpen(_ request: OMAbortOpenRequest) throws(StoreError) {
        let key = OMTableKey.open(request.openID)
        guard transaction.get(OMTable.opens, key) != nil else { return }
        let open = try reads.open(request.openID, user: request.user)
        transaction.delete(OMTable.opens, key)
        discard(open.blocks)
    }

    func deleteKey(_ request: OMDeleteKeyRequest) throws(StoreError) -> OMDeleteKeyResponse {
        let bucket = try reads.bucket(request.key.bucket, user: request.user)
        let name = try NameRules.checkKey(request.key.name.octets).bytes
        let existing = try reads.keyRecord(bucket: bucket.number, name: name)
        try checkCondition(request.condition, existing, name: name)
        var response = OMDeleteKeyResponse()
        guard let existing else { return response }
        discard(try replace(existing, with: nil, named: name, in: bucket))
        response.existed = true
        return response
    }

    func expireOpens(_ command: OMExpireOpensCommand) throws(StoreError) {
        var expired: [(key: [UInt8], open: OMOpenRecord)] = []
        for id in command.openIds {
            let key = OMTableKey.open(id)
            let open: OMOpenRecord? = try reads.record(OMTable.opens, key)
            if let open, open.created < command.before { expired.append((key, open)) }
        }
        for entry in expired { transaction.delete(OMTable.opens, entry.key) }
        discard(expired.flatMap(\.open.blocks))
    }

    /// Decides whether a write or deletion of `name` may go ahead, given what is there.
    func checkCondition(
        _ condition: OMCondition, _ existing: OMKeyRecord?, name: [UInt8]
    ) throws(StoreError) {
        func absent() -> StoreError {
            StoreError(
                .noSuchKey,
                "there is no key '\(KeyName(unchecked: name))' for the condition to hold of")
        }
        switch condition.kind {
        case .none: return
        case .ifAbsent:
            guard existing == nil else {
                throw StoreError(
                    .preconditionFailed, "there is already a key '\(KeyName(unchecked: name))'")
            }
        case .ifPresent:
            guard existing != nil else { throw absent() }
        case .ifEtag:
            guard let existing else { throw absent() }
            guard existing.etag == condition.etag else {
                throw StoreError(
                    .preconditionFailed,
                    "the key '\(KeyName(unchecked: name))' has the ETag '\(existing.etag)', "
                        + "not '\(condition.etag)'")
            }
        case .ifGeneration:
            guard let existing else { throw absent() }
            guard existing.generation == condition.generation else {
                throw StoreError(
                    .preconditionFailed,
                    "the key '\(KeyName(unchecked: name))' has generation \(existing.generation), "
                        + "not \(condition.generation)")
            }
        case .UNRECOGNIZED(let value):
            throw StoreError(.unsupported, "condition \(value) is not known to this version")
        }
    }

    func checkAttributes(_ attributes: OMAttributes) throws(StoreError) {
        var size = 0
        for (name, value) in attributes.headers { size += name.utf8.count + value.utf8.count }
        for (name, value) in attributes.metadata { size += name.utf8.count + value.utf8.count }
        guard size <= OMLimits.attributesSize else {
            throw StoreError(
                .invalidArgument,
                "headers and metadata of a key have at most \(OMLimits.attributesSize) bytes, "
                    + "not \(size)")
        }
    }

    func checkPartNumber(_ number: UInt32) throws(StoreError) {
        guard number >= 1, number <= OMLimits.parts else {
            throw StoreError(
                .invalidArgument, "parts are numbered 1 to \(OMLimits.parts), not \(number)")
        }
    }
}

extension OMPartRecord {
    /// A part in the form of a key, for its writer's answer.
    func key(named name: [UInt8], replication: WireReplication) -> OMKey {
        var key = OMKey()
        key.name = .octets(name)
        key.length = part.length
        key.etag = part.etag
        key.modified = part.modified
        key.replication = replication
        if part.hasChecksum { key.checksum = part.checksum }
        key.groups = blocks.map { $0.group(replication) }
        return key
    }
}
