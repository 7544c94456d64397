import Model
import Wire

// Uploads in parts.

extension OMClient {
    public func createUpload(
        _ key: KeyPath, attributes: ObjectAttributes, checksum: UploadChecksum?,
        replication: ReplicationConfig?, user: String
    ) async throws(StoreError) -> UploadID {
        var request = OMCreateUploadRequest()
        request.key = key.message
        request.attributes = attributes.message
        if let checksum { request.checksum = checksum.message }
        if let replication { request.replication = replication.message }
        request.user = user
        let response = try OMCreateUploadResponse(
            parsing: try await caller.call(.createUpload, request.encoded))
        return UploadID(Identity128(response.upload))
    }

    public func upload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) -> UploadInfo {
        let request = uploadRequest(key, upload, user: user)
        let response = try OMUploadResponse(
            parsing: try await caller.call(.upload, request.encoded))
        return try UploadInfo(response.upload)
    }

    /// As many parts as were asked for, whatever bytes they take.
    public func parts(
        _ key: KeyPath, upload: UploadID, after: Int, limit: Int, user: String
    ) async throws(StoreError) -> PartsPage {
        var page = try await answeredParts(
            key, upload: upload, after: after, limit: limit, user: user)
        while page.isTruncated, page.parts.count < limit, let last = page.parts.last {
            let more = try await answeredParts(
                key, upload: upload, after: last.number, limit: limit - page.parts.count,
                user: user)
            page.parts += more.parts
            page.isTruncated = more.isTruncated
        }
        return page
    }

    /// What goes into one answer.
    private func answeredParts(
        _ key: KeyPath, upload: UploadID, after: Int, limit: Int, user: String
    ) async throws(StoreError) -> PartsPage {
        var request = OMListPartsRequest()
        request.key = key.message
        request.upload = upload.identity.message
        request.after = UInt32(clamping: after)
        request.limit = UInt32(clamping: limit)
        request.user = user
        let response = try OMListPartsResponse(
            parsing: try await caller.call(.listParts, request.encoded))
        return PartsPage(
            parts: response.parts.map { PartInfo($0) }, isTruncated: response.isTruncated)
    }

    /// May be repeated when the answer was lost.
    public func completeUpload(
        _ key: KeyPath, upload: UploadID, parts: [CompletedPart], etag: String,
        checksum: ObjectChecksum?, condition: WriteCondition, user: String
    ) async throws(StoreError) -> KeyInfo {
        var request = OMCompleteUploadRequest()
        request.key = key.message
        request.upload = upload.identity.message
        request.parts = parts.map { part in
            var message = OMCompletedPart()
            message.number = UInt32(clamping: part.number)
            message.etag = part.etag
            return message
        }
        request.etag = etag
        if let checksum { request.checksum = checksum.message }
        request.condition = condition.message
        request.user = user
        var lookUp = OMLookupKeyRequest()
        lookUp.key = request.key
        lookUp.user = user
        return try await keyInfo(.completeUpload, request.encoded, lookUp)
    }

    public func abortUpload(
        _ key: KeyPath, upload: UploadID, user: String
    ) async throws(StoreError) {
        _ = try await caller.call(
            .abortUpload, uploadRequest(key, upload, user: user).encoded)
    }

    /// A page of as many uploads as were asked for, but for the most that the Ozone Manager gives
    /// at once, whatever bytes they take.
    public func uploads(
        _ bucket: BucketPath, _ query: UploadsQuery, user: String
    ) async throws(StoreError) -> UploadsPage {
        var page = try await answeredUploads(bucket, query, user: user)
        var rest = query
        while page.isTruncated {
            rest.limit =
                min(query.limit, Int(OMClientLimits.page))
                - page.uploads.count - page.commonPrefixes.count
            guard rest.limit > 0 else { break }
            rest.keyMarker = page.nextKeyMarker
            rest.uploadMarker = page.nextUploadMarker
            let more = try await answeredUploads(bucket, rest, user: user)
            page.uploads += more.uploads
            page.commonPrefixes += more.commonPrefixes
            page.isTruncated = more.isTruncated
            page.nextKeyMarker = more.nextKeyMarker
            page.nextUploadMarker = more.nextUploadMarker
        }
        return page
    }

    /// What goes into one answer.
    private func answeredUploads(
        _ bucket: BucketPath, _ query: UploadsQuery, user: String
    ) async throws(StoreError) -> UploadsPage {
        var request = OMListUploadsRequest()
        request.bucket = bucket.message
        request.prefix = .octets(query.prefix)
        request.delimiter = .octets(query.delimiter)
        request.keyMarker = .octets(query.keyMarker)
        if let marker = query.uploadMarker { request.uploadMarker = marker.identity.message }
        request.limit = UInt32(clamping: query.limit)
        request.user = user
        request.withoutAttributes = !query.wantsAttributes
        let response = try OMListUploadsResponse(
            parsing: try await caller.call(.listUploads, request.encoded))
        var page = UploadsPage(
            commonPrefixes: response.commonPrefixes.map(\.octets),
            isTruncated: response.isTruncated, nextKeyMarker: response.nextKeyMarker.octets)
        for upload in response.uploads { page.uploads.append(try UploadInfo(upload)) }
        if response.hasNextUploadMarker {
            page.nextUploadMarker = UploadID(Identity128(response.nextUploadMarker))
        }
        return page
    }

    private func uploadRequest(
        _ key: KeyPath, _ upload: UploadID, user: String
    ) -> OMUploadRequest {
        var request = OMUploadRequest()
        request.key = key.message
        request.upload = upload.identity.message
        request.user = user
        return request
    }
}
