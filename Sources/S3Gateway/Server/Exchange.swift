import HTTPTypes
import NIOCore
import NIOHTTPTypes

/// One request and its response on a connection: the body in, the response out.
///
/// Used by one task at a time. `100 Continue` is sent when the body is first asked for, so that a
/// request refused by its head alone never has its body sent.
final class Exchange {
    typealias Inbound = NIOAsyncChannelInboundStream<HTTPRequestPart>.AsyncIterator
    typealias Outbound = NIOAsyncChannelOutboundWriter<HTTPResponsePart>

    let head: HTTPRequest
    let outbound: ResponseWriter
    private var inbound: Inbound
    private var awaitsContinue: Bool
    private var isBroken = false
    /// Whether the end of the body has been seen.
    private(set) var bodyIsConsumed = false
    /// 0 until a response has begun.
    private(set) var status = 0
    var responseHasBegun: Bool { status != 0 }
    /// Body bytes received, framing of `aws-chunked` included.
    private(set) var bytesReceived = 0
    /// Body bytes sent.
    private(set) var bytesSent = 0

    init(head: HTTPRequest, inbound: Inbound, outbound: Outbound) {
        self.head = head
        self.inbound = inbound
        self.outbound = ResponseWriter(outbound)
        awaitsContinue =
            head.headerFields[.expect]?.lowercased().contains("100-continue") ?? false
    }

    /// Whether the connection may carry another request, as far as its client says.
    /// `ConnectionPersistence` has put `close` into heads whose version of HTTP means it.
    var mayGoOn: Bool {
        guard let options = head.headerFields[.connection] else { return true }
        return !options.split(separator: ",").contains {
            trimmingSpaces($0).lowercased() == "close"
        }
    }

    /// The next piece of the body; nil at its end. Throws when the client breaks off.
    func nextBodyPiece() async throws -> ByteBuffer? {
        if bodyIsConsumed { return nil }
        if awaitsContinue {
            awaitsContinue = false
            try await outbound.write(.head(HTTPResponse(status: .continue)))
        }
        let part: HTTPRequestPart?
        do {
            part = try await inbound.next()
        } catch {
            // The client went away, or broke the framing of HTTP.
            isBroken = true
            throw S3Error(.incompleteBody)
        }
        switch part {
        case .body(let buffer):
            bytesReceived += buffer.readableBytes
            return buffer
        case .end:
            bodyIsConsumed = true
            return nil
        case .head, nil:
            isBroken = true
            throw S3Error(.incompleteBody)
        }
    }

    /// Whether the rest of the body will come and is at most `limit` bytes, as far as the head
    /// tells. A client that waits for `100 Continue` in vain never sends its body.
    func canDrain(limit: Int) -> Bool {
        if bodyIsConsumed { return true }
        if awaitsContinue || isBroken { return false }
        guard let text = head.headerFields[.contentLength] else { return true }
        return Int(text).map { $0 - bytesReceived <= limit } ?? false
    }

    /// Sends the whole of a response without a body, or with a short one.
    func respond(_ response: HTTPResponse, body: [UInt8] = []) async throws {
        precondition(!responseHasBegun, "a request has one response")
        status = response.status.code
        if body.isEmpty {
            try await outbound.write(contentsOf: [.head(response), .end(nil)])
        } else {
            bytesSent += body.count
            try await outbound.write(
                contentsOf: [.head(response), .body(ByteBuffer(bytes: body)), .end(nil)])
        }
    }

    /// Notes a response that is being written to `outbound` directly.
    func noteResponse(status: Int, bytes: Int) {
        precondition(!responseHasBegun, "a request has one response")
        self.status = status
        bytesSent += bytes
    }

    /// The connection's inbound side, for the next request.
    var remaining: Inbound { inbound }
}

/// Why a response cannot be written: its client has closed the connection, or the network has.
/// Nobody's fault here, and nobody is there to be told.
struct ClientGone: Error, CustomStringConvertible {
    /// What the connection said.
    var cause: any Error

    /// The status that such a request is recorded with; never sent.
    static let status = 499
    /// What stands in the place of S3's code in its record.
    static let code = "ClientGone"

    var description: String { "the client went away: \(cause)" }
}

/// Writes parts of a response. Throws `ClientGone` when they cannot arrive any more.
struct ResponseWriter: Sendable {
    private let outbound: Exchange.Outbound

    init(_ outbound: Exchange.Outbound) { self.outbound = outbound }

    func write(_ part: HTTPResponsePart) async throws {
        do { try await outbound.write(part) } catch { throw Self.meaning(of: error) }
    }

    func write(contentsOf parts: [HTTPResponsePart]) async throws {
        do {
            try await outbound.write(contentsOf: parts)
        } catch {
            throw Self.meaning(of: error)
        }
    }

    /// A writer that is cancelled belongs to a gateway that is being stopped.
    private static func meaning(of error: any Error) -> any Error {
        error is CancellationError ? error : ClientGone(cause: error)
    }
}

/// Holds the storage of a buffer, so that a pointer to its bytes may live across suspensions.
struct PinnedBytes: ~Copyable {
    let bytes: UnsafeRawBufferPointer
    private let owner: Unmanaged<AnyObject>

    init(_ buffer: ByteBuffer) {
        (bytes, owner) = buffer.withUnsafeReadableBytesWithStorageManagement { bytes, owner in
            (bytes, owner.retain())
        }
    }

    deinit { owner.release() }
}
