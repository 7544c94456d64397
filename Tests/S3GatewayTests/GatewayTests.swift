import Client
import Eventually
import Foundation
import Logging
import Model
import Synchronization
import TestSupport
import Testing

@testable import S3Gateway

/// The gateway over a socket, on a store that can be told to fail.
@Suite(.serialized) struct GatewayTests {
    private static let bucket = BucketPath(volume: "s3v", bucket: "bucket")

    private func withBucket(
        limits: S3Configuration.Limits = .init(), baseDomains: [String] = [],
        _ body: (GatewayFixture, RawClient) async throws -> Void
    ) async throws {
        try await GatewayFixture.run(limits: limits, baseDomains: baseDomains) { gateway in
            try await gateway.store.createBucket(Self.bucket, replication: nil, user: "alice")
            try await body(gateway, RawClient(port: gateway.port))
            #expect(gateway.store.openWriters == 0, "a writer was neither committed nor aborted")
        }
    }

    @Test("errors of the store have S3's codes, and 503 says when to come back")
    func storeErrors() async throws {
        try await withBucket { gateway, client in
            let table: [(StoreError.Code, Int, String)] = [
                (.overloaded, 503, "SlowDown"), (.notReady, 503, "ServiceUnavailable"),
                (.unavailable, 503, "ServiceUnavailable"), (.noSpace, 507, "InsufficientStorage"),
                (.accessDenied, 403, "AccessDenied"), (.noSuchBucket, 404, "NoSuchBucket"),
                (.conflict, 409, "ConditionalRequestConflict"), (.internal, 500, "InternalError"),
                (.corrupt, 500, "InternalError"), (.tooManyBuckets, 400, "TooManyBuckets"),
            ]
            for (code, status, name) in table {
                for call in ["openWriter", "write", "commit"] {
                    gateway.store.inject { $0 == call ? StoreError(code, "injected") : nil }
                    let answer = try await client.request(
                        "PUT", "/bucket/k", body: [UInt8](repeating: 7, count: 100_000))
                    #expect(answer.status == status, "\(code) in \(call)")
                    #expect(answer.code == name, "\(code) in \(call)")
                    #expect((answer.headers["retry-after"] != nil) == (status == 503))
                }
                gateway.store.inject(nil)
                #expect(try await client.request("HEAD", "/bucket/k").status == 404)
                #expect(gateway.store.storedBytes == 0)
            }
        }
    }

    @Test("a key that cannot be read gives an error; one that fails midway breaks the connection")
    func readErrors() async throws {
        try await withBucket { gateway, client in
            let bytes = [UInt8](repeating: 7, count: 5 << 20)
            #expect(try await client.request("PUT", "/bucket/k", body: bytes).status == 200)
            gateway.store.inject { $0 == "read" ? StoreError(.unavailable, "lost") : nil }
            let early = try await client.request("GET", "/bucket/k")
            #expect(early.status == 503 && early.code == "ServiceUnavailable")
            let reads = Mutex(0)
            gateway.store.inject { call in
                guard call == "read" else { return nil }
                return reads.withLock { count in
                    count += 1
                    return count > 3 ? StoreError(.unavailable, "lost") : nil
                }
            }
            let late = try await client.request("GET", "/bucket/k")
            #expect(late.status == 200 && late.headers["content-length"] == "\(bytes.count)")
            #expect(late.body.count == 3 << 20)
            gateway.store.inject(nil)
            #expect(try await client.request("GET", "/bucket/k").body == bytes)
        }
    }

    @Test("a client that closes its side after the request gets the whole of the response")
    func halfClosed() async throws {
        try await withBucket { gateway, client in
            let bytes = [UInt8](repeating: 9, count: 8 << 20)
            #expect(try await client.request("PUT", "/bucket/k", body: bytes).status == 200)
            for _ in 0..<5 {
                let request = try client.signed("GET", "/bucket/k")
                let answer = RawResponse(
                    try await RawClient.exchange(request, port: gateway.port, closesItsSide: true))
                #expect(answer.status == 200 && answer.body == bytes)
            }
        }
    }

