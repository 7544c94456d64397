import Client
import Model

extension Call {
    /// Hands the body's user bytes to `take` in order, and returns what was computed over them
    /// once everything that was promised of them has been found true.
    func receive(
        _ expectation: PayloadExpectation,
        _ take: (UnsafeRawBufferPointer) async throws -> Void
    ) async throws -> PayloadResult {
        var verifier = PayloadVerifier(expectation, signer: identity.chunkSigner)
        let md5 = hashing.open()
        defer { md5.close() }
        while let piece = try await exchange.nextBodyPiece() {
            let pinned = PinnedBytes(piece)
            var position = 0
            while let payload = try verifier.nextPayload(in: pinned.bytes, at: &position) {
                try await take(payload)
                await md5.add(payload, of: piece)
            }
        }
        return try verifier.finish(md5: await md5.finish())
    }

    /// The whole of a request's document, verified, of at most `limit` bytes.
    /// - Parameters:
    ///   - mustBeProtected: whether Content-MD5 or a checksum is required.
    ///   - forCompletion: a checksum in the head is one of the object to be made, and says
    ///     nothing of this body.
    func receiveDocument(
        limit: Int, mustBeProtected: Bool = false, forCompletion: Bool = false
    ) async throws -> [UInt8] {
        let mayBeAbsent =
            request.header("content-length") == nil
            && request.header("transfer-encoding") == nil
        if mayBeAbsent, !mustBeProtected { return [] }
        do {
            return try await receiveBoundedDocument(limit, mustBeProtected, forCompletion)
        } catch let error as S3Error where error.code == .entityTooLarge {
            throw S3Error(
                .maxMessageLengthExceeded, details: [("MaxMessageLengthBytes", "\(limit)")])
        }
    }

    private func receiveBoundedDocument(
        _ limit: Int, _ mustBeProtected: Bool, _ forCompletion: Bool
    ) async throws -> [UInt8] {
        let expectation = try PayloadExpectation(
            request, signing: identity.payload, sizeLimit: limit,
            declaresChecksum: !forCompletion)
        if mustBeProtected, expectation.md5 == nil, expectation.checksum == nil {
            throw S3Error(
                .invalidRequest,
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
        }
        var document: [UInt8] = []
        _ = try await receive(expectation) { document.append(contentsOf: $0) }
        return document
    }
}

extension S3Service {
    /// Streams the body of `call` into a writer and commits it; aborts the writer on any failure,
    /// so that nothing of a bad upload is kept.
    func store(
        _ call: Call, _ expectation: PayloadExpectation, in writer: Store.Writer,
        _ commit: (PayloadResult) -> KeyCommit
    ) async throws -> PayloadResult {
        do {
            let result = try await call.receive(expectation) { try await writer.write($0) }
            _ = try await writer.commit(commit(result))
            return result
        } catch {
            await writer.abort()
            throw error
        }
    }
}

extension PayloadResult {
    var etag: String { Hex.encode(md5) }

    /// The checksum as it is stored: of all bytes of an object or part.
    var objectChecksum: ObjectChecksum? {
        checksum.map {
            ObjectChecksum(
                algorithm: $0.algorithm, kind: .fullObject, value: Base64.encode($0.value))
        }
    }
}

extension ResponseHead {
    /// The headers that tell a checksum.
    mutating func set(_ checksum: ObjectChecksum?) {
        guard let checksum else { return }
        set(checksum.algorithm.headerName, checksum.value)
        set("x-amz-checksum-type", checksum.kind.rawValue)
    }

    mutating func setETag(_ etag: String) { set("ETag", "\"\(etag)\"") }
}
