import Synchronization

/// What stands in `Authorization` headers in front of the signature, taken apart: it is the same
/// text for all requests that a client signs alike on one day. Thread-safe.
final class AuthorizationHeads: Sendable {
    enum Limits {
        /// Heads kept; when there are more all are forgotten.
        static let heads = 1024
        /// Bytes of the longest that is kept.
        static let headBytes = 1024
    }

    struct Parsed: Sendable {
        var credential: RequestSignature.Credential
        var signedHeaders: [String]
    }

    static let process = AuthorizationHeads()

    private let heads = Mutex<[String: Parsed]>([:])

    /// The parts of a header that ends with a signature of 64 digits; nil if it does not.
    static func head(of header: String) -> (text: String, signature: Substring)? {
        let mark = "Signature="
        let bytes = header.utf8
        guard bytes.count > 64 + mark.utf8.count, bytes.count <= Limits.headBytes else {
            return nil
        }
        let cut = bytes.index(bytes.endIndex, offsetBy: -64)
        let head = header[..<cut]
        guard head.hasSuffix(mark) else { return nil }
        return (String(head), header[cut...])
    }

    func find(_ head: String) -> Parsed? { heads.withLock { $0[head] } }

    func insert(_ head: String, _ parsed: Parsed) {
        heads.withLock { heads in
            if heads.count >= Limits.heads { heads = [:] }
            heads[head] = parsed
        }
    }
}