    @Test("a long copy keeps its client waiting; a late error is a document")
    func longCopies() async throws {
        var limits = S3Configuration.Limits()
        // Far above what the copy takes that is not held up, also on a busy machine.
        limits.silenceMilliseconds = 500
        try await withBucket(limits: limits) { gateway, client in
            let bytes = [UInt8](repeating: 5, count: 2 << 20)
            #expect(try await client.request("PUT", "/bucket/k", body: bytes).status == 200)
            let source = ["x-amz-copy-source": "/bucket/k"]
            let isCopying = Atomic<Bool>(false)
            gateway.store.inject { call in
                for _ in 0..<2000 where call == "read" {
                    if isCopying.load(ordering: .relaxed) { break }
                    usleep(10_000)
                }
                return nil
            }
            let copy = try await client.request(
                "PUT", "/bucket/copy", headers: source,
                answerBegins: { isCopying.store(true, ordering: .relaxed) })
            #expect(copy.status == 200 && copy.headers["transfer-encoding"] == "chunked")
            let text = String(decoding: copy.body, as: UTF8.self)
            #expect(text.contains("<ETag>") && text.contains("\r\n1\r\n \r\n"))
            #expect(text.hasSuffix("\r\n0\r\n\r\n"))
            // An error that comes before the client is told to wait has a status of its own.
            let isAnswering = Atomic<Bool>(false)
            gateway.store.inject { call in
                for _ in 0..<2000 where call == "read" {
                    if isAnswering.load(ordering: .relaxed) { break }
                    usleep(10_000)
                }
                return call == "commit" ? StoreError(.noSpace, "full") : nil
            }
            let late = try await client.request(
                "PUT", "/bucket/late", headers: source,
                answerBegins: { isAnswering.store(true, ordering: .relaxed) })
            #expect(late.status == 200)
            let error = String(decoding: late.body, as: UTF8.self)
            #expect(error.contains("<Error><Code>InsufficientStorage</Code>"))
            gateway.store.inject(nil)
            let quick = try await client.request("PUT", "/bucket/quick", headers: source)
            #expect(quick.headers["content-length"] == "\(quick.body.count)")
            #expect(try await client.request("GET", "/bucket/copy").body == bytes)
            #expect(try await client.request("HEAD", "/bucket/late").status == 404)
        }
    }

