import Raft

/// A client: one operation after another, each repeated at other nodes until it is answered or
/// given up.
struct SimulatedClient {
    /// The operation that waits for its answer.
    struct Pending {
        var command: Command
        var attempts = 0
        var operation: OpenOperation
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

/// An operation of a client between its call and its answer.
public struct OpenOperation: Sendable {
    public let register: UInt32
    public let request: RegisterOperation.Request
    let slot: RegisterTracker.Slot
    /// Where it stands in its register's history.
    let place: Int
}

/// All registers' histories.
public struct Histories {
    private(set) var trackers: [RegisterTracker] = []
    private(set) var histories: [RegisterHistory] = []
    /// The value that was seen in each register last, as far as clients know.
    private var lastSeen: [UInt32] = []
    /// Registers in use: the place of each among all that ever were.
    private(set) var current: [RegisterID] = []
    private var moments: UInt64 = 0
    public private(set) var operations = 0
    public private(set) var unanswered = 0
    private var values: UInt32 = 0

    /// Registers whose history outgrew the checker that runs along.
    public var lost: Int { trackers.count { $0.isLost } }

    /// So many registers in use, each 0.
    public init(registers: Int) {
        for _ in 0..<registers { current.append(newRegister()) }
    }

    private mutating func newRegister() -> RegisterID {
        trackers.append(RegisterTracker())
        histories.append(RegisterHistory())
        lastSeen.append(0)
        return RegisterID(trackers.count - 1)
    }

    /// A register to use; one that is spent gives way to a new one first.
    public mutating func register(from generator: inout SeededGenerator) -> UInt32 {
        let place = generator.int(in: 0...(current.count - 1))
        if trackers[Int(current[place])].isSpent { current[place] = newRegister() }
        return current[place]
    }

    /// A value that no write brought before.
    private mutating func newValue() -> UInt32 {
        values += 1
        return values
    }

    /// What a client may ask of a register: by `readShare` to read, else to write or to swap what
    /// was seen last.
    public mutating func request(
        of register: UInt32, readShare: Double, from generator: inout SeededGenerator
    ) -> RegisterOperation.Request {
        if generator.chance(readShare) { return .read }
        if generator.chance(0.5) { return .write(newValue()) }
        return .swap(from: lastSeen[Int(register)], to: newValue())
    }

    /// Begins an operation.
    public mutating func call(
        _ request: RegisterOperation.Request, on register: UInt32
    ) -> OpenOperation {
        moments += 1
        operations += 1
        let slot = trackers[Int(register)].call(request)
        histories[Int(register)].operations.append(RegisterOperation(request, call: moments))
        return OpenOperation(
            register: register, request: request, slot: slot,
            place: histories[Int(register)].operations.count - 1)
    }

    /// Ends it. False if no order explains the answer.
    public mutating func end(
        _ operation: OpenOperation, with answer: RegisterOperation.Answer
    ) -> Bool {
        moments += 1
        let register = Int(operation.register)
        histories[register].operations[operation.place].end = moments
        histories[register].operations[operation.place].answer = answer
        switch (answer, operation.request) {
        case (.value(let value), _): lastSeen[register] = value
        case (.written, .write(let value)): lastSeen[register] = value
        case (.observed(let value), .swap(let from, let to)):
            lastSeen[register] = value == from ? to : value
        default: preconditionFailure("the answer is not one to this request")
        }
        return trackers[register].end(operation.slot, with: answer)
    }

    /// Gives it up without an answer.
    public mutating func abandon(_ operation: OpenOperation) {
        unanswered += 1
        trackers[Int(operation.register)].abandon(operation.slot)
    }

    /// The second opinion, on the whole of each history. nil if all are linearizable.
    public func firstViolation() -> String? {
        for (register, history) in histories.enumerated() {
            if history.verdict() == .notLinearizable {
                return "the history of register \(register), searched whole, has no order"
            }
        }
        return nil
    }
}
