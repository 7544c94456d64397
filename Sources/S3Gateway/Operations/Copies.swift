import Bytes
import Client
import Crypto
import Model
import Synchronization

/// The source of a copy: `x-amz-copy-source` and its conditions.
struct CopySource: Equatable {
    var key: KeyPath

    /// The header is decoded as S3 does it, like a query: `+` is a space, and a plus is `%2B`.
    init(_ request: S3Request) throws(S3Error) {
        let text = request.header("x-amz-copy-source") ?? ""
        let malformed = S3Error.invalidArgument(
            "x-amz-copy-source", text,
            "x-amz-copy-source must be in the form of bucket/key, percent-encoded.")
        let parts = text.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2, parts[1] != "versionId=null", parts[1] != "versionId=" {
            throw S3Error(
                .noSuchVersion, "Buckets are unversioned here: the only version is \"null\".")
        }
        guard let first = parts.first,
            let decoded = PercentEncoding.decode(first, plusIsSpace: true)
        else {
            throw malformed
        }
        let path = decoded.first == UInt8(ascii: "/") ? decoded.dropFirst() : decoded[...]
        guard let slash = path.firstIndex(of: UInt8(ascii: "/")), slash + 1 < path.endIndex,
            let bucket = String(validating: path[..<slash], as: UTF8.self)
        else { throw malformed }
        guard BucketName.isValid(bucket) else {
            throw S3Error(.invalidBucketName, BucketName.rule, details: [("BucketName", bucket)])
        }
        key = KeyPath(
            bucket: BucketPath(volume: BucketPath.s3Volume, bucket: bucket),
            name: try Address.keyName(Array(path[(slash + 1)...])))
    }
}

/// Digests of the bytes that a copy carries, fed from within a reader's closure.
private final class CopyDigest: Sendable {
    private struct State {
        var checksum: RunningChecksum?
        var length = 0
    }
    private let algorithm: ObjectChecksum.Algorithm?
    private let state: Mutex<State>

    init(_ algorithm: ObjectChecksum.Algorithm?) {
        self.algorithm = algorithm
        state = Mutex(State(checksum: algorithm.map(RunningChecksum.init)))
    }

    func update(_ bytes: UnsafeRawBufferPointer) {
        state.withLock { state in
            state.checksum?.update(bytes)
            state.length += bytes.count
        }
    }

    /// - Parameter md5: the digest of the same bytes.
    func result(md5: [UInt8]) -> PayloadResult {
        state.withLock { state in
            var result = PayloadResult(length: state.length, md5: md5)
            if let algorithm, let value = state.checksum?.finalize() {
                result.checksum = (algorithm, value)
            }
            return result
        }
    }
}

extension S3Service {
    func copyObject(_ call: Call) async throws {
        let request = call.request
        let from = try CopySource(request)
        let replaces = try Self.replacesMetadata(request)
        // Naming a class or a checksum is a change, also where the key has it already.
        let changes = ["x-amz-storage-class", "x-amz-checksum-algorithm"].contains {
            request.header($0) != nil
        }
        guard replaces || changes || from.key != call.key else {
            throw S3Error(
                .invalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself "
                    + "without changing the object's metadata, storage class, website redirect "
                    + "location or encryption attributes.")
        }
        let given = replaces ? try ObjectAttributes(request) : nil
        let condition = try WriteCondition(request)
        let wanted = try request.header("x-amz-checksum-algorithm").map { name throws(S3Error) in
            try ObjectChecksum.Algorithm(name: name, in: "x-amz-checksum-algorithm")
        }
        let source = try await source(from, call)
        guard source.length <= configuration.limits.objectBytes else { throw sourceTooLarge }
        let attributes = given ?? source.attributes
        let algorithm = wanted ?? source.checksum?.algorithm
        let writer = try await store.openWriter(
            call.key, length: source.length, replication: nil, user: call.user)
        try await respondPatiently(call) {
            let (info, result) = try await copy(
                source, 0..<source.length, into: writer, algorithm
            ) { result in
                KeyCommit(
                    etag: result.etag, attributes: attributes, checksum: result.objectChecksum,
                    condition: condition)
            }
            return Self.document("CopyObjectResult", info.modified, result)
        }
    }

