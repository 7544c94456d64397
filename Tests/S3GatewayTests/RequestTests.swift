import Client
import Model
import Testing

@testable import S3Gateway

private func request(
    _ method: String, _ target: String, _ headers: [String: String] = [:]
) throws -> S3Request {
    try S3Request(method: method, target: target, headers: headers)
}

/// The code of the error that `body` throws; nil if it throws none.
func code(_ body: () throws -> Void) -> S3Error.Code? {
    do {
        try body()
        return nil
    } catch {
        return (error as? S3Error)?.code
    }
}

@Suite struct RequestTests {
    @Test("requests are routed by method, address, query and copy source")
    func routes() throws {
        let table: [(String, String, Operation)] = [
            ("GET", "/", .listBuckets), ("PUT", "/bucket", .createBucket),
            ("PUT", "/bucket/", .createBucket), ("HEAD", "/bucket", .headBucket),
            ("DELETE", "/bucket", .deleteBucket), ("GET", "/bucket", .listObjects),
            ("GET", "/bucket?list-type=2&prefix=", .listObjectsV2),
            ("GET", "/bucket?location", .getBucketLocation),
            ("GET", "/bucket?versions", .listObjectVersions),
            ("GET", "/bucket?uploads", .listMultipartUploads),
            ("POST", "/bucket?delete", .deleteObjects), ("PUT", "/bucket/k", .putObject),
            ("PUT", "/bucket/k?x-id=PutObject", .putObject), ("GET", "/bucket/k", .getObject),
            ("HEAD", "/bucket/k", .headObject), ("DELETE", "/bucket/k", .deleteObject),
            ("POST", "/bucket/k?uploads", .createMultipartUpload),
            ("PUT", "/bucket/k?partNumber=1&uploadId=a", .uploadPart),
            ("POST", "/bucket/k?uploadId=a", .completeMultipartUpload),
            ("DELETE", "/bucket/k?uploadId=a", .abortMultipartUpload),
            ("GET", "/bucket/k?uploadId=a", .listParts),
            ("GET", "/bucket/k?partNumber=1&uploadId=a", .listParts),
            ("GET", "/bucket/k?partNumber=2&versionId=null", .getObject),
            ("HEAD", "/bucket/k?partNumber=2", .headObject),
            ("DELETE", "/bucket/k?versionId=null", .deleteObject),
            ("GET", "/bucket?versioning", .getBucketVersioning),
            ("GET", "/bucket?acl=", .getBucketAcl), ("GET", "/bucket/k?acl", .getObjectAcl),
            ("GET", "/bucket/k?tagging&versionId=null", .getObjectTagging),
            ("GET", "/bucket?inventory&id=a", .listBucketInventoryConfigurations),
            ("GET", "/bucket?metrics&x-id=L", .listBucketMetricsConfigurations),
        ]
        for (method, target, operation) in table {
            let request = try request(method, target)
            let address = try Address.parse(request, baseDomains: [])
            #expect(try Operation.route(request, address) == operation, "\(method) \(target)")
        }
        let copy = try request("PUT", "/bucket/k", ["x-amz-copy-source": "/a/b"])
        #expect(try Operation.route(copy, Address.parse(copy, baseDomains: [])) == .copyObject)
    }

    /// The refusal of a request by its route; nil if it has one.
    private func refusal(_ method: String, _ target: String) throws -> S3Error? {
        let request = try request(method, target)
        do throws(S3Error) {
            _ = try Operation.route(request, Address.parse(request, baseDomains: []))
            return nil
        } catch {
            return error
        }
    }

