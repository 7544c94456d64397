import Bytes
import Client
import Crypto
import Foundation
import Glibc
import Logging
import Model
import Synchronization
import Telemetry
import TestSupport
import Testing

@testable import S3Gateway

/// Keeps what is logged at `warning` or above.
private struct KeepingLogs: LogHandler {
    final class Lines: Sendable {
        let lines = Mutex<[String]>([])
    }

    let kept: Lines
    var logLevel = Logger.Level.warning
    var metadata: Logger.Metadata = [:]

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) { kept.lines.withLock { $0.append("\(event.message)") } }
}

/// How the gateway deals with clients that go, ask twice, ask for too much or sign in an old way.
@Suite(.serialized) struct MannersTests {
    private static let bucket = BucketPath(volume: "s3v", bucket: "bucket")

    /// Puts a key made of parts of these lengths into the store, past the limits of the gateway.
    private func putParts(
        _ gateway: GatewayFixture, _ name: String, _ lengths: [(number: Int, length: Int)]
    ) async throws {
        let key = KeyPath(bucket: Self.bucket, name: try #require(KeyName(name)))
        let upload = try await gateway.store.createUpload(
            key, attributes: .init(), checksum: nil, replication: nil, user: "alice")
        var parts: [CompletedPart] = []
        for (number, length) in lengths {
            let writer = try await gateway.store.openPartWriter(
                key, upload: upload, number: number, length: length, user: "alice")
            let bytes = [UInt8](repeating: UInt8(number), count: length)
            try await writer.write(Payload(copying: bytes, pool: .process))
            _ = try await writer.commit(KeyCommit(etag: "e\(number)"))
            parts.append(CompletedPart(number: number, etag: "e\(number)"))
        }
        _ = try await gateway.store.completeUpload(
            key, upload: upload, parts: parts, etag: "whole", checksum: nil, condition: .none,
            user: "alice")
    }

    @Test("a client that goes away in the middle of a GET is no error of the gateway")
    func clientGone() async throws {
        let logs = KeepingLogs.Lines()
        let records = Mutex<[S3Configuration.RequestRecord]>([])
        let telemetry = RoleTelemetry(role: "s3gateway", name: "s3g1")
        try await GatewayFixture.run(
            telemetry: telemetry, logger: Logger(label: "s3") { _ in KeepingLogs(kept: logs) },
            configure: { $0.observer = { record in records.withLock { $0.append(record) } } }
        ) { gateway in
            let client = RawClient(port: gateway.port)
            try await gateway.store.createBucket(Self.bucket, replication: nil, user: "alice")
            // More than sockets take before somebody reads.
            let bytes = [UInt8](repeating: 7, count: 64 << 20)
            #expect(try await client.request("PUT", "/bucket/k", body: bytes).status == 200)
            let request = try client.signed("GET", "/bucket/k")
            let begun = try await RawClient.exchange(request, port: gateway.port, atMost: 1 << 16)
            #expect(RawResponse(begun).status == 200)
            while records.withLock({ $0.count }) < 2 { try await Task.sleep(for: .milliseconds(5)) }
            let record = records.withLock { $0[1] }
            #expect(record.operation == "GetObject" && record.status == 499)
            #expect(record.errorCode == "ClientGone")
            #expect(record.bytesSent > 0 && record.bytesSent < bytes.count)
        }
        #expect(logs.lines.withLock { $0 } == [])
        let page = telemetry.metrics.page().text.split(separator: "\n")
            .filter { $0.hasPrefix("apus_s3_requests_total") && $0.contains("GetObject") }
        #expect(page.count == 1 && page[0].contains("client_gone") && page[0].hasSuffix(" 1"))
        #expect(!telemetry.metrics.page().text.contains("GetBucketAcl"), "nobody asked for one")
    }

    @Test("a completion that is asked again while the first is under way has its answer")
    func completionAgain() async throws {
        var limits = InMemoryObjectStore.Limits()
        limits.smallestPart = 1
        try await GatewayFixture.run(storeLimits: limits) { gateway in
            let client = RawClient(port: gateway.port)
            try await gateway.store.createBucket(Self.bucket, replication: nil, user: "alice")
            // Each call of the store in turn finds that the upload has just been completed.
            for overtaken in ["upload", "parts", "completeUpload"] {
                let begun = try await client.request("POST", "/bucket/k?uploads")
                let upload = try #require(try XMLReader.parse(begun.body).child("UploadId")?.text)
                let part = try await client.request(
                    "PUT", "/bucket/k?partNumber=1&uploadId=\(upload)", body: [1, 2, 3])
                let etag = try #require(part.headers["etag"])
                let document =
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
                    + "<ETag>\(etag)</ETag></Part></CompleteMultipartUpload>"
                let target = "/bucket/k?uploadId=\(upload)"
                let store = gateway.store
                let key = KeyPath(bucket: Self.bucket, name: try #require(KeyName("k")))
                let id = try #require(UploadID(upload))
                let whole = CompleteRequest.etag(of: [ReadConditions.unquoted(etag)])
                let isFirst = Atomic<Bool>(true)
                store.inject { call in
                    guard call == overtaken, isFirst.exchange(false, ordering: .relaxed) else {
                        return nil
                    }
                    // The store's calls do not wait, so they may be made from here.
                    let done = DispatchSemaphore(value: 0)
                    Task.detached {
                        _ = try await store.completeUpload(
                            key, upload: id,
                            parts: [CompletedPart(number: 1, etag: ReadConditions.unquoted(etag))],
                            etag: whole, checksum: nil, condition: .none, user: "alice")
                        done.signal()
                    }
                    done.wait()
                    return nil
                }
                let answer = try await client.request(
                    "POST", target, body: Array(document.utf8))
                store.inject(nil)
                let wasOvertaken = !isFirst.load(ordering: .relaxed)
                #expect(wasOvertaken)
                #expect(answer.status == 200, "\(overtaken)")
                #expect(try XMLReader.parse(answer.body).child("ETag")?.text == "\"\(whole)\"")
            }
            #expect(gateway.store.openWriters == 0)
        }
    }

    @Test("no part is copied that is larger than a part may be")
    func largeCopies() async throws {
        var limits = S3Configuration.Limits()
        limits.objectBytes = 1000
        var storeLimits = InMemoryObjectStore.Limits()
        storeLimits.smallestPart = 1
        try await GatewayFixture.run(limits: limits, storeLimits: storeLimits) { gateway in
            let client = RawClient(port: gateway.port)
            try await gateway.store.createBucket(Self.bucket, replication: nil, user: "alice")
            try await putParts(gateway, "large", [(1, 1000), (2, 1)])
            let begun = try await client.request("POST", "/bucket/k?uploads")
            let upload = try #require(try XMLReader.parse(begun.body).child("UploadId")?.text)
            func copy(_ range: String?, part: Bool = true) async throws -> RawResponse {
                var headers = ["x-amz-copy-source": "/bucket/large"]
                headers["x-amz-copy-source-range"] = range
                return try await client.request(
                    "PUT", part ? "/bucket/k?partNumber=1&uploadId=\(upload)" : "/bucket/k",
                    headers: headers)
            }
            for answer in [
                try await copy(nil), try await copy("bytes=0-1000"),
                try await copy(nil, part: false),
            ] {
                #expect(answer.status == 400 && answer.code == "InvalidRequest")
                #expect(String(decoding: answer.body, as: UTF8.self).contains("copy source: 1000"))
            }
            for range in ["bytes=0-999", "bytes=1-1000"] {
                #expect(try await copy(range).status == 200, "\(range)")
            }
            #expect(gateway.store.openWriters == 0)
        }
    }

    @Test("parts of a key are found by the numbers that they were uploaded with")
    func partNumbers() async throws {
        var storeLimits = InMemoryObjectStore.Limits()
        storeLimits.smallestPart = 1
        try await GatewayFixture.run(storeLimits: storeLimits) { gateway in
            let client = RawClient(port: gateway.port)
            try await gateway.store.createBucket(Self.bucket, replication: nil, user: "alice")
            try await putParts(gateway, "k", [(1, 10), (3, 20), (7, 5)])
            for (number, range) in [(1, 0..<10), (3, 10..<30), (7, 30..<35)] {
                let answer = try await client.request("GET", "/bucket/k?partNumber=\(number)")
                #expect(answer.status == 206)
                #expect(answer.body == [UInt8](repeating: UInt8(number), count: range.count))
                #expect(
                    answer.headers["content-range"]
                        == "bytes \(range.lowerBound)-\(range.upperBound - 1)/35")
                #expect(answer.headers["x-amz-mp-parts-count"] == "3")
            }
            for number in [2, 4, 8] {
                let answer = try await client.request("GET", "/bucket/k?partNumber=\(number)")
                #expect(answer.status == 416 && answer.code == "InvalidPartNumber")
            }
        }
    }

    /// The target of a presigned GET of version 2 that is valid until `expires`.
    private func presigned(_ target: String, expires: Int64) throws -> String {
        let user = GatewayFixture.alice
        let request = try S3Request(method: "GET", target: target, headers: [:])
        let unsigned = SignatureV2(
            accessKeyID: user.accessKeyID, signature: [], expires: expires)
        let code = HMAC<Insecure.SHA1>.authenticationCode(
            for: Array(unsigned.stringToSign(request, target).utf8),
            using: SymmetricKey(data: Array(user.secretAccessKey.utf8)))
        let signature = PercentEncoding.encode(Base64.encode(Array(code)), keepSlash: false)
        return "\(target)?AWSAccessKeyId=\(user.accessKeyID)&Expires=\(expires)"
            + "&Signature=\(signature)"
    }

    private func get(_ target: String, _ gateway: GatewayFixture) async throws -> RawResponse {
        let head = "GET \(target) HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        return RawResponse(try await RawClient.exchange(Array(head.utf8), port: gateway.port))
    }

    @Test("URLs of version 2 are valid for a week at most, and not at all where it is off")
    func signatureV2() async throws {
        let now = GatewayFixture.now().milliseconds / 1000
        for isAllowed in [true, false] {
            try await GatewayFixture.run(configure: { $0.allowsSignatureV2 = isAllowed }) {
                gateway in
                try await gateway.store.createBucket(Self.bucket, replication: nil, user: "alice")
                // The clock of who made it may be ahead by a quarter of an hour.
                for (seconds, status) in [
                    (60, 200), (604_800, 200), (604_800 + 600, 200), (604_800 + 3600, 403),
                    (10 * 365 * 86_400, 403), (-60, 403),
                ] {
                    let target = try presigned("/bucket", expires: now + Int64(seconds))
                    let answer = try await get(target, gateway)
                    #expect(answer.status == (isAllowed ? status : 400), "\(seconds)")
                    #expect(isAllowed || answer.code == "InvalidRequest")
                }
                let own = try await RawClient(port: gateway.port).request("GET", "/bucket")
                #expect(own.status == 200, "version 4 goes on")
            }
        }
    }
}
