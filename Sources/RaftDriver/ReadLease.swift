import Raft
import Reactor

/// Until when a leader may answer reads without asking anybody: for so long no other can have been
/// elected (Raft thesis, section 6.4.1).
///
/// Each member that answers a heartbeat refuses its vote for `electionTicks` of its own ticks from
/// when it had it, also after a restart. The leader counts from when it sent it, by a clock that
/// goes on while its process stands still, and ends its lease some ticks earlier: one for the phase
/// of the member's clock, one for a tick of it that came late, one for clocks that run apart, which
/// they may by a tenth. A machine whose clock stands still while others go on (one that is put to
/// sleep) breaks this: set `RaftMemberOptions.usesLease` to false where that is to be feared.
///
/// Pure; belongs to a member, on its reactor.
struct ReadLease {
    /// Ticks by which it ends earlier than votes may be given.
    static let margin = 3

    private let length: Duration
    /// When the leader's ticks began, the last `length` of them, by number.
    private var ticks: [UInt64: MonotonicTime] = [:]
    private let kept: UInt64

    init(tick: Duration, electionTicks: Int) {
        length = tick * max(0, electionTicks - Self.margin)
        kept = UInt64(electionTicks)
    }

    /// The leader's clock is about to make its tick `number`.
    mutating func begin(_ number: UInt64, at now: MonotonicTime) {
        // Another term began to count anew.
        if number <= 1 { ticks = [:] }
        ticks[number] = now
        if number > kept { ticks[number - kept] = nil }
    }

    /// When the lease ends that answers to heartbeats with `number` give; nil if it is over.
    func end(_ number: UInt64) -> MonotonicTime? {
        // A heartbeat bears the number of the tick that comes next.
        guard number > 0, let sent = ticks[number - 1] else { return nil }
        return sent.advanced(by: length)
    }

    /// This member leads no more.
    mutating func forget() { ticks = [:] }
}
