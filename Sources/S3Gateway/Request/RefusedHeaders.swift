/// Headers that ask for what is not implemented: refused, so that no client takes a success for
/// more than it is.
enum RefusedHeaders {
    /// `x-amz-` headers that are understood, or that ask for nothing of a bucket without versions
    /// and locks (`x-amz-mfa`, `x-amz-bypass-governance-retention`).
    private static let known: Set<String> = [
        "x-amz-acl", "x-amz-api-version", "x-amz-bypass-governance-retention",
        "x-amz-checksum-algorithm", "x-amz-checksum-mode",
        "x-amz-checksum-type", "x-amz-content-sha256", "x-amz-copy-source",
        "x-amz-copy-source-if-match", "x-amz-copy-source-if-modified-since",
        "x-amz-copy-source-if-none-match", "x-amz-copy-source-if-unmodified-since",
        "x-amz-copy-source-range", "x-amz-date", "x-amz-decoded-content-length",
        "x-amz-expected-bucket-owner", "x-amz-metadata-directive", "x-amz-mfa",
        "x-amz-mp-object-size",
        "x-amz-object-ownership", "x-amz-optional-object-attributes", "x-amz-request-payer",
        "x-amz-sdk-checksum-algorithm", "x-amz-security-token",
        "x-amz-source-expected-bucket-owner", "x-amz-storage-class", "x-amz-tagging-directive",
        "x-amz-trailer", "x-amz-user-agent", "x-amz-bucket-object-lock-enabled",
        "x-amz-bucket-namespace",
        "x-amz-checksum-crc32", "x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme",
        "x-amz-checksum-sha1", "x-amz-checksum-sha256",
    ]

    static func check(_ request: S3Request, _ operation: Operation) throws(S3Error) {
        for name in request.headerNames where name.hasPrefix("x-amz-") {
            guard known.contains(name) || name.hasPrefix("x-amz-meta-") else {
                throw S3Error.notImplemented("The header \(name)")
            }
        }
        // Both say what is the case anyway: there are no other grants than the owner's.
        try allow("x-amz-acl", ["private", "bucket-owner-full-control"], request)
        try allow("x-amz-api-version", ["2006-03-01"], request)
        try allow("x-amz-bucket-object-lock-enabled", ["false"], request)
        try allow("x-amz-tagging-directive", ["copy"], request)
        try allow("x-amz-object-ownership", ["bucketownerenforced"], request)
        try allow("x-amz-bucket-namespace", ["global"], request)
        if let storageClass = request.header("x-amz-storage-class"), storageClass != "STANDARD" {
            throw S3Error(
                .invalidStorageClass, "The storage class must be STANDARD, not \(storageClass).")
        }
        let writes: [Operation] = [
            .putObject, .copyObject, .completeMultipartUpload, .deleteObject,
        ]
        if writes.contains(operation) {
            for name in ["if-modified-since", "if-unmodified-since"]
            where request.header(name) != nil {
                throw S3Error.notImplemented("The header \(name) on writes")
            }
        }
    }

    private static func allow(
        _ name: String, _ values: [String], _ request: S3Request
    ) throws(S3Error) {
        guard let value = request.header(name) else { return }
        guard values.contains(value.lowercased()) else {
            throw S3Error.notImplemented("\(name): \(value)")
        }
    }
}
