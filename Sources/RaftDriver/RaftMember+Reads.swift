import Model
import Raft
import Reactor
import Synchronization

// Linearizable reads (Raft thesis, section 6.4): the leader's commit index at the time of the
// question, confirmed by a majority, must be applied before the answer is read.

/// Reads that wait for their index, and for it to be applied.
struct WaitingReads {
    typealias Waiter = CheckedContinuation<Result<Void, StoreError>, Never>

    /// Bytes of a context: member, life and number.
    static let contextBytes = 24

    let member: PeerID
    /// Drawn at each start: an answer that was meant for an earlier life of this member, whose
    /// reads had the same numbers, confirms nothing now.
    let life: UInt64
    /// Not confirmed yet, by the number that is their context, with the ticks they have left.
    var asked: [UInt64: (waiter: Waiter, ticks: Int)] = [:]
    /// Confirmed; may go on when the index is applied.
    var confirmed: [(index: UInt64, waiter: Waiter)] = []
    var next: UInt64 = 0

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
    /// read here. At once in a group of one.
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
        if isAlone.load(ordering: .acquiring) { return true }
        let end = leaseEnd.load(ordering: .acquiring)
        return end > 0 && reactor.now().nanoseconds < end
    }

    /// Waits until what is committed by now can be read here. False if this member must ask others
    /// after all.
    ///
    /// An entry may be applied by a follower, and read there, before the leader has it on its own
    /// disk: then it is committed without the leader's copy.
    private func untilReadable() async throws(StoreError) -> Bool {
        guard !isClosed, mayReadAlone else { return false }
        let index = node.basicStatus.hardState.commit
        if index <= readable { return true }
        guard reads.asked.count + reads.confirmed.count < Limits.waitingReads else {
            throw Self.tooManyReads
        }
        let result: Result<Void, StoreError> = await withCheckedContinuation { waiter in
            reads.confirmed.append((index, waiter))
        }
        try result.get()
        return true
    }

    /// Looks whether others may have applied what cannot be read here. To be called before any
    /// message leaves that tells them of a commit.
    func noteBehind() {
        let isNow =
            hasOthers && role == .leader && node.basicStatus.hardState.commit > readable
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
        guard reads.asked.count + reads.confirmed.count < Limits.waitingReads else {
            throw Self.tooManyReads
        }
        let result: Result<Void, StoreError> = await withCheckedContinuation { waiter in
            let number = reads.next
            reads.next += 1
            reads.asked[number] = (
                waiter, Limits.readElections * options.electionTicks
            )
            let context = reads.context(number)
            if attempt({ node throws(RaftError) in try node.readIndex(context: context) }) != nil {
                reads.asked[number] = nil
                waiter.resume(returning: .failure(notLeader))
            }
            carryOut()
        }
        try result.get()
    }

    func readConfirmed(_ state: ReadState) {
        guard let number = reads.number(state.context),
            let read = reads.asked.removeValue(forKey: number)
        else { return }
        if state.index <= readable {
            read.waiter.resume(returning: .success(()))
        } else {
            reads.confirmed.append((state.index, read.waiter))
        }
    }

    /// More has been applied.
    func readsMayGoOn() {
        guard !reads.confirmed.isEmpty else { return }
        let applied = readable
        var waiting: [(index: UInt64, waiter: WaitingReads.Waiter)] = []
        for read in reads.confirmed {
            if read.index <= applied {
                read.waiter.resume(returning: .success(()))
            } else {
                waiting.append(read)
            }
        }
        reads.confirmed = waiting
    }

    /// A question or its answer may be lost: reads do not wait for ever.
    func tickReads() {
        guard !reads.asked.isEmpty else { return }
        for (number, read) in reads.asked.sorted(by: { $0.key < $1.key }) {
            if read.ticks <= 1 {
                reads.asked[number] = nil
                read.waiter.resume(returning: .failure(notLeader))
            } else {
                reads.asked[number]?.ticks -= 1
            }
        }
    }

    /// The leader that was asked is none any more.
    func abandonReads(_ error: StoreError? = nil) {
        let asked = reads.asked
        reads.asked = [:]
        for (_, read) in asked.sorted(by: { $0.key < $1.key }) {
            read.waiter.resume(returning: .failure(error ?? notLeader))
        }
        guard let error else { return }
        let confirmed = reads.confirmed
        reads.confirmed = []
        for read in confirmed { read.waiter.resume(returning: .failure(error)) }
    }
}