    @Test("no sub-resource is passed over, whatever the method and the address")
    func subresources() throws {
        let table: [(String, String, S3Error.Code, String?)] = [
            ("DELETE", "/bucket?uploads", .methodNotAllowed, "GET"),
            ("DELETE", "/bucket?versions", .methodNotAllowed, "GET"),
            ("DELETE", "/bucket?delete", .methodNotAllowed, "POST"),
            ("DELETE", "/bucket?location=", .methodNotAllowed, "GET"),
            ("DELETE", "/bucket?list-type=2", .methodNotAllowed, "GET"),
            ("DELETE", "/bucket?uploadId=a", .invalidRequest, nil),
            ("DELETE", "/bucket?versionId=null", .invalidArgument, nil),
            ("DELETE", "/bucket?partNumber=1", .invalidArgument, nil),
            ("PUT", "/bucket?versions", .methodNotAllowed, "GET"),
            ("PUT", "/bucket?uploads=x", .methodNotAllowed, "GET"),
            ("PUT", "/bucket?partNumber=1&uploadId=a", .invalidArgument, nil),
            ("POST", "/bucket?uploads", .methodNotAllowed, "GET"),
            ("POST", "/bucket", .notImplemented, nil),
            ("HEAD", "/bucket?uploads", .methodNotAllowed, "GET"),
            ("GET", "/bucket?delete", .methodNotAllowed, "POST"),
            ("GET", "/bucket?uploadId=a", .invalidRequest, nil),
            ("GET", "/bucket?location&versions", .invalidArgument, nil),
            ("GET", "/bucket?acl&policy", .invalidArgument, nil),
            ("GET", "/bucket?list-type=3", .invalidArgument, nil),
            ("GET", "/bucket/k?uploads", .invalidRequest, nil),
            ("GET", "/bucket/k?versions", .invalidRequest, nil),
            ("GET", "/bucket/k?versioning", .invalidRequest, nil),
            ("GET", "/bucket?retention", .invalidRequest, nil),
            ("PUT", "/bucket/k?uploads", .methodNotAllowed, "POST"),
            ("PUT", "/bucket/k?delete", .methodNotAllowed, nil),
            ("PUT", "/bucket/k?partNumber=1", .invalidArgument, nil),
            ("PUT", "/bucket/k?uploadId=a", .methodNotAllowed, "DELETE, GET, POST"),
            ("PUT", "/bucket/k?versionId=null", .invalidArgument, nil),
            ("DELETE", "/bucket/k?uploads", .methodNotAllowed, "POST"),
            ("DELETE", "/bucket/k?uploads&uploadId=a", .invalidArgument, nil),
            ("DELETE", "/bucket/k?partNumber=1", .invalidArgument, nil),
            ("DELETE", "/bucket/k?partNumber=1&uploadId=a", .invalidArgument, nil),
            ("POST", "/bucket/k?partNumber=1&uploadId=a", .invalidArgument, nil),
            ("POST", "/bucket/k?versionId=null&uploadId=a", .invalidArgument, nil),
            ("POST", "/bucket/k?delete", .invalidRequest, nil),
            ("POST", "/bucket/k", .methodNotAllowed, "DELETE, GET, HEAD, PUT"),
            ("HEAD", "/bucket/k?uploadId=a", .methodNotAllowed, "DELETE, GET, POST"),
            ("GET", "/?uploads", .invalidRequest, nil), ("GET", "/?acl", .invalidRequest, nil),
            ("DELETE", "/", .methodNotAllowed, "GET"),
        ]
        for (method, target, code, allow) in table {
            let error = try refusal(method, target)
            #expect(error?.code == code, "\(method) \(target)")
            #expect(
                error?.headers.first { $0.name == "Allow" }?.value == allow, "\(method) \(target)")
        }
    }

    @Test("what chooses an operation is covered by signatures of version 2 too")
    func signedSubresources() {
        // A list is a list, in either of its forms.
        let unsigned = Operation.subresources.subtracting(SignatureV2.signedParameters)
        #expect(unsigned == ["list-type"])
        #expect(SignatureV2.signedParameters.isSuperset(of: ["partNumber", "versionId"]))
    }

    @Test("what is not implemented is refused by name")
    func refused() throws {
        for name in Operation.refusedSubresources.union(["never-heard-of"]) {
            for target in ["/bucket?\(name)", "/bucket/key?\(name)"] {
                for method in ["GET", "PUT", "DELETE", "POST", "HEAD"] {
                    #expect(
                        try refusal(method, target)?.code == .notImplemented, "\(method) \(target)")
                }
            }
        }
        for (prefix, names) in [
            ("/bucket", Operation.settingsOfBuckets.keys),
            ("/bucket/k", Operation.settingsOfKeys.keys),
        ] {
            for name in names {
                for method in ["PUT", "DELETE", "POST", "HEAD"] {
                    let error = try refusal(method, "\(prefix)?\(name)")
                    #expect(error?.code == .notImplemented, "\(method) \(prefix)?\(name)")
                    #expect(error?.message.contains("?\(name)") == true)
                }
            }
        }
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"), ("x-amz-acl", "public-read"),
            ("x-amz-tagging", "a=b"), ("x-amz-object-lock-mode", "GOVERNANCE"),
            ("x-amz-website-redirect-location", "/"), ("x-amz-grant-read", "id=1"),
            ("x-amz-write-offset-bytes", "0"), ("x-amz-of-tomorrow", "1"),
            ("x-amz-api-version", "2050-01-01"),
        ] {
            let request = try request("PUT", "/bucket/k", [name: value])
            #expect(code { try RefusedHeaders.check(request, .putObject) } == .notImplemented)
        }
        let storage = try request("PUT", "/bucket/k", ["x-amz-storage-class": "GLACIER"])
        #expect(code { try RefusedHeaders.check(storage, .putObject) } == .invalidStorageClass)
        for (name, value) in [
            ("x-amz-acl", "private"), ("x-amz-acl", "bucket-owner-full-control"),
            ("x-amz-bypass-governance-retention", "true"), ("x-amz-mfa", "serial 123456"),
            ("x-amz-meta-anything", "1"),
        ] {
            let fine = try request("PUT", "/bucket/k", [name: value])
            #expect(code { try RefusedHeaders.check(fine, .putObject) } == nil, "\(name): \(value)")
        }
    }

    @Test("buckets are named by the path or by the host")
    func addresses() throws {
        let domains = ["s3.example.com"]
        func address(_ target: String, _ host: String) throws -> Address {
            try Address.parse(request("GET", target, ["host": host]), baseDomains: domains)
        }
        #expect(try address("/", "s3.example.com") == .service)
        #expect(try address("/photos", "s3.example.com:80") == .bucket("photos"))
        #expect(try address("/", "photos.s3.example.com") == .bucket("photos"))
        #expect(try address("/", "Photos.S3.Example.com:9878") == .bucket("photos"))
        #expect(try address("/", "my.photos.s3.example.com") == .bucket("my.photos"))
        let key = Address.key(bucket: "photos", try #require(KeyName("a b/c")))
        #expect(try address("/photos/a%20b/c", "127.0.0.1") == key)
        #expect(try address("/a%20b/c", "photos.s3.example.com") == key)
        #expect(code { _ = try address("/UPPER/x", "h") } == .invalidBucketName)
        #expect(code { _ = try address("//x", "h") } == .invalidBucketName)
        #expect(code { _ = try address("/photos/%FF", "h") } == .invalidURI)
        let long = String(repeating: "x", count: 1025)
        #expect(code { _ = try address("/photos/\(long)", "h") } == .keyTooLong)
        #expect(code { _ = try request("GET", "/%zz") } == .invalidURI)
        #expect(code { _ = try request("GET", "/a?b=%4") } == .invalidURI)
    }

    @Test("ranges follow the RFC, and nonsense is passed over")
    func ranges() {
        let table: [(String, Int, Range<Int>?)] = [
            ("bytes=0-0", 10, 0..<1), ("bytes=2-", 10, 2..<10), ("bytes=-3", 10, 7..<10),
            ("bytes=-30", 10, 0..<10), ("bytes=5-100", 10, 5..<10), ("bytes=10-", 10, nil),
            ("bytes=-0", 10, nil), ("bytes=0-", 0, nil), ("bytes=-5", 0, 0..<0),
            ("bytes=-0", 0, nil), ("bytes=0-0", 0, nil),
            ("bytes=0-99999999999999999999999", 10, 0..<10),
            ("bytes=99999999999999999999999-", 10, nil), ("BYTES=1-2", 10, 1..<3),
            ("bytes=0-\(Int.max)", 10, 0..<10),
        ]
        for (header, length, range) in table {
            #expect(ByteRange(header)?.resolve(length: length) == range, "\(header)")
            #expect(ByteRange(header) != nil, "\(header)")
        }
        for header in ["bytes=5-4", "bytes=a-b", "bytes=1-2,4-5", "items=0-1", "bytes=", "bytes=-"]
        {
            #expect(ByteRange(header) == nil, "\(header)")
        }
    }

    @Test("conditions of reads follow the RFC's order")
    func conditions() throws {
        let modified = Timestamp(milliseconds: 1_369_353_600_500)
        let same = "Fri, 24 May 2013 00:00:00 GMT"
        let before = "Thu, 23 May 2013 23:59:59 GMT"
        let after = "Fri, 24 May 2013 00:00:01 GMT"
        let now = "Sat, 25 May 2013 00:00:00 GMT"
        let future = "Sat, 25 May 2013 00:00:01 GMT"
        let clock = Timestamp(milliseconds: 1_369_440_000_000)
        let table: [([String: String], ReadConditions.Outcome)] = [
            ([:], .proceed), (["if-match": "\"e\""], .proceed), (["if-match": "e"], .proceed),
            (["if-match": "*"], .proceed), (["if-match": "\"x\", \"e\""], .proceed),
            (["if-match": "\"x\""], .failed), (["if-none-match": "\"e\""], .notModified),
            (["if-none-match": "W/\"e\""], .notModified), (["if-none-match": "\"x\""], .proceed),
            (["if-modified-since": same], .notModified), (["if-modified-since": before], .proceed),
            (["if-modified-since": after], .notModified),
            (["if-unmodified-since": same], .proceed), (["if-unmodified-since": before], .failed),
            (["if-match": "\"e\"", "if-unmodified-since": before], .proceed),
            (["if-none-match": "\"x\"", "if-modified-since": same], .proceed),
            (["if-none-match": "\"e\"", "if-modified-since": before], .notModified),
            (["if-modified-since": "nonsense"], .proceed),
            (["if-modified-since": now], .notModified), (["if-modified-since": future], .proceed),
            (["if-unmodified-since": future], .proceed),
        ]
        for (headers, outcome) in table {
            let conditions = ReadConditions(try request("GET", "/b/k", headers))
            #expect(
                conditions.evaluate(etag: "e", modified: modified, now: clock) == outcome,
                "\(headers)")
        }
        #expect(try WriteCondition(request("PUT", "/b/k", ["if-none-match": "*"])) == .ifAbsent)
        #expect(try WriteCondition(request("PUT", "/b/k", ["if-match": "\"e\""])) == .ifETag("e"))
        #expect(try WriteCondition(request("PUT", "/b/k", ["if-match": "*"])) == .ifPresent)
        let tag = try request("PUT", "/b/k", ["if-none-match": "\"e\""])
        #expect(code { _ = try WriteCondition(tag) } == .notImplemented)
    }

    @Test("dates are written and read in all their forms")
    func dates() {
        let time = Timestamp(milliseconds: 1_369_353_600_007)
        #expect(DateText.http(time) == "Fri, 24 May 2013 00:00:00 GMT")
        #expect(DateText.iso(time) == "2013-05-24T00:00:00.000Z", "the second of the header")
        #expect(DateText.basic(time) == "20130524T000000Z")
        let whole = Timestamp(milliseconds: 1_369_353_600_000)
        #expect(DateText.parseBasic("20130524T000000Z") == whole)
        for text in [
            "Fri, 24 May 2013 00:00:00 GMT", "Friday, 24-May-13 00:00:00 GMT",
            "Fri May 24 00:00:00 2013", "2013-05-24T00:00:00Z", "2013-05-24T00:00:00.123Z",
        ] {
            #expect(DateText.parseHTTP(text) == whole, "\(text)")
        }
        for text in ["20130532T000000Z", "20130229T000000Z", "2013-05-24", "20130524T250000Z", ""] {
            #expect(DateText.parseBasic(text) == nil, "\(text)")
        }
        // Every day of four centuries comes back.
        var milliseconds: Int64 = -62_135_596_800_000 + 1_000_000_000 * 86_400
        for _ in 0..<146_097 {
            let time = Timestamp(milliseconds: milliseconds)
            if CivilTime(time).timestamp != time { Issue.record("\(milliseconds)") }
            milliseconds += 86_400_000
        }
    }

    @Test("names of buckets follow S3's rules")
    func bucketNames() {
        for name in [
            "abc", "a-b", "a.b.c", "0a9", String(repeating: "a", count: 63), "1.2.3.x",
            "amzn-s3-demo-bucket",
            "1.2.3", "1.2.3.4.5",
        ] {
            #expect(BucketName.isValid(name), "\(name)")
        }
        for name in [
            "ab", String(repeating: "a", count: 64), "Abc", "a_b", "-ab", "ab-", ".ab", "ab.",
            "a..b", "1.2.3.4", "999.999.999.999", "xn--ab", "sthree-a", "ab-s3alias", "ab--ol-s3",
            "ab.mrap", "ab--x-s3", "ab--table-s3", "ü-ü", "a b", "",
        ] {
            #expect(!BucketName.isValid(name), "\(name)")
        }
    }

    @Test("the source of a copy is decoded like a query: a plus is %2B")
    func copySources() throws {
        let table: [(String, String, String)] = [
            ("b-1/a+b", "b-1", "a b"), ("b-1/a%20b", "b-1", "a b"), ("/b-1/a%2Bb", "b-1", "a+b"),
            ("b-1/a%2bb%2Bc+d", "b-1", "a+b+c d"), ("%2Fb-1%2Fx%2Fy", "b-1", "x/y"),
            ("b-1/k?versionId=null", "b-1", "k"), ("b-1/a%3Fb+c?versionId=", "b-1", "a?b c"),
            ("b-1/gr%C3%B6%C3%9Fe", "b-1", "größe"),
        ]
        for (text, bucket, key) in table {
            let source = try CopySource(request("PUT", "/b/k", ["x-amz-copy-source": text]))
            #expect(source.key.bucket.bucket == bucket, "\(text)")
            #expect(source.key.name == KeyName(key), "\(text)")
        }
        // In a path a plus is a plus: what is signed there says so.
        let path = try request("GET", "/b-1/a+b%2Bc%20d")
        #expect(
            try Address.parse(path, baseDomains: [])
                == .key(bucket: "b-1", #require(KeyName("a+b+c d"))))
        #expect(try request("GET", "/b-1?prefix=a+b%2Bc").query("prefix") == "a b+c")
    }

    @Test("of a content encoding only aws-chunked is taken off, the rest stays as sent")
    func contentEncodings() {
        for (sent, kept) in [
            ("deflate, gzip", "deflate, gzip"), ("deflate,gzip", "deflate,gzip"),
            ("gzip", "gzip"), ("aws-chunked", ""), ("AWS-Chunked,gzip", "gzip"),
            ("gzip, aws-chunked", "gzip"), ("deflate, aws-chunked, gzip", "deflate, gzip"),
            ("aws-chunked, deflate , gzip", "deflate , gzip"), ("", ""),
        ] {
            #expect(ObjectAttributes.withoutChunking(sent) == kept, "\(sent)")
        }
    }

    @Test("text that is not ASCII goes into a header as words of mail")
    func encodedWords() {
        #expect(EncodedWords.encode("größe") == "=?UTF-8?B?Z3LDtsOfZQ==?=")
        for text in ["", "plain", "=?UTF-8?B?Z3LDtsOfZQ==?=", "a \"b\" ~"] {
            #expect(EncodedWords.encode(text) == text)
        }
        for text in [String(repeating: "漢字", count: 100), "x" + String(repeating: "😀", count: 99)] {
            let words = EncodedWords.encode(text).split(separator: " ")
            #expect(words.allSatisfy { $0.count <= 75 } && words.count > 5)
            let parts = words.map { word in
                String(
                    decoding: Base64.decode(word.dropFirst(10).dropLast(2)) ?? [], as: UTF8.self)
            }
            #expect(parts.joined() == text && !parts.joined().contains("\u{FFFD}"))
        }
    }

    @Test("forms are told from requests that nobody signed")
    func forms() throws {
        let type = "multipart/form-data; boundary=x"
        let form = try request("POST", "/bucket", ["content-type": type])
        #expect(code { try Operation.refuseForm(form) } == .notImplemented)
        let signed = try request(
            "POST", "/bucket", ["content-type": type, "authorization": "AWS4-HMAC-SHA256 x"])
        #expect(code { try Operation.refuseForm(signed) } == nil)
        let url = try request("POST", "/bucket/k?uploads&X-Amz-Signature=0", ["content-type": type])
        #expect(code { try Operation.refuseForm(url) } == nil)
        for (method, headers) in [("PUT", ["content-type": type]), ("POST", [:])] {
            let other = try request(method, "/bucket", headers)
            #expect(code { try Operation.refuseForm(other) } == nil)
        }
    }

    @Test("base64 has one spelling for each value")
    func base64() {
        for count in 0..<70 {
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 37) }
            #expect(Base64.decode(Base64.encode(bytes)) == bytes)
        }
        #expect(Base64.encode(Array("any carnal pleas".utf8)) == "YW55IGNhcm5hbCBwbGVhcw==")
        for text in ["a", "ab", "abc", "ab=c", "a===", "====", "YW5=", "ab d", "ab-_"] {
            #expect(Base64.decode(text) == nil, "\(text)")
        }
    }
}
