import Bytes
import Model
import Reactor

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
    /// Who is at the other end, as far as the connection proves it.
    public var peer: PeerIdentity
    /// What the other end calls itself: for traces and messages, and proof of nothing.
    public var caller = ""
    /// Of a question to a group: any member may answer it, with what is true when it does, not only
    /// the one that leads.
    public var isForAnyMember = false
    /// For whom it is, when the caller stops waiting, and what the role notes of it.
    public var context: IOContext
    /// Follows one request of a user through all roles.
    public var traceID: UInt64
    /// Of a change: what tells it from others, however often it is sent. nil if its caller, or the
    /// program that it runs, gives it none.
    public var call: CallID? { identity?.call }
    /// The same, and of a call that is being made the lane that learns whether it went without.
    /// Apart, so that the many requests that have none are not larger for it.
    var identity: Identity?
    /// When this process took it up, if the clock was read then: what need not read it again.
    public var takenUp: MonotonicTime?
    /// The connection's share of the budget of answers; nil: a caller in the same process.
    var answers: AnswerBudget?

    public init(
        method: UInt16, message: [UInt8], payload: Payload? = nil, token: [UInt8] = [],
        peer: PeerIdentity = .sameProcess, context: IOContext = .client, traceID: UInt64 = 0,
        call: CallID? = nil
    ) {
        self.method = method
        self.message = message
        self.payload = payload
        landing = nil
        self.token = token
        self.peer = peer
        self.context = context
        self.traceID = traceID
        identity = call.map { Identity($0, nil) }
        takenUp = nil
        answers = nil
    }

    final class Identity: Sendable {
        let call: CallID
        let lane: CallLane?

        init(_ call: CallID, _ lane: CallLane?) {
            self.call = call
            self.lane = lane
        }
    }

    /// Takes `count` bytes of what answers under way may take, before the memory for this one's is
    /// allocated: to be put into the reply as its `hold`. Waits where others have them.
    ///
    /// nil for 0 bytes: an answer that is put into the caller's `landing` takes nothing here.
    /// Throws `overloaded` where too many wait, `cancelled` when the caller no longer does.
    public func reserveAnswer(_ count: Int) async throws(StoreError) -> AnswerHold? {
        guard count > 0 else { return nil }
        return try await (answers ?? .process).reserve(count)
    }
}

public struct RPCReply: Sendable {
    public var message: [UInt8]
    public var payload: Payload?
    /// What the answer has of the budget of answers: given back when it has been sent.
    public var hold: AnswerHold?

    public init(_ message: [UInt8] = [], payload: Payload? = nil) {
        self.message = message
        self.payload = payload
    }

    /// Bytes of message and payload.
    var bytes: Int { message.count + (payload?.count ?? 0) }
}

/// Answers requests. Called on a reactor of the server, in the order in which the requests of a
/// connection arrived: everything before the first suspension happens in that order.
public protocol RPCHandler: Sendable {
    /// Called with the head and the token of a request before its payload is received and before
    /// anything is done for it. Throws why this peer may not call this method; nothing follows
    /// then. On a reactor of the server, where it must not block.
    func authorize(
        method: UInt16, token: [UInt8], peer: PeerIdentity
    ) throws(StoreError)
    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply
    /// Takes a request whose sender waits for no answer (`RPCChannel.post`), in its place among the
    /// others. On a reactor of the server, where it must not block. What cannot be taken is dropped.
    func take(_ post: RPCRequest)
    /// Called right before a request is handled: may add to it, and names who is to handle it. A
    /// handler around another one names that, so that there is no function more to suspend.
    func prepare(_ request: inout RPCRequest) -> any RPCHandler
    /// Called with what became of a request, once for each `prepare`.
    func conclude(_ request: RPCRequest, _ outcome: RPCOutcome)
}

extension RPCHandler {
    /// Permits everything to everybody.
    public func authorize(
        method: UInt16, token: [UInt8], peer: PeerIdentity
    ) throws(StoreError) {}
    /// Drops it.
    public func take(_ post: RPCRequest) {}
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
