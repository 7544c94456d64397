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
}
