import Model
import Testing
import Wire

@testable import SCMCore

private let second: UInt64 = 1_000_000_000

private func request(_ watcher: UInt64, term: UInt64 = 7, after sequence: UInt64)
    -> SCMClosingsRequest
{
    var request = SCMClosingsRequest()
    request.watcher = Identity128(high: 0, low: watcher).message
    request.term = term
    request.sequence = sequence
    return request
}

@Suite("closings of containers")
struct ContainerClosingsTests {
    let id = ContainerID(5)

    @Test("datanodes close a container only when all watchers have heard of it")
    func news() {
        var closings = ContainerClosings(term: 7)
        for watcher in [1, 2] as [UInt64] {
            let first = closings.answer(request(watcher, term: 0, after: 0), at: second)
            #expect(first.isIncomplete && first.term == 7 && first.sequence == 0)
            _ = closings.answer(request(watcher, after: 0), at: second)
        }
        closings.add(id, at: second)
        #expect(!closings.mayClose(id, delay: 0, at: second))
        let news = closings.answer(request(1, after: 0), at: second)
        #expect(news.containers == [5] && !news.isIncomplete && news.sequence == 1)
        // One has been told, but not said that it has heard; the other has not even been told.
        #expect(!closings.mayClose(id, delay: 0, at: second))
        _ = closings.answer(request(1, after: 1), at: second)
        #expect(!closings.mayClose(id, delay: 0, at: second))
        _ = closings.answer(request(2, after: 1), at: second)
        #expect(closings.mayClose(id, delay: 0, at: second))
    }

    @Test("a watcher that asks no more is not waited for")
    func silentWatcher() {
        var closings = ContainerClosings(term: 7)
        _ = closings.answer(request(1, after: 0), at: second)
        closings.add(id, at: 3 * second)
        #expect(!closings.mayClose(id, delay: 0, at: 6 * second))
        #expect(closings.mayClose(id, delay: 0, at: 6 * second + 1))
    }

    @Test("a watcher that asks and never hears is waited for no longer than its patience")
    func deafWatcher() {
        var closings = ContainerClosings(term: 7)
        closings.add(id, at: second)
        _ = closings.answer(request(1, after: 0), at: 5 * second)
        #expect(!closings.mayClose(id, delay: 0, at: 5 * second))
        _ = closings.answer(request(1, after: 0), at: 6 * second)
        #expect(closings.mayClose(id, delay: 0, at: 6 * second))
    }

    @Test("writers are left the delay to use what they were given")
    func delay() {
        var closings = ContainerClosings(term: 7)
        closings.add(id, at: second)
        #expect(!closings.mayClose(id, delay: 10 * second, at: 10 * second))
        #expect(closings.mayClose(id, delay: 10 * second, at: 11 * second))
        // Of a container closed before SCM started nothing is known: nobody waits.
        #expect(closings.mayClose(ContainerID(9), delay: 10 * second, at: 0))
    }

    @Test("who has missed more than is remembered, or asks another run of SCM, is told so")
    func incomplete() {
        var closings = ContainerClosings(term: 7)
        func ask(_ request: SCMClosingsRequest) -> SCMClosingsResponse {
            closings.answer(request, at: second)
        }
        for number in 0...UInt64(ContainerClosings.Limits.remembered) {
            closings.add(ContainerID(number), at: second)
        }
        #expect(ask(request(1, after: 0)).isIncomplete)
        let rest = ask(request(1, after: 1))
        #expect(!rest.isIncomplete && rest.containers.count == ContainerClosings.Limits.remembered)
        #expect(ask(request(1, term: 6, after: 1)).isIncomplete)
        // A sequence that was never given out is no reason to trap.
        #expect(ask(request(1, after: 1 << 40)).containers.isEmpty)
    }
}
