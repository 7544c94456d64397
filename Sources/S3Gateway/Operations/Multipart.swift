import Client
import Model

extension Call {
    /// The upload named by the query. What is no identity of ours names no upload.
    func uploadID() throws(S3Error) -> UploadID {
        guard let upload = UploadID(request.query("uploadId") ?? "") else {
            throw S3Error(.noSuchUpload)
        }
        return upload
    }

    func partAddress() throws(S3Error) -> (Int, UploadID) {
        let text = request.query("partNumber") ?? ""
        guard let number = Int(text), (1...10_000).contains(number) else {
            throw S3Error.invalidArgument(
                "partNumber", text,
                "Part number must be an integer between 1 and 10000, inclusive")
        }
        return (number, try uploadID())
    }
}

extension UploadChecksum {
    /// The checksum that a new upload asks for in its headers; nil if none.
    init?(_ request: S3Request) throws(S3Error) {
        let type = request.header("x-amz-checksum-type")
        guard let name = request.header("x-amz-checksum-algorithm") else {
            guard type == nil else {
                throw S3Error(
                    .invalidRequest,
                    "The x-amz-checksum-type header can only be used with the "
                        + "x-amz-checksum-algorithm header.")
            }
            return nil
        }
        let algorithm = try ObjectChecksum.Algorithm(name: name, in: "x-amz-checksum-algorithm")
        let usual: ObjectChecksum.Kind = algorithm == .crc64nvme ? .fullObject : .composite
        guard let kind = type.map({ ObjectChecksum.Kind(rawValue: $0.uppercased()) }) ?? usual
        else {
            throw S3Error(
                .invalidRequest, "Value for x-amz-checksum-type header is invalid.")
        }
        let isPossible = kind == .fullObject ? algorithm.canBeCombined : algorithm != .crc64nvme
        guard isPossible else {
            throw S3Error(
                .invalidRequest,
                "The \(kind.rawValue) checksum type cannot be used with the "
                    + "\(algorithm.rawValue.lowercased()) checksum algorithm.")
        }
        self.init(algorithm: algorithm, kind: kind)
    }
}

extension S3Service {
    func createMultipartUpload(_ call: Call) async throws {
        let attributes = try ObjectAttributes(call.request)
        let checksum = try UploadChecksum(call.request)
        let document = try await call.receiveDocument(limit: 1024)
        guard document.isEmpty else {
            throw S3Error(.invalidRequest, "CreateMultipartUpload has no body.")
        }
        let upload = try await store.createUpload(
            call.key, attributes: attributes, checksum: checksum, replication: nil,
            user: call.user)
        var xml = XMLWriter()
        xml.element("InitiateMultipartUploadResult", namespace: true) { xml in
            xml.element("Bucket", call.bucketName)
            xml.element("Key", utf8: call.key.name.bytes)
            xml.element("UploadId", upload.description)
        }
        var head = call.head(200, contentLength: xml.bytes.count)
        head.set("Content-Type", "application/xml")
        head.set("x-amz-checksum-algorithm", ifPresent: checksum?.algorithm.rawValue)
        head.set("x-amz-checksum-type", ifPresent: checksum?.kind.rawValue)
        try await call.exchange.respond(head.http, body: xml.bytes)
    }

    func uploadPart(_ call: Call) async throws {
        let (number, upload) = try call.partAddress()
        for name in ["if-match", "if-none-match"] where call.request.header(name) != nil {
            throw S3Error.notImplemented("The header \(name) on UploadPart")
        }
        var expectation = try PayloadExpectation(
            call.request, signing: call.identity.payload,
            sizeLimit: configuration.limits.objectBytes)
        let info = try await store.upload(call.key, upload: upload, user: call.user)
        if let wanted = info.checksum?.algorithm {
            if let given = expectation.checksum?.algorithm, given != wanted {
                throw S3Error(
                    .invalidRequest,
                    "Checksum Type mismatch occurred, expected checksum Type: "
                        + "\(wanted.rawValue.lowercased()), actual checksum Type: "
                        + "\(given.rawValue.lowercased())")
            }
            expectation.wantedChecksum = wanted
        }
        let writer = try await store.openPartWriter(
            call.key, upload: upload, number: number, length: expectation.length, user: call.user)
        let result = try await store(call, expectation, in: writer) { result in
            KeyCommit(etag: result.etag, checksum: result.objectChecksum)
        }
        var head = call.head(200, contentLength: 0)
        head.setETag(result.etag)
        if let checksum = result.objectChecksum {
            head.set(checksum.algorithm.headerName, checksum.value)
        }
        try await call.respond(head)
    }

    func abortMultipartUpload(_ call: Call) async throws {
        try await store.abortUpload(call.key, upload: call.uploadID(), user: call.user)
        try await call.respond(204)
    }

