import Bytes
import Client
import Model
import NIOCore
import NIOHTTPTypes
import Synchronization

/// What a GET or HEAD of a key answers with, before any byte is read.
struct ObjectAnswer: Equatable {
    var status = 200
    var range: Range<Int>
    var contentRange: String?
    /// Parts of the key, told when one was asked for by number.
    var partsCount: Int?
    var checksum: ObjectChecksum?

    /// Decides by the conditions and the range of `request`.
    init(_ request: S3Request, _ info: KeyInfo, now: Timestamp) throws(S3Error) {
        let conditions = ReadConditions(request)
        switch conditions.evaluate(etag: info.etag, modified: info.modified, now: now) {
        case .proceed: break
        case .failed: throw S3Error(.preconditionFailed)
        case .notModified:
            throw S3Error(
                .notModified,
                headers: [
                    ("ETag", "\"\(info.etag)\""), ("Last-Modified", DateText.http(info.modified)),
                ])
        }
        let mode = request.header("x-amz-checksum-mode")
        if let mode, mode.uppercased() != "ENABLED" {
            throw S3Error.invalidArgument(
                "x-amz-checksum-mode", mode, "x-amz-checksum-mode must be ENABLED.")
        }
        range = 0..<info.length
        let header = Self.usableRange(request, info)
        if let number = try request.queryInt("partNumber", in: 1...10_000) {
            guard header == nil else {
                throw S3Error(
                    .invalidRequest, "Cannot specify both Range header and partNumber query.")
            }
            try select(part: number, info)
        } else {
            checksum = info.checksum
            if let header, let wanted = ByteRange(header) {
                guard let found = wanted.resolve(length: info.length) else {
                    throw S3Error(
                        .invalidRange,
                        details: [
                            ("RangeRequested", header), ("ActualObjectSize", "\(info.length)"),
                        ], headers: [("Content-Range", "bytes */\(info.length)")])
                }
                // The checksum is one of the whole: a part of the bytes cannot be checked by it.
                if found != range { checksum = nil }
                // The end of an object without bytes is the whole of it.
                if !found.isEmpty { partial(found, of: info.length) }
            }
        }
        if mode == nil { checksum = nil }
    }

    /// The `Range` header, unless `If-Range` names a tag that the key no longer has.
    private static func usableRange(_ request: S3Request, _ info: KeyInfo) -> String? {
        guard let header = request.header("range") else { return nil }
        guard let condition = request.header("if-range") else { return header }
        if let date = DateText.parseHTTP(condition) {
            return info.modified.milliseconds / 1000 == date.milliseconds / 1000 ? header : nil
        }
        return ReadConditions.unquoted(condition) == info.etag ? header : nil
    }

    private mutating func select(part number: Int, _ info: KeyInfo) throws(S3Error) {
        guard let selected = info.selectedPart else {
            guard number == 1 else { throw Self.noSuchPart(number, of: 1) }
            checksum = info.checksum
            if info.length > 0 { partial(range, of: info.length) }
            return
        }
        guard let part = selected.info else {
            throw Self.noSuchPart(number, of: selected.count)
        }
        partsCount = selected.count
        checksum = part.checksum
        if info.length > 0 {
            partial(selected.offset..<selected.offset + part.length, of: info.length)
        }
    }

    private mutating func partial(_ found: Range<Int>, of length: Int) {
        status = 206
        range = found
        contentRange = "bytes \(found.lowerBound)-\(found.upperBound - 1)/\(length)"
    }

    private static func noSuchPart(_ number: Int, of count: Int) -> S3Error {
        S3Error(
            .invalidPartNumber, "The requested partnumber is not satisfiable.",
            details: [
                ("PartNumberRequested", "\(number)"), ("ActualPartCount", "\(count)"),
            ])
    }
}

extension KeySelection {
    /// What a GET or HEAD needs of a key, as far as its request tells it alone; more only where
    /// the key decides what is read.
    init(_ request: S3Request, readsBytes: Bool) {
        if request.hasQuery("partNumber") {
            self = request.query("partNumber").flatMap { Int($0) }.map { .part($0) } ?? .head
            return
        }
        guard readsBytes else {
            self = .head
            return
        }
        // Whether the range counts that comes with If-Range, the key decides.
        let range = request.header("if-range") == nil ? request.header("range") : nil
        self = range.flatMap { ByteRange($0) }?.selection ?? .bytes
    }
}

