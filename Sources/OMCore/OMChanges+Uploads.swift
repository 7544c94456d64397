import Model
import Wire

// Uploads in parts. A part is written like a key and waits in the part table; completing an
// upload makes a key of its parts in one step.

extension OMChanges {
    func createUpload(
        _ command: OMCreateUploadCommand
    ) throws(StoreError) -> OMCreateUploadResponse {
        let request = command.request
        let bucket = try reads.bucket(request.key.bucket, user: request.user)
        let name = try NameRules.checkKey(request.key.name.octets).bytes
        try checkAttributes(request.attributes)
        let replication =
            request.hasReplication ? request.replication : bucket.bucket.replication
        _ = try ReplicationConfig(writable: replication)
        var record = OMUploadRecord()
        record.bucket = request.key.bucket
        record.upload.key = .octets(name)
        record.upload.upload = command.upload
        record.upload.initiated = time
        if version >= 2 { record.begun = logTime }
        record.upload.initiator = request.user
        record.upload.attributes = request.attributes
        if request.hasChecksum { record.upload.checksum = request.checksum }
        record.upload.replication = replication
        let key = OMTableKey.upload(bucket: bucket.number, name: name, upload: command.upload)
        put(OMTable.uploads, key, record)
        var response = OMCreateUploadResponse()
        response.upload = command.upload
        return response
    }

    func completeUpload(
        _ request: OMCompleteUploadRequest
    ) throws(StoreError) -> OMKeyResponse {
        let bucket = try reads.bucket(request.key.bucket, user: request.user)
        let name = try NameRules.checkKey(request.key.name.octets).bytes
        let uploadKey = OMTableKey.upload(
            bucket: bucket.number, name: name, upload: request.upload)
        let existing = try reads.keyRecord(bucket: bucket.number, name: name)
        guard transaction.get(OMTable.uploads, uploadKey) != nil else {
            return try repeatedCompletion(request, existing, bucket: bucket.number, name: name)
        }
        let upload = try reads.upload(bucket: bucket.number, name: name, request.upload)
        let parts = try allParts(request.upload)
        let chosen = try checkedParts(request, among: parts)
        try checkCondition(request.condition, existing, name: name)
        let blocks = chosen.flatMap(\.blocks)
        guard version < 1 || blocks.count <= OMLimits.blocksPerKey else {
            throw StoreError(
                .invalidArgument,
                "a key consists of at most \(OMLimits.blocksPerKey) blocks; those of the parts are "
                    + "\(blocks.count)")
        }
        let chosenNumbers = Set(chosen.map(\.part.number))
        let unused = parts.filter { !chosenNumbers.contains($0.part.number) }

        var record = keyRecord(request, upload: upload, parts: chosen)
        record.generation = generation(after: existing)
        var response = OMKeyResponse()
        response.key = try record.key(named: name)
        let released = try replace(
            existing, with: record, blocks: blocks, named: name, in: bucket)
        forget(uploadKey, request.upload, parts)
        discard(released + BlockReferences.released(by: unused.flatMap(\.blocks)))
        return response
    }

    private func keyRecord(
        _ request: OMCompleteUploadRequest, upload: OMUploadRecord, parts: [OMPartRecord]
    ) -> OMKeyRecord {
        var layout = OMKeyLayout()
        layout.blocks = parts.flatMap(\.blocks)
        layout.parts = parts.map(\.part)
        var record = OMKeyRecord()
        record.length = parts.reduce(0) { $0 + $1.part.length }
        record.etag = request.etag
        record.modified = time
        record.replication = upload.upload.replication
        record.attributes = upload.upload.attributes
        if request.hasChecksum { record.checksum = request.checksum }
        record.layout = .octets(layout.encoded)
        record.upload = [request.upload]
        return record
    }

