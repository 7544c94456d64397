import Bytes
import Checksum
import Model
import Reactor
import Wire

/// A frame with its body, as it was received or is to be sent.
struct Frame: Sendable {
    var header: FrameHeader
    /// Token and message, one behind the other.
    var body: [UInt8]
    var payload: Payload?
    /// What an answer takes of the budget of answers, until it has been sent and is gone.
    var hold: AnswerHold?

    init(header: FrameHeader, body: [UInt8], payload: Payload? = nil) {
        self.header = header
        self.body = body
        self.payload = payload
    }

    /// A frame of `message`, its header's lengths and checksum filled in. Precondition: no part is
    /// larger than a frame may have it; whoever makes one from what others say has looked.
    ///
    /// - Parameter call: goes behind the message, with its flag.
    init(
        _ header: FrameHeader, token: [UInt8] = [], message: [UInt8], payload: Payload? = nil,
        call: CallID? = nil
    ) {
        self.header = header
        body = token.isEmpty ? message : token + message
        if let call {
            self.header.flags |= FrameHeader.Flag.call
            call.append(to: &body)
        }
        self.payload = payload
        self.header.tokenBytes = token.count
        self.header.messageBytes = body.count - token.count
        precondition(
            FrameHeader.Limits.allow(
                token: token.count, message: self.header.messageBytes, payload: payload),
            "a part of a frame is larger than `FrameHeader.Limits`")
        // A landing area has its size already.
        if header.payloadPlace != .landing { self.header.payloadBytes = payload?.count ?? 0 }
        self.header.bodyChecksum = CRC32C.of(body)
    }

    var message: [UInt8] {
        let end = body.count - (hasCall ? CallID.encodedSize : 0)
        return header.tokenBytes == 0 && end == body.count
            ? body : Array(body[header.tokenBytes..<end])
    }
    private var hasCall: Bool { header.flags & FrameHeader.Flag.call != 0 }
    /// The identity of the call, if it bears one.
    var call: CallID? { hasCall ? CallID(endOf: body) : nil }
    var token: [UInt8] { header.tokenBytes == 0 ? [] : Array(body[..<header.tokenBytes]) }

    /// Bytes that go over the socket, the head's left out.
    var bytesToSend: Int {
        body.count + (header.payloadPlace == .inline ? payload?.count ?? 0 : 0)
    }
}

/// Why a stream of frames ended.
enum StreamError: Error, Sendable {
    case io(IOError)
    case frame(FrameError)
    case closedByPeer

    var storeError: StoreError {
        switch self {
        case .io(let error): StoreError(.connection, error.description)
        case .frame(let error): error.storeError
        case .closedByPeer: StoreError(.connection, "the other end closed the connection")
        }
    }
}

extension FrameHeader.Limits {
    /// Whether a frame can carry parts of these sizes.
    static func allow(token: Int, message: Int, payload: Payload?) -> Bool {
        token <= tokenBytes && message <= messageBytes && payload?.count ?? 0 <= payloadBytes
    }
}

extension RPCRequest {
    /// Throws `invalidArgument` where no frame can carry the request.
    func checkSize() throws(StoreError) {
        let identity = call == nil ? 0 : CallID.encodedSize
        guard
            !FrameHeader.Limits.allow(
                token: token.count, message: message.count + identity, payload: payload)
        else { return }
        throw StoreError(
            .invalidArgument,
            "a request has at most \(FrameHeader.Limits.messageBytes) bytes of message, "
                + "\(FrameHeader.Limits.payloadBytes) of payload and "
                + "\(FrameHeader.Limits.tokenBytes) of token, this one \(message.count), "
                + "\(payload?.count ?? 0) and \(token.count)")
    }
}

extension RPCReply {
    /// Throws `invalidArgument` where no frame can carry the answer: its caller asked for too much.
    func checkSize(method: UInt16) throws(StoreError) {
        guard !FrameHeader.Limits.allow(token: 0, message: message.count, payload: payload)
        else { return }
        throw StoreError(
            .invalidArgument,
            "the answer of \(MethodNames.name(of: method)) would be \(message.count) bytes and "
                + "\(payload?.count ?? 0) of payload: ask for less, an answer has at most "
                + "\(FrameHeader.Limits.messageBytes) and \(FrameHeader.Limits.payloadBytes)")
    }
}

extension StoreError {
    /// The text as a frame carries it, cut where it is longer than any text should be.
    var frameText: [UInt8] { Array(message.utf8.prefix(TransportLimits.errorBytes)) }

    /// Who leads, as the frame of an answer carries it: where a request has its token.
    var frameHint: [UInt8] { Array((leader ?? "").utf8.prefix(TransportLimits.errorBytes)) }
}
