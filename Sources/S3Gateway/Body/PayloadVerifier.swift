import Crypto
import Model

/// What the head of a request says about its body.
struct PayloadExpectation {
    var signing: PayloadSigning
    /// User bytes; nil if the body's end is known from its framing only.
    var length: Int?
    /// 16 bytes of `Content-MD5`.
    var md5: [UInt8]?
    var checksum: DeclaredChecksum?
    /// What to compute if the client declares no checksum.
    var wantedChecksum: ObjectChecksum.Algorithm?
    /// The most user bytes.
    var sizeLimit: Int

    /// Reads the headers of `request`. Nothing of the body is looked at.
    /// - Parameter declaresChecksum: whether a checksum in the head is one of this body.
    init(
        _ request: S3Request, signing: PayloadSigning, sizeLimit: Int,
        declaresChecksum: Bool = true
    ) throws(S3Error) {
        self.signing = signing
        self.sizeLimit = sizeLimit
        let contentLength = try request.contentLength()
        if signing.isChunked {
            guard let text = request.header("x-amz-decoded-content-length") else {
                throw S3Error(
                    .missingContentLength,
                    "An aws-chunked body needs an x-amz-decoded-content-length header.")
            }
            guard let decoded = Int(text), decoded >= 0 else {
                throw S3Error.invalidArgument(
                    "x-amz-decoded-content-length", text,
                    "x-amz-decoded-content-length must be a whole number.")
            }
            if let contentLength, contentLength < decoded {
                throw S3Error(
                    .invalidRequest,
                    "x-amz-decoded-content-length is \(decoded), more than Content-Length.")
            }
            length = decoded
        } else {
            let usesChunks =
                request.header("transfer-encoding")?.lowercased().contains("chunked") ?? false
            guard contentLength != nil || usesChunks else {
                throw S3Error(.missingContentLength)
            }
            length = contentLength
        }
        if let length, length > sizeLimit {
            throw S3Error(
                .entityTooLarge,
                details: [("ProposedSize", "\(length)"), ("MaxSizeAllowed", "\(sizeLimit)")])
        }
        if let text = request.header("content-md5") {
            guard let bytes = Base64.decode(text), bytes.count == 16 else {
                throw S3Error(.invalidDigest, "The Content-MD5 you specified is not valid.")
            }
            md5 = bytes
        }
        if declaresChecksum { checksum = try request.declaredChecksum() }
        if let checksum, let value = checksum.value {
            _ = try decodeChecksum(value, checksum.algorithm)
        }
        try checkTrailers(request)
    }

    private func checkTrailers(_ request: S3Request) throws(S3Error) {
        let mayHaveTrailers =
            signing == .unsignedChunks || signing == .signedChunks(trailers: true)
        if request.header("x-amz-trailer") != nil, !mayHaveTrailers {
            throw S3Error(
                .invalidRequest,
                "x-amz-trailer needs a body with trailers: x-amz-content-sha256 must be "
                    + "STREAMING-UNSIGNED-PAYLOAD-TRAILER or "
                    + "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER.")
        }
    }
}

/// What was computed over a body.
struct PayloadResult: Equatable {
    var length: Int
    /// 16 bytes.
    var md5: [UInt8]
    /// Base64 is `Base64.encode(value)`.
    var checksum: (algorithm: ObjectChecksum.Algorithm, value: [UInt8])?

    static func == (a: Self, b: Self) -> Bool {
        a.length == b.length && a.md5 == b.md5 && a.checksum?.algorithm == b.checksum?.algorithm
            && a.checksum?.value == b.checksum?.value
    }
}

/// Takes a body's framing off and checks everything that its head and trailers promise.
///
/// Pure: pieces go in as they arrive, user bytes come out as parts of them. Bytes come out before
/// they are proven; only `finish` says that all was right, so nothing may be kept before.
struct PayloadVerifier {
    private let expectation: PayloadExpectation
    private var parser: ChunkedBodyParser?
    private var signer: ChunkSigner?
    private var sha256: SHA256?
    private var checksum: RunningChecksum?
    private let checksumAlgorithm: ObjectChecksum.Algorithm?
    private var chunkDigest = SHA256()
    private var chunkSignature: [UInt8]?
    private var trailers: [(name: String, value: String)] = []
    private var trailerSignature: String?
    private(set) var length = 0

    /// Precondition: `signer` is there if the chunks are signed.
    init(_ expectation: PayloadExpectation, signer: ChunkSigner?) {
        self.expectation = expectation
        self.signer = signer
        switch expectation.signing {
        case .signedChunks(let trailers):
            precondition(signer != nil, "signed chunks need the key that they were signed with")
            parser = ChunkedBodyParser(
                isSigned: true, expectsTrailers: trailers, sizeLimit: expectation.sizeLimit)
        case .unsignedChunks:
            parser = ChunkedBodyParser(
                isSigned: false, expectsTrailers: true, sizeLimit: expectation.sizeLimit)
        case .digest:
            sha256 = SHA256()
        case .unsigned:
            break
        }
        checksumAlgorithm = expectation.checksum?.algorithm ?? expectation.wantedChecksum
        checksum = checksumAlgorithm.map(RunningChecksum.init)
    }