    /// The answer again for a client that lost the first one: the upload is gone because it
    /// became the key that is there.
    private func repeatedCompletion(
        _ request: OMCompleteUploadRequest, _ existing: OMKeyRecord?, bucket: UInt64, name: [UInt8]
    ) throws(StoreError) -> OMKeyResponse {
        guard let existing, existing.upload.first == request.upload, existing.etag == request.etag
        else {
            throw StoreError(
                .noSuchUpload, "there is no upload \(Identity128(request.upload)) of this key")
        }
        var response = OMKeyResponse()
        response.key = try existing.key(named: name)
        return response
    }

    private func allParts(_ upload: WireIdentity) throws(StoreError) -> [OMPartRecord] {
        let entries = transaction.entries(
            OMTable.parts, prefix: OMTableKey.parts(upload), limit: OMLimits.parts)
        var parts: [OMPartRecord] = []
        parts.reserveCapacity(entries.count)
        for entry in entries { parts.append(try reads.parse(entry.value, in: OMTable.parts)) }
        return parts
    }

    /// The parts that the request lists, checked as S3 does: order, presence, ETags, sizes.
    private func checkedParts(
        _ request: OMCompleteUploadRequest, among parts: [OMPartRecord]
    ) throws(StoreError) -> [OMPartRecord] {
        guard !request.parts.isEmpty else {
            throw StoreError(.invalidArgument, "an upload is completed with at least one part")
        }
        var byNumber: [UInt32: OMPartRecord] = [:]
        for part in parts { byNumber[part.part.number] = part }
        var chosen: [OMPartRecord] = []
        chosen.reserveCapacity(request.parts.count)
        for listed in request.parts {
            if let last = chosen.last, last.part.number >= listed.number {
                throw StoreError(
                    .invalidPartOrder,
                    "parts are listed in ascending order; \(listed.number) comes after "
                        + "\(last.part.number)")
            }
            guard let part = byNumber[listed.number], part.part.etag == listed.etag else {
                throw StoreError(
                    .invalidPart,
                    "part \(listed.number) with ETag '\(listed.etag)' was not uploaded")
            }
            chosen.append(part)
        }
        for part in chosen.dropLast() where part.part.length < OMLimits.minimumPartSize {
            throw StoreError(
                .partTooSmall,
                "every part but the last has at least \(OMLimits.minimumPartSize) bytes; part "
                    + "\(part.part.number) has \(part.part.length)")
        }
        return chosen
    }

    func abortUpload(_ request: OMUploadRequest) throws(StoreError) {
        let bucket = try reads.bucket(request.key.bucket, user: request.user)
        let name = try NameRules.checkKey(request.key.name.octets).bytes
        _ = try reads.upload(bucket: bucket.number, name: name, request.upload)
        let parts = try allParts(request.upload)
        let key = OMTableKey.upload(bucket: bucket.number, name: name, upload: request.upload)
        forget(key, request.upload, parts)
        discard(BlockReferences.released(by: parts.flatMap(\.blocks)))
    }

    /// Aborts uploads that are too old, and those whose bucket was deleted, whatever their age.
    func expireUploads(_ command: OMExpireUploadsCommand) throws(StoreError) {
        var expired: [(key: [UInt8], upload: WireIdentity, parts: [OMPartRecord])] = []
        for key in command.keys.map(\.octets) {
            let record: OMUploadRecord? = try reads.record(OMTable.uploads, key)
            guard let record else { continue }
            if record.beganAt >= command.before {
                guard try reads.isOrphan(record, at: key) else { continue }
            }
            expired.append((key, record.upload.upload, try allParts(record.upload.upload)))
        }
        for entry in expired { forget(entry.key, entry.upload, entry.parts) }
        discard(
            BlockReferences.released(by: expired.flatMap { $0.parts.flatMap(\.blocks) }))
    }

    /// Removes the records of an upload and its parts, not their blocks.
    private func forget(_ key: [UInt8], _ upload: WireIdentity, _ parts: [OMPartRecord]) {
        transaction.delete(OMTable.uploads, key)
        for part in parts {
            transaction.delete(
                OMTable.parts, OMTableKey.part(upload, number: part.part.number))
        }
    }
}
