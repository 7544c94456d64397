import Model
import Reactor
import Synchronization
import Testing

@testable import Client

@Suite("Readers that hold their blocks")
struct ReaderHoldsTests {
    private func group(_ number: UInt64) throws -> BlockGroup {
        let replication = try ReplicationConfig("xor-2-1-64k")
        return BlockGroup(
            blockID: BlockID(containerID: ContainerID(1), localID: number),
            replication: replication, length: 5,
            nodes: Array(repeating: nil, count: replication.width))
    }

    private func time(_ seconds: Double) -> MonotonicTime {
        MonotonicTime(nanoseconds: UInt64(seconds * 1_000_000_000))
    }

    @Test("blocks are named of readers that are open for half an interval, each once")
    func due() throws {
        var readers = ReaderHolds.Readers()
        let groups = try (1...4).map { try group($0) }
        let first = readers.open(Array(groups[0...1]), at: time(10))
        #expect(first.startsLoop)
        // The first look comes soon: the grace is not known yet.
        #expect(readers.interval == .seconds(1))
        let second = readers.open(Array(groups[1...2]), at: time(10.1))
        let third = readers.open([groups[3]], at: time(10.6))
        #expect(!second.startsLoop && !third.startsLoop)
        #expect(readers.due(at: time(11)) == Set(groups[0...2].map(\.blockID)))
        readers.learn(grace: .seconds(60))
        #expect(readers.interval == .seconds(10))
        #expect(readers.due(at: time(15.5)) == Set(groups[0...2].map(\.blockID)))
        #expect(readers.due(at: time(15.6)) == Set(groups.map(\.blockID)))
        readers.close(first.id)
        #expect(readers.due(at: time(21)) == Set(groups[1...3].map(\.blockID)))
        readers.close(second.id)
        readers.close(third.id)
        #expect(readers.due(at: time(31)) == nil)
        // The loop has ended, and begins again with the next reader.
        #expect(readers.open(groups, at: time(40)).startsLoop)
    }

    @Test("a short grace is renewed some times, and no reader holds its blocks for ever")
    func bounds() throws {
        var readers = ReaderHolds.Readers()
        readers.learn(grace: .seconds(4))
        #expect(readers.interval == .seconds(1))
        readers.learn(grace: .zero)
        #expect(readers.interval == .milliseconds(200))
        readers.learn(grace: .seconds(3600))
        #expect(readers.interval == .seconds(10))
        _ = readers.open([try group(1)], at: time(0))
        #expect(readers.due(at: time(86_399))?.count == 1)
        #expect(readers.due(at: time(86_400)) == [])
    }

    @Test(
        "the loop names blocks in bounded requests until the reader is gone, and survives failures")
    func loop() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let asked = Mutex<[[BlockID]]>([])
        let fails = Atomic<Bool>(false)
        let holds = ReaderHolds { blocks throws(StoreError) in
            asked.withLock { $0.append(blocks) }
            if fails.exchange(false, ordering: .relaxed) {
                throw StoreError(.connection, "away")
            }
            return .milliseconds(1)
        }
        let count = 2 * ReaderHolds.Limits.blocksPerRequest + 5
        let groups = try (0..<count).map { try group(UInt64($0)) }
        #expect(holds.open([], on: reactor) == nil)
        var reader = holds.open(groups, on: reactor)
        func wait(for number: Int) async throws {
            for _ in 0..<3000 where asked.withLock({ $0.count }) < number {
                try await Task.sleep(for: .milliseconds(10))
            }
        }
        try await wait(for: 3)
        let named = asked.withLock { Array($0.prefix(3)) }
        #expect(named.map(\.count) == [4096, 4096, 5])
        #expect(Set(named.flatMap(\.self)) == Set(groups.map(\.blockID)))
        fails.store(true, ordering: .relaxed)
        try await wait(for: 8)
        #expect(asked.withLock { $0.count } >= 8)
        #expect(reader != nil)
        reader = nil
        // At most what was under way when it went; a new reader is named again.
        let again = holds.open([try group(77_777)], on: reactor)
        for _ in 0..<3000 where asked.withLock({ $0.last?.count }) != 1 {
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(
            asked.withLock { $0.last } == [BlockID(containerID: ContainerID(1), localID: 77_777)])
        withExtendedLifetime(again) {}
    }
}
