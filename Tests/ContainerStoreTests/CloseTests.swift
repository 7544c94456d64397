import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite struct CloseTests {
    /// A container with `count` blocks of different lengths; the bytes by local ID.
    private func fill(
        _ store: ContainerStore, container: UInt64 = 1, count: Int
    ) async throws -> [UInt64: [UInt8]] {
        try await store.createContainer(
            ContainerID(container), replication: replication, replicaIndex: 1)
        var expected: [UInt64: [UInt8]] = [:]
        for number in 0..<count {
            let localID = UInt64((number * 7919) % 10_007)
            let bytes = pattern((number % 5) * 40_000 + number, seed: localID)
            var start = 0
            repeat {
                let end = min(start + 65_536, bytes.count)
                try await store.append(
                    cell(
                        blockID(localID, in: container), at: start, Array(bytes[start..<end]),
                        ended: end == bytes.count))
                start = end
            } while start < bytes.count
            expected[localID] = bytes
        }
        return expected
    }

    private func check(
        _ store: ContainerStore, container: UInt64 = 1, _ expected: [UInt64: [UInt8]]
    ) async throws {
        for (localID, bytes) in expected {
            #expect(try await store.bytes(of: blockID(localID, in: container)) == bytes)
        }
        let records = try await store.blocks(in: ContainerID(container))
        #expect(records.map(\.id.localID) == expected.keys.sorted())
        #expect(records.map(\.length) == expected.keys.sorted().map { expected[$0]?.count })
        let report = await store.report().first { $0.id == ContainerID(container) }
        #expect(report?.blockCount == expected.count)
        #expect(report?.usedBytes == expected.values.reduce(0) { $0 + $1.count })
    }

    @Test("a closed container reads the same, also after the store was opened again")
    func closed() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            let expected = try await fill(store, count: 60)
            try await store.closeContainer(ContainerID(1))
            try await store.closeContainer(ContainerID(1))
            try await check(store, expected)
            #expect(await store.report()[0].state == .closed)
            let refused = await refusal { try await store.append(cell(blockID(1), at: 0, [1])) }
            #expect(refused?.code == .containerState)
            let file = try contents(of: "\(directory)/v1/containers/container-1.data")
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            try await check(again, expected)
            #expect(await again.report()[0].state == .closed)
            #expect(try contents(of: "\(directory)/v1/containers/container-1.data") == file)
        }
    }

    @Test("an empty container closes and opens")
    func empty() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            try await store.closeContainer(ContainerID(1))
            try await check(store, [:])
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            try await check(again, [:])
            #expect(
                await refusal { try await again.block(blockID(1)) }?.code == .noSuchBlock)
        }
    }

    @Test("closing waits for appends in flight, and callers at the same time share one close")
    func inFlight() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<20 as Range<UInt64> {
                    group.addTask {
                        _ = try await store.append(
                            cell(blockID(number), at: 0, pattern(50_000, seed: number)))
                    }
                }
                for _ in 0..<3 {
                    group.addTask { try await store.closeContainer(ContainerID(1)) }
                }
                try await group.waitForAll()
            }
            for number in 0..<20 as Range<UInt64> {
                #expect(
                    try await store.bytes(of: blockID(number)) == pattern(50_000, seed: number))
            }
        }
    }

    @Test("deleted blocks are gone at once and for good, and their space is given back")
    func delete() async throws {
        for isClosed in [false, true] {
            try await withReactor { directory, reactor in
                let store = try await openStore(directory, on: reactor)
                var expected = try await fill(store, count: 40)
                if isClosed { try await store.closeContainer(ContainerID(1)) }
                let path = "\(directory)/v1/containers/container-1.data"
                let before = try await reactor.status(path)?.allocated ?? 0
                let victims = expected.keys.sorted().prefix(25)
                let freed = victims.reduce(0) { $0 + (expected[$1]?.count ?? 0) & ~4095 }
                try await store.deleteBlocks(victims.map { blockID($0) } + [blockID(99_999)])
                for victim in victims { expected[victim] = nil }
                try await check(store, expected)
                await store.reclaim()
                #expect(store.unreclaimedBlocks == 0)
                let after = try await reactor.status(path)?.allocated ?? 0
                #expect(before - after >= freed, "closed: \(isClosed)")
                // Again, and of a container that is not there: nothing to do.
                try await store.deleteBlocks(victims.map { blockID($0) })
                try await store.deleteBlocks([blockID(1, in: 77)])
                if !isClosed {
                    let late = await refusal {
                        try await store.append(cell(blockID(victims[0]), at: 0, [1]))
                    }
                    #expect(late?.code == .noSuchBlock)
                }
                try await store.close()
                let again = try await openStore(directory, on: reactor)
                try await check(again, expected)
                #expect(
                    await refusal { try await again.block(blockID(victims[0])) }?.code
                        == .noSuchBlock)
                if !isClosed {
                    try await again.closeContainer(ContainerID(1))
                    try await check(again, expected)
                }
            }
        }
    }

    @Test("deletions while a container closes are neither lost nor brought back")
    func deleteWhileClosing() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            var expected = try await fill(store, count: 50)
            let victims = Array(expected.keys.sorted().prefix(30))
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await store.closeContainer(ContainerID(1)) }
                for victim in victims {
                    group.addTask { try await store.deleteBlocks([blockID(victim)]) }
                }
                try await group.waitForAll()
            }
            for victim in victims { expected[victim] = nil }
            try await check(store, expected)
            try await store.close()
            try await check(try await openStore(directory, on: reactor), expected)
        }
    }

    @Test("a block deleted while it is written ends up deleted")
    func deleteWhileWriting() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            await withTaskGroup(of: Void.self) { group in
                for part in 0..<16 {
                    group.addTask {
                        let error = await refusal {
                            try await store.append(
                                cell(
                                    blockID(1), at: part * 65_536,
                                    pattern(65_536, seed: UInt64(part))))
                        }
                        #expect(error == nil || error?.code == .noSuchBlock)
                    }
                    if part == 8 {
                        group.addTask {
                            #expect(
                                await refusal { try await store.deleteBlocks([blockID(1)]) } == nil)
                        }
                    }
                }
            }
            #expect(await refusal { try await store.block(blockID(1)) }?.code == .noSuchBlock)
            #expect(await store.report()[0].usedBytes == 0)
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            #expect(await refusal { try await again.block(blockID(1)) }?.code == .noSuchBlock)
        }
    }

    @Test("a deleted container leaves no files, and its number may be used again")
    func deleteContainer() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            _ = try await fill(store, count: 10)
            _ = try await fill(store, container: 2, count: 10)
            try await store.closeContainer(ContainerID(2))
            _ = try await store.bytes(of: blockID(7919, in: 2))
            for id in [1, 2, 2, 3] as [UInt64] { try await store.deleteContainer(ContainerID(id)) }
            #expect(try names(in: "\(directory)/v1/containers").isEmpty)
            #expect(await store.report().isEmpty)
            #expect(
                await refusal { try await store.bytes(of: blockID(7919, in: 2)) }?.code
                    == .noSuchContainer)
            let expected = try await fill(store, container: 2, count: 5)
            try await check(store, container: 2, expected)
            let used = await store.volumes()[0].used
            try await store.deleteContainer(ContainerID(2))
            #expect(await store.volumes()[0].used < used)
            #expect(await store.volumes()[0].used == 0)
        }
    }

    @Test("more closed containers than caches hold are read through bounded caches")
    func caches() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.indexCacheBytes = 20_000
            options.openFiles = 2
            let store = try await openStore(directory, on: reactor, options: options)
            var expected: [UInt64: [UInt64: [UInt8]]] = [:]
            for id in 1...6 as ClosedRange<UInt64> {
                expected[id] = try await fill(store, container: id, count: 12)
                try await store.closeContainer(ContainerID(id))
            }
            for _ in 0..<2 {
                for (id, blocks) in expected { try await check(store, container: id, blocks) }
            }
            #expect(store.cache.indexCost <= 20_000 && store.cache.indexCost > 0)
        }
    }
}
