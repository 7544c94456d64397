import Model
import Raft
import Reactor
import Synchronization

// Linearizable reads (Raft thesis, section 6.4): the leader's commit index at the time of the
// question, confirmed by a majority, must be applied before the answer is read.

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

    /// By the number that is their context.
    var asked: [UInt64: Question] = [:]
    /// For the next question.
    var gathered: [Waiter] = []
    /// Confirmed; may go on when the index is applied.
    struct Confirmed {
        var index: LogIndex
        var waiter: Waiter
        /// Left until it is given up where another leads.
        var ticks: Int
    }
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

extension RaftMember {
    /// Returns when everything that was answered anywhere in the group before the call can be
    /// read here. At once in a group of one, and on a leader that has its lease. Elsewhere the leader
    /// is asked how far that goes.
    ///
    /// - Throws: `notLeader` if there is no leader, or it could not be confirmed as such.
    public nonisolated func readBarrier() async throws(StoreError) {
        if mayReadAlone {
            if !isBehind.load(ordering: .acquiring) { return }
            if try await untilReadable() { return }
        }
        try await confirmRead()
    }

    /// Whether no other member can have committed anything that this one does not know of.
    private nonisolated var mayReadAlone: Bool {
        isAlone.load(ordering: .acquiring) || holdsLease
    }

    /// Whether nobody else can lead yet.
    nonisolated var holdsLease: Bool {
        let end = leaseEnd.load(ordering: .acquiring)
        return end > 0 && reactor.now().nanoseconds < end
    }

    private func confirmed(
        _ waiter: WaitingReads.Waiter, at index: LogIndex
    ) -> WaitingReads.Confirmed {
        WaitingReads.Confirmed(
            index: index, waiter: waiter, ticks: Limits.readElections * options.electionTicks)
    }

    /// Waits until what others may have applied by now can be read here. False if this member must
    /// ask others after all.
    ///
    /// An entry may be applied by a follower, and read there, before the leader has it on its own
    /// disk: then it is committed without the leader's copy.
    private func untilReadable() async throws(StoreError) -> Bool {
        guard !isClosed, mayReadAlone else { return false }
        let index = toldCommit
        if index <= readable { return true }
        guard reads.count < Limits.waitingReads else {
            throw Self.tooManyReads
        }
        let result: Result<Void, StoreError> = await withCheckedContinuation { waiter in
            reads.confirmed.append(confirmed(waiter, at: index))
        }
        try result.get()
        return true
    }

    /// Looks whether others may have applied what cannot be read here. To be called before any
    /// message leaves that tells them of a commit.
    func noteBehind() {
        let isNow = hasOthers && role == .leader && toldCommit > readable
        if isBehind.load(ordering: .relaxed) != isNow {
            isBehind.store(isNow, ordering: .releasing)
        }
    }

    private static var tooManyReads: StoreError {
        StoreError(.overloaded, "too many reads wait already: try again later")
    }

    private func confirmRead() async throws(StoreError) {
        guard !isClosed else { throw StoreError(.notLeader, "the group is closed") }
        guard leader != .none else { throw notLeader }
        guard reads.count < Limits.waitingReads else {
            throw Self.tooManyReads
        }
        let result: Result<Void, StoreError> = await withCheckedContinuation { waiter in
            reads.gathered.append(waiter)
            // What is under way may have been asked before this read began.
            if reads.asked.isEmpty {
                askForReads()
                carryOut()
            }
        }
        try result.get()
    }

    /// Asks for all reads that have gathered.
    private func askForReads() {
        guard !reads.gathered.isEmpty else { return }
        let waiters = reads.gathered
        reads.gathered = []
        let number = reads.next
        reads.next += 1
        reads.asked[number] = WaitingReads.Question(
            waiters: waiters, ticks: Limits.readElections * options.electionTicks)
        let context = reads.context(number)
        guard attempt({ node throws(RaftError) in try node.readIndex(context: context) }) != nil
        else { return }
        reads.asked[number] = nil
        for waiter in waiters { waiter.resume(returning: .failure(notLeader)) }
    }

    func readConfirmed(_ state: ReadState) {
        guard let number = reads.number(state.context),
            let question = reads.asked.removeValue(forKey: number)
        else { return }
        if state.index <= readable {
            for waiter in question.waiters { waiter.resume(returning: .success(())) }
        } else {
            reads.confirmed += question.waiters.map { confirmed($0, at: state.index) }
        }
        if reads.asked.isEmpty { askForReads() }
    }

    /// More has been applied.
    func readsMayGoOn() {
        guard !reads.confirmed.isEmpty else { return }
        let applied = readable
        var waiting: [WaitingReads.Confirmed] = []
        for read in reads.confirmed {
            if read.index <= applied {
                read.waiter.resume(returning: .success(()))
            } else {
                waiting.append(read)
            }
        }
        reads.confirmed = waiting
    }

    /// A question or its answer may be lost: reads do not wait for ever, and those that came since
    /// do not wait for its answer. Nor does an entry come where the leader cannot be reached any
    /// more.
    func tickReads() {
        giveUpConfirmed()
        for (number, question) in reads.asked.sorted(by: { $0.key < $1.key }) {
            if question.ticks <= 1 {
                reads.asked[number] = nil
                for waiter in question.waiters { waiter.resume(returning: .failure(notLeader)) }
            } else {
                reads.asked[number]?.ticks -= 1
            }
        }
        askForReads()
    }

    private func giveUpConfirmed() {
        guard role != .leader, !reads.confirmed.isEmpty else { return }
        var waiting: [WaitingReads.Confirmed] = []
        for var read in reads.confirmed {
            read.ticks -= 1
            if read.ticks > 0 {
                waiting.append(read)
            } else {
                read.waiter.resume(returning: .failure(notLeader))
            }
        }
        reads.confirmed = waiting
    }

    /// The leader that was asked is none any more.
    func abandonReads(_ error: StoreError? = nil) {
        let asked = reads.asked.sorted { $0.key < $1.key }
        let waiters = asked.flatMap(\.value.waiters) + reads.gathered
        reads.asked = [:]
        reads.gathered = []
        for waiter in waiters { waiter.resume(returning: .failure(error ?? notLeader)) }
        guard let error else { return }
        let confirmed = reads.confirmed
        reads.confirmed = []
        for read in confirmed { read.waiter.resume(returning: .failure(error)) }
    }
}
