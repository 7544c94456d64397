import Client
import Model
import Synchronization

extension InMemoryObjectStore {
    public func createUpload(
        _ key: KeyPath, attributes: ObjectAttributes, checksum: UploadChecksum?,
        replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> UploadID {
        try enter("createUpload")
        let initiated = now()
        var generator = SystemRandomNumberGenerator()
        let id = UploadID(Identity128.random(using: &generator))
        try state.withLock { state throws(StoreError) in
            let bucket = try state.bucket(key.bucket, user)
            let info = UploadInfo(
                key: key.name, upload: id, initiated: initiated, initiator: user,
                attributes: attributes, checksum: checksum,
                replication: replication ?? bucket.info.replication)
            state.buckets[key.bucket]?.uploads[id] = Upload(info: info)
        }
        return id
    }

    public func openPartWriter(
        _ key: KeyPath, upload: UploadID, number: Int, length: Int?, user: String
    ) async throws(StoreError) -> InMemoryWriter {
        try enter("openPartWriter")
        guard (1...10_000).contains(number) else {
            throw StoreError(.invalidArgument, "a part has a number from 1 to 10000, not \(number)")
        }
        try state.withLock { state throws(StoreError) in
            _ = try state.upload(key, upload, user)
            state.openWriters += 1
        }
        return InMemoryWriter(store: self, target: .part(key, upload, number), user: user)
    }

    public func upload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) -> UploadInfo {
        try enter("upload")
        return try state.withLock { state throws(StoreError) in
            try state.upload(key, upload, user).info
        }
    }

    public func parts(
        _ key: KeyPath, upload: UploadID, after: Int, limit: Int, user: String
    ) async throws(StoreError) -> PartsPage {
        try enter("parts")
        return try state.withLock { state throws(StoreError) in
            let parts = try state.upload(key, upload, user).parts.values.map(\.info)
                .filter { $0.number > after }.sorted { $0.number < $1.number }
            return PartsPage(parts: Array(parts.prefix(limit)), isTruncated: parts.count > limit)
        }
    }

    public func completeUpload(
        _ key: KeyPath, upload: UploadID, parts: [CompletedPart], etag: String,
        checksum: ObjectChecksum?, condition: WriteCondition, user: String
    ) async throws(StoreError) -> KeyInfo {
        try enter("completeUpload")
        let modified = now()
        return try state.withLock { state throws(StoreError) in
            if let made = try state.completed(key, upload, etag: etag, user) { return made }
            let found = try state.upload(key, upload, user)
            let chosen = try found.choose(parts, smallest: limits.smallestPart)
            try condition.check(state.bucket(key.bucket, user).keys[key.name])
            let info = KeyInfo(
                name: key.name, length: chosen.reduce(0) { $0 + $1.info.length }, etag: etag,
                modified: modified, replication: found.info.replication,
                attributes: found.info.attributes, checksum: checksum,
                blockGroups: chosen.map(\.block), parts: chosen.map(\.info))
            state.forget(key, upload, keeping: Set(chosen.map(\.block.blockID.localID)))
            state.replace(key, with: info)
            state.buckets[key.bucket]?.origins[key.name] = upload
            return info
        }
    }

    public func abortUpload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) {
        try enter("abortUpload")
        try state.withLock { state throws(StoreError) in
            _ = try state.upload(key, upload, user)
            state.forget(key, upload, keeping: [])
        }
    }

    public func uploads(
        _ bucket: BucketPath, _ query: UploadsQuery, user: String
    ) async throws(StoreError) -> UploadsPage {
        try enter("uploads")
        return try state.withLock { state throws(StoreError) in
            try state.bucket(bucket, user).list(query)
        }
    }
}

extension InMemoryObjectStore.State {
    /// The upload, if it is one of this key and `user` may use it.
    func upload(
        _ key: KeyPath, _ id: UploadID, _ user: String
    ) throws(StoreError) -> InMemoryObjectStore.Upload {
        guard let upload = try bucket(key.bucket, user).uploads[id], upload.info.key == key.name
        else { throw StoreError(.noSuchUpload, "there is no upload \(id) of \(key)") }
        return upload
    }

    /// The key, if it was made of this upload with this ETag: the answer to a completion that is
    /// asked again.
    fileprivate func completed(
        _ key: KeyPath, _ id: UploadID, etag: String, _ user: String
    ) throws(StoreError) -> KeyInfo? {
        let bucket = try bucket(key.bucket, user)
        guard bucket.origins[key.name] == id, let info = bucket.keys[key.name], info.etag == etag
        else { return nil }
        return info
    }

    /// Ends an upload and drops the bytes of its parts, but for those of `keeping`.
    mutating func forget(_ key: KeyPath, _ id: UploadID, keeping: Set<UInt64>) {
        let upload = buckets[key.bucket]?.uploads.removeValue(forKey: id)
        for part in upload?.parts.values.map(\.block.blockID.localID) ?? []
        where !keeping.contains(part) {
            data[part] = nil
        }
    }
}

extension InMemoryObjectStore.Upload {
    /// The stored parts that a completion names, or S3's error for what is wrong with them.
    fileprivate func choose(
        _ wanted: [CompletedPart], smallest: Int
    ) throws(StoreError) -> [(info: PartInfo, block: BlockGroup)] {
        guard !wanted.isEmpty else { throw StoreError(.invalidArgument, "no part is named") }
        var chosen: [(info: PartInfo, block: BlockGroup)] = []
        for (index, part) in wanted.enumerated() {
            if index > 0, part.number <= wanted[index - 1].number {
                throw StoreError(.invalidPartOrder, "parts are not in ascending order")
            }
            guard let found = parts[part.number], found.info.etag == part.etag else {
                throw StoreError(.invalidPart, "part \(part.number) is not as named")
            }
            if index < wanted.count - 1, found.info.length < smallest {
                throw StoreError(
                    .partTooSmall,
                    "part \(part.number) has \(found.info.length) bytes; all but the last have "
                        + "at least \(smallest)")
            }
            chosen.append(found)
        }
        return chosen
    }
}

extension InMemoryObjectStore.Bucket {
    fileprivate func list(_ query: UploadsQuery) -> UploadsPage {
        let sorted = uploads.values.map(\.info).sorted {
            ($0.key, $0.upload) < ($1.key, $1.upload)
        }
        var page = UploadsPage()
        for upload in sorted where upload.key.bytes.starts(with: query.prefix) {
            let group = Self.commonPrefix(upload.key.bytes, query.prefix, query.delimiter)
            if !query.keyMarker.isEmpty, !Self.isAfter(upload, group, query) { continue }
            if let group, page.commonPrefixes.last == group { continue }
            guard page.uploads.count + page.commonPrefixes.count < query.limit else {
                page.isTruncated = true
                break
            }
            if let group {
                page.commonPrefixes.append(group)
                page.nextKeyMarker = group
                page.nextUploadMarker = nil
            } else {
                page.uploads.append(upload)
                page.nextKeyMarker = upload.key.bytes
                page.nextUploadMarker = upload.upload
            }
        }
        if !page.isTruncated {
            page.nextKeyMarker = []
            page.nextUploadMarker = nil
        }
        return page
    }

    private static func isAfter(
        _ upload: UploadInfo, _ group: [UInt8]?, _ query: UploadsQuery
    ) -> Bool {
        if let group, group == query.keyMarker { return false }
        let key = upload.key.bytes
        if key == query.keyMarker {
            guard let marker = query.uploadMarker else { return false }
            return marker < upload.upload
        }
        return query.keyMarker.lexicographicallyPrecedes(key)
    }
}
