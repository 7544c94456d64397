/// Names one change that a client asks for, however often it is sent: whoever carries changes out
/// does it once and gives the first answer to all repeats.
///
/// A client is one sequence of calls. It numbers them upwards, each number for one call.
public struct CallID: Hashable, Sendable {
    /// Drawn at random by whoever makes the calls.
    public var client: Identity128
    /// The call's number among those of its client.
    public var sequence: UInt64
    /// All calls of this client below it were answered to their callers or given up, so that what
    /// they were answered may be forgotten.
    public var answeredBelow: UInt64
    /// It was sent before, and that may have come to something.
    public var isRepeat: Bool

    public init(
        client: Identity128, sequence: UInt64, answeredBelow: UInt64 = 0, isRepeat: Bool = false
    ) {
        self.client = client
        self.sequence = sequence
        self.answeredBelow = answeredBelow
        self.isRepeat = isRepeat
    }
}
