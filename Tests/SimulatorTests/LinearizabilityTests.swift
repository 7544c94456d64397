@testable import Simulator
import Testing

@Suite("Linearizability of registers")
struct LinearizabilityTests {
    typealias Operation = RegisterOperation

    @Test("a read that returns an overwritten value is not linearizable")
    func staleRead() {
        let operations = [
            Operation(.write(1), call: 0, end: 1, answer: .written),
            Operation(.write(2), call: 2, end: 3, answer: .written),
            Operation(.read, call: 4, end: 5, answer: .value(1)),
        ]
        #expect(RegisterHistory(operations).verdict() == .notLinearizable)
        #expect(!Self.track(operations))
    }

    @Test("a read beside a write may return the value before or after it")
    func concurrentRead() {
        for value: UInt32 in [0, 1] {
            let operations = [
                Operation(.write(1), call: 0, end: 10, answer: .written),
                Operation(.read, call: 2, end: 3, answer: .value(value)),
            ]
            #expect(RegisterHistory(operations).verdict() == .linearizable)
            #expect(Self.track(operations))
        }
    }

    @Test("two reads in turn do not go back in time beside one write")
    func readsGoForward() {
        let operations = [
            Operation(.write(1), call: 0, end: 10, answer: .written),
            Operation(.read, call: 1, end: 2, answer: .value(1)),
            Operation(.read, call: 3, end: 4, answer: .value(0)),
        ]
        #expect(RegisterHistory(operations).verdict() == .notLinearizable)
        #expect(!Self.track(operations))
    }

    @Test("a write without an answer may be done late, or never, but not undone")
    func unanswered() {
        let write = Operation(.write(1), call: 0)
        func read(_ time: UInt64, _ value: UInt32) -> Operation {
            Operation(.read, call: time, end: time + 1, answer: .value(value))
        }
        for values: [UInt32] in [[0, 0], [0, 1], [1, 1]] {
            let operations = [write, read(10, values[0]), read(20, values[1])]
            #expect(RegisterHistory(operations).verdict() == .linearizable)
            #expect(Self.track(operations))
        }
        let back = [write, read(10, 1), read(20, 0)]
        #expect(RegisterHistory(back).verdict() == .notLinearizable)
        #expect(!Self.track(back))
    }

    @Test("a swap that two clients both won is not linearizable")
    func doubleSwap() {
        let operations = [
            Operation(.swap(from: 0, to: 1), call: 0, end: 9, answer: .observed(0)),
            Operation(.swap(from: 0, to: 2), call: 1, end: 8, answer: .observed(0)),
        ]
        #expect(RegisterHistory(operations).verdict() == .notLinearizable)
        #expect(!Self.track(operations))
    }

