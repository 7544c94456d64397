/// The operations of S3 that are implemented.
enum Operation: Int, CaseIterable, Sendable {
    case listBuckets
    case createBucket
    case headBucket
    case deleteBucket
    case getBucketLocation
    case listObjects
    case listObjectsV2
    case listObjectVersions
    case listMultipartUploads
    case deleteObjects
    case putObject
    case copyObject
    case getObject
    case headObject
    case deleteObject
    case createMultipartUpload
    case uploadPart
    case uploadPartCopy
    case completeMultipartUpload
    case abortMultipartUpload
    case listParts

    /// What S3 calls it.
    var name: String {
        let text = "\(self)"
        return text.prefix(1).uppercased() + text.dropFirst()
    }

    /// Whether the request's body is the object's bytes, streamed.
    var streamsBody: Bool { self == .putObject || self == .uploadPart }
}

extension Operation {
    /// The operation that a request asks for. Pure; looks at method, address, query and the one
    /// header that makes a put a copy.
    ///
    /// A sub-resource that is not implemented is refused by name, so that nothing asked of it is
    /// mistaken for something else.
    static func route(_ request: S3Request, _ address: Address) throws(S3Error) -> Operation {
        try refuseSubresources(request)
        switch address {
        case .service:
            guard request.method == "GET" else { throw methodNotAllowed(["GET"]) }
            return .listBuckets
        case .bucket: return try routeBucket(request)
        case .key: return try routeKey(request)
        }
    }

    private static func methodNotAllowed(_ allowed: [String]) -> S3Error {
        S3Error(.methodNotAllowed, headers: [("Allow", allowed.joined(separator: ", "))])
    }

    private static func routeBucket(_ request: S3Request) throws(S3Error) -> Operation {
        switch request.method {
        case "GET":
            if request.hasQuery("location") { return .getBucketLocation }
            if request.hasQuery("uploads") { return .listMultipartUploads }
            if request.hasQuery("versions") { return .listObjectVersions }
            guard let type = request.query("list-type") else { return .listObjects }
            guard type == "2" else {
                throw S3Error.invalidArgument("list-type", type, "list-type must be 2.")
            }
            return .listObjectsV2
        case "PUT": return .createBucket
        case "HEAD": return .headBucket
        case "DELETE": return .deleteBucket
        case "POST":
            if request.hasQuery("delete") { return .deleteObjects }
            throw S3Error.notImplemented("Uploading by an HTML form (POST Object)")
        case "OPTIONS": throw S3Error.notImplemented("CORS")
        default: throw methodNotAllowed(["GET", "PUT", "HEAD", "DELETE", "POST"])
        }
    }

    private static func routeKey(_ request: S3Request) throws(S3Error) -> Operation {
        let isPart = request.hasQuery("uploadId")
        switch request.method {
        case "GET": return isPart ? .listParts : .getObject
        case "HEAD": return .headObject
        case "PUT":
            let isCopy = request.header("x-amz-copy-source") != nil
            if isPart || (request.hasQuery("partNumber")) {
                guard isPart, request.hasQuery("partNumber") else {
                    throw S3Error(
                        .invalidArgument,
                        "A part is put with both partNumber and uploadId in the query.")
                }
                return isCopy ? .uploadPartCopy : .uploadPart
            }
            return isCopy ? .copyObject : .putObject
        case "DELETE": return isPart ? .abortMultipartUpload : .deleteObject
        case "POST":
            if request.hasQuery("uploads") { return .createMultipartUpload }
            if isPart { return .completeMultipartUpload }
            throw methodNotAllowed(["GET", "PUT", "HEAD", "DELETE"])
        case "OPTIONS": throw S3Error.notImplemented("CORS")
        default: throw methodNotAllowed(["GET", "PUT", "HEAD", "DELETE", "POST"])
        }
    }

    /// Sub-resources of S3 that are not implemented.
    static let refusedSubresources: Set<String> = [
        "abac", "accelerate", "acl", "analytics", "append", "attributes", "cors", "encryption",
        "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "logging",
        "metadataConfiguration",
        "metadataInventoryTable", "metadataJournalTable", "metadataTable", "metrics",
        "notification", "object-lock", "ownershipControls", "policy", "policyStatus",
        "publicAccessBlock", "renameObject", "replication", "requestPayment", "restore",
        "retention", "select", "session", "tagging", "torrent", "versioning", "website",
    ]

    /// Query parameters without a value that mean something here.
    private static let knownFlags: Set<String> = [
        "delete", "location", "uploads", "versions", "prefix", "delimiter", "marker", "start-after",
        "key-marker", "upload-id-marker", "version-id-marker", "encoding-type", "fetch-owner",
        "continuation-token", "part-number-marker", "versionId",
        // Checked where they are used.
        "uploadId", "partNumber", "list-type", "max-keys", "max-parts", "max-uploads",
        "max-buckets", "bucket-region", "response-content-type", "response-content-language",
        "response-expires", "response-cache-control", "response-content-disposition",
        "response-content-encoding",
    ]

    private static func refuseSubresources(_ request: S3Request) throws(S3Error) {
        for item in request.queryItems {
            if refusedSubresources.contains(item.name) {
                throw S3Error.notImplemented("The sub-resource ?\(item.name)")
            }
            let isFlag = item.value.isEmpty && !knownFlags.contains(item.name)
            if isFlag, !item.name.lowercased().hasPrefix("x-") {
                throw S3Error.notImplemented("The sub-resource ?\(item.name)")
            }
        }
    }
}