    @Test("past the limit of requests at once the answer is 503 SlowDown")
    func concurrencyLimit() async throws {
        var limits = S3Configuration.Limits()
        limits.concurrentRequests = 2
        try await withBucket(limits: limits) { gateway, client in
            let released = Atomic<Bool>(false)
            let entered = Atomic<Int>(0)
            gateway.store.inject { call in
                guard call == "list" else { return nil }
                entered.add(1, ordering: .sequentiallyConsistent)
                // Holds a thread of the pool; two of them at most.
                while !released.load(ordering: .sequentiallyConsistent) { usleep(1000) }
                return nil
            }
            try await withThrowingTaskGroup(of: Int.self) { group in
                group.addTask { try await client.request("GET", "/bucket").status }
                try await eventually("the request is in the store") {
                    entered.load(ordering: .sequentiallyConsistent) > 0
                }
                released.store(true, ordering: .sequentiallyConsistent)
                for try await status in group { #expect(status == 200) }
            }
            let load = RequestLoad()
            #expect(load.enter(limit: 2) && load.enter(limit: 2) && !load.enter(limit: 2))
            load.leave()
            #expect(load.enter(limit: 2))
        }
        limits.concurrentRequests = 0
        try await withBucket(limits: limits) { _, client in
            let answer = try await client.request("GET", "/bucket")
            #expect(answer.status == 503 && answer.code == "SlowDown")
            #expect(answer.headers["retry-after"] == "1")
        }
    }

    @Test("a new user works at once; a deleted one stops when the cache's time is over")
    func userChanges() async throws {
        var limits = S3Configuration.Limits()
        limits.userLifetimeMilliseconds = 300
        try await withBucket(limits: limits) { gateway, client in
            var carol = GatewayFixture.bob
            carol.name = "carol"
            carol.accessKeyID = "CAROLACCESSKEY000003"
            let asCarol = RawClient(port: client.port, user: carol)
            let before = try await asCarol.request("GET", "/")
            #expect(before.status == 403 && before.code == "InvalidAccessKeyId")
            try await gateway.store.createUser(carol)
            #expect(try await asCarol.request("GET", "/").status == 200)
            try await gateway.store.deleteUser(named: "carol")
            try await Task.sleep(for: .milliseconds(400))
            #expect(try await asCarol.request("GET", "/").code == "InvalidAccessKeyId")
        }
    }

    @Test("buckets are found by the host too, below the configured domains")
    func virtualHosts() async throws {
        try await withBucket(baseDomains: ["s3.example.com"]) { gateway, client in
            let host = "bucket.s3.example.com:\(gateway.port)"
            let put = try await client.request("PUT", "/a/b", body: [1, 2, 3], host: host)
            #expect(put.status == 200)
            let name = try #require(KeyName("a/b"))
            let info = try await gateway.store.key(
                KeyPath(bucket: Self.bucket, name: name), user: "alice")
            #expect(info.length == 3)
            #expect(try await client.request("GET", "/a/b", host: host).body == [1, 2, 3])
            #expect(try await client.request("GET", "/bucket/a/b").body == [1, 2, 3])
            #expect(try await client.request("GET", "/?list-type=2", host: host).status == 200)
        }
    }

    @Test("every request is recorded with its operation, user, status and bytes")
    func records() async throws {
        let records = Mutex<[S3Configuration.RequestRecord]>([])
        let store = InMemoryObjectStore(clock: { GatewayFixture.now() })
        try await store.createUser(GatewayFixture.alice)
        let gateway = S3Gateway(
            store: store,
            configuration: S3Configuration(
                port: 0, observer: { record in records.withLock { $0.append(record) } }),
            logger: .init(label: "s3"))
        let serving = Task { try await gateway.run() }
        let client = RawClient(port: try await gateway.boundPort())
        for (method, target, body) in [
            ("PUT", "/bucket", []), ("PUT", "/bucket/k", [UInt8](repeating: 1, count: 1000)),
            ("GET", "/bucket/k", []), ("GET", "/bucket/none", []), ("PUT", "/bucket?acl", []),
        ] {
            _ = try await client.request(method, target, body: body)
        }
        serving.cancel()
        _ = await serving.result
        let found = records.withLock { $0 }
        #expect(
            found.map(\.operation) == ["CreateBucket", "PutObject", "GetObject", "GetObject", ""])
        #expect(found.map(\.status) == [200, 200, 200, 404, 501])
        #expect(
            found.map(\.errorCode) == [nil, nil, nil, "NoSuchKey", "NotImplemented"])
        #expect(found.allSatisfy { $0.user == "alice" })
        #expect(found[1].bytesReceived == 1000 && found[2].bytesSent == 1000)
        #expect(Set(found.map(\.requestID)).count == 5)
    }

    @Test("a gateway that cannot listen says so to those who wait for its port")
    func portTaken() async throws {
        try await withBucket { gateway, _ in
            let second = S3Gateway(
                store: gateway.store, configuration: S3Configuration(port: gateway.port),
                logger: .init(label: "s3"))
            let serving = Task { try await second.run() }
            await #expect(throws: (any Error).self) { try await second.boundPort() }
            await #expect(throws: (any Error).self) { try await serving.value }
        }
    }

    @Test("the caches of signing keys and users are bounded")
    func caches() async throws {
        let keys = SigningKeyCache(limit: 10)
        for number in 0..<100 {
            let credential = RequestSignature.Credential(
                accessKeyID: "a", date: "2013052\(number % 10)", region: "r\(number)")
            let made = keys.signingKey(secret: "s", credential)
            #expect(made == keys.signingKey(secret: "s", credential))
            #expect(keys.count <= 10)
        }
    }
}
