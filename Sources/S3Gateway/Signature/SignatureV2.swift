import Crypto
import Model

/// A presigned URL of Signature Version 2: `AWSAccessKeyId`, `Expires` and `Signature` in the
/// query.
///
/// Kept for one reason: boto3 makes such URLs for any endpoint but Amazon's own unless it is told
/// `signature_version="s3v4"`. Requests signed with version 2 in a header are refused.
///
/// After "Signing and authenticating REST requests (AWS Signature Version 2)".
struct SignatureV2: Equatable {
    var accessKeyID: String
    /// 20 bytes: an HMAC-SHA1.
    var signature: [UInt8]
    /// Seconds since 1970.
    var expires: Int64

    /// `nil` if the query carries no such signature.
    static func parse(_ request: S3Request) throws(S3Error) -> SignatureV2? {
        guard request.hasQuery("AWSAccessKeyId") || request.hasQuery("Signature") else {
            return nil
        }
        guard let accessKeyID = request.query("AWSAccessKeyId"), !accessKeyID.isEmpty,
            let expires = request.query("Expires").flatMap({ Int64($0) }),
            expires >= 0, expires < Int64.max / 1000,
            let signature = request.query("Signature").flatMap({ Base64.decode($0) }),
            signature.count == 20
        else {
            throw S3Error(
                .accessDenied,
                "Query-string authentication requires the Signature, Expires and AWSAccessKeyId "
                    + "parameters")
        }
        return SignatureV2(accessKeyID: accessKeyID, signature: signature, expires: expires)
    }

    /// A URL is valid for at most a week from now, as one of version 4 is.
    /// - Parameter skewMilliseconds: by which the clock of its maker may differ.
    func checkTime(now: Timestamp, skewMilliseconds: Int64) throws(S3Error) {
        guard now.milliseconds <= expires * 1000 else {
            throw S3Error(
                .accessDenied, "Request has expired",
                details: [("ServerTime", DateText.iso(now))])
        }
        // The URL does not tell when it was made; the clock of its maker may be ahead of ours.
        let limit = Int64(RequestSignature.longestSeconds) * 1000
        guard expires * 1000 - now.milliseconds <= limit + skewMilliseconds else {
            throw S3Error(
                .accessDenied,
                "Expires must lie at most \(RequestSignature.longestSeconds) seconds (a week) ahead.",
                details: [("Expires", String(expires)), ("ServerTime", DateText.iso(now))])
        }
    }

    /// Throws unless the signature is that of `request` with this secret.
    /// - Parameter bucket: the bucket named by the host, if it is.
    func verify(_ request: S3Request, bucket: String?, secret: String) throws(S3Error) {
        let resource = (bucket.map { "/\($0)" } ?? "") + request.rawPath
        if isSignature(of: stringToSign(request, resource), secret) { return }
        // A bucket's resource ends with a slash, whether its URL does or not.
        let isBucket = resource.dropFirst().firstIndex(of: "/") == nil
        if isBucket, isSignature(of: stringToSign(request, "\(resource)/"), secret) { return }
        throw S3Error(
            .signatureDoesNotMatch,
            details: [
                ("AWSAccessKeyId", accessKeyID), ("StringToSign", stringToSign(request, resource)),
            ])
    }

    private func isSignature(of text: String, _ secret: String) -> Bool {
        let computed = HMAC<Insecure.SHA1>.authenticationCode(
            for: Array(text.utf8), using: SymmetricKey(data: Array(secret.utf8)))
        return SigV4.isEqual(Array(computed), signature)
    }

    /// - Parameter resource: bucket and key as in a URL of path style, encoded.
    func stringToSign(_ request: S3Request, _ resource: String) -> String {
        var lines = [
            request.method, request.header("content-md5") ?? "",
            request.header("content-type") ?? "", String(expires),
        ]
        for name in request.headerNames.filter({ $0.hasPrefix("x-amz-") }).sorted() {
            lines.append("\(name):\(trimmingSpaces(request.header(name) ?? ""))")
        }
        lines.append(resource + Self.signedQuery(request))
        return lines.joined(separator: "\n")
    }

    /// The parameters of a query that are signed; the others do not choose what is done.
    static let signedParameters: Set<String> = [
        "accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete", "encryption",
        "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "location", "logging",
        "metrics", "notification", "object-lock", "ownershipControls", "partNumber", "policy",
        "policyStatus", "publicAccessBlock",
        "replication", "requestPayment", "response-cache-control",
        "response-content-disposition", "response-content-encoding",
        "response-content-language", "response-content-type", "response-expires", "restore",
        "retention", "select", "select-type", "storageClass", "tagging", "torrent", "uploadId",
        "uploads", "versionId", "versioning", "versions", "website",
    ]

    private static func signedQuery(_ request: S3Request) -> String {
        let items = request.queryItems.filter { signedParameters.contains($0.name) }
            .sorted { $0.name < $1.name }
        guard !items.isEmpty else { return "" }
        return "?"
            + items.map { item in
                item.value.isEmpty
                    ? item.name : "\(item.name)=\(String(decoding: item.value, as: UTF8.self))"
            }.joined(separator: "&")
    }
}
