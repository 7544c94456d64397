import Client
import Crypto
import Model

/// Who sent a request, and what verifies the rest of its body.
struct Identity: Sendable {
    var user: UserInfo
    var payload: PayloadSigning
    /// Present if the body comes in signed chunks.
    var chunkSigner: ChunkSigner?
}

/// Decides whether a request comes from whom it says.
struct Authenticator<Store: ObjectStore>: Sendable {
    let users: UserCache<Store>
    let keys: SigningKeyCache
    /// Whether URLs signed with version 2 are taken.
    let allowsVersion2: Bool
    /// As in `S3Configuration`; lower case.
    let baseDomains: [String]
    /// A request's date may differ from ours by this much.
    static var maximumSkewMilliseconds: Int64 { 15 * 60 * 1000 }

    /// The identity behind `request`.
    ///
    /// The order of checks is S3's: form, clock, access key, signature. The signature is compared
    /// in constant time.
    func authenticate(_ request: S3Request, now: Timestamp) async throws -> Identity {
        guard let signature = try RequestSignature.parse(request) else {
            guard let old = try SignatureV2.parse(request) else {
                throw S3Error(.accessDenied, "Anonymous access is not allowed: sign the request.")
            }
            guard allowsVersion2 else { throw RequestSignature.unsupportedMechanism }
            return try await authenticate(old, request, now: now)
        }
        try Self.checkTime(signature, now: now)
        if request.header("x-amz-security-token") != nil
            || request.hasQuery("X-Amz-Security-Token")
        {
            throw S3Error(
                .invalidToken, "Session tokens are not issued here: use the user's own keys.")
        }
        try Self.checkSignedHeaders(signature, request)
        let user = try await user(signature.credential.accessKeyID)
        let key = keys.signingKey(secret: user.secretAccessKey, signature.credential)
        try Self.verify(signature, request, key: key)
        var signer: ChunkSigner?
        if case .signedChunks = signature.payload {
            signer = ChunkSigner(
                key: key, dateText: signature.dateText, scope: signature.credential.scope,
                seed: signature.signature)
        }
        return Identity(user: user, payload: signature.payload, chunkSigner: signer)
    }

    private func user(_ accessKeyID: String) async throws -> UserInfo {
        guard let user = try await users.user(accessKeyID: accessKeyID) else {
            throw S3Error(
                .invalidAccessKeyID,
                "The access key ID you provided does not exist in our records.",
                details: [("AWSAccessKeyId", accessKeyID)])
        }
        return user
    }

    private func authenticate(
        _ signature: SignatureV2, _ request: S3Request, now: Timestamp
    ) async throws -> Identity {
        try signature.checkTime(now: now, skewMilliseconds: Self.maximumSkewMilliseconds)
        let user = try await user(signature.accessKeyID)
        try signature.verify(
            request, bucket: Address.virtualHostBucket(request.header("host"), baseDomains),
            secret: user.secretAccessKey)
        return Identity(user: user, payload: .unsigned)
    }

    static func checkTime(_ signature: RequestSignature, now: Timestamp) throws(S3Error) {
        guard signature.dateText.hasPrefix(signature.credential.date) else {
            throw S3Error(
                signature.placement == .header
                    ? .authorizationHeaderMalformed : .authorizationQueryParametersError,
                "The credential's date \(signature.credential.date) is not the day of the "
                    + "request's date \(signature.dateText).")
        }
        let age = now.milliseconds - signature.date.milliseconds
        switch signature.placement {
        case .header:
            guard abs(age) <= maximumSkewMilliseconds else {
                throw S3Error(
                    .requestTimeTooSkewed,
                    "The difference between the request time and the current time is too large.",
                    details: [
                        ("RequestTime", signature.dateText), ("ServerTime", DateText.iso(now)),
                        ("MaxAllowedSkewMilliseconds", String(maximumSkewMilliseconds)),
                    ])
            }
        case .query(let expiresSeconds):
            guard age >= -maximumSkewMilliseconds else {
                throw S3Error(.accessDenied, "Request is not yet valid")
            }
            guard age <= Int64(expiresSeconds) * 1000 else {
                throw S3Error(
                    .accessDenied, "Request has expired",
                    details: [
                        ("X-Amz-Expires", String(expiresSeconds)),
                        ("ServerTime", DateText.iso(now)),
                    ])
            }
        }
    }

    /// The host and all `x-amz-` headers must be covered by the signature.
    static func checkSignedHeaders(
        _ signature: RequestSignature, _ request: S3Request
    ) throws(S3Error) {
        let signed = Set(signature.signedHeaders)
        var missing = request.sentHeaderNames.filter { name in
            name.hasPrefix("x-amz-") && !signed.contains(name)
        }
        if !signed.contains("host") { missing.append("host") }
        guard missing.isEmpty else {
            throw S3Error(
                .accessDenied, "There were headers present in the request which were not signed",
                details: [("HeadersNotSigned", missing.sorted().joined(separator: ", "))])
        }
    }

    private static func verify(
        _ signature: RequestSignature, _ request: S3Request, key: SymmetricKey
    ) throws(S3Error) {
        let canonical = SigV4.canonicalRequest(request, signature)
        let text = SigV4.stringToSign(canonical, signature)
        if SigV4.isEqual(SigV4.sign(text, key), signature.signature) { return }
        let raw = SigV4.canonicalRequest(request, signature, rawPath: true)
        if raw != canonical {
            let rawText = SigV4.stringToSign(raw, signature)
            if SigV4.isEqual(SigV4.sign(rawText, key), signature.signature) { return }
        }
        throw S3Error(
            .signatureDoesNotMatch,
            details: [
                ("AWSAccessKeyId", signature.credential.accessKeyID),
                ("StringToSign", text),
                ("SignatureProvided", Hex.encode(signature.signature)),
                ("CanonicalRequest", canonical),
            ])
    }
}
