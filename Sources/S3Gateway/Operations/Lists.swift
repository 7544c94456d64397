import Client
import Model

/// How names are written in a list: as they are, or percent-encoded if the client asked for it.
struct ListEncoding {
    let isURL: Bool

    init(_ request: S3Request) throws(S3Error) {
        guard let type = request.query("encoding-type"), !type.isEmpty else {
            isURL = false
            return
        }
        guard type == "url" else {
            throw S3Error.invalidArgument(
                "encoding-type", type, "Invalid Encoding Method specified in Request: it is url.")
        }
        isURL = true
    }

    func write(_ name: StaticString, _ bytes: [UInt8], to xml: inout XMLWriter) {
        if isURL {
            xml.element(name, PercentEncoding.encode(bytes, keepSlash: true))
        } else {
            xml.element(name, utf8: bytes)
        }
    }

    func writeType(to xml: inout XMLWriter) {
        if isURL { xml.element("EncodingType", "url") }
    }
}

/// What the three lists of keys have in common.
private struct KeyList {
    /// The most entries of a page, whatever the client asks for.
    static let pageLimit = 1000

    let encoding: ListEncoding
    let bucket: BucketInfo
    let query: ListQuery
    let page: ListPage
    let maxKeys: Int

    func writeKeys(_ element: StaticString, owner: Bool, to xml: inout XMLWriter) {
        for key in page.keys {
            xml.element(element) { xml in
                encoding.write("Key", key.name.bytes, to: &xml)
                if element.description == "Version" {
                    xml.element("VersionId", "null")
                    xml.element("IsLatest", true)
                }
                xml.element("LastModified", DateText.iso(key.modified))
                xml.element("ETag", "\"\(key.etag)\"")
                if let checksum = key.checksum {
                    xml.element("ChecksumAlgorithm", checksum.algorithm.rawValue)
                    xml.element("ChecksumType", checksum.kind.rawValue)
                }
                xml.element("Size", key.length)
                if owner { xml.owner(bucket.ownerCanonicalID, bucket.ownerDisplayName) }
                xml.element("StorageClass", "STANDARD")
            }
        }
        for prefix in page.commonPrefixes {
            xml.element("CommonPrefixes") { encoding.write("Prefix", prefix, to: &$0) }
        }
    }

    func writeQuery(to xml: inout XMLWriter) {
        xml.element("Name", bucket.name)
        encoding.write("Prefix", query.prefix, to: &xml)
        if !query.delimiter.isEmpty { encoding.write("Delimiter", query.delimiter, to: &xml) }
        xml.element("MaxKeys", maxKeys)
        encoding.writeType(to: &xml)
        xml.element("IsTruncated", page.next != nil)
    }

    /// An empty writer with room for the page.
    var writer: XMLWriter {
        XMLWriter(capacity: 1024 + page.keys.count * 400 + page.commonPrefixes.count * 120)
    }
}

extension S3Service {
    private func list(_ call: Call, startAfter: [UInt8]) async throws -> KeyList {
        let request = call.request
        let encoding = try ListEncoding(request)
        let asked = try request.queryInt("max-keys", in: 0...Int(Int32.max))
        let maxKeys = min(asked ?? KeyList.pageLimit, KeyList.pageLimit)
        var query = ListQuery(
            prefix: request.queryBytes("prefix") ?? [],
            delimiter: request.queryBytes("delimiter") ?? [], startAfter: startAfter,
            limit: maxKeys)
        query.wantsAttributes = false
        for (name, bytes) in [("prefix", query.prefix), ("delimiter", query.delimiter)]
        where bytes.count > KeyName.maximumLength {
            throw S3Error.invalidArgument(
                name, String(decoding: bytes, as: UTF8.self), "\(name) has at most 1024 bytes.")
        }
        let bucket = try await store.bucket(call.bucket, user: call.user)
        let page =
            maxKeys == 0 ? ListPage() : try await store.list(call.bucket, query, user: call.user)
        return KeyList(
            encoding: encoding, bucket: bucket, query: query, page: page, maxKeys: maxKeys)
    }

    func listObjects(_ call: Call) async throws {
        let marker = call.request.queryBytes("marker") ?? []
        let list = try await list(call, startAfter: marker)
        var xml = list.writer
        xml.element("ListBucketResult", namespace: true) { xml in
            list.writeQuery(to: &xml)
            list.encoding.write("Marker", marker, to: &xml)
            // As S3 has it, told only with a delimiter; without one it is the last key.
            if let next = list.page.next, !list.query.delimiter.isEmpty {
                list.encoding.write("NextMarker", next, to: &xml)
            }
            list.writeKeys("Contents", owner: true, to: &xml)
        }
        try await call.respond(xml)
    }

    func listObjectsV2(_ call: Call) async throws {
        let request = call.request
        let token = request.query("continuation-token")
        let startAfter = request.queryBytes("start-after") ?? []
        let from = try ContinuationToken.inQuery(of: request)
        let list = try await list(call, startAfter: from ?? startAfter)
        let owner = request.query("fetch-owner") == "true"
        var xml = list.writer
        xml.element("ListBucketResult", namespace: true) { xml in
            list.writeQuery(to: &xml)
            xml.element("KeyCount", list.page.keys.count + list.page.commonPrefixes.count)
            xml.element("ContinuationToken", ifPresent: token)
            xml.element(
                "NextContinuationToken", ifPresent: list.page.next.map(ContinuationToken.encode))
            if !startAfter.isEmpty { list.encoding.write("StartAfter", startAfter, to: &xml) }
            list.writeKeys("Contents", owner: owner, to: &xml)
        }
        try await call.respond(xml)
    }

    /// Every key is its own only version, `null`.
    func listObjectVersions(_ call: Call) async throws {
        let request = call.request
        let marker = request.queryBytes("key-marker") ?? []
        let versionMarker = request.query("version-id-marker") ?? ""
        if !versionMarker.isEmpty, marker.isEmpty {
            throw S3Error.invalidArgument(
                "version-id-marker", versionMarker,
                "A version-id marker cannot be specified without a key marker.")
        }
        let list = try await list(call, startAfter: marker)
        var xml = list.writer
        xml.element("ListVersionsResult", namespace: true) { xml in
            list.writeQuery(to: &xml)
            list.encoding.write("KeyMarker", marker, to: &xml)
            xml.element("VersionIdMarker", versionMarker)
            if let next = list.page.next {
                list.encoding.write("NextKeyMarker", next, to: &xml)
                xml.element("NextVersionIdMarker", "null")
            }
            list.writeKeys("Version", owner: true, to: &xml)
        }
        try await call.respond(xml)
    }
}
