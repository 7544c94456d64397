import Client
import Model

/// What a request is about: the service, a bucket, or a key.
enum Address: Hashable, Sendable {
    case service
    case bucket(String)
    case key(bucket: String, KeyName)

    /// Finds the bucket and key, path style or virtual-host style.
    ///
    /// - Parameter baseDomains: domains below which the first labels of the host name the bucket,
    ///   as in `photos.s3.example.com` for `s3.example.com`. Lower case.
    static func parse(_ request: S3Request, baseDomains: [String]) throws(S3Error) -> Address {
        var path = request.pathBytes[...].dropFirst()
        let bucket: String
        if let name = virtualHostBucket(request.header("host"), baseDomains) {
            bucket = name
        } else {
            let end = path.firstIndex(of: UInt8(ascii: "/")) ?? path.endIndex
            guard let name = String(validating: path[..<end], as: UTF8.self) else {
                throw S3Error(.invalidBucketName, BucketName.rule)
            }
            bucket = name
            path = path[end...].dropFirst()
        }
        guard !bucket.isEmpty else {
            if path.isEmpty { return .service }
            throw S3Error(
                .invalidBucketName, BucketName.rule, details: [("BucketName", "")])
        }
        guard BucketName.isValid(bucket) else {
            throw S3Error(.invalidBucketName, BucketName.rule, details: [("BucketName", bucket)])
        }
        if path.isEmpty { return .bucket(bucket) }
        return .key(bucket: bucket, try keyName(Array(path)))
    }

    /// The key's name, or S3's error for what is wrong with it.
    static func keyName(_ bytes: [UInt8]) throws(S3Error) -> KeyName {
        guard bytes.count <= KeyName.maximumLength else {
            throw S3Error(
                .keyTooLong,
                details: [
                    ("Size", String(bytes.count)), ("MaxSizeAllowed", "\(KeyName.maximumLength)"),
                ])
        }
        guard let name = KeyName(bytes: bytes) else {
            throw S3Error(
                .invalidURI, "Couldn't parse the specified URI: a key is 1 to 1024 bytes of UTF-8.")
        }
        return name
    }

    /// The bucket named by the host; nil if it names none.
    static func virtualHostBucket(_ host: String?, _ baseDomains: [String]) -> String? {
        guard let host, !baseDomains.isEmpty else { return nil }
        let name = host.split(separator: ":").first?.lowercased() ?? ""
        for domain in baseDomains where name.hasSuffix(".\(domain)") {
            let bucket = name.dropLast(domain.count + 1)
            if !bucket.isEmpty { return String(bucket) }
        }
        return nil
    }
}