    /// The next user bytes of `piece` from `position` on, which moves forward; nil when the piece
    /// is used up.
    mutating func nextPayload(
        in piece: UnsafeRawBufferPointer, at position: inout Int
    ) throws(S3Error) -> UnsafeRawBufferPointer? {
        guard parser != nil else {
            guard position < piece.count else { return nil }
            let bytes = UnsafeRawBufferPointer(rebasing: piece[position...])
            position = piece.count
            try take(bytes)
            return bytes
        }
        while let event = try nextEvent(in: piece, at: &position) {
            switch event {
            case .chunk(_, let signature):
                chunkSignature = signature
                if signer != nil { chunkDigest = SHA256() }
            case .data(let range):
                let bytes = UnsafeRawBufferPointer(rebasing: piece[range])
                if signer != nil { chunkDigest.update(bufferPointer: bytes) }
                try take(bytes)
                return bytes
            case .chunkEnd:
                try verifyChunk()
            case .trailer(ChunkedBodyParser.trailerSignatureName, let value):
                trailerSignature = value
            case .trailer(let name, let value):
                trailers.append((name, value))
            case .end:
                break
            }
        }
        return nil
    }

    private mutating func nextEvent(
        in piece: UnsafeRawBufferPointer, at position: inout Int
    ) throws(S3Error) -> ChunkedBodyParser.Event? {
        do throws(ChunkedBodyError) {
            return try parser?.next(in: piece, at: &position)
        } catch {
            switch error.reason {
            case .malformed:
                throw S3Error(
                    .invalidRequest, "The aws-chunked body is malformed: \(error.message).")
            case .malformedTrailer: throw S3Error(.malformedTrailer, error.message)
            case .tooLarge: throw S3Error(.entityTooLarge, error.message)
            }
        }
    }

    private mutating func take(_ bytes: UnsafeRawBufferPointer) throws(S3Error) {
        length += bytes.count
        if let expected = expectation.length, length > expected {
            throw S3Error(
                .incompleteBody,
                "The body has more than the \(expected) bytes that its headers announced.")
        }
        guard length <= expectation.sizeLimit else { throw S3Error(.entityTooLarge) }
        sha256?.update(bufferPointer: bytes)
        checksum?.update(bytes)
    }

    private mutating func verifyChunk() throws(S3Error) {
        guard signer != nil, let given = chunkSignature else { return }
        guard let computed = signer?.nextChunk(chunkDigest.finalize()),
            SigV4.isEqual(computed, given)
        else {
            throw S3Error(
                .signatureDoesNotMatch, "The signature of a chunk of the body does not match.")
        }
    }

    /// Checks the body as a whole. Precondition: all pieces have been handed in.
    /// - Parameter digest: the MD5 of the user bytes, 16 bytes.
    mutating func finish(md5 digest: [UInt8]) throws(S3Error) -> PayloadResult {
        try checkLength()
        try verifyTrailers()
        if case .digest(let expected) = expectation.signing, let computed = sha256?.finalize(),
            !SigV4.isEqual(Array(computed), Hex.decode(expected) ?? [])
        {
            throw S3Error(
                .contentSHA256Mismatch,
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
                details: [
                    ("ClientComputedContentSHA256", expected),
                    ("S3ComputedContentSHA256", Hex.encode(computed)),
                ])
        }
        if let expected = expectation.md5, expected != digest {
            throw S3Error(
                .badDigest, "The Content-MD5 you specified did not match what we received.",
                details: [
                    ("ExpectedDigest", Base64.encode(expected)),
                    ("CalculatedDigest", Base64.encode(digest)),
                ])
        }
        var result = PayloadResult(length: length, md5: digest)
        if let algorithm = checksumAlgorithm, let value = checksum?.finalize() {
            try verifyChecksum(algorithm, value)
            result.checksum = (algorithm, value)
        }
        return result
    }

    private func checkLength() throws(S3Error) {
        if let parser, !parser.isComplete { throw S3Error(.incompleteBody) }
        if let expected = expectation.length, length != expected {
            throw S3Error(
                .incompleteBody,
                "The body has \(length) bytes, its headers announced \(expected).")
        }
    }

    private mutating func verifyTrailers() throws(S3Error) {
        for (name, _) in trailers where name != expectation.checksum?.algorithm.headerName {
            throw S3Error(
                .malformedTrailer, "The trailer '\(name)' was not announced by x-amz-trailer.")
        }
        guard trailers.count <= 1 else {
            throw S3Error(.malformedTrailer, "A trailer came more than once.")
        }
        guard expectation.signing == .signedChunks(trailers: true) else { return }
        let lines = trailers.map { "\($0.name):\($0.value)\n" }.joined()
        guard let given = trailerSignature.flatMap({ Hex.decode($0) }),
            let computed = signer?.trailers(lines), SigV4.isEqual(computed, given)
        else {
            throw S3Error(
                .signatureDoesNotMatch, "The signature of the trailers does not match.")
        }
    }

    private func verifyChecksum(
        _ algorithm: ObjectChecksum.Algorithm, _ value: [UInt8]
    ) throws(S3Error) {
        guard let declared = expectation.checksum else { return }
        let given: String
        if let inHeader = declared.value {
            given = inHeader
        } else if let trailer = trailers.first {
            given = trailer.value
        } else {
            throw S3Error(
                .malformedTrailer,
                "The trailer \(algorithm.headerName) was announced and is missing.")
        }
        guard try decodeChecksum(given, algorithm) == value else {
            throw S3Error(
                .badDigest,
                "The \(algorithm.rawValue) you specified did not match the calculated checksum.")
        }
    }
}
