/// Follows the history of one register while it happens, and says at the very answer that no order
/// of the operations explains any more: the just-in-time linearization of Lowe (2017).
///
/// It holds every state in which the register may be (its value, and which of the open operations
/// are done already). A write is done no earlier than an answer needs it; an open read or swap
/// remembers which values it could have seen since its call. What was never answered stays open,
/// so a register is given up after `Limits.openWritesPerRegister` of these: see `isSpent`.
public struct RegisterTracker: Sendable {
    /// Names an operation from its call to its answer.
    public typealias Slot = Int

    private struct Possibility: Hashable, Sendable {
        var value: UInt32
        /// Open operations that are done, one bit a slot.
        var done: UInt64 = 0
        /// Values that open reads and swaps could have seen: slot in the upper half, value in the
        /// lower, in ascending order.
        var seen: [UInt64] = []

        mutating func note(_ slot: Slot, saw value: UInt32) {
            let mark = UInt64(slot) << 32 | UInt64(value)
            let place = seen.firstIndex { $0 >= mark } ?? seen.endIndex
            if place == seen.endIndex || seen[place] != mark { seen.insert(mark, at: place) }
        }

        func saw(_ slot: Slot, _ value: UInt32) -> Bool {
            seen.contains(UInt64(slot) << 32 | UInt64(value))
        }

        mutating func forget(_ slot: Slot) {
            done &= ~(1 << UInt64(slot))
            if !seen.isEmpty { seen.removeAll { $0 >> 32 == UInt64(slot) } }
        }
    }

    private var possibilities: [Possibility] = [Possibility(value: 0)]
    private var open: [RegisterOperation.Request?] = []
    private var unanswered = 0

    /// Operations called so far.
    public private(set) var calls = 0
    /// The possibilities outgrew `Limits.possibilitiesPerRegister`: from then on nothing is found
    /// here, and the whole history must be searched.
    public private(set) var isLost = false

    public init() {}

    /// Whether a new register should take this one's place: too much is open or it is long enough.
    public var isSpent: Bool {
        unanswered >= Limits.openWritesPerRegister || calls >= Limits.operationsPerRegister
            || isLost
    }

    /// Begins an operation. At most 64 are open at a time.
    public mutating func call(_ request: RegisterOperation.Request) -> Slot {
        let slot = open.firstIndex { $0 == nil } ?? open.endIndex
        precondition(slot < 64, "a register has at most 64 open operations")
        if slot == open.endIndex { open.append(request) } else { open[slot] = request }
        calls += 1
        if case .write = request { return slot }
        for index in possibilities.indices {
            possibilities[index].note(slot, saw: possibilities[index].value)
        }
        return slot
    }

    /// Gives an operation up without an answer: a read is forgotten, a write stays possible.
    public mutating func abandon(_ slot: Slot) {
        if case .read = open[slot] {
            close(slot, keeping: possibilities)
        } else {
            unanswered += 1
        }
    }

    /// Ends an operation with its answer. False if no order explains it: not linearizable.
    public mutating func end(_ slot: Slot, with answer: RegisterOperation.Answer) -> Bool {
        guard !isLost else { return true }
        var reached = Set<Possibility>()
        var kept: [Possibility] = []
        var frontier = possibilities
        reached.formUnion(frontier)
        while let possibility = frontier.popLast() {
            if explains(possibility, slot, answer) {
                kept.append(possibility)
                continue
            }
            for next in successors(of: possibility) where reached.insert(next).inserted {
                frontier.append(next)
            }
            if reached.count > Limits.possibilitiesPerRegister {
                isLost = true
                return true
            }
        }
        close(slot, keeping: kept)
        return !kept.isEmpty
    }

    private func explains(
        _ possibility: Possibility, _ slot: Slot, _ answer: RegisterOperation.Answer
    ) -> Bool {
        let isDone = possibility.done & (1 << UInt64(slot)) != 0
        switch (open[slot], answer) {
        case (.read, .value(let value)): return possibility.saw(slot, value)
        case (.write, .written): return isDone
        case (.swap(let from, _), .observed(let value)):
            return value == from ? isDone : !isDone && possibility.saw(slot, value)
        default: preconditionFailure("the answer is not one to this request")
        }
    }

    /// The possibilities after one more open write or swap is done.
    private func successors(of possibility: Possibility) -> [Possibility] {
        var result: [Possibility] = []
        for (slot, request) in open.enumerated() where possibility.done & (1 << UInt64(slot)) == 0 {
            let value: UInt32
            switch request {
            case .write(let new): value = new
            case .swap(let from, let to) where possibility.value == from: value = to
            default: continue
            }
            var next = possibility
            next.value = value
            next.done |= 1 << UInt64(slot)
            for (other, request) in open.enumerated()
            where request != nil && next.done & (1 << UInt64(other)) == 0 {
                if case .write = request { continue }
                next.note(other, saw: value)
            }
            result.append(next)
        }
        return result
    }

    private mutating func close(_ slot: Slot, keeping kept: [Possibility]) {
        open[slot] = nil
        var distinct = Set<Possibility>()
        possibilities = kept.compactMap { possibility in
            var possibility = possibility
            possibility.forget(slot)
            return distinct.insert(possibility).inserted ? possibility : nil
        }
    }
}
