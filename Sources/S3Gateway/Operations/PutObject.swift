import Client
import Model

extension S3Service {
    func putObject(_ call: Call) async throws {
        let request = call.request
        let attributes = try ObjectAttributes(request)
        let condition = try WriteCondition(request)
        let expectation = try PayloadExpectation(
            request, signing: call.identity.payload,
            sizeLimit: configuration.limits.objectBytes)
        let writer = try await store.openWriter(
            call.key, length: expectation.length, replication: nil, user: call.user)
        let result = try await store(call, expectation, in: writer) { result in
            KeyCommit(
                etag: result.etag, attributes: attributes, checksum: result.objectChecksum,
                condition: condition)
        }
        var head = call.head(200, contentLength: 0)
        head.setETag(result.etag)
        head.set(result.objectChecksum)
        try await call.respond(head)
    }

    func deleteObject(_ call: Call) async throws {
        try call.checkVersion()
        let condition = try WriteCondition(call.request)
        try await store.deleteKey(call.key, condition: condition, user: call.user)
        try await call.respond(204)
    }
}

extension Call {
    /// Buckets are unversioned: every key has the one version `null`.
    func checkVersion() throws(S3Error) {
        guard let version = request.query("versionId"), version != "null" else { return }
        throw S3Error(
            .noSuchVersion, "Buckets are unversioned here: the only version is \"null\".",
            details: [("VersionId", version)])
    }
}
