import Chance
import Model
import Reactor
import Synchronization
import Testing

@testable import RaftDriver

/// The wrapper around a state machine, on tables in memory.
private struct Bench {
    let tables: InMemoryTables
    let machine: SessionMachine<Appending>
    var index: UInt64 = 0

    init(
        _ tables: InMemoryTables = InMemoryTables(), limits: SessionLimits = SessionLimits()
    ) {
        self.tables = tables
        machine = SessionMachine(
            Appending(), clock: SessionClock { MonotonicTime(nanoseconds: 0) }, limits: limits)
    }

    /// What the log holds of it, applied.
    @discardableResult
    mutating func log(_ command: GroupCommand<[UInt8]>) throws -> CallOutcome<[UInt8]> {
        index += 1
        return machine.apply(
            try machine.decode(machine.encode(command)), at: index, in: tables)
    }

    @discardableResult
    mutating func call(
        _ client: UInt64, _ sequence: UInt64, answeredBelow: UInt64 = 0, at time: UInt64 = 0,
        _ command: [UInt8]
    ) throws -> CallOutcome<[UInt8]> {
        try log(.call(id(client, sequence, answeredBelow), time: time, command))
    }

    func id(_ client: UInt64, _ sequence: UInt64, _ answeredBelow: UInt64 = 0) -> CallID {
        CallID(
            client: Identity128(high: 9, low: client), sequence: sequence,
            answeredBelow: answeredBelow)
    }

    func value(_ key: UInt8) -> [UInt8] { tables.get(Appending.table, [key]) ?? [] }

    /// All that is remembered.
    var memory: [[UInt8]] {
        SessionTable.all.flatMap { table in
            tables.entries(table, prefix: [], limit: .max).flatMap { [$0.key, $0.value] }
        }
    }
    var clients: Int { tables.entries(SessionTable.sessions, prefix: [], limit: .max).count }
    var ledger: SessionLedger { SessionLedger.read(in: tables) }
}

extension CallOutcome where Answer == [UInt8] {
    fileprivate var again: [UInt8]? { if case .again(let answer) = self { answer } else { nil } }
    fileprivate var fresh: [UInt8]? { if case .applied(let answer) = self { answer } else { nil } }
    fileprivate var refusal: StoreError.Code? {
        if case .refused(let error) = self { error.code } else { nil }
    }
}

@Suite("Sessions: each call once")
struct SessionTests {
    @Test("a repeat gets the first answer and changes nothing")
    func once() throws {
        var bench = Bench()
        #expect(try bench.call(1, 1, [5, 1]).fresh == [1])
        #expect(try bench.call(2, 1, [5, 2]).fresh == [1, 2])
        #expect(try bench.call(1, 1, [5, 1]).again == [1])
        #expect(try bench.call(1, 1, [5, 1]).again == [1])
        #expect(bench.value(5) == [1, 2])
        // The same number of another client, and another number of the same.
        #expect(try bench.call(3, 1, [5, 3]).fresh == [1, 2, 3])
        #expect(try bench.call(1, 2, [5, 4]).fresh == [1, 2, 3, 4])
        #expect(try bench.call(1, 1, [5, 1]).again == [1])
        // Without an identity each is a change of its own.
        #expect(try bench.log(.plain([5, 5])).fresh == [1, 2, 3, 4, 5])
        #expect(try bench.log(.plain([5, 5])).fresh == [1, 2, 3, 4, 5, 5])
    }

