// Which operation a request asks for.
//
// S3 tells operations apart by method, address and one parameter of the query, the sub-resource.
// Here a sub-resource is looked at whatever the method: a request that names one and is not served
// is refused, so that nothing asked of a sub-resource is done to the bucket or the key itself.

extension Operation {
    /// The operation that a request asks for. Pure; looks at method, address, query and the one
    /// header that makes a put a copy.
    static func route(_ request: S3Request, _ address: Address) throws(S3Error) -> Operation {
        let subresource = try subresource(of: request)
        switch address {
        case .service:
            if let subresource { throw keyless(subresource, request, in: [:]) }
            guard request.method == "GET" else {
                throw methodNotAllowed(request, "SERVICE", ["GET"])
            }
            return .listBuckets
        case .bucket:
            try refuse(["partNumber", "versionId"], request)
            if let subresource { return try find(subresource, request, isKey: false) }
            return try routeBucket(request)
        case .key:
            if let subresource { return try routeKey(request, subresource) }
            return try routeKey(request)
        }
    }

    /// Refuses an upload by an HTML form, which carries its signature, if it has one, in a field of
    /// its body and would else be taken for a request that nobody signed.
    static func refuseForm(_ request: S3Request) throws(S3Error) {
        let type = request.header("content-type")?.lowercased() ?? ""
        guard request.method == "POST", type.hasPrefix("multipart/form-data"),
            request.header("authorization") == nil, !request.hasQuery("X-Amz-Signature"),
            !request.hasQuery("Signature")
        else { return }
        throw S3Error.notImplemented("Uploading by an HTML form (POST Object)")
    }

    private static func routeBucket(_ request: S3Request) throws(S3Error) -> Operation {
        switch request.method {
        case "GET": return .listObjects
        case "PUT": return .createBucket
        case "HEAD": return .headBucket
        case "DELETE": return .deleteBucket
        case "POST": throw S3Error.notImplemented("Uploading by an HTML form (POST Object)")
        case "OPTIONS": throw S3Error.notImplemented("CORS")
        default:
            throw methodNotAllowed(request, "BUCKET", ["GET", "PUT", "HEAD", "DELETE", "POST"])
        }
    }

    private static func routeKey(_ request: S3Request) throws(S3Error) -> Operation {
        switch request.method {
        case "GET": return .getObject
        case "HEAD": return .headObject
        case "PUT":
            try refuse(["partNumber", "versionId"], request)
            return request.header("x-amz-copy-source") == nil ? .putObject : .copyObject
        case "DELETE":
            try refuse(["partNumber"], request)
            return .deleteObject
        case "OPTIONS": throw S3Error.notImplemented("CORS")
        default: throw methodNotAllowed(request, "OBJECT", ["GET", "PUT", "HEAD", "DELETE"])
        }
    }

    private static func routeKey(
        _ request: S3Request, _ subresource: String
    ) throws(S3Error) -> Operation {
        if subresource == "uploadId", request.method == "PUT", request.hasQuery("partNumber") {
            try refuse(["versionId"], request)
            return request.header("x-amz-copy-source") == nil ? .uploadPart : .uploadPartCopy
        }
        let operation = try find(subresource, request, isKey: true)
        // A part's number says nothing where parts are listed.
        if operation != .listParts { try refuse(["partNumber"], request) }
        if !settingsOfKeys.keys.contains(subresource) { try refuse(["versionId"], request) }
        return operation
    }
}

extension Operation {
    /// Sub-resources of S3 that are not implemented, with any method.
    static let refusedSubresources: Set<String> = [
        "abac", "annotation", "append", "attributes", "metadataConfiguration",
        "metadataInventoryTable", "metadataJournalTable", "metadataTable", "renameObject",
        "restore", "select", "session", "torrent",
    ]

    /// Settings of a bucket that can be asked for, by sub-resource.
    static let settingsOfBuckets: [String: Operation] = [
        "accelerate": .getBucketAccelerateConfiguration, "acl": .getBucketAcl,
        "analytics": .listBucketAnalyticsConfigurations, "cors": .getBucketCors,
        "encryption": .getBucketEncryption,
        "intelligent-tiering": .listBucketIntelligentTieringConfigurations,
        "inventory": .listBucketInventoryConfigurations,
        "lifecycle": .getBucketLifecycleConfiguration, "logging": .getBucketLogging,
        "metrics": .listBucketMetricsConfigurations,
        "notification": .getBucketNotificationConfiguration,
        "object-lock": .getObjectLockConfiguration,
        "ownershipControls": .getBucketOwnershipControls, "policy": .getBucketPolicy,
        "policyStatus": .getBucketPolicyStatus, "publicAccessBlock": .getPublicAccessBlock,
        "replication": .getBucketReplication, "requestPayment": .getBucketRequestPayment,
        "tagging": .getBucketTagging, "versioning": .getBucketVersioning,
        "website": .getBucketWebsite,
    ]

    /// Settings of a key that can be asked for, by sub-resource.
    static let settingsOfKeys: [String: Operation] = [
        "acl": .getObjectAcl, "legal-hold": .getObjectLegalHold, "retention": .getObjectRetention,
        "tagging": .getObjectTagging,
    ]

