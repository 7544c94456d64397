import Model
import Raft

/// Reads that wait for their index, and for it to be applied.
///
/// One question is under way at a time, and serves all reads that had come when it was asked; those
/// that come meanwhile share the next.
struct WaitingReads {
    typealias Waiter = CheckedContinuation<Result<Void, StoreError>, Never>

    /// Bytes of a context: member, life and number.
    static let contextBytes = 24

    let member: PeerID
    /// Drawn at each start: an answer that was meant for an earlier life of this member, whose
    /// reads had the same numbers, confirms nothing now.
    let life: UInt64

    /// A question that is not answered yet, with the ticks it has left.
    struct Question {
        var waiters: [Waiter]
        var ticks: Int
    }

    /// A read that may go on when its index is applied.
    struct Confirmed {
        var index: LogIndex
        var waiter: Waiter
        /// Left until it is given up where another leads.
        var ticks: Int
    }

    /// By the number that is their context.
    var asked: [UInt64: Question] = [:]
    /// For the next question.
    var gathered: [Waiter] = []
    var confirmed: [Confirmed] = []
    var next: UInt64 = 0

    /// How many wait.
    var count: Int {
        asked.values.reduce(gathered.count + confirmed.count) { $0 + $1.waiters.count }
    }

    init(of member: PeerID, life: UInt64) {
        self.member = member
        self.life = life
    }

    /// The bytes by which a read is known to whoever confirms it.
    func context(_ number: UInt64) -> [UInt8] {
        var context: [UInt8] = []
        context.appendBigEndian(member.rawValue)
        context.appendBigEndian(life)
        context.appendBigEndian(number)
        return context
    }

    /// The number of a read of this life; nil for any other bytes.
    func number(_ context: [UInt8]) -> UInt64? {
        guard context.count == Self.contextBytes, context.bigEndian(at: 0) == member.rawValue,
            context.bigEndian(at: 8) == life
        else { return nil }
        return context.bigEndian(at: 16)
    }
}