    /// Both checkers against a search of all orders, over histories of up to seven operations; half
    /// of them come from a register, half have one answer bent.
    @Test("both checkers agree with a search of all orders on 4000 random histories")
    func agreement() {
        var linearizable = 0
        for seed in 0..<4000 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let count = generator.int(in: 1...7)
            let operations = RandomHistory.draw(
                count: count, bent: seed % 2 == 1, from: &generator)
            let truth = Self.someOrderExplains(operations)
            linearizable += truth ? 1 : 0
            let verdict = RegisterHistory(operations).verdict()
            #expect(verdict == (truth ? .linearizable : .notLinearizable), "seed \(seed)")
            #expect(Self.track(operations) == truth, "seed \(seed)")
        }
        // Neither answer is the only one.
        #expect((2000...3800).contains(linearizable))
    }

    @Test("both checkers agree on 300 histories of a hundred operations")
    func longAgreement() {
        var linearizable = 0
        for seed in 0..<300 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed, stream: 7)
            let operations = RandomHistory.draw(
                count: 100, lost: 0.02, bent: seed % 2 == 1, from: &generator)
            let verdict = RegisterHistory(operations).verdict()
            linearizable += verdict == .linearizable ? 1 : 0
            #expect(Self.track(operations) == (verdict == .linearizable), "seed \(seed)")
        }
        #expect((150...298).contains(linearizable))
    }

    /// Feeds the operations in the order of time to the checker that works while they happen.
    private static func track(_ operations: [Operation]) -> Bool {
        var moments: [(time: UInt64, isEnd: Bool, index: Int)] = []
        for (index, operation) in operations.enumerated() {
            moments.append((operation.call, false, index))
            if let end = operation.end { moments.append((end, true, index)) }
        }
        moments.sort { ($0.time, $0.isEnd ? 1 : 0) < ($1.time, $1.isEnd ? 1 : 0) }
        var tracker = RegisterTracker()
        var slots: [Int: RegisterTracker.Slot] = [:]
        for moment in moments {
            let operation = operations[moment.index]
            if !moment.isEnd {
                slots[moment.index] = tracker.call(operation.request)
                if operation.end == nil, let slot = slots[moment.index] { tracker.abandon(slot) }
            } else if let slot = slots[moment.index], let answer = operation.answer {
                if !tracker.end(slot, with: answer) { return false }
            }
        }
        return true
    }

    /// Tries every order that the times allow, and every set of unanswered operations.
    private static func someOrderExplains(_ operations: [Operation]) -> Bool {
        func search(_ left: [Operation], _ value: UInt32) -> Bool {
            guard left.contains(where: { $0.end != nil }) else { return true }
            let firstEnd = left.compactMap(\.end).min() ?? .max
            for (index, operation) in left.enumerated() where operation.call <= firstEnd {
                guard let next = operation.applied(to: value) else { continue }
                var rest = left
                rest.remove(at: index)
                if search(rest, next) { return true }
            }
            return false
        }
        return search(operations, 0)
    }
}

/// Histories of clients that ask one register at the same time.
enum RandomHistory {
    /// Operations that a register answered, each at some moment between its call and its end; one
    /// answer of a bent history is another value's.
    static func draw(
        count: Int, lost: Double = 0.1, bent: Bool, from generator: inout SeededGenerator
    ) -> [RegisterOperation] {
        var value: UInt32 = 0
        var written: [UInt32] = [0]
        var operations: [RegisterOperation] = []
        for index in 0..<count {
            // The moment at which the register answers.
            let moment = UInt64(index) * 10 + 100
            let call = moment - UInt64(generator.int(in: 1...30))
            let end = moment + UInt64(generator.int(in: 1...30))
            let new = UInt32(index + 1)
            let request: RegisterOperation.Request
            switch generator.int(in: 0...3) {
            case 0: request = .write(new)
            case 1:
                let from = generator.chance(0.7) ? value : generator.element(of: written) ?? 0
                request = .swap(from: from, to: new)
            default: request = .read
            }
            var operation = RegisterOperation(request, call: call)
            let isLost = generator.chance(lost)
            let isDone = !isLost || generator.chance(0.5)
            if !isLost {
                operation.end = end
                operation.answer =
                    switch request {
                    case .read: .value(value)
                    case .write: .written
                    case .swap: .observed(value)
                    }
            }
            if isDone, let next = operation.applied(to: value) { value = next }
            if case .read = request {} else { written.append(new) }
            operations.append(operation)
        }
        if bent { bend(&operations, written, &generator) }
        // Distinct times: the checkers need not agree on what stands at the same instant.
        for index in operations.indices {
            operations[index].call = operations[index].call * 1000 + UInt64(index)
            if let end = operations[index].end {
                operations[index].end = end * 1000 + 500 + UInt64(index)
            }
        }
        return operations
    }

    private static func bend(
        _ operations: inout [RegisterOperation], _ written: [UInt32],
        _ generator: inout SeededGenerator
    ) {
        guard let index = generator.element(of: Array(operations.indices)),
            let value = generator.element(of: written)
        else { return }
        switch operations[index].answer {
        case .value: operations[index].answer = .value(value)
        case .observed: operations[index].answer = .observed(value)
        case .written, nil: break
        }
    }
}
