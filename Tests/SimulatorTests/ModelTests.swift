import Raft
import Testing

@testable import Simulator

@Suite("The simulator's parts")
struct ModelTests {
    @Test("events come in the order of their times, equal times in the order of scheduling")
    func events() {
        var queue = EventQueue<Int>()
        var generator = SeededGenerator(seed: 5)
        var expected: [(Microseconds, Int)] = []
        for number in 0..<500 {
            let delay = generator.time(in: 0...40)
            queue.push(number, after: delay)
            expected.append((delay, number))
        }
        expected.sort { $0 < $1 }
        var times: [Microseconds] = []
        var order: [Int] = []
        while let number = queue.pop() {
            order.append(number)
            times.append(queue.now)
        }
        #expect(order == expected.map(\.1))
        #expect(times == expected.map(\.0))
    }

    @Test("a seed's numbers are known, and a stream's are its own")
    func generator() {
        var generator = SeededGenerator(seed: 1)
        var again = SeededGenerator(seed: 1)
        var stream = SeededGenerator(seed: 1, stream: 1)
        let numbers = (0..<4).map { _ in generator.next() }
        #expect(numbers == (0..<4).map { _ in again.next() })
        #expect(numbers != (0..<4).map { _ in stream.next() })
        // Computed apart, from the published algorithms.
        #expect(numbers[0] == 0xB3F2_AF6D_0FC7_10C5)
        let draws = (0..<3000).map { _ in generator.int(in: 3...5) }
        for value in 3...5 { #expect((850...1150).contains(draws.count { $0 == value })) }
        var hits = 0
        for _ in 0..<3000 where generator.chance(1.0 / 3) { hits += 1 }
        #expect((850...1150).contains(hits))
    }

    private static func entries(_ range: ClosedRange<LogIndex>, term: Term) -> [Entry] {
        range.map { Entry(term: term, index: $0, data: [UInt8](repeating: 1, count: 300)) }
    }

    @Test("a crash keeps what was synced, and of the rest only whole batches before the first torn")
    func tears() {
        for seed in 0..<400 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let disk = SimulatedDisk(image: LogImage(), checkpoint: nil)
            disk.write(
                LogWrite(entries: Self.entries(1...3, term: 1), hardState: HardState(term: 1)))
            #expect(disk.beginSync())
            disk.write(LogWrite(entries: Self.entries(4...5, term: 1)))
            _ = disk.endSync()
            disk.write(LogWrite(entries: Self.entries(3...4, term: 2)))
            disk.write(LogWrite(entries: Self.entries(5...9, term: 2)))
            let tear = generator.element(of: Tear.allCases) ?? .none
            disk.crash(tear, ignoringDamage: false, from: &generator)
            // The states after the synced batch and each of the three that were not.
            let possible: [(LogIndex, Term)] = [(3, 1), (5, 1), (4, 2), (9, 2)]
            let image = disk.durable
            #expect(
                possible.contains { $0 == image.lastIndex && $1 == image.term(of: $0) },
                "seed \(seed), \(tear)")
            if tear == .none { #expect(image.lastIndex == 3) }
            if tear == .all { #expect(image.lastIndex == 9) }
            #expect(image.hardState.term == 1)
        }
    }

    @Test("a log that is compacted or replaced by a snapshot keeps the term before its first entry")
    func image() {
        var image = LogImage()
        image.apply(LogWrite(entries: Self.entries(1...6, term: 3)))
        image.apply(LogWrite(compaction: 4))
        #expect(image.firstIndex == 5)
        #expect(image.term(of: 4) == 3)
        #expect(image.term(of: 3) == nil)
        let metadata = SnapshotMetadata(index: 20, term: 5)
        image.apply(LogWrite(snapshot: Snapshot(metadata: metadata)))
        #expect(image.firstIndex == 21)
        #expect(image.lastIndex == 20)
        #expect(image.term(of: 20) == 5)
        let isWhole = image.apply(LogWrite(entries: Self.entries(22...23, term: 5)))
        #expect(!isWhole)
        #expect(image.lastIndex == 20)
    }

    @Test("a repeated operation is done once, and a snapshot holds that too")
    func sessions() throws {
        var state = KeyValueState()
        let write = Command(client: 1, sequence: 1, register: 0, request: .write(7))
        let swap = Command(client: 2, sequence: 1, register: 0, request: .swap(from: 7, to: 8))
        let answers = [write, swap, write].map { state.apply($0.encoded) }
        #expect(answers == [.written, .observed(7), .written])
        #expect(state.value(of: 0) == 8)
        var copy = try #require(KeyValueState(decoding: state.encoded()))
        #expect(copy == state)
        #expect(copy.digest == state.digest)
        let repeated = copy.apply(swap.encoded)
        #expect(repeated == .observed(7))
        #expect(copy.value(of: 0) == 8)
        #expect(copy.digest != state.digest)
    }

    @Test("the checker names two leaders of a term")
    func twoLeaders() throws {
        var checker = SafetyChecker(
            nodes: 3, properties: Set(Property.allCases), start: nil, confState: ConfState())
        try checker.observe(1, HardState(term: 4, vote: 1), .leader)
        let violation = #expect(throws: Violation.self) {
            try checker.observe(2, HardState(term: 4, vote: 2), .leader)
        }
        #expect(violation?.property == .electionSafety)
    }

    @Test("the checker names a vote that changes within a term, and a commit that goes back")
    func goingBack() throws {
        for next in [HardState(term: 4, vote: 2, commit: 9), HardState(term: 5, commit: 8)] {
            var checker = SafetyChecker(
                nodes: 3, properties: Set(Property.allCases), start: nil, confState: ConfState())
            try checker.observe(1, HardState(term: 4, vote: 1, commit: 9), .follower)
            let violation = #expect(throws: Violation.self) {
                try checker.observe(1, next, .follower)
            }
            #expect(violation?.property == .hardState)
        }
    }
}
