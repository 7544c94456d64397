import Model

extension ObjectAttributes {
    /// Headers that are kept with a key as they came.
    static let standardHeaders = [
        "content-type", "cache-control", "content-disposition", "content-encoding",
        "content-language", "expires",
    ]
    /// The most bytes of names and values of user metadata together.
    static let metadataLimit = 2048

    /// What `request` says about the object beside its bytes.
    init(_ request: S3Request) throws(S3Error) {
        self.init()
        for name in Self.standardHeaders {
            guard var value = request.header(name) else { continue }
            if name == "content-encoding" { value = Self.withoutChunking(value) }
            if !value.isEmpty { headers[name] = value }
        }
        let prefix = "x-amz-meta-"
        var size = 0
        for name in request.headerNames where name.hasPrefix(prefix) {
            let value = request.header(name) ?? ""
            let key = String(name.dropFirst(prefix.count))
            size += key.utf8.count + value.utf8.count
            metadata[key] = value
        }
        guard size <= Self.metadataLimit else {
            throw S3Error(
                .metadataTooLarge,
                "User metadata has \(size) bytes, the most is \(Self.metadataLimit).",
                details: [("Size", "\(size)"), ("MaxSizeAllowed", "\(Self.metadataLimit)")])
        }
    }

    /// `aws-chunked` is the encoding of one request, not of the object; the others stay as sent.
    static func withoutChunking(_ value: String) -> String {
        let codings = value.split(separator: ",", omittingEmptySubsequences: false)
        let kept = codings.filter { trimmingSpaces($0).lowercased() != "aws-chunked" }
        return kept.count == codings.count
            ? value : trimmingSpaces(kept.joined(separator: ","))
    }
}
