import Crypto

/// The arithmetic of AWS Signature Version 4: canonical request, string to sign, keys.
///
/// Pure functions, after "Signature Calculations for the Authorization Header" and "Signature
/// Calculations for … Transferring Payload in Multiple Chunks" of the Amazon S3 API Reference.
enum SigV4 {
    /// SHA-256 of nothing, in hexadecimal.
    static let emptyDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    /// The request in the form that is hashed and signed.
    /// - Parameter rawPath: whether to take the path as it was sent, instead of decoding and
    ///   encoding it again. A client that leaves unusual characters as they are may sign either.
    static func canonicalRequest(
        _ request: S3Request, _ signature: RequestSignature, rawPath: Bool = false
    ) -> String {
        var text = request.method
        text += "\n"
        text +=
            rawPath ? request.rawPath : PercentEncoding.encode(request.pathBytes, keepSlash: true)
        text += "\n"
        text += canonicalQuery(request, isPresigned: signature.placement != .header)
        text += "\n"
        for name in signature.signedHeaders {
            text += name
            text += ":"
            text += collapsingSpaces(request.header(name) ?? "")
            text += "\n"
        }
        text += "\n"
        text += signature.signedHeaders.joined(separator: ";")
        text += "\n"
        text += signature.payload.headerValue
        return text
    }

    private static func canonicalQuery(_ request: S3Request, isPresigned: Bool) -> String {
        var pairs: [(name: String, value: String)] = []
        for item in request.queryItems where !(isPresigned && item.name == "X-Amz-Signature") {
            pairs.append(
                (
                    PercentEncoding.encode(item.name, keepSlash: false),
                    PercentEncoding.encode(item.value, keepSlash: false)
                ))
        }
        // By bytes: the text is ASCII, for which Swift's order of strings is the order of bytes.
        pairs.sort { $0.name == $1.name ? $0.value < $1.value : $0.name < $1.name }
        return pairs.map { "\($0.name)=\($0.value)" }.joined(separator: "&")
    }

    static func stringToSign(_ canonicalRequest: String, _ signature: RequestSignature) -> String {
        let digest = Hex.encode(SHA256.hash(data: Array(canonicalRequest.utf8)))
        return "\(RequestSignature.algorithm)\n\(signature.dateText)\n"
            + "\(signature.credential.scope)\n\(digest)"
    }

    /// The key that signs for one day, region and service.
    static func signingKey(
        secret: String, date: String, region: String
    ) -> SymmetricKey {
        var key = SymmetricKey(data: Array("AWS4\(secret)".utf8))
        for part in [date, region, "s3", "aws4_request"] {
            let code = HMAC<SHA256>.authenticationCode(for: Array(part.utf8), using: key)
            key = SymmetricKey(data: code)
        }
        return key
    }

    static func sign(_ text: String, _ key: SymmetricKey) -> [UInt8] {
        Array(HMAC<SHA256>.authenticationCode(for: Array(text.utf8), using: key))
    }

    /// Compares in a time that depends on the lengths only.
    static func isEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        guard a.count == b.count else { return false }
        var difference: UInt8 = 0
        for index in a.indices { difference |= a[index] ^ b[index] }
        return difference == 0
    }

    /// Trims, and makes runs of spaces one, as canonical header values have it.
    private static func collapsingSpaces(_ text: String) -> String {
        var bytes: [UInt8] = []
        for byte in trimmingSpaces(text).utf8 {
            if byte == UInt8(ascii: " "), bytes.last == byte { continue }
            bytes.append(byte)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Signs and verifies the chunks of one `aws-chunked` body: each signature covers the one before.
struct ChunkSigner {
    let key: SymmetricKey
    /// `20130524T000000Z`
    let dateText: String
    let scope: String
    /// The signature before the next one, in hexadecimal; at first the request's own.
    private(set) var previous: String

    init(key: SymmetricKey, dateText: String, scope: String, seed: [UInt8]) {
        self.key = key
        self.dateText = dateText
        self.scope = scope
        previous = Hex.encode(seed)
    }

    /// The signature of the next chunk, whose bytes have this digest. Moves on.
    mutating func nextChunk(_ digest: SHA256.Digest) -> [UInt8] {
        let text =
            "AWS4-HMAC-SHA256-PAYLOAD\n\(dateText)\n\(scope)\n\(previous)\n"
            + "\(SigV4.emptyDigest)\n\(Hex.encode(digest))"
        return advance(text)
    }

    /// The signature of the trailers, given as `name:value\n` lines. Moves on.
    mutating func trailers(_ lines: String) -> [UInt8] {
        let digest = Hex.encode(SHA256.hash(data: Array(lines.utf8)))
        return advance("AWS4-HMAC-SHA256-TRAILER\n\(dateText)\n\(scope)\n\(previous)\n\(digest)")
    }

    private mutating func advance(_ text: String) -> [UInt8] {
        let signature = SigV4.sign(text, key)
        previous = Hex.encode(signature)
        return signature
    }
}
