import Eventually
import Glibc
import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite struct ReclaimTests {
    /// A store with container 1 and blocks 1…`count` of 64 KiB in it, one behind the other.
    private func filled(
        _ directory: String, _ reactor: Reactor, count: UInt64,
        options: ContainerStore.Options = .small
    ) async throws -> ContainerStore {
        let store = try await openStore(directory, on: reactor, options: options)
        try await store.createContainer(ContainerID(1), replication: replication, replicaIndex: 1)
        for number in 1...count {
            try await store.append(
                cell(blockID(number), at: 0, pattern(65_536, seed: number), ended: true))
        }
        // What is allocated ahead in the background would be counted against what is given back.
        try await store.container(ContainerID(1)).untilIdle()
        return store
    }

    private func allocated(_ directory: String, _ reactor: Reactor) async throws -> Int {
        try await reactor.status("\(directory)/v1/containers/container-1.data")?.allocated ?? 0
    }

    @Test("extents that touch or overlap become one hole, others stay apart")
    func merging() {
        #expect(Reclaimer.merged([]) == [])
        #expect(Reclaimer.merged([8..<12, 0..<4, 4..<8, 20..<24]) == [0..<12, 20..<24])
        #expect(Reclaimer.merged([0..<8, 4..<6, 3..<3, 30..<31]) == [0..<8, 30..<31])
    }

    @Test("a deletion is answered before its space is given back, which comes by itself")
    func later() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.reclaimDelay = .milliseconds(300)
            let store = try await filled(directory, reactor, count: 20, options: options)
            let before = try await allocated(directory, reactor)
            try await store.deleteBlocks((1...20).map { blockID($0) })
            #expect(store.unreclaimedBlocks == 20)
            #expect(await store.report()[0].blockCount == 0)
            while store.unreclaimedBlocks > 0 { try await reactor.sleep(for: .milliseconds(20)) }
            #expect(try await before - allocated(directory, reactor) >= 20 * 65_536)
            try await store.close()
        }
    }

    @Test("what was not punched when the process died, the next start punches")
    func afterDeath() async throws {
        try await withReactor { directory, reactor in
            let dying = try await filled(directory, reactor, count: 20, options: .mortal)
            let before = try await allocated(directory, reactor)
            try await dying.deleteBlocks((1...20).map { blockID($0) })
            let store = try await openStore(directory, on: reactor, options: .mortal)
            #expect(store.unreclaimedBlocks == 20)
            await store.reclaim()
            #expect(try await before - allocated(directory, reactor) >= 20 * 65_536)
            try await store.close()
        }
    }

    @Test("a container is closed with all its holes punched, since its journal forgets them")
    func closing() async throws {
        try await withReactor { directory, reactor in
            let store = try await filled(directory, reactor, count: 20, options: .mortal)
            let before = try await allocated(directory, reactor)
            try await store.deleteBlocks((2...20).map { blockID($0) })
            try await store.closeContainer(ContainerID(1))
            #expect(store.unreclaimedBlocks == 0)
            #expect(try await before - allocated(directory, reactor) >= 19 * 65_536)
            let again = try await openStore(directory, on: reactor, options: .mortal)
            #expect(again.unreclaimedBlocks == 0)
            #expect(try await again.bytes(of: blockID(1)) == pattern(65_536, seed: 1))
        }
    }

    @Test("only a closed container without blocks is removed as empty")
    func empty() async throws {
        try await withReactor { directory, reactor in
            let store = try await filled(directory, reactor, count: 2)
            let id = ContainerID(1)
            #expect(
                await refusal { try await store.deleteEmptyContainer(id) }?.code == .containerState)
            try await store.closeContainer(id)
            #expect(
                await refusal { try await store.deleteEmptyContainer(id) }?.code == .containerState)
            #expect(try await store.bytes(of: blockID(1)) == pattern(65_536, seed: 1))
            try await store.deleteBlocks([blockID(1), blockID(2)])
            // Its holes are not punched yet: that need not be waited for.
            try await store.deleteEmptyContainer(id)
            #expect(try names(in: "\(directory)/v1/containers").isEmpty)
            try await store.deleteEmptyContainer(id)
            await store.reclaim()
            #expect(store.unreclaimedBlocks == 0)
            #expect(await store.volumes()[0].used == 0)
            try await store.close()
        }
    }

    @Test("with more bytes than may wait, holes are punched long before their time")
    func bytesBound() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.reclaimDelay = .seconds(3600)
            options.reclaimBytes = 10 * 65_536
            let store = try await filled(directory, reactor, count: 20, options: options)
            try await store.deleteBlocks((1...10).map { blockID($0) })
            try await reactor.sleep(for: .milliseconds(50))
            #expect(store.unreclaimedBlocks == 10)
            let before = try await allocated(directory, reactor)
            try await store.deleteBlocks([blockID(11)])
            while store.unreclaimedBlocks > 0 { try await reactor.sleep(for: .milliseconds(10)) }
            #expect(try await before - allocated(directory, reactor) >= 11 * 65_536)
            try await store.close()
        }
    }

    @Test("a volume that becomes full is given its space back at once")
    func full() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.reclaimDelay = .seconds(3600)
            let store = try await filled(directory, reactor, count: 20, options: options)
            try await store.deleteBlocks((1...10).map { blockID($0) })
            try await reactor.sleep(for: .milliseconds(50))
            #expect(store.unreclaimedBlocks == 10)
            store.volumeList[0].noteFull()
            while store.unreclaimedBlocks > 0 { try await reactor.sleep(for: .milliseconds(10)) }
            try await store.close()
        }
    }

    @Test("one container is closed without the holes of the others")
    func closingOne() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.reclaimDelay = .seconds(3600)
            let store = try await filled(directory, reactor, count: 4, options: options)
            try await store.createContainer(
                ContainerID(2), replication: replication, replicaIndex: 1)
            for number in 1...6 as ClosedRange<UInt64> {
                try await store.append(
                    cell(blockID(number, in: 2), at: 0, pattern(65_536, seed: number), ended: true))
            }
            try await store.deleteBlocks((1...4).map { blockID($0) })
            try await store.deleteBlocks((1...6).map { blockID($0, in: 2) })
            try await store.closeContainer(ContainerID(1))
            #expect(store.unreclaimedBlocks == 6)
            await store.reclaim()
            #expect(store.unreclaimedBlocks == 0)
            try await store.close()
        }
    }

    @Test("a hole that the disk's queue has no place for is punched later")
    func refused() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 1)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            try await Task(executorPreference: reactor) {
                var options = ContainerStore.Options.small
                options.reclaimDelay = .milliseconds(1)
                let store = try await filled(directory, reactor, count: 20, options: options)
                let before = try await allocated(directory, reactor)
                faults.set(error: ENOBUFS, for: .punch)
                try await store.deleteBlocks((1...20).map { blockID($0) })
                try await reactor.sleep(for: .milliseconds(300))
                #expect(store.unreclaimedBlocks == 20)
                faults.set(error: nil, for: .punch)
                try await eventually("all is reclaimed") { store.unreclaimedBlocks == 0 }
                #expect(try await before - allocated(directory, reactor) >= 20 * 65_536)
                #expect(await store.volumes()[0].isFailed == false)
                try await store.close()
            }.value
        }
    }

    @Test("what a removed replica had to give back is not mixed up with one that takes its number")
    func removed() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            let id = ContainerID(1)
            for _ in 0..<2 {
                try await store.createContainer(id, replication: replication, replicaIndex: 1)
                try await store.append(cell(blockID(1), at: 0, pattern(9000, seed: 1)))
                try await store.deleteBlocks([blockID(1)])
                #expect(store.unreclaimedBlocks == 1)
                try await store.deleteContainer(id)
                #expect(store.unreclaimedBlocks == 0)
            }
            try await store.createContainer(id, replication: replication, replicaIndex: 1)
            try await store.append(cell(blockID(2), at: 0, pattern(9000, seed: 1)))
            try await store.deleteBlocks([blockID(2)])
            // Waits for its own holes alone.
            try await store.closeContainer(id)
            #expect(store.unreclaimedBlocks == 0)
            try await store.close()
        }
    }
}