    func uploadPartCopy(_ call: Call) async throws {
        let request = call.request
        let from = try CopySource(request)
        let (number, upload) = try call.partAddress()
        let info = try await store.upload(call.key, upload: upload, user: call.user)
        let source = try await source(from, call)
        var range = 0..<source.length
        if let header = request.header(Self.copyRange) {
            guard case .from(let first, through: let last?) = ByteRange(header) else {
                throw S3Error.invalidArgument(
                    "x-amz-copy-source-range", header,
                    "The x-amz-copy-source-range value must be of the form bytes=first-last "
                        + "where first and last are the zero-based offsets of the first and last "
                        + "bytes to copy")
            }
            guard last < source.length else {
                throw S3Error.invalidArgument(
                    "x-amz-copy-source-range", header,
                    "Range specified is not valid for source object of size: \(source.length)")
            }
            range = first..<last + 1
        }
        guard range.count <= configuration.limits.objectBytes else { throw sourceTooLarge }
        let writer = try await store.openPartWriter(
            call.key, upload: upload, number: number, length: range.count, user: call.user)
        let bytes = range
        try await respondPatiently(call) {
            let (part, result) = try await copy(
                source, bytes, into: writer, info.checksum?.algorithm
            ) { result in
                KeyCommit(etag: result.etag, checksum: result.objectChecksum)
            }
            return Self.document("CopyPartResult", part.modified, result)
        }
    }

    private static var copyRange: String { "x-amz-copy-source-range" }

    /// The source of a copy, if it may be read and its conditions hold. A target that is not there
    /// is told before a source that is not.
    private func source(_ from: CopySource, _ call: Call) async throws -> KeyInfo {
        do {
            return try await readableSource(from, call)
        } catch {
            _ = try await store.bucket(call.bucket, user: call.user)
            throw error
        }
    }

    private func readableSource(_ from: CopySource, _ call: Call) async throws -> KeyInfo {
        let request = call.request
        if let expected = request.header("x-amz-source-expected-bucket-owner") {
            let bucket = try await store.bucket(from.key.bucket, user: call.user)
            guard bucket.ownerCanonicalID == expected else { throw S3Error(.accessDenied) }
        }
        let range = call.operation == .uploadPartCopy ? request.header(Self.copyRange) : nil
        let selection = range.flatMap { ByteRange($0) }?.selection ?? .bytes
        let info = try await store.key(from.key, selection, user: call.user)
        let conditions = ReadConditions(request, prefix: "x-amz-copy-source-")
        let outcome = conditions.evaluate(
            etag: info.etag, modified: info.modified, now: call.now)
        guard outcome == .proceed else { throw S3Error(.preconditionFailed) }
        return info
    }

    /// For more bytes than one part, or one key put at once, may have.
    private var sourceTooLarge: S3Error {
        S3Error(
            .invalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy "
                + "source: \(configuration.limits.objectBytes)")
    }

    private static func replacesMetadata(_ request: S3Request) throws(S3Error) -> Bool {
        switch request.header("x-amz-metadata-directive")?.uppercased() {
        case nil, "COPY": return false
        case "REPLACE": return true
        case let other?:
            throw S3Error.invalidArgument(
                "x-amz-metadata-directive", other,
                "x-amz-metadata-directive must be COPY or REPLACE.")
        }
    }

    /// Carries bytes of `source` into `writer` and commits; aborts the writer on failure.
    private func copy(
        _ source: KeyInfo, _ range: Range<Int>, into writer: Store.Writer,
        _ algorithm: ObjectChecksum.Algorithm?, _ commit: (PayloadResult) -> KeyCommit
    ) async throws -> (KeyInfo, PayloadResult) {
        do {
            let digest = CopyDigest(algorithm)
            let md5 = hashing.open()
            defer { md5.close() }
            if !range.isEmpty {
                let reader = try await store.openReader(source)
                try await reader.read(range) { piece in
                    piece.withBytes { digest.update($0) }
                    try await writer.write(piece)
                    let bytes = piece.buffer.bytes(in: piece.offset..<piece.offset + piece.count)
                    await md5.add(UnsafeRawBufferPointer(bytes), of: piece)
                }
            }
            let result = digest.result(md5: await md5.finish())
            guard result.length == range.count else {
                throw StoreError(
                    .internal, "the reader gave \(result.length) bytes of \(range)")
            }
            return (try await writer.commit(commit(result)), result)
        } catch {
            await writer.abort()
            throw error
        }
    }

    private static func document(
        _ element: StaticString, _ modified: Timestamp, _ result: PayloadResult
    ) -> XMLWriter {
        var xml = XMLWriter()
        xml.element(element, namespace: true) { xml in
            xml.element("LastModified", DateText.iso(modified))
            xml.element("ETag", "\"\(result.etag)\"")
            xml.checksum(result.objectChecksum)
        }
        return xml
    }
}

extension XMLWriter {
    /// The elements that tell a checksum.
    mutating func checksum(_ checksum: ObjectChecksum?, withType: Bool = true) {
        guard let checksum else { return }
        element(checksum.algorithm.elementName, checksum.value)
        if withType { element("ChecksumType", checksum.kind.rawValue) }
    }
}
