import Client
import Crypto
import Model

/// The document of a CompleteMultipartUpload request.
struct CompleteRequest: Equatable {
    static let partLimit = 10_000

    struct Part: Equatable {
        var number: Int
        /// Without quotes.
        var etag: String
        var checksums: [ObjectChecksum.Algorithm: String] = [:]
    }
    var parts: [Part]

    init(_ root: XMLElement) throws(S3Error) {
        guard root.name == "CompleteMultipartUpload" else { throw S3Error(.malformedXML) }
        parts = []
        for child in root.children {
            guard child.name == "Part" else { throw S3Error(.malformedXML) }
            parts.append(try Self.part(child))
        }
        guard (1...Self.partLimit).contains(parts.count) else {
            throw S3Error(
                .malformedXML,
                "A completion names 1 to \(Self.partLimit) parts, "
                    + "this one \(parts.count).")
        }
        for (part, next) in zip(parts, parts.dropFirst()) where part.number >= next.number {
            throw S3Error(
                .invalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part "
                    + "number.")
        }
    }

    private static func part(_ element: XMLElement) throws(S3Error) -> Part {
        guard let text = element.child("PartNumber")?.text, let number = Int(trimmingSpaces(text)),
            let etag = element.child("ETag")?.text
        else { throw S3Error(.malformedXML) }
        guard (1...10_000).contains(number) else {
            throw S3Error.invalidArgument(
                "PartNumber", text,
                "Part number must be an integer between 1 and 10000, inclusive")
        }
        var part = Part(number: number, etag: ReadConditions.unquoted(trimmingSpaces(etag)))
        for algorithm in ObjectChecksum.Algorithm.allCases {
            if let value = element.child(algorithm.elementName.description)?.text {
                part.checksums[algorithm] = trimmingSpaces(value)
            }
        }
        return part
    }

    /// The stored parts that this completion names, in order; `invalidPart` if one is not as the
    /// client says.
    func select(from stored: [PartInfo]) throws(S3Error) -> [PartInfo] {
        var byNumber: [Int: PartInfo] = [:]
        for part in stored { byNumber[part.number] = part }
        var selected: [PartInfo] = []
        selected.reserveCapacity(parts.count)
        for part in parts {
            guard let found = byNumber[part.number], found.etag == part.etag else {
                throw Self.invalid(part)
            }
            for (algorithm, value) in part.checksums
            where found.checksum?.algorithm != algorithm || found.checksum?.value != value {
                throw Self.invalid(part)
            }
            selected.append(found)
        }
        return selected
    }

    private static func invalid(_ part: Part) -> S3Error {
        S3Error(
            .invalidPart,
            "One or more of the specified parts could not be found. The part may not have been "
                + "uploaded, or the specified entity tag or checksum may not match the part's.",
            details: [("PartNumber", "\(part.number)"), ("ETag", part.etag)])
    }

    /// The MD5 of the parts' MD5s, with `-` and their number behind.
    /// - Parameter parts: their ETags, in order.
    static func etag(of parts: [String]) -> String {
        var md5 = Insecure.MD5()
        for etag in parts { md5.update(data: Hex.decode(etag) ?? Array(etag.utf8)) }
        return "\(Hex.encode(md5.finalize()))-\(parts.count)"
    }
}

extension S3Service {
    func completeMultipartUpload(_ call: Call) async throws {
        let upload = try call.uploadID()
        let condition = try WriteCondition(call.request)
        let document = try await call.receiveDocument(
            limit: configuration.limits.documentBytes, forCompletion: true)
        let request = try CompleteRequest(XMLReader.parse(document))
        let etag: String
        let checksum: ObjectChecksum?
        do {
            (etag, checksum) = try await complete(call, upload, request, condition)
        } catch let error as StoreError where error.code == .noSuchUpload {
            (etag, checksum) = try await repeated(call, upload, request, condition)
        }
        var xml = XMLWriter()
        xml.element("CompleteMultipartUploadResult", namespace: true) { xml in
            let host = call.request.header("host") ?? "\(configuration.host)"
            xml.element("Location", "http://\(host)\(call.request.rawPath)")
            xml.element("Bucket", call.bucketName)
            xml.element("Key", utf8: call.key.name.bytes)
            xml.element("ETag", "\"\(etag)\"")
            xml.checksum(checksum)
        }
        try await call.respond(xml)
    }