    @Test("what was answered below may be forgotten, and is refused from then on, not done again")
    func answeredBelow() throws {
        var bench = Bench()
        for sequence in 1...3 as ClosedRange<UInt64> {
            try bench.call(1, sequence, [5, UInt8(sequence)])
        }
        try bench.call(1, 4, answeredBelow: 3, [5, 4])
        #expect(try bench.call(1, 1, [5, 1]).refusal == .forgotten)
        #expect(try bench.call(1, 2, [5, 2]).refusal == .forgotten)
        #expect(try bench.call(1, 3, [5, 3]).again == [1, 2, 3])
        #expect(try bench.call(1, 4, [5, 4]).again == [1, 2, 3, 4])
        // One that was given up and comes late.
        try bench.call(1, 9, answeredBelow: 9, [5, 9])
        #expect(try bench.call(1, 7, [5, 7]).refusal == .forgotten)
        #expect(bench.value(5) == [1, 2, 3, 4, 9])
        // A client cannot disown the call that it makes.
        #expect(try bench.call(1, 10, answeredBelow: 50, [5, 10]).fresh != nil)
        #expect(try bench.call(1, 10, answeredBelow: 50, [5, 10]).again != nil)
        #expect(bench.value(5) == [1, 2, 3, 4, 9, 10])
    }

    @Test("calls of one client may come in any order")
    func unordered() throws {
        var bench = Bench()
        for sequence in [5, 2, 9, 3, 7] as [UInt64] {
            #expect(try bench.call(1, sequence, [5, UInt8(sequence)]).fresh != nil)
        }
        for sequence in [2, 3, 5, 7, 9] as [UInt64] {
            #expect(try bench.call(1, sequence, [5, UInt8(sequence)]).again != nil)
        }
        #expect(bench.value(5) == [5, 2, 9, 3, 7])
    }

