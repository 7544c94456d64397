/// Whether a history of one key can be that of a register to which each operation happened at one
/// moment between its beginning and its end (Herlihy and Wing, 1990).
///
/// The search is that of Wing and Gong (1993) with the memory of Lowe (2017): operations are taken
/// in an order that real time allows, and no set of operations is tried twice with the same state
/// after it. Besides, what is answered as the state is now and changes nothing is taken at once and
/// for good: whatever order follows, it can be put first. So the search branches where writes
/// overlap, and nowhere else.
public struct LinearizabilityCheck {
    public enum Verdict: Hashable, Sendable {
        case linearizable
        /// No order explains the history. The longest one that was found explains all operations
        /// but these that had been answered.
        case violated(unexplained: [KeyOperation])
        /// More than the limit of configurations was tried.
        case undecided
    }

    /// Configurations that are tried before the search gives up.
    public static let configurations = 5_000_000

    private struct Configuration: Hashable {
        var taken: [UInt64]
        var state: Register.State
    }

    /// An operation's beginning or end, in a list in the order of time.
    private struct Event {
        var operation: Int
        var isEnd: Bool
        var previous: Int
        var next: Int
    }

    private struct Step {
        var operation: Int
        var stateBefore: Register.State
        /// There was nothing to choose.
        var isForced: Bool
    }

    private let operations: [KeyOperation]
    /// Event 0 is the head of the list; the last event is followed by 0.
    private var events: [Event]
    private var begins: [Int]
    private var ends: [Int?]
    private var taken: [UInt64]
    private var state: Register.State
    private var left: Int
    private var steps: [Step] = []
    private var tried: Set<Configuration> = []
    /// Of the longest order that was found.
    private var fewestLeft: Int
    private var mostTaken: [UInt64] = []

    /// The verdict on `history`, in any order, of a key that is in `state` at first.
    public static func verdict(
        on history: [KeyOperation], from state: Register.State = nil,
        limit: Int = LinearizabilityCheck.configurations
    ) -> Verdict {
        var check = LinearizabilityCheck(history, state)
        return check.search(limit)
    }

    private init(_ history: [KeyOperation], _ state: Register.State) {
        // Who asked and was told nothing has changed nothing.
        operations = history.filter { $0.answer != nil || $0.action != .get }
        self.state = state
        taken = Array(repeating: 0, count: (operations.count + 63) / 64)
        left = operations.count { $0.answer != nil }
        fewestLeft = left + 1
        // At the same moment beginnings come first: the operations overlap.
        var order: [(time: UInt64, isEnd: Bool, operation: Int)] = []
        for (number, operation) in operations.enumerated() {
            order.append((operation.began, false, number))
            if let ended = operation.ended { order.append((ended, true, number)) }
        }
        order.sort {
            ($0.time, $0.isEnd ? 1 : 0, $0.operation) < ($1.time, $1.isEnd ? 1 : 0, $1.operation)
        }
        begins = Array(repeating: 0, count: operations.count)
        ends = Array(repeating: nil, count: operations.count)
        events = [Event(operation: -1, isEnd: false, previous: order.count, next: 1)]
        for (place, event) in order.enumerated() {
            let number = place + 1
            events.append(
                Event(
                    operation: event.operation, isEnd: event.isEnd, previous: place,
                    next: number == order.count ? 0 : number + 1))
            if event.isEnd {
                ends[event.operation] = number
            } else {
                begins[event.operation] = number
            }
        }
        if order.isEmpty { events[0].next = 0 }
    }

    private mutating func search(_ limit: Int) -> Verdict {
        var place = events[0].next
        while left > 0 {
            noteProgress()
            guard place != 0, !events[place].isEnd else {
                // What ends here has not been taken, and must have been: back.
                guard let next = goBack() else { return .violated(unexplained: unexplained) }
                place = next
                continue
            }
            let number = events[place].operation
            if take(number) {
                guard tried.count <= limit else { return .undecided }
                place = events[0].next
            } else {
                place = events[place].next
            }
        }
        return .linearizable
    }

    /// Takes an operation as the next one, if it can be.
    private mutating func take(_ number: Int) -> Bool {
        let operation = operations[number]
        let (after, answer) = Register.apply(operation.action, to: state)
        let isAnswered = operation.answer != nil
        if isAnswered, answer != operation.answer { return false }
        // One that was not answered and changes nothing may as well not be.
        if !isAnswered, after == state { return false }
        let isForced = after == state
        taken[number / 64] |= 1 << (number % 64)
        if !isForced {
            guard tried.insert(Configuration(taken: taken, state: after)).inserted else {
                taken[number / 64] &= ~(1 << (number % 64))
                return false
            }
        }
        steps.append(Step(operation: number, stateBefore: state, isForced: isForced))
        state = after
        if isAnswered { left -= 1 }
        unlink(begins[number])
        if let end = ends[number] { unlink(end) }
        return true
    }

    /// Takes back the last operation that was chosen; what is to be tried instead. nil if there was
    /// none to choose.
    private mutating func goBack() -> Int? {
        while let step = steps.popLast() {
            let number = step.operation
            state = step.stateBefore
            taken[number / 64] &= ~(1 << (number % 64))
            if operations[number].answer != nil { left += 1 }
            // The other way round than they were taken out.
            if let end = ends[number] { relink(end) }
            relink(begins[number])
            if !step.isForced { return events[begins[number]].next }
        }
        return nil
    }

    private mutating func unlink(_ place: Int) {
        let event = events[place]
        events[event.previous].next = event.next
        events[event.next].previous = event.previous
    }

    private mutating func relink(_ place: Int) {
        let event = events[place]
        events[event.previous].next = place
        events[event.next].previous = place
    }

    private mutating func noteProgress() {
        guard left < fewestLeft else { return }
        fewestLeft = left
        mostTaken = taken
    }

    private var unexplained: [KeyOperation] {
        operations.indices.filter {
            operations[$0].answer != nil && mostTaken[$0 / 64] & (1 << ($0 % 64)) == 0
        }.map { operations[$0] }
    }
}