    /// Makes a key of the parts that `request` names; its ETag and checksum.
    private func complete(
        _ call: Call, _ upload: UploadID, _ request: CompleteRequest, _ condition: WriteCondition
    ) async throws -> (etag: String, ObjectChecksum?) {
        let info = try await store.upload(call.key, upload: upload, user: call.user)
        let parts = try request.select(
            from: try await allParts(
                call, upload, last: request.parts[request.parts.count - 1].number))
        let checksum = try Self.checksum(of: parts, info.checksum, call.request)
        try Self.checkSize(parts.reduce(0) { $0 + $1.length }, call.request)
        let etag = CompleteRequest.etag(of: parts.map(\.etag))
        _ = try await store.completeUpload(
            call.key, upload: upload,
            parts: parts.map { CompletedPart(number: $0.number, etag: $0.etag) }, etag: etag,
            checksum: checksum, condition: condition, user: call.user)
        return (etag, checksum)
    }

    /// The answer again for a client that did not get the first one. The upload and its parts are
    /// gone; whether the key that is there was made of them, the store knows: the ETag that these
    /// parts make is the same as then.
    private func repeated(
        _ call: Call, _ upload: UploadID, _ request: CompleteRequest, _ condition: WriteCondition
    ) async throws -> (etag: String, ObjectChecksum?) {
        let etag = CompleteRequest.etag(of: request.parts.map(\.etag))
        let key = try await store.completeUpload(
            call.key, upload: upload,
            parts: request.parts.map { CompletedPart(number: $0.number, etag: $0.etag) },
            etag: etag, checksum: nil, condition: condition, user: call.user)
        try Self.checkSize(key.length, call.request)
        return (etag, key.checksum)
    }

    /// `x-amz-mp-object-size`, where it is given, must be the truth.
    private static func checkSize(_ length: Int, _ request: S3Request) throws(S3Error) {
        guard let text = request.header("x-amz-mp-object-size"), Int(text) != length else {
            return
        }
        throw S3Error(
            .invalidRequest,
            "The x-amz-mp-object-size is \(text), the parts have \(length) bytes.")
    }

    private func allParts(
        _ call: Call, _ upload: UploadID, last: Int
    ) async throws -> [PartInfo] {
        var parts: [PartInfo] = []
        while true {
            let page = try await store.parts(
                call.key, upload: upload, after: parts.last?.number ?? 0, limit: 1000,
                user: call.user)
            parts += page.parts
            guard page.isTruncated, let reached = page.parts.last?.number, reached < last else {
                return parts
            }
        }
    }

    /// The checksum of the whole; checked against the one that the client says, if it does.
    static func checksum(
        of parts: [PartInfo], _ upload: UploadChecksum?, _ request: S3Request
    ) throws(S3Error) -> ObjectChecksum? {
        let declared = try wholeChecksum(request)
        if let type = request.header("x-amz-checksum-type"), let upload,
            type.uppercased() != upload.kind.rawValue
        {
            throw S3Error(
                .invalidRequest,
                "The upload was created using the \(upload.kind.rawValue) checksum mode. The "
                    + "complete request must use the same checksum mode.")
        }
        // Without a checksum of its own an upload takes the full one that its completion declares.
        let wanted =
            upload
            ?? declared.map {
                UploadChecksum(algorithm: $0.algorithm, kind: .fullObject)
            }
        guard let wanted else { return nil }
        let checksum = ObjectChecksum((wanted.algorithm, wanted.kind), parts: parts)
        guard let declared, let value = declared.value else {
            guard let checksum else {
                throw S3Error(
                    .invalidRequest, "The upload has parts without a \(wanted.algorithm.rawValue).")
            }
            return checksum
        }
        guard let checksum, declared.algorithm == checksum.algorithm else {
            throw S3Error(
                .invalidRequest,
                "The \(declared.algorithm.rawValue) of the whole cannot be checked: the upload's "
                    + "parts have no such checksum.")
        }
        // A composite value may come without its number of parts.
        guard checksum.value == value || checksum.value.hasPrefix("\(value)-") else {
            throw S3Error(
                .badDigest,
                "The \(declared.algorithm.rawValue) you specified did not match the calculated "
                    + "checksum.")
        }
        return checksum
    }

    /// The checksum in the head of a completion is one of the object, not of the document.
    private static func wholeChecksum(_ request: S3Request) throws(S3Error) -> DeclaredChecksum? {
        try request.checksumHeader()
    }
}