    @Test("of one client so many answers are kept, and so many bytes; what is older is refused")
    func window() throws {
        var limits = SessionLimits()
        limits.answers = 4
        limits.answerBytes = 100
        var bench = Bench(limits: limits)
        for sequence in 1...10 as ClosedRange<UInt64> {
            try bench.call(1, sequence, [UInt8(sequence), 1])
        }
        for sequence in 1...6 as ClosedRange<UInt64> {
            #expect(try bench.call(1, sequence, [UInt8(sequence), 1]).refusal == .forgotten)
        }
        for sequence in 7...10 as ClosedRange<UInt64> {
            #expect(try bench.call(1, sequence, [UInt8(sequence), 1]).again == [1])
        }
        // The last answer stays however long it is.
        let long = [UInt8](repeating: 3, count: 500)
        try bench.call(1, 11, [99] + long)
        #expect(try bench.call(1, 10, [10, 1]).refusal == .forgotten)
        #expect(try bench.call(1, 11, [99] + long).again == long)
        for key in 1...10 as ClosedRange<UInt8> { #expect(bench.value(key) == [1]) }
    }

    @Test(
        "a client is forgotten so long after its last call, by the log's time, whatever others do")
    func expiry() throws {
        var limits = SessionLimits()
        limits.lifetime = 10_000
        limits.looks = 2
        var bench = Bench(limits: limits)
        for client in 1...20 as ClosedRange<UInt64> { try bench.call(client, 1, [5, 1]) }
        // Client 7 goes on.
        for time in stride(from: 1000, through: 9000, by: 1000) as StrideThrough<UInt64> {
            try bench.call(7, time, answeredBelow: time, at: time, [6, 1])
        }
        #expect(bench.clients == 20)
        // Nobody looks back: an earlier leader's time changes nothing.
        try bench.call(7, 9001, answeredBelow: 9001, at: 3, [6, 1])
        #expect(bench.ledger.time == 9000)
        for time in stride(from: 10_000, through: 19_000, by: 1000) as StrideThrough<UInt64> {
            try bench.call(100, time, answeredBelow: time, at: time, [6, 1])
        }
        #expect(bench.clients == 2, "7 was used at 9000, and is due at 19,000, and 100")
        #expect(bench.ledger.tail - bench.ledger.head == 2)
        #expect(try bench.call(7, 9001, at: 18_500, [6, 1]).again != nil)
        let queue = bench.tables.entries(SessionTable.queue, prefix: [], limit: .max)
        #expect(queue.count == 2)
        // All are gone in the end, but for who calls.
        for time in stride(from: 40_000, through: 60_000, by: 1000) as StrideThrough<UInt64> {
            try bench.call(200, time, answeredBelow: time, at: time, [6, 1])
        }
        #expect(bench.clients == 1 && bench.ledger.kibibytes == 1)
    }

    @Test(
        "no more clients than there is room for: idle ones go, and new ones wait if none are idle")
    func bounds() throws {
        var limits = SessionLimits()
        limits.sessions = 5
        limits.idle = 1000
        limits.looks = 3
        var bench = Bench(limits: limits)
        for client in 1...5 as ClosedRange<UInt64> {
            #expect(try bench.call(client, 1, at: 100, [5, UInt8(client)]).fresh != nil)
        }
        #expect(try bench.call(6, 1, at: 200, [5, 6]).refusal == .overloaded)
        #expect(try bench.call(3, 1, at: 200, [5, 3]).again == [1, 2, 3])
        #expect(try bench.call(2, 2, at: 900, [5, 2]).fresh != nil)
        // 1 is idle by now, 2 is not.
        #expect(try bench.call(6, 1, at: 1150, [5, 6]).fresh != nil)
        #expect(bench.clients == 5)
        #expect(try bench.call(2, 2, at: 1150, [5, 2]).again != nil)
        #expect(bench.value(5) == [1, 2, 3, 4, 5, 2, 6])
    }

    @Test("bytes of all clients are counted, and bounded")
    func bytes() throws {
        var limits = SessionLimits()
        limits.kibibytes = 50
        limits.idle = 1000
        var bench = Bench(limits: limits)
        let long = [UInt8](repeating: 1, count: 10_000)
        for client in 1...5 as ClosedRange<UInt64> {
            try bench.call(client, 1, at: 0, [UInt8(client)] + long)
        }
        #expect(bench.ledger.kibibytes == 50)
        #expect(try bench.call(6, 1, at: 500, [5, 6]).refusal == .overloaded)
        #expect(try bench.call(6, 1, at: 1100, [6, 6]).fresh != nil)
        #expect(bench.ledger.kibibytes <= 41)
        // A short answer in place of a long one gives its room back.
        try bench.call(5, 2, answeredBelow: 2, at: 1100, [77, 1])
        #expect(bench.ledger.kibibytes <= 32)
    }

    @Test("a call that is settled is not carried out, and one that was carried out is not settled")
    func settled() throws {
        var bench = Bench()
        let refusal = StoreError(.cannotPlace, "five nodes are wanted")
        #expect(try bench.log(.settled(bench.id(1, 1), time: 0, refusal)).refusal == .cannotPlace)
        #expect(try bench.call(1, 1, [5, 1]).refusal == .cannotPlace)
        #expect(bench.value(5) == [])
        try bench.call(1, 2, [5, 2])
        #expect(try bench.log(.settled(bench.id(1, 2), time: 0, refusal)).again == [2])
        guard case .refused(let error) = try bench.call(1, 1, [5, 1]) else {
            Issue.record("it is refused")
            return
        }
        #expect(error == refusal)
    }

    @Test("three members that read the same log remember the same, byte for byte")
    func determinism() throws {
        var limits = SessionLimits()
        limits.sessions = 20
        limits.answers = 3
        limits.idle = 500
        limits.lifetime = 3000
        var first = Bench(limits: limits)
        var generator = SeededGenerator(seed: 17)
        var log: [[UInt8]] = []
        var time: UInt64 = 0
        for _ in 0..<3000 {
            time += generator.next() % 200
            let call = first.id(
                generator.next() % 30, generator.next() % 40, generator.next() % 30)
            let key = UInt8(generator.next() % 8)
            switch generator.next() % 8 {
            case 0: log.append(first.machine.encode(.plain([key, 1])))
            case 1:
                log.append(
                    first.machine.encode(
                        .settled(call, time: time, StoreError(.noSuchKey, "there is no key"))))
            default: log.append(first.machine.encode(.call(call, time: time, [key, 2])))
            }
        }
        var answers: [[String]] = []
        for _ in 0..<3 {
            let bench = Bench(limits: limits)
            answers.append(
                try log.enumerated().map { place, bytes in
                    let command = try bench.machine.decode(bytes)
                    return "\(bench.machine.apply(command, at: UInt64(place), in: bench.tables))"
                })
            if answers.count == 1 { first = bench }
            #expect(bench.memory == first.memory)
            for key in 0..<8 as Range<UInt8> { #expect(bench.value(key) == first.value(key)) }
        }
        #expect(answers[0] == answers[1] && answers[1] == answers[2])
        #expect(first.clients <= 20)
    }

    @Test("random repeats, late ones too, change once at most what they ask for")
    func randomRepeats() throws {
        var limits = SessionLimits()
        limits.answers = 4
        var bench = Bench(limits: limits)
        var generator = SeededGenerator(seed: 23)
        var answers: [CallID: [UInt8]] = [:]
        for _ in 0..<20_000 {
            // Each call adds its own two bytes to the key of its client.
            let client = generator.next() % 4
            let sequence = generator.next() % 500
            let command = [UInt8(client), UInt8(sequence >> 8), UInt8(sequence & 0xFF)]
            let id = bench.id(client, sequence)
            switch try bench.call(client, sequence, command) {
            case .applied(let answer):
                #expect(answers.updateValue(answer, forKey: id) == nil)
            case .again(let answer): #expect(answers[id] == answer)
            case .refused(let error): #expect(error.code == .forgotten)
            }
        }
        for client in 0..<4 as Range<UInt8> {
            let value = bench.value(client)
            let pairs = stride(from: 0, to: value.count, by: 2).map {
                UInt16(value[$0]) << 8 | UInt16(value[$0 + 1])
            }
            #expect(Set(pairs).count == pairs.count && pairs.count > 10)
        }
    }

    @Test("what is applied again after a crash gives the same")
    func appliedAgain() throws {
        var bench = Bench()
        try bench.call(1, 1, at: 5000, [5, 1])
        let before = InMemoryTables(copying: bench.tables)
        try bench.call(1, 2, answeredBelow: 2, at: 9000, [5, 2])
        try bench.call(2, 1, at: 9500, [5, 3])
        var second = Bench(before)
        second.index = 1
        try second.call(1, 2, answeredBelow: 2, at: 9000, [5, 2])
        try second.call(2, 1, at: 9500, [5, 3])
        #expect(second.memory == bench.memory && second.value(5) == bench.value(5))
    }

    @Test("only what is carried out is told to the machine within")
    func applied() throws {
        struct Noting: StateMachine {
            let notes = Notes()
            var tables: [MetadataTable] { [] }
            func encode(_ command: [UInt8]) -> [UInt8] { [1] + command }
            func decode(_ bytes: [UInt8]) -> [UInt8] { Array(bytes.dropFirst()) }
            func apply(
                _ command: [UInt8], at index: UInt64, in transaction: some MetadataTransaction
            ) -> [UInt8] { command }
            func applied(_ command: [UInt8], answer: [UInt8], at index: UInt64) {
                notes.indexes.withLock { $0.append(index) }
            }
        }
        let noting = Noting()
        let machine = SessionMachine(
            noting, clock: SessionClock { MonotonicTime(nanoseconds: 0) })
        let tables = InMemoryTables()
        let call = CallID(client: Identity128(high: 1, low: 1), sequence: 1)
        let other = CallID(client: Identity128(high: 1, low: 1), sequence: 2)
        let commands: [GroupCommand<[UInt8]>] = [
            .call(call, time: 0, [1]), .call(call, time: 0, [1]), .plain([1]),
            .settled(other, time: 0, StoreError(.noSuchKey, "")), .call(other, time: 0, [1]),
        ]
        for (place, command) in commands.enumerated() {
            let index = UInt64(place) + 1
            machine.applied(
                command, answer: machine.apply(command, at: index, in: tables), at: index)
        }
        #expect(noting.notes.indexes.withLock { $0 } == [1, 3])
    }
}

private final class Notes: Sendable {
    let indexes = Mutex<[UInt64]>([])
}

@Suite("Sessions: bytes")
struct GroupCommandTests {
    private static let machine = SessionMachine(
        Appending(), clock: SessionClock { MonotonicTime(nanoseconds: 0) })
    private static let call = CallID(
        client: Identity128(high: 0x0102, low: 0x0304), sequence: 5, answeredBelow: 4)

    @Test("an envelope's bytes are pinned, and begin as no command does")
    func pinned() throws {
        let bytes = Self.machine.encode(.call(Self.call, time: 0x0607, [9, 9]))
        #expect(
            bytes
                == [0, 1, 1] + [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]
                + [0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 6, 7]
                + [1, 9, 9])
        guard case .call(let call, let time, let command) = try Self.machine.decode(bytes) else {
            Issue.record("it is a call")
            return
        }
        #expect(call == Self.call && time == 0x0607 && command == [9, 9])
        let refused = Self.machine.encode(
            .settled(Self.call, time: 1, StoreError(.noSuchKey, "é")))
        #expect(refused[2] == 2 && Array(refused[43...]) == [0, 10, 0xC3, 0xA9])
        guard case .settled(_, _, let error) = try Self.machine.decode(refused) else {
            Issue.record("it is a refusal")
            return
        }
        #expect(error == StoreError(.noSuchKey, "é"))
    }

    @Test("a command of before, without an envelope, is what it was")
    func plain() throws {
        let bytes = Self.machine.encode(.plain([9, 9]))
        #expect(bytes == [1, 9, 9])
        guard case .plain([9, 9]) = try Self.machine.decode(bytes) else {
            Issue.record("it is a plain command")
            return
        }
    }

    @Test("envelopes of a kind or version that is not known, and torn ones, are refused")
    func unknown() throws {
        let good = Self.machine.encode(.call(Self.call, time: 7, [9]))
        for place in 1...2 {
            var bad = good
            bad[place] = 77
            let error = #expect(throws: StoreError.self) { try Self.machine.decode(bad) }
            #expect(error?.code == .versionMismatch)
            #expect(error?.message.contains("77") == true)
        }
        for count in 1..<CallEnvelope.size {
            #expect(throws: StoreError.self) {
                try Self.machine.decode(Array(good.prefix(count)))
            }
        }
        var late = good
        late[35] = 0xFF
        #expect(throws: StoreError.self) { try Self.machine.decode(late) }
    }

