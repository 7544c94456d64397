import Model
import Synchronization
import Testing

@testable import Transport

@Suite("The budget of answers")
struct AnswerBudgetTests {
    /// Asks for `bytes` in a task, and returns once it waits.
    private func wait(
        for bytes: Int, of budget: AnswerBudget, _ served: Served, name: Int
    ) async -> Task<Void, Never> {
        let waiting = budget.load.waiting
        let task = Task {
            do throws(StoreError) {
                let hold = try await budget.reserve(bytes)
                served.note(name)
                withExtendedLifetime(hold) {}
            } catch { served.note(error.code == .cancelled ? -name : 0) }
        }
        while budget.load.waiting == waiting { await Task.yield() }
        return task
    }

    @Test("is taken by those who hold, and given back when the last reference goes")
    func holding() async throws {
        let budget = AnswerBudget(bytes: 100)
        var first: AnswerHold? = try await budget.reserve(60)
        let second = try await budget.reserve(40)
        #expect(budget.load.taken == 100)
        withExtendedLifetime(first) {}
        first = nil
        #expect(budget.load.taken == 40)
        withExtendedLifetime(second) {}
    }

    @Test("serves those who wait in their order; what would fit does not overtake")
    func order() async throws {
        let budget = AnswerBudget(bytes: 100)
        var hold: AnswerHold? = try await budget.reserve(90)
        let served = Served()
        let large = await wait(for: 80, of: budget, served, name: 1)
        let small = await wait(for: 5, of: budget, served, name: 2)
        #expect(served.names == [])
        withExtendedLifetime(hold) {}
        hold = nil
        await large.value
        await small.value
        #expect(budget.load.taken == 0)
        #expect(Set(served.names) == [1, 2])
    }

    @Test("refuses with overloaded where too many wait, and lets who is cancelled go")
    func bounds() async throws {
        let budget = AnswerBudget(bytes: 10, waiters: 2)
        var hold: AnswerHold? = try await budget.reserve(10)
        let served = Served()
        let first = await wait(for: 10, of: budget, served, name: 1)
        let second = await wait(for: 1, of: budget, served, name: 2)
        let error = await #expect(throws: StoreError.self) { _ = try await budget.reserve(1) }
        #expect(error?.code == .overloaded)
        first.cancel()
        await first.value
        #expect(served.names == [-1])
        withExtendedLifetime(hold) {}
        hold = nil
        await second.value
        #expect(served.names == [-1, 2])
        #expect(budget.load.taken == 0)
        let cancelled = Task { _ = try await budget.reserve(1) }
        try await cancelled.value
    }

    @Test("an answer larger than all of it takes all of it")
    func large() async throws {
        let budget = AnswerBudget(bytes: 10)
        let hold = try await budget.reserve(1000)
        #expect(budget.load.taken == 10)
        withExtendedLifetime(hold) {}
    }

    @Test("a connection's share is used up without taking what is the others'")
    func shares() async throws {
        let all = AnswerBudget(bytes: 100)
        let greedy = AnswerBudget(bytes: 40, within: all)
        let other = AnswerBudget(bytes: 40, within: all)
        var hold: AnswerHold? = try await greedy.reserve(40)
        let served = Served()
        let waiting = await wait(for: 40, of: greedy, served, name: 1)
        #expect(all.load.taken == 40)
        let free = try await other.reserve(40)
        #expect(all.load.taken == 80)
        withExtendedLifetime(hold) {}
        hold = nil
        await waiting.value
        withExtendedLifetime(free) {}
        #expect(greedy.load.taken == 0)
        #expect(served.names == [1])
    }
}

private final class Served: Sendable {
    private let list = Mutex<[Int]>([])
    var names: [Int] { list.withLock { $0 } }
    func note(_ name: Int) { list.withLock { $0.append(name) } }
}
