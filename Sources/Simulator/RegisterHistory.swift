/// What a client asks of one register, and what it was told.
public struct RegisterOperation: Equatable, Sendable {
    /// The question. Values are numbers; 0 is what a register holds before any write. Each write
    /// and swap of a history brings a value of its own.
    public enum Request: Equatable, Sendable {
        case read
        case write(UInt32)
        /// Sets `to` if the register holds `from`.
        case swap(from: UInt32, to: UInt32)
    }

    /// The answer. A swap was done if `observed` equals its `from`.
    public enum Answer: Equatable, Sendable {
        case value(UInt32)
        case written
        case observed(UInt32)
    }

    public var request: Request
    /// When it was asked, on any clock that orders the events of the history.
    public var call: UInt64
    /// When the answer came; nil where none did, so that nobody knows whether it was done.
    public var end: UInt64?
    public var answer: Answer?

    public init(_ request: Request, call: UInt64, end: UInt64? = nil, answer: Answer? = nil) {
        precondition((end == nil) == (answer == nil), "an end and an answer come together")
        self.request = request
        self.call = call
        self.end = end
        self.answer = answer
    }

    /// The value it may bring into the register.
    var newValue: UInt32? {
        switch request {
        case .read: nil
        case .write(let value), .swap(_, let value): value
        }
    }

    /// The value that its answer shows the register held before it.
    var observedValue: UInt32? {
        switch answer {
        case .value(let value), .observed(let value): value
        case .written, nil: nil
        }
    }

    /// The register after this operation is done on one that holds `value`; nil if the answer says
    /// otherwise.
    func applied(to value: UInt32) -> UInt32? {
        switch (request, answer) {
        case (.read, .value(let seen)): seen == value ? value : nil
        case (.read, _): value
        case (.write(let new), _): new
        case (.swap(let from, let to), .observed(let seen)):
            seen == value ? (seen == from ? to : value) : nil
        case (.swap(let from, let to), _): value == from ? to : value
        }
    }
}

/// All operations on one register, and whether they are linearizable (Herlihy and Wing 1990).
///
/// The search is that of Wing and Gong (1993) with Lowe's pruning (2017): operations are taken in
/// an order that their calls and ends allow, each must give the answer that was seen, and a set of
/// done operations that led to the same value before is not tried again. An operation without
/// an answer may be done at any time after its call, or never: it then stands at the end.
public struct RegisterHistory: Sendable {
    public var operations: [RegisterOperation] = []

    public init(_ operations: [RegisterOperation] = []) { self.operations = operations }

    /// How the search ended.
    public enum Verdict: Equatable, Sendable {
        case linearizable
        case notLinearizable
        /// The search took more than `Limits.linearizationSteps` steps.
        case tooLong
    }

    /// Searches for an order in which one register would have given these answers.
    public func verdict() -> Verdict {
        var search = Search(operations: Self.relevant(operations))
        return search.run()
    }

    /// Leaves out what cannot matter: reads without an answer, and writes without one whose value
    /// nobody saw (such a write can always be the last of all).
    static func relevant(_ operations: [RegisterOperation]) -> [RegisterOperation] {
        var seen = Set<UInt32>()
        for operation in operations {
            if let value = operation.observedValue { seen.insert(value) }
        }
        return operations.filter { operation in
            guard operation.end == nil else { return true }
            guard let value = operation.newValue else { return false }
            return seen.contains(value)
        }
    }
}

/// A state of the search that was reached before: which operations are done, and the value then.
private struct Reached: Hashable {
    var done: [UInt64]
    var value: UInt32
}

/// The calls and ends of a history in the order of time, as a list from which operations are taken
/// out and put back in O(1).
private struct Search {
    private struct Node {
        var operation: Int
        var isCall: Bool
        var before: Int
        var after: Int
    }

    private let operations: [RegisterOperation]
    /// Node 0 is the head; node `2 * i + 1` is the call of operation i, `2 * i + 2` its end.
    private var nodes: [Node]
    private var value: UInt32 = 0
    private var done: [UInt64]

    init(operations: [RegisterOperation]) {
        self.operations = operations
        done = [UInt64](repeating: 0, count: (operations.count + 63) / 64)
        nodes = [Node(operation: -1, isCall: false, before: -1, after: -1)]
        var moments: [(time: UInt64, isEnd: Int, node: Int)] = []
        for (index, operation) in operations.enumerated() {
            nodes.append(Node(operation: index, isCall: true, before: -1, after: -1))
            nodes.append(Node(operation: index, isCall: false, before: -1, after: -1))
            moments.append((operation.call, 0, 2 * index + 1))
            moments.append((operation.end ?? .max, 1, 2 * index + 2))
        }
        moments.sort { ($0.time, $0.isEnd, $0.node) < ($1.time, $1.isEnd, $1.node) }
        var last = 0
        for moment in moments {
            nodes[last].after = moment.node
            nodes[moment.node].before = last
            last = moment.node
        }
    }

    mutating func run() -> RegisterHistory.Verdict {
        var reached = Set<Reached>()
        var taken: [(operation: Int, value: UInt32)] = []
        var cursor = nodes[0].after
        var steps = 0
        while nodes[0].after >= 0 {
            steps += 1
            guard steps <= Limits.linearizationSteps else { return .tooLong }
            if cursor >= 0, nodes[cursor].isCall {
                let operation = nodes[cursor].operation
                if let next = operations[operation].applied(to: value) {
                    done[operation / 64] |= 1 << UInt64(operation % 64)
                    if reached.insert(Reached(done: done, value: next)).inserted {
                        taken.append((operation, value))
                        value = next
                        takeOut(operation)
                        cursor = nodes[0].after
                        continue
                    }
                    done[operation / 64] &= ~(1 << UInt64(operation % 64))
                }
                cursor = nodes[cursor].after
            } else {
                guard let last = taken.popLast() else { return .notLinearizable }
                value = last.value
                done[last.operation / 64] &= ~(1 << UInt64(last.operation % 64))
                putBack(last.operation)
                cursor = nodes[2 * last.operation + 1].after
            }
        }
        return .linearizable
    }

    private mutating func takeOut(_ operation: Int) {
        for node in [2 * operation + 1, 2 * operation + 2] {
            let (before, after) = (nodes[node].before, nodes[node].after)
            nodes[before].after = after
            if after >= 0 { nodes[after].before = before }
        }
    }

    private mutating func putBack(_ operation: Int) {
        for node in [2 * operation + 2, 2 * operation + 1] {
            let (before, after) = (nodes[node].before, nodes[node].after)
            nodes[before].after = node
            if after >= 0 { nodes[after].before = node }
        }
    }
}