    func listParts(_ call: Call) async throws {
        let request = call.request
        let upload = try call.uploadID()
        let encoding = try ListEncoding(request)
        let limit = min(try request.queryInt("max-parts", in: 0...Int(Int32.max)) ?? 1000, 1000)
        let begins = request.query("part-number-marker")?.isEmpty ?? true
        let marker =
            begins ? 0 : try request.queryInt("part-number-marker", in: 0...Int(Int32.max)) ?? 0
        let info = try await store.upload(call.key, upload: upload, user: call.user)
        let bucket = try await store.bucket(call.bucket, user: call.user)
        let page = try await store.parts(
            call.key, upload: upload, after: marker, limit: limit, user: call.user)
        let initiator = try await person(info.initiator, bucket)
        var xml = XMLWriter(capacity: 1024 + page.parts.count * 240)
        xml.element("ListPartsResult", namespace: true) { xml in
            xml.element("Bucket", call.bucketName)
            encoding.writeType(to: &xml)
            encoding.write("Key", call.key.name.bytes, to: &xml)
            xml.element("UploadId", upload.description)
            xml.element("PartNumberMarker", marker)
            if let last = page.parts.last { xml.element("NextPartNumberMarker", last.number) }
            xml.element("MaxParts", limit)
            xml.element("IsTruncated", page.isTruncated)
            for part in page.parts {
                xml.element("Part") { xml in
                    xml.element("PartNumber", part.number)
                    xml.element("LastModified", DateText.iso(part.modified))
                    xml.element("ETag", "\"\(part.etag)\"")
                    xml.element("Size", part.length)
                    xml.checksum(part.checksum, withType: false)
                }
            }
            xml.owner(initiator.id, initiator.name, as: "Initiator")
            xml.owner(bucket.ownerCanonicalID, bucket.ownerDisplayName)
            xml.element("StorageClass", "STANDARD")
            xml.element("ChecksumAlgorithm", ifPresent: info.checksum?.algorithm.rawValue)
            xml.element("ChecksumType", ifPresent: info.checksum?.kind.rawValue)
        }
        try await call.respond(xml)
    }

    func listMultipartUploads(_ call: Call) async throws {
        let request = call.request
        let encoding = try ListEncoding(request)
        let limit = min(try request.queryInt("max-uploads", in: 0...Int(Int32.max)) ?? 1000, 1000)
        // S3 passes over an upload marker without a key marker.
        let keyMarker = request.queryBytes("key-marker") ?? []
        let markerText = keyMarker.isEmpty ? "" : request.query("upload-id-marker") ?? ""
        let uploadMarker = UploadID(markerText)
        guard markerText.isEmpty || uploadMarker != nil else {
            throw S3Error.invalidArgument(
                "upload-id-marker", markerText, "Invalid uploadId marker")
        }
        var query = UploadsQuery(
            prefix: request.queryBytes("prefix") ?? [],
            delimiter: request.queryBytes("delimiter") ?? [], keyMarker: keyMarker,
            uploadMarker: uploadMarker, limit: limit)
        query.wantsAttributes = false
        let bucket = try await store.bucket(call.bucket, user: call.user)
        let page =
            limit == 0
            ? UploadsPage() : try await store.uploads(call.bucket, query, user: call.user)
        var people: [String: (id: String, name: String)] = [:]
        for upload in page.uploads where people[upload.initiator] == nil {
            people[upload.initiator] = try await person(upload.initiator, bucket)
        }
        var xml = XMLWriter(capacity: 1024 + page.uploads.count * 480)
        xml.element("ListMultipartUploadsResult", namespace: true) { xml in
            xml.element("Bucket", call.bucketName)
            encoding.write("KeyMarker", keyMarker, to: &xml)
            xml.element("UploadIdMarker", markerText)
            if page.isTruncated {
                encoding.write("NextKeyMarker", page.nextKeyMarker, to: &xml)
                xml.element("NextUploadIdMarker", page.nextUploadMarker?.description ?? "")
            }
            encoding.write("Prefix", query.prefix, to: &xml)
            if !query.delimiter.isEmpty { encoding.write("Delimiter", query.delimiter, to: &xml) }
            encoding.writeType(to: &xml)
            xml.element("MaxUploads", limit)
            xml.element("IsTruncated", page.isTruncated)
            for upload in page.uploads {
                let initiator = people[upload.initiator] ?? ("", upload.initiator)
                xml.upload(upload, encoding, bucket, initiator)
            }
            for prefix in page.commonPrefixes {
                xml.element("CommonPrefixes") { encoding.write("Prefix", prefix, to: &$0) }
            }
        }
        try await call.respond(xml)
    }

    /// Canonical ID and display name of a user; of one deleted since, the name alone.
    private func person(
        _ name: String, _ bucket: BucketInfo
    ) async throws -> (id: String, name: String) {
        if name == bucket.owner { return (bucket.ownerCanonicalID, bucket.ownerDisplayName) }
        guard let user = try await store.user(named: name) else { return ("", name) }
        return (user.canonicalID, user.displayName)
    }
}

extension XMLWriter {
    fileprivate mutating func upload(
        _ upload: UploadInfo, _ encoding: ListEncoding, _ bucket: BucketInfo,
        _ initiator: (id: String, name: String)
    ) {
        element("Upload") { xml in
            encoding.write("Key", upload.key.bytes, to: &xml)
            xml.element("UploadId", upload.upload.description)
            xml.owner(initiator.id, initiator.name, as: "Initiator")
            xml.owner(bucket.ownerCanonicalID, bucket.ownerDisplayName)
            xml.element("StorageClass", "STANDARD")
            xml.element("Initiated", DateText.iso(upload.initiated))
            xml.element("ChecksumAlgorithm", ifPresent: upload.checksum?.algorithm.rawValue)
            xml.element("ChecksumType", ifPresent: upload.checksum?.kind.rawValue)
        }
    }
}