    /// By sub-resource, what each method does with it.
    private typealias Methods = [String: [String: Operation]]

    private static let ofBuckets: Methods = settingsOfBuckets.mapValues { ["GET": $0] }.merging([
        "delete": ["POST": .deleteObjects], "list-type": ["GET": .listObjectsV2],
        "location": ["GET": .getBucketLocation], "uploads": ["GET": .listMultipartUploads],
        "versions": ["GET": .listObjectVersions],
    ]) { first, _ in first }

    private static let ofKeys: Methods = settingsOfKeys.mapValues { ["GET": $0] }.merging([
        "uploads": ["POST": .createMultipartUpload],
        "uploadId": [
            "GET": .listParts, "POST": .completeMultipartUpload, "DELETE": .abortMultipartUpload,
        ],
    ]) { first, _ in first }

    /// Whether this asks for a setting.
    var asksForSetting: Bool {
        Self.settingsOfBuckets.values.contains(self) || Self.settingsOfKeys.values.contains(self)
    }

    private static let settings = Set(settingsOfBuckets.keys).union(settingsOfKeys.keys)
    /// All that choose an operation.
    static let subresources = Set(ofBuckets.keys).union(ofKeys.keys)

    /// Query parameters that mean something here also without a value.
    private static let parameters: Set<String> = [
        "prefix", "delimiter", "marker", "start-after", "key-marker", "upload-id-marker",
        "version-id-marker", "encoding-type", "fetch-owner", "continuation-token",
        "part-number-marker", "versionId", "id",
        // Checked where they are used.
        "partNumber", "max-keys", "max-parts", "max-uploads", "max-buckets", "bucket-region",
        "response-content-type", "response-content-language", "response-expires",
        "response-cache-control", "response-content-disposition", "response-content-encoding",
    ]

    /// The one sub-resource that the query names; nil if it names none. A parameter without a value
    /// that is not known is taken for one.
    private static func subresource(of request: S3Request) throws(S3Error) -> String? {
        var found: String?
        for item in request.queryItems {
            if subresources.contains(item.name) {
                if let found, found != item.name {
                    throw S3Error.invalidArgument(
                        "ResourceType", item.name,
                        "Conflicting query string parameters: \(found), \(item.name)")
                }
                found = item.name
                continue
            }
            let isFlag = item.value.isEmpty && !parameters.contains(item.name)
            if refusedSubresources.contains(item.name)
                || (isFlag && !item.name.lowercased().hasPrefix("x-"))
            {
                throw S3Error.notImplemented("The sub-resource ?\(item.name)")
            }
        }
        return found
    }

    /// What the request's method does with a sub-resource, or why it does nothing.
    private static func find(
        _ subresource: String, _ request: S3Request, isKey: Bool
    ) throws(S3Error) -> Operation {
        let (here, there) = isKey ? (ofKeys, ofBuckets) : (ofBuckets, ofKeys)
        if let operation = here[subresource]?[request.method] {
            guard operation == .listObjectsV2, let type = request.query(subresource), type != "2"
            else { return operation }
            throw S3Error.invalidArgument("list-type", type, "list-type must be 2.")
        }
        // Settings cannot be made yet, nor be taken back.
        if settings.contains(subresource), request.method != "GET" {
            throw S3Error.notImplemented("\(request.method) of the sub-resource ?\(subresource)")
        }
        guard isKey else { throw keyless(subresource, request, in: here) }
        guard there[subresource]?[request.method] == nil else {
            throw S3Error(
                .invalidRequest,
                "Key is not expected for the \(request.method) method ?\(subresource) subresource")
        }
        throw methodNotAllowed(request, subresource, here[subresource].map { Array($0.keys) } ?? [])
    }

    /// The refusal of a sub-resource of the service or of a bucket, of which `here` are served.
    private static func keyless(
        _ subresource: String, _ request: S3Request, in here: Methods
    ) -> S3Error {
        if let methods = here[subresource] {
            return methodNotAllowed(request, subresource, Array(methods.keys))
        }
        let isOfKey = ofKeys[subresource] != nil
        return S3Error(
            .invalidRequest,
            isOfKey ? "A key must be specified" : "A bucket must be specified for ?\(subresource)")
    }

    private static func methodNotAllowed(
        _ request: S3Request, _ resource: String, _ allowed: [String]
    ) -> S3Error {
        let type = resource == "uploadId" ? "UPLOAD" : resource.uppercased()
        return S3Error(
            .methodNotAllowed, details: [("Method", request.method), ("ResourceType", type)],
            headers: allowed.isEmpty ? [] : [("Allow", allowed.sorted().joined(separator: ", "))])
    }

    /// Refuses parameters that choose a part or a version where there is none to choose.
    private static func refuse(_ names: [String], _ request: S3Request) throws(S3Error) {
        for name in names {
            guard let value = request.query(name) else { continue }
            throw S3Error.invalidArgument(
                name, value,
                name == "versionId"
                    ? "This operation does not accept a version-id."
                    : "This operation does not accept a part number: a part is put with both "
                        + "partNumber and uploadId.")
        }
    }
}
