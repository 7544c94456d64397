import Foundation
import Glibc
import Model

@testable import S3Gateway

/// A response, taken apart.
struct RawResponse {
    var status = 0
    var headers: [String: String] = [:]
    var body: [UInt8] = []

    /// The text of the error's `Code`; nil if the body is no error.
    var code: String? {
        do throws(XMLError) {
            return try XMLReader.parse(body).child("Code")?.text
        } catch {
            return nil
        }
    }

    init(_ bytes: [UInt8]) {
        let text = String(decoding: bytes, as: UTF8.self)
        guard let end = text.range(of: "\r\n\r\n") else { return }
        let lines = text[..<end.lowerBound].split(separator: "\r\n")
        status = lines.first.flatMap { Int($0.split(separator: " ")[1]) } ?? 0
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            if parts.count == 2 {
                headers[parts[0].lowercased()] = trimmingSpaces(parts[1])
            }
        }
        // The head is ASCII, so its length in characters is that in bytes.
        body = Array(bytes.dropFirst(text[..<end.upperBound].utf8.count))
    }
}

/// Sends signed requests over a plain socket, one connection each.
struct RawClient {
    var port: Int
    var user = GatewayFixture.alice

    /// The request, signed for now with its payload unsigned.
    func signed(
        _ method: String, _ target: String, headers: [String: String] = [:], body: [UInt8] = [],
        host: String = "127.0.0.1"
    ) throws -> [UInt8] {
        var all = headers
        all["host"] = host
        let date = DateText.basic(GatewayFixture.now())
        all["x-amz-date"] = date
        all["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
        let credential = RequestSignature.Credential(
            accessKeyID: user.accessKeyID, date: String(date.prefix(8)), region: "us-east-1")
        let request = try S3Request(method: method, target: target, headers: all)
        let signature = RequestSignature(
            placement: .header, credential: credential, signedHeaders: all.keys.sorted(),
            signature: [], dateText: date, date: GatewayFixture.now(), payload: .unsigned)
        let key = SigV4.signingKey(
            secret: user.secretAccessKey, date: credential.date, region: credential.region)
        let text = SigV4.stringToSign(SigV4.canonicalRequest(request, signature), signature)
        all["authorization"] =
            "AWS4-HMAC-SHA256 Credential=\(user.accessKeyID)/\(credential.scope),"
            + "SignedHeaders=\(signature.signedHeaders.joined(separator: ";")),"
            + "Signature=\(Hex.encode(SigV4.sign(text, key)))"
        all["connection"] = "close"
        if !body.isEmpty || method == "PUT" || method == "POST" {
            all["content-length"] = String(body.count)
        }
        let head = all.map { "\($0.key): \($0.value)\r\n" }.joined()
        return Array("\(method) \(target) HTTP/1.1\r\n\(head)\r\n".utf8) + body
    }

    func request(
        _ method: String, _ target: String, headers: [String: String] = [:], body: [UInt8] = [],
        host: String = "127.0.0.1", answerBegins: @escaping @Sendable () -> Void = {}
    ) async throws -> RawResponse {
        let bytes = try signed(method, target, headers: headers, body: body, host: host)
        return RawResponse(
            try await Self.exchange(bytes, port: port, answerBegins: answerBegins))
    }

    /// Sends `bytes` and reads until the server closes; on a thread of its own.
    /// - Parameters:
    ///   - atMost: goes away once so many bytes have come, with others on their way.
    ///   - answerBegins: called when the first have.
    static func exchange(
        _ bytes: [UInt8], port: Int, closesItsSide: Bool = false, atMost: Int = .max,
        answerBegins: @escaping @Sendable () -> Void = {}
    ) async throws -> [UInt8] {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        try blockingExchange(bytes, port, closesItsSide, atMost, answerBegins)
                    })
            }
        }
    }

    private static func blockingExchange(
        _ bytes: [UInt8], _ port: Int, _ closesItsSide: Bool, _ atMost: Int,
        _ answerBegins: () -> Void
    ) throws -> [UInt8] {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard connected == 0 else { throw POSIXError(.ECONNREFUSED) }
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { break }
            sent += count
        }
        if closesItsSide { shutdown(descriptor, Int32(SHUT_WR)) }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while answer.count < atMost {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count <= 0 { return answer }
            if answer.isEmpty { answerBegins() }
            answer += buffer[..<count]
        }
        return answer
    }
}
