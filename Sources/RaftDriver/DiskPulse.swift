import Raft
import Reactor

/// Whether a member's log and state keep up, counted in ticks of its group, so that a leader whose
/// disk hangs gives way.
///
/// Pure: told when a piece of work begins and ends, and when the clock ticks.
struct DiskPulse {
    /// What may hang.
    enum Work: Int, CaseIterable {
        case log, state
    }

    /// When each piece of work that is under way began, or got on; nil for none.
    private var began: [MonotonicTime?] = Array(repeating: nil, count: Work.allCases.count)
    /// Ticks since then.
    private var age: [Int?] = Array(repeating: nil, count: Work.allCases.count)
    /// Ticks since the start.
    private(set) var ticks: UInt64 = 0
    /// When leadership may be handed over again.
    private var nextHandover: UInt64 = 0
    /// To whom it was, the last time: the next attempt is another's.
    private(set) var lastTarget: PeerID?

    /// A piece of work begins, or gets on.
    mutating func begin(_ work: Work, at now: MonotonicTime) {
        age[work.rawValue] = 0
        began[work.rawValue] = now
    }

    /// It is done.
    mutating func end(_ work: Work) {
        age[work.rawValue] = nil
        began[work.rawValue] = nil
    }

    /// The work that has been under way for longest, for who asks how it is: also where no clock
    /// ticks, as in a group of one.
    var oldest: (work: Work, since: MonotonicTime)? {
        Work.allCases.compactMap { work in began[work.rawValue].map { (work, $0) } }
            .min { $0.1 < $1.1 }
    }

    /// The clock ticked.
    mutating func tick() {
        ticks += 1
        for place in age.indices { age[place] = age[place].map { $0 + 1 } }
    }

    /// Whether any piece of work has taken more than so many ticks.
    func isStalled(after limit: Int) -> Bool { age.contains { ($0 ?? 0) > limit } }

    /// Whether an attempt to hand over may be made, one in `interval` ticks.
    mutating func mayHandOver(every interval: Int) -> Bool {
        guard ticks >= nextHandover else { return false }
        nextHandover = ticks + UInt64(interval)
        return true
    }

    /// Leadership is offered to `peer`.
    mutating func handsOver(to peer: PeerID) { lastTarget = peer }
}
