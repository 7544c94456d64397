import Crypto
import Model
import Testing

@testable import S3Gateway

/// The examples that AWS documents, with the keys it documents them for.
private enum Example {
    static let accessKeyID = "AKIAIOSFODNN7EXAMPLE"
    static let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    static let date = "20130524T000000Z"
    static let scope = "20130524/us-east-1/s3/aws4_request"
    static var key: SymmetricKey {
        SigV4.signingKey(secret: secret, date: "20130524", region: "us-east-1")
    }

    static func request(
        _ method: String, _ target: String, _ headers: [String: String], signature: String
    ) throws -> S3Request {
        var headers = headers
        headers["host"] = "examplebucket.s3.amazonaws.com"
        headers["x-amz-date"] = date
        let signed = headers.keys.sorted().joined(separator: ";")
        headers["authorization"] =
            "AWS4-HMAC-SHA256 Credential=\(accessKeyID)/\(scope),SignedHeaders=\(signed),"
            + "Signature=\(signature)"
        return try S3Request(method: method, target: target, headers: headers)
    }

    /// The signature that we compute for `request`, in hexadecimal.
    static func signature(of request: S3Request) throws -> String {
        let parsed = try #require(try RequestSignature.parse(request))
        let canonical = SigV4.canonicalRequest(request, parsed)
        return Hex.encode(SigV4.sign(SigV4.stringToSign(canonical, parsed), key))
    }
}

@Suite struct SigV4Tests {
    @Test("GET Object has the documented signature")
    func getObject() throws {
        let known = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        let request = try Example.request(
            "GET", "/test.txt",
            ["range": "bytes=0-9", "x-amz-content-sha256": SigV4.emptyDigest], signature: known)
        #expect(try Example.signature(of: request) == known)
    }

    @Test("PUT Object has the documented signature, with a dollar sign in its path")
    func putObject() throws {
        let known = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        let request = try Example.request(
            "PUT", "/test$file.text",
            [
                "date": "Fri, 24 May 2013 00:00:00 GMT",
                "x-amz-content-sha256":
                    "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
            ], signature: known)
        #expect(try Example.signature(of: request) == known)
    }

    @Test("a sub-resource without a value has the documented signature")
    func subresource() throws {
        let known = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        let request = try Example.request(
            "GET", "/?lifecycle", ["x-amz-content-sha256": SigV4.emptyDigest], signature: known)
        #expect(try Example.signature(of: request) == known)
    }

    @Test("a list has the documented signature, whatever the order of its query")
    func list() throws {
        let known = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        for target in ["/?max-keys=2&prefix=J", "/?prefix=J&max-keys=2"] {
            let request = try Example.request(
                "GET", target, ["x-amz-content-sha256": SigV4.emptyDigest], signature: known)
            #expect(try Example.signature(of: request) == known)
        }
    }

    @Test("a presigned URL has the documented signature")
    func presigned() throws {
        let known = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        let request = try S3Request(
            method: "GET",
            target: "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
                + "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F"
                + "aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400"
                + "&X-Amz-SignedHeaders=host&X-Amz-Signature=\(known)",
            headers: ["host": "examplebucket.s3.amazonaws.com"])
        #expect(try Example.signature(of: request) == known)
        let parsed = try #require(try RequestSignature.parse(request))
        #expect(parsed.placement == .query(expiresSeconds: 86400))
        #expect(parsed.payload == .unsigned)
    }

    @Test("signed chunks have the documented signatures")
    func signedChunks() throws {
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
        let request = try Example.request(
            "PUT", "/examplebucket/chunkObject.txt",
            [
                "content-encoding": "aws-chunked", "content-length": "66824",
                "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                "x-amz-decoded-content-length": "66560",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
                "host": "s3.amazonaws.com",
            ], signature: seed)
        // The documented request is in path style; our helper's host is the virtual one.
        var headers = [
            "host": "s3.amazonaws.com", "authorization": request.header("authorization")!,
        ]
        for name in request.headerNames where headers[name] == nil {
            headers[name] = request.header(name)
        }
        let pathStyle = try S3Request(
            method: "PUT", target: "/examplebucket/chunkObject.txt", headers: headers)
        #expect(try Example.signature(of: pathStyle) == seed)

        var signer = ChunkSigner(
            key: Example.key, dateText: Example.date, scope: Example.scope,
            seed: try #require(Hex.decode(seed)))
        let known = [
            (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ]
        for (count, signature) in known {
            let digest = SHA256.hash(data: [UInt8](repeating: UInt8(ascii: "a"), count: count))
            #expect(Hex.encode(signer.nextChunk(digest)) == signature)
        }
    }

    @Test("signed chunks and trailers have the documented signatures")
    func signedTrailers() throws {
        var signer = ChunkSigner(
            key: Example.key, dateText: Example.date, scope: Example.scope,
            seed: try #require(
                Hex.decode("106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e")))
        let known = [
            (65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"),
            (1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"),
            (0, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"),
        ]
        for (count, signature) in known {
            let digest = SHA256.hash(data: [UInt8](repeating: UInt8(ascii: "a"), count: count))
            #expect(Hex.encode(signer.nextChunk(digest)) == signature)
        }
        #expect(
            Hex.encode(signer.trailers("x-amz-checksum-crc32c:sOO8/Q==\n"))
                == "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435")
    }
}
