import Bytes
import Model
import Reactor
import Telemetry

/// A request as its handler sees it.
public struct RPCRequest: Sendable {
    public var method: UInt16
    public var message: [UInt8]
    /// Raw bytes that came behind the message, in an aligned buffer of their own.
    public var payload: Payload?
    /// Room for the answer's payload in memory that the caller shares: an answer whose payload
    /// lies in it is not copied. Use of it ends with the answer.
    public var landing: AlignedBuffer?
    /// What the caller may do, as its issuer signed it. Empty while tokens are not in use.
    public var token: [UInt8]
    /// Who is at the other end.
    public var peer: PeerIdentity
    /// When the caller stops waiting.
    public var deadline: MonotonicTime?
    /// Follows one request of a user through all roles.
    public var traceID: UInt64
    /// When this process took it up, if the clock was read then: what need not read it again.
    public var takenUp: MonotonicTime?
    /// What the role notes of the request while it serves it; nil where it is not followed.
    public var trace: TraceContext?

    public init(
        method: UInt16, message: [UInt8], payload: Payload? = nil, token: [UInt8] = [],
        peer: PeerIdentity = .local, deadline: MonotonicTime? = nil, traceID: UInt64 = 0
    ) {
        self.method = method
        self.message = message
        self.payload = payload
        landing = nil
        self.token = token
        self.peer = peer
        self.deadline = deadline
        self.traceID = traceID
        takenUp = nil
        trace = nil
    }
}

public struct RPCReply: Sendable {
    public var message: [UInt8]
    public var payload: Payload?

    public init(_ message: [UInt8] = [], payload: Payload? = nil) {
        self.message = message
        self.payload = payload
    }
}

/// The other end of a connection: what it calls itself, and where it is.
public struct PeerIdentity: Hashable, Sendable {
    public var name: String
    public var address: String

    public init(name: String, address: String) {
        self.name = name
        self.address = address
    }

    /// A caller in the same process.
    public static let local = PeerIdentity(name: "local", address: "local")
}

/// Answers requests. Called on a reactor of the server, in the order in which the requests of a
/// connection arrived: everything before the first suspension happens in that order.
public protocol RPCHandler: Sendable {
    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply
    /// Called right before a request is handled: may add to it, and names who is to handle it. A
    /// handler around another one names that, so that there is no function more to suspend.
    func prepare(_ request: inout RPCRequest) -> any RPCHandler
    /// Called with what became of a request, once for each `prepare`.
    func conclude(_ request: RPCRequest, _ outcome: RPCOutcome)
}

extension RPCHandler {
    /// Adds nothing; handles itself.
    public func prepare(_ request: inout RPCRequest) -> any RPCHandler { self }
    /// Does nothing.
    public func conclude(_ request: RPCRequest, _ outcome: RPCOutcome) {}
}

/// How a request ended.
public enum RPCOutcome: Sendable {
    /// Answered, with so many bytes of message and payload.
    case answered(bytes: Int)
    case failed(StoreError.Code)
}

public enum TransportLimits {
    /// Request payload bytes that a server takes in flight on one connection.
    public static let credit = 32 << 20
    /// Bytes of answers that the client has not taken, beyond which a server reads no further
    /// requests of the connection.
    public static let unsentBytes = 32 << 20
    /// Requests in flight on one connection; a server stops reading beyond it.
    public static let requestsPerConnection = 4096
    /// Bytes received at once while headers and messages are expected.
    public static let stagingBytes = 16 << 10
    /// Frames sent with one call.
    public static let framesPerSend = 32
    /// The largest memory of a client that a server maps.
    public static let sharedBytes = 64 << 30
    /// How long a connection may take to come about.
    public static let connectTimeout = Duration.seconds(5)
    /// After a failed attempt to connect, calls fail at once for so long.
    public static let reconnectDelay = Duration.milliseconds(200)
    /// Steps in which deadlines are looked at.
    public static let deadlineTick = Duration.milliseconds(50)
}