extension ByteRange {
    /// The block groups that hold it.
    var selection: KeySelection {
        switch self {
        case .from(let first, let last):
            .range(from: first, to: last.flatMap { $0 == Int.max ? nil : $0 + 1 })
        case .last(let count): .suffix(count)
        }
    }
}

extension S3Service {
    func headObject(_ call: Call) async throws {
        let (info, answer) = try await locate(call, readsBytes: false)
        try await call.respond(objectHead(call, info, answer))
    }

    func getObject(_ call: Call) async throws {
        let (info, answer) = try await locate(call, readsBytes: true)
        let head = objectHead(call, info, answer)
        guard !answer.range.isEmpty else {
            try await call.respond(head)
            return
        }
        let reader = try await store.openReader(info)
        // The head goes out with the first piece, so that a key that cannot be read at all is
        // answered with an error and not with a broken connection.
        let outbound = call.exchange.outbound
        let sent = SentBytes()
        let count = answer.range.count
        do {
            try await reader.read(answer.range) { piece in
                let body = HTTPResponsePart.body(LentBytes.lend(piece))
                let isFirst = sent.isEmpty
                sent.add(piece.count)
                // The end goes with the last piece: one write less for the kernel.
                let isLast = sent.count == count
                switch (isFirst, isLast) {
                case (true, true):
                    try await outbound.write(contentsOf: [.head(head.http), body, .end(nil)])
                case (true, false): try await outbound.write(contentsOf: [.head(head.http), body])
                case (false, true): try await outbound.write(contentsOf: [body, .end(nil)])
                case (false, false): try await outbound.write(body)
                }
            }
        } catch {
            call.exchange.account(status: answer.status, sent)
            throw error
        }
        call.exchange.account(status: answer.status, sent)
        guard sent.count == answer.range.count else {
            throw StoreError(
                .internal, "\(call.key): the reader gave \(sent.count) bytes of \(answer.range)")
        }
    }

    /// One look-up: what is read is of the version that the head tells of.
    private func locate(
        _ call: Call, readsBytes: Bool
    ) async throws -> (KeyInfo, ObjectAnswer) {
        try call.checkVersion()
        let selection = KeySelection(call.request, readsBytes: readsBytes)
        let info = try await store.key(call.key, selection, user: call.user)
        return (info, try ObjectAnswer(call.request, info, now: call.now))
    }

    private func objectHead(
        _ call: Call, _ info: KeyInfo, _ answer: ObjectAnswer
    ) -> ResponseHead {
        var head = call.head(answer.status, contentLength: answer.range.count)
        head.setETag(info.etag)
        head.set("Last-Modified", DateText.http(info.modified))
        head.set("Accept-Ranges", "bytes")
        head.set("Content-Range", ifPresent: answer.contentRange)
        head.set("Content-Type", "binary/octet-stream")
        for (name, value) in info.attributes.headers { head.set(name, value) }
        for name in ObjectAttributes.standardHeaders {
            head.set(name, ifPresent: call.request.query("response-\(name)"))
        }
        for (name, value) in info.attributes.metadata {
            head.set("x-amz-meta-\(name)", EncodedWords.encode(value))
        }
        head.set("x-amz-mp-parts-count", ifPresent: answer.partsCount.map { "\($0)" })
        head.set(answer.checksum)
        return head
    }
}

/// Counts the bytes of a response from within its reader's closure.
final class SentBytes: Sendable {
    private let value = Atomic<Int>(0)
    var count: Int { value.load(ordering: .relaxed) }
    var isEmpty: Bool { count == 0 }
    func add(_ bytes: Int) { value.add(bytes, ordering: .relaxed) }
}

extension Exchange {
    /// Notes a response that was written past this object.
    func account(status: Int, _ sent: SentBytes) {
        if !sent.isEmpty { noteResponse(status: status, bytes: sent.count) }
    }
}
