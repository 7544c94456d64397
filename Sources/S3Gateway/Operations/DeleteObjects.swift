import Client
import Model

/// The document of a DeleteObjects request.
struct DeleteRequest: Equatable {
    /// The most keys of one request.
    static let keyLimit = 1000

    struct Item: Equatable {
        /// As it came: an error of one key is told in the result and does not end the request.
        var key: String
        var versionID: String?
        var etag: String?
        /// An element that is not implemented.
        var refused: String?
    }
    var items: [Item]
    var isQuiet = false

    init(_ root: XMLElement) throws(S3Error) {
        guard root.name == "Delete" else { throw S3Error(.malformedXML) }
        items = []
        for child in root.children {
            switch child.name {
            case "Quiet": isQuiet = trimmingSpaces(child.text) == "true"
            case "Object": items.append(try Self.item(child))
            default: throw S3Error(.malformedXML)
            }
        }
        guard (1...Self.keyLimit).contains(items.count) else {
            throw S3Error(
                .malformedXML,
                "A DeleteObjects request names 1 to \(Self.keyLimit) keys, "
                    + "this one \(items.count).")
        }
    }

    private static func item(_ element: XMLElement) throws(S3Error) -> Item {
        guard let key = element.child("Key")?.text else { throw S3Error(.malformedXML) }
        let known: Set<String> = ["Key", "VersionId", "ETag"]
        return Item(
            key: key, versionID: element.child("VersionId")?.text,
            etag: element.child("ETag").map { ReadConditions.unquoted($0.text) },
            refused: element.children.first { !known.contains($0.name) }?.name)
    }
}

extension S3Service {
    func deleteObjects(_ call: Call) async throws {
        let document = try await call.receiveDocument(
            limit: configuration.limits.documentBytes, mustBeProtected: true)
        let request = try DeleteRequest(XMLReader.parse(document))
        _ = try await store.bucket(call.bucket, user: call.user)
        let errors = await delete(request.items, call)
        var xml = XMLWriter(capacity: 256 + request.items.count * 128)
        xml.element("DeleteResult", namespace: true) { xml in
            for (item, error) in zip(request.items, errors) {
                if let error {
                    xml.element("Error") { xml in
                        xml.element("Key", item.key)
                        xml.element("VersionId", ifPresent: item.versionID)
                        xml.element("Code", error.code.rawValue)
                        xml.element("Message", error.message)
                    }
                } else if !request.isQuiet {
                    xml.element("Deleted") { xml in
                        xml.element("Key", item.key)
                        xml.element("VersionId", ifPresent: item.versionID)
                    }
                }
            }
        }
        try await call.respond(xml)
    }

    /// Deletes with bounded concurrency; the error of each item, nil where there was none.
    private func delete(_ items: [DeleteRequest.Item], _ call: Call) async -> [S3Error?] {
        let bucket = call.bucket
        let user = call.user
        return await withTaskGroup(of: (Int, S3Error?).self) { group in
            var errors = [S3Error?](repeating: nil, count: items.count)
            for (index, item) in items.enumerated() {
                if index >= configuration.limits.concurrentDeletions,
                    let (done, error) = await group.next()
                {
                    errors[done] = error
                }
                group.addTask { (index, await delete(item, bucket, user)) }
            }
            for await (done, error) in group { errors[done] = error }
            return errors
        }
    }

    private func delete(
        _ item: DeleteRequest.Item, _ bucket: BucketPath, _ user: String
    ) async -> S3Error? {
        do {
            if let refused = item.refused { throw S3Error.notImplemented(refused) }
            if let version = item.versionID, !version.isEmpty, version != "null" {
                throw S3Error(
                    .noSuchVersion, "Buckets are unversioned here: the only version is \"null\".")
            }
            let name = try Address.keyName(Array(item.key.utf8))
            var condition = WriteCondition.none
            if let etag = item.etag { condition = etag == "*" ? .ifPresent : .ifETag(etag) }
            try await store.deleteKey(
                KeyPath(bucket: bucket, name: name), condition: condition, user: user)
            return nil
        } catch {
            return Self.describe(error)
        }
    }
}
