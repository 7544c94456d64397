import Chance
import Linearizability
import Testing

private typealias Verdict = LinearizabilityCheck.Verdict

private func put(
    _ value: UInt64, _ condition: Register.Condition = .none,
    _ answer: Register.Answer = .done, _ time: ClosedRange<UInt64>
) -> KeyOperation {
    KeyOperation(.put(value, condition), answer, from: time.lowerBound, to: time.upperBound)
}
private func get(_ value: UInt64?, _ time: ClosedRange<UInt64>) -> KeyOperation {
    KeyOperation(.get, .value(value), from: time.lowerBound, to: time.upperBound)
}
private func delete(
    _ condition: Register.Condition = .none, _ answer: Register.Answer,
    _ time: ClosedRange<UInt64>
) -> KeyOperation {
    KeyOperation(.delete(condition), answer, from: time.lowerBound, to: time.upperBound)
}
private func open(_ action: Register.Action, from time: UInt64) -> KeyOperation {
    KeyOperation(unanswered: action, from: time)
}

private func isLinearizable(_ history: [KeyOperation]) -> Bool {
    LinearizabilityCheck.verdict(on: history) == .linearizable
}

@Suite("Linearizability")
struct LinearizabilityTests {
    @Test("one operation after the other is a register")
    func sequential() {
        #expect(isLinearizable([]))
        #expect(
            isLinearizable([
                get(nil, 1...2), put(1, .none, .done, 3...4), get(1, 5...6),
                put(2, .ifAbsent, .preconditionFailed, 7...8),
                put(3, .ifValue(1), .done, 9...10),
                put(4, .ifValue(1), .preconditionFailed, 11...12),
                delete(.ifValue(1), .preconditionFailed, 13...14),
                delete(.none, .deleted(existed: true), 15...16),
                delete(.none, .deleted(existed: false), 17...18),
                put(5, .ifValue(3), .noSuchKey, 19...20), put(6, .ifAbsent, .done, 21...22),
                get(6, 23...24),
            ]))
    }

    @Test("operations that overlap may have happened in either order")
    func overlapping() {
        #expect(
            isLinearizable([
                put(1, .none, .done, 1...10), put(2, .none, .done, 2...9), get(1, 11...12),
            ]))
        #expect(
            isLinearizable([
                put(1, .none, .done, 1...10), put(2, .none, .done, 2...9), get(2, 3...4),
                get(1, 5...6), get(1, 11...12),
            ]))
        #expect(
            isLinearizable([
                put(1, .ifAbsent, .done, 1...10), put(2, .ifAbsent, .preconditionFailed, 1...10),
            ]))
    }

    @Test("a stale read is refused")
    func staleRead() {
        let history = [
            put(1, .none, .done, 1...2), put(2, .none, .done, 3...4), get(1, 5...6),
        ]
        #expect(
            LinearizabilityCheck.verdict(on: history)
                == .violated(unexplained: [history[2]]))
        #expect(!isLinearizable([put(1, .none, .done, 1...2), get(nil, 3...4)]))
        // Two readers that see two writes in different orders.
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...20), put(2, .none, .done, 1...20), get(1, 2...3),
                get(2, 4...5), get(1, 6...7), get(2, 8...9),
            ]))
    }

    @Test("a lost write, and one that came back, are refused")
    func lostWrite() {
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), put(2, .ifValue(1), .done, 3...4), get(1, 5...6),
            ]))
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), delete(.none, .deleted(existed: true), 3...4),
                get(1, 5...6),
            ]))
        #expect(!isLinearizable([get(7, 1...2)]))
    }

    @Test("of two writers that replace the same value one at most is told so")
    func twoWinners() {
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), put(2, .ifValue(1), .done, 3...8),
                put(3, .ifValue(1), .done, 4...9),
            ]))
        #expect(
            !isLinearizable([put(1, .ifAbsent, .done, 1...8), put(2, .ifAbsent, .done, 1...8)]))
    }

    @Test("a write that was made twice is refused")
    func twice() {
        // The write of 1 was repeated after 2 had replaced it.
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), put(2, .none, .done, 3...4), get(2, 5...6),
                get(1, 7...8),
            ]))
        // A repeated deletion took what was made after the first.
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), delete(.none, .deleted(existed: true), 3...4),
                put(2, .none, .done, 5...6), get(nil, 7...8),
            ]))
        // A repeat of a write that was refused for its own first attempt.
        #expect(
            !isLinearizable([
                put(1, .ifAbsent, .preconditionFailed, 1...5), get(1, 6...7),
            ]))
    }

    @Test("refusals are answers, and must be right")
    func refusals() {
        #expect(!isLinearizable([put(1, .ifAbsent, .preconditionFailed, 1...2)]))
        #expect(!isLinearizable([put(1, .ifValue(3), .preconditionFailed, 1...2)]))
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), put(2, .ifValue(1), .noSuchKey, 3...4),
            ]))
        #expect(
            !isLinearizable([
                put(1, .none, .done, 1...2), delete(.none, .deleted(existed: false), 3...4),
            ]))
    }

    @Test("what was not answered may have happened at any time since, or never")
    func unanswered() {
        let write = open(.put(1, .none), from: 1)
        #expect(isLinearizable([write, get(nil, 2...3), get(nil, 100...101)]))
        #expect(isLinearizable([write, get(nil, 2...3), get(1, 100...101)]))
        #expect(!isLinearizable([write, get(1, 2...3), get(nil, 100...101)]))
        // Not before it was asked for, and once.
        #expect(!isLinearizable([open(.put(1, .none), from: 5), get(1, 2...3)]))
        #expect(
            !isLinearizable([
                write, get(1, 2...3), put(2, .none, .done, 4...5), get(2, 6...7), get(1, 8...9),
            ]))
        #expect(
            isLinearizable([
                put(3, .none, .done, 1...2), open(.delete(.none), from: 3), get(3, 4...5),
                get(nil, 6...7), put(4, .ifAbsent, .done, 8...9),
            ]))
        // A condition that does not hold changes nothing, answered or not.
        #expect(
            !isLinearizable([
                put(3, .none, .done, 1...2), open(.put(4, .ifAbsent), from: 3), get(4, 4...5),
            ]))
        #expect(isLinearizable([open(.get, from: 1)]))
    }

    @Test("the search agrees with trying all orders, on random histories")
    func allOrders() {
        var generator = SeededGenerator(seed: 9)
        var violated = 0
        for _ in 0..<20_000 {
            let history = randomHistory(&generator, count: 5)
            let expected = triesAllOrders(history)
            if !expected { violated += 1 }
            #expect(isLinearizable(history) == expected, "\(history)")
        }
        #expect(violated > 2000 && violated < 18_000)
    }

    @Test("long histories of a true register are found to be so, and one wrong answer is found")
    func long() {
        var generator = SeededGenerator(seed: 77)
        for round in 0..<30 {
            var history = trueHistory(&generator, count: 400, clients: 8)
            #expect(LinearizabilityCheck.verdict(on: history) == .linearizable, "\(round)")
            // A read of what was never written.
            let place = history.indices.filter { history[$0].action == .get }.randomElement(
                using: &generator)
            guard let place else { continue }
            history[place].answer = .value(1_000_000)
            guard case .violated = LinearizabilityCheck.verdict(on: history) else {
                Issue.record("round \(round)")
                continue
            }
        }
    }

    @Test("a search that would take too long says so")
    func undecided() {
        var history = (1...12).map { put(UInt64($0), .none, .done, 1...100) }
        history.append(get(99, 200...201))
        #expect(LinearizabilityCheck.verdict(on: history, limit: 100) == .undecided)
    }

    // MARK: Histories

    private func randomHistory(
        _ generator: inout SeededGenerator, count: Int
    ) -> [KeyOperation] {
        (0..<count).map { number in
            let began = generator.next() % 12
            let ended = began + generator.next() % 8
            let condition: Register.Condition =
                switch generator.next() % 4 {
                case 0: .ifAbsent
                case 1: .ifValue(generator.next() % UInt64(count))
                default: .none
                }
            let action: Register.Action =
                switch generator.next() % 6 {
                case 0, 1: .get
                case 2: .delete(condition)
                default: .put(UInt64(number), condition)
                }
            if generator.next() % 6 == 0 { return KeyOperation(unanswered: action, from: began) }
            // An answer that some state gives.
            let states: [Register.State] = [nil] + (0..<UInt64(count)).map { $0 }
            let state = states.randomElement(using: &generator) ?? nil
            return KeyOperation(
                action, Register.apply(action, to: state).1, from: began, to: ended)
        }
    }

    private func triesAllOrders(_ history: [KeyOperation]) -> Bool {
        func goOn(_ left: [KeyOperation], _ state: Register.State) -> Bool {
            if left.allSatisfy({ $0.answer == nil }) { return true }
            let firstEnd = left.compactMap(\.ended).min() ?? .max
            for (place, operation) in left.enumerated() where operation.began <= firstEnd {
                let (after, answer) = Register.apply(operation.action, to: state)
                guard operation.answer == nil || operation.answer == answer else { continue }
                var rest = left
                rest.remove(at: place)
                if goOn(rest, after) { return true }
            }
            return false
        }
        return goOn(history, nil)
    }

    /// What clients see of a register, each operation at a moment of its interval.
    private func trueHistory(
        _ generator: inout SeededGenerator, count: Int, clients: UInt64
    ) -> [KeyOperation] {
        var state: Register.State
        state = nil
        var history: [KeyOperation] = []
        for number in 0..<count {
            let moment = UInt64(number) * 10 + 1000
            let action: Register.Action =
                switch generator.next() % 6 {
                case 0, 1: .get
                case 2: .delete(.none)
                case 3: .put(UInt64(number), .ifAbsent)
                default: .put(UInt64(number), state.map { .ifValue($0) } ?? .none)
                }
            let began = moment - generator.next() % (10 * clients)
            let isLost = generator.next() % 50 == 0
            let isMade = generator.next() % 2 == 0
            let (after, answer) = Register.apply(action, to: state)
            if !isLost || isMade { state = after }
            history.append(
                isLost
                    ? KeyOperation(unanswered: action, from: began)
                    : KeyOperation(
                        action, answer, from: began,
                        to: moment + generator.next() % (10 * clients)))
        }
        return history
    }
}
