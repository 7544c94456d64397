import Raft

/// A client: one operation after another, each repeated at other nodes until it is answered or
/// given up.
struct SimulatedClient {
    /// The operation that waits for its answer.
    struct Pending {
        var command: Command
        var attempts = 0
        var slot: RegisterTracker.Slot
        /// Where it stands in its register's history.
        var place: Int
    }

    let number: UInt16
    var sequence: UInt32 = 0
    var pending: Pending?
    /// Counts wake-ups: those scheduled for an earlier state are void.
    var token = 0
    /// The node that answered last.
    var node: PeerID?
    /// Whether its operation began after the faults, and whether one such ended.
    var beganHealed = false
    var hasProven = false

    init(number: UInt16) { self.number = number }
}

/// All registers' histories.
struct Histories {
    private(set) var trackers: [RegisterTracker] = []
    private(set) var histories: [RegisterHistory] = []
    /// The value that was seen in each register last, as far as clients know.
    private(set) var lastSeen: [UInt32] = []
    /// Registers in use: the place of each among all that ever were.
    private(set) var current: [RegisterID] = []
    private var moments: UInt64 = 0
    private(set) var operations = 0
    private(set) var unanswered = 0
    private var values: UInt32 = 0

    init(registers: Int) {
        for _ in 0..<registers { current.append(newRegister()) }
    }

    private mutating func newRegister() -> RegisterID {
        trackers.append(RegisterTracker())
        histories.append(RegisterHistory())
        lastSeen.append(0)
        return RegisterID(trackers.count - 1)
    }

    /// A register to use; one that is spent gives way to a new one first.
    mutating func register(from generator: inout SeededGenerator) -> RegisterID {
        let place = generator.int(in: 0...(current.count - 1))
        if trackers[Int(current[place])].isSpent { current[place] = newRegister() }
        return current[place]
    }

    /// A value that no write brought before.
    mutating func newValue() -> UInt32 {
        values += 1
        return values
    }

    /// Begins an operation: the slot of its tracker, and its place in the history.
    mutating func call(
        _ request: RegisterOperation.Request, on register: RegisterID
    ) -> (RegisterTracker.Slot, Int) {
        moments += 1
        operations += 1
        let slot = trackers[Int(register)].call(request)
        histories[Int(register)].operations.append(RegisterOperation(request, call: moments))
        return (slot, histories[Int(register)].operations.count - 1)
    }

    /// Ends it. False if no order explains the answer.
    mutating func end(
        _ pending: SimulatedClient.Pending, with answer: RegisterOperation.Answer
    ) -> Bool {
        moments += 1
        let register = Int(pending.command.register)
        histories[register].operations[pending.place].end = moments
        histories[register].operations[pending.place].answer = answer
        switch (answer, pending.command.request) {
        case (.value(let value), _): lastSeen[register] = value
        case (.written, .write(let value)): lastSeen[register] = value
        case (.observed(let value), .swap(let from, let to)):
            lastSeen[register] = value == from ? to : value
        default: preconditionFailure("the answer is not one to this request")
        }
        return trackers[register].end(pending.slot, with: answer)
    }

    /// Gives it up without an answer.
    mutating func abandon(_ pending: SimulatedClient.Pending) {
        unanswered += 1
        trackers[Int(pending.command.register)].abandon(pending.slot)
    }

    /// The second opinion, on the whole of each history. nil if all are linearizable.
    func firstViolation() -> String? {
        for (register, history) in histories.enumerated() {
            if history.verdict() == .notLinearizable {
                return "the history of register \(register), searched whole, has no order"
            }
        }
        return nil
    }
}
