import Model
import Raft

// Linearizable reads (Raft thesis, section 6.4): the leader's commit index at the time of the
// question, confirmed by a majority, must be applied before the answer is read.

extension MemberCore {
    /// Whether one more read may wait.
    var takesReads: Bool { reads.count < Limits.waitingReads }

    /// Takes a read that is to wait for its index.
    mutating func read(_ waiter: WaitingReads.Waiter) {
        reads.gathered.append(waiter)
        // What is under way may have been asked before this read began.
        if reads.asked.isEmpty { askForReads() }
    }

    /// Takes a read that is to wait until what others may have applied by now can be read here.
    ///
    /// An entry may be applied by a follower, and read there, before the leader has it on its own
    /// disk: then it is committed without the leader's copy.
    mutating func readWhatIsTold(_ waiter: WaitingReads.Waiter) {
        confirm([waiter], at: toldCommit)
    }

    private mutating func confirm(_ waiters: [WaitingReads.Waiter], at index: LogIndex) {
        if index <= readable {
            for waiter in waiters { effects.reads.append((waiter, nil)) }
        } else {
            let ticks = Limits.readElections * electionTicks
            reads.confirmed += waiters.map {
                WaitingReads.Confirmed(index: index, waiter: $0, ticks: ticks)
            }
        }
    }

    private mutating func refuse(_ waiters: [WaitingReads.Waiter], _ refusal: MemberRefusal) {
        for waiter in waiters { effects.reads.append((waiter, refusal)) }
    }

    /// Asks for all reads that have gathered.
    private mutating func askForReads() {
        guard !reads.gathered.isEmpty else { return }
        let waiters = reads.gathered
        reads.gathered = []
        let number = reads.next
        reads.next += 1
        reads.asked[number] = WaitingReads.Question(
            waiters: waiters, ticks: Limits.readElections * electionTicks)
        let context = reads.context(number)
        guard attempt({ node throws(RaftError) in try node.readIndex(context: context) }) != nil
        else { return }
        reads.asked[number] = nil
        refuse(waiters, .notLeader)
    }

    mutating func readConfirmed(_ state: ReadState) {
        guard let number = reads.number(state.context),
            let question = reads.asked.removeValue(forKey: number)
        else { return }
        confirm(question.waiters, at: state.index)
        if reads.asked.isEmpty { askForReads() }
    }

    /// More has been applied.
    mutating func readsMayGoOn() {
        guard !reads.confirmed.isEmpty else { return }
        let confirmed = reads.confirmed
        reads.confirmed = []
        for read in confirmed {
            if read.index <= readable {
                effects.reads.append((read.waiter, nil))
            } else {
                reads.confirmed.append(read)
            }
        }
    }

    /// A question or its answer may be lost: reads do not wait for ever, and those that came since
    /// do not wait for its answer. Nor does an entry come where the leader cannot be reached any
    /// more.
    mutating func tickReads() {
        if role != .leader { tickConfirmed() }
        for (number, question) in reads.asked.sorted(by: { $0.key < $1.key }) {
            if question.ticks <= 1 {
                reads.asked[number] = nil
                refuse(question.waiters, .notLeader)
            } else {
                reads.asked[number]?.ticks -= 1
            }
        }
        askForReads()
    }

    private mutating func tickConfirmed() {
        guard !reads.confirmed.isEmpty else { return }
        let confirmed = reads.confirmed
        reads.confirmed = []
        for var read in confirmed {
            read.ticks -= 1
            if read.ticks > 0 {
                reads.confirmed.append(read)
            } else {
                refuse([read.waiter], .notLeader)
            }
        }
    }

    /// The leader that was asked is none any more.
    ///
    /// - Parameter confirmedToo: reads whose index is known are given up as well.
    mutating func abandonReads(_ refusal: MemberRefusal, confirmedToo: Bool) {
        let asked = reads.asked.sorted { $0.key < $1.key }
        let waiters = asked.flatMap(\.value.waiters) + reads.gathered
        reads.asked = [:]
        reads.gathered = []
        refuse(waiters, refusal)
        guard confirmedToo else { return }
        let confirmed = reads.confirmed.map(\.waiter)
        reads.confirmed = []
        refuse(confirmed, refusal)
    }
}
