import Client
import Model

extension S3Service {
    func listBuckets(_ call: Call) async throws {
        let request = call.request
        let limit = try request.queryInt("max-buckets", in: 1...10_000) ?? 10_000
        let prefix = request.query("prefix") ?? ""
        let after = try ContinuationToken.inQuery(of: request)
        if let region = request.query("bucket-region"), region != configuration.region {
            throw S3Error.invalidArgument(
                "bucket-region", region, "All buckets are in \(configuration.region).")
        }
        var buckets = try await store.buckets(volume: BucketPath.s3Volume, user: call.user)
        buckets.removeAll { bucket in
            !bucket.name.hasPrefix(prefix)
                || after.map { !$0.lexicographicallyPrecedes(bucket.name.utf8) } ?? false
        }
        let user = call.identity.user
        var xml = XMLWriter()
        xml.element("ListAllMyBucketsResult", namespace: true) { xml in
            xml.owner(user.canonicalID, user.displayName)
            xml.element("Buckets") { xml in
                for bucket in buckets.prefix(limit) {
                    xml.element("Bucket") { xml in
                        xml.element("Name", bucket.name)
                        xml.element("CreationDate", DateText.iso(bucket.created))
                        xml.element("BucketRegion", configuration.region)
                    }
                }
            }
            if buckets.count > limit {
                xml.element(
                    "ContinuationToken",
                    ContinuationToken.encode(Array(buckets[limit - 1].name.utf8)))
            }
            if !prefix.isEmpty { xml.element("Prefix", prefix) }
        }
        try await call.respond(xml)
    }

    func createBucket(_ call: Call) async throws {
        let document = try await call.receiveDocument(limit: 64 << 10)
        if !document.isEmpty { try checkBucketConfiguration(XMLReader.parse(document)) }
        do throws(StoreError) {
            try await store.createBucket(call.bucket, replication: nil, user: call.user)
        } catch {
            // In S3's first region making one's own bucket again is done already; in others 409.
            guard error.code == .bucketOwnedByYou, isFirstRegion else { throw error }
        }
        var head = call.head(200, contentLength: 0)
        head.set("Location", "/\(call.bucketName)")
        try await call.respond(head)
    }

    private func checkBucketConfiguration(_ root: XMLElement) throws(S3Error) {
        guard root.name == "CreateBucketConfiguration" else { throw S3Error(.malformedXML) }
        for child in root.children {
            guard child.name == "LocationConstraint" else {
                throw S3Error.notImplemented("\(child.name) in CreateBucketConfiguration")
            }
            let region = child.text
            guard region.isEmpty || region == configuration.region else {
                throw S3Error(
                    .invalidLocationConstraint,
                    "The location constraint must be \(configuration.region), the region of this "
                        + "store.", details: [("LocationConstraint", region)])
            }
        }
    }

    /// Whether this is the region that has S3's oldest manners.
    private var isFirstRegion: Bool { configuration.region == "us-east-1" }

    func headBucket(_ call: Call) async throws {
        _ = try await store.bucket(call.bucket, user: call.user)
        var head = call.head(200, contentLength: 0)
        head.set("x-amz-bucket-region", configuration.region)
        head.set("Content-Type", "application/xml")
        try await call.respond(head)
    }

    func deleteBucket(_ call: Call) async throws {
        try await store.deleteBucket(call.bucket, user: call.user)
        try await call.respond(204)
    }

    func getBucketLocation(_ call: Call) async throws {
        _ = try await store.bucket(call.bucket, user: call.user)
        var xml = XMLWriter()
        xml.element("LocationConstraint", namespace: true) { xml in
            // S3's first region is written as nothing.
            if !isFirstRegion { xml.text(configuration.region) }
        }
        try await call.respond(xml)
    }
}

/// The place where a list goes on, as clients hand it back: opaque to them.
enum ContinuationToken {
    /// Names may hold any byte, and the token goes through URLs: hexadecimal it is, with a mark
    /// in front that tells it from what never was a token.
    private static let mark = "a1"

    static func encode(_ last: [UInt8]) -> String { mark + Hex.encode(last) }

    /// Where the list that `request` asks for goes on; nil if it begins, also with an empty token.
    static func inQuery(of request: S3Request) throws(S3Error) -> [UInt8]? {
        guard let text = request.query("continuation-token"), !text.isEmpty else { return nil }
        return try decode(text)
    }

    static func decode(_ text: String) throws(S3Error) -> [UInt8] {
        guard text.hasPrefix(mark), let bytes = Hex.decode(text.dropFirst(mark.count)),
            !bytes.isEmpty
        else {
            throw S3Error.invalidArgument(
                "continuation-token", text, "The continuation token provided is incorrect.")
        }
        return bytes
    }
}

extension XMLWriter {
    mutating func owner(_ id: String, _ displayName: String, as name: StaticString = "Owner") {
        element(name) { xml in
            xml.element("ID", id)
            xml.element("DisplayName", displayName)
        }
    }
}