    @Test("a record of a session that is torn or of a later version is refused, not taken for none")
    func damagedRecord() throws {
        var bench = Bench()
        try bench.call(1, 1, [5, 1])
        let key = SessionTable.key(Identity128(high: 9, low: 1))
        let good = try #require(bench.tables.get(SessionTable.sessions, key))
        #expect(Session(parsing: good, forgettingBelow: 0)?.encoded == good)
        for count in 1..<good.count where count != 21 {
            bench.tables.put(SessionTable.sessions, key, Array(good.prefix(count)))
            #expect(try bench.call(1, 1, [5, 1]).refusal == .corrupt, "\(count)")
        }
        bench.tables.put(SessionTable.sessions, key, [2] + good.dropFirst())
        #expect(try bench.call(1, 1, [5, 1]).refusal == .corrupt)
        #expect(bench.value(5) == [1])
    }
}

@Suite("Sessions: the group's clock")
struct SessionClockTests {
    private final class Hands: Sendable {
        let time = Atomic<UInt64>(5_000_000_000)
        func move(milliseconds: UInt64) {
            time.wrappingAdd(milliseconds * 1_000_000, ordering: .relaxed)
        }
    }

    @Test("it goes on from the latest in the log, and never back")
    func follows() {
        let hands = Hands()
        let clock = SessionClock { MonotonicTime(nanoseconds: hands.time.load(ordering: .relaxed)) }
        #expect(clock.read() == 0)
        hands.move(milliseconds: 700)
        #expect(clock.read() == 700)
        clock.observe(50_000)
        #expect(clock.read() == 50_000)
        hands.move(milliseconds: 2500)
        #expect(clock.read() == 52_500)
        // Its own entries, and those of a leader before.
        clock.observe(52_400)
        clock.observe(3)
        #expect(clock.read() == 52_500)
        clock.observe(60_000)
        hands.move(milliseconds: 1)
        #expect(clock.read() == 60_001)
    }
}
