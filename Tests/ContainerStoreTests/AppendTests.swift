import Bytes
import Checksum
import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite struct AppendTests {
    @Test("what was appended is read back, now and after the store was opened again")
    func roundTrip() async throws {
        try await withReactor { directory, reactor in
            let bytes = pattern(200_000, seed: 1)
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 2)
            for start in stride(from: 0, to: bytes.count, by: 65_536) {
                let end = min(start + 65_536, bytes.count)
                let length = try await store.append(
                    cell(
                        blockID(5), at: start, Array(bytes[start..<end]), group: 3 * end,
                        ended: end == bytes.count))
                #expect(length == end)
            }
            #expect(try await store.bytes(of: blockID(5)) == bytes)
            let record = BlockRecord(
                id: blockID(5), length: 200_000, groupLength: 600_000, isEnded: true)
            #expect(try await store.block(blockID(5)) == record)
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            #expect(try await again.bytes(of: blockID(5)) == bytes)
            #expect(try await again.blocks(in: ContainerID(1)) == [record])
            #expect(
                await again.report() == [
                    ContainerReport(
                        id: ContainerID(1), replication: replication, replicaIndex: 2,
                        state: .open, usedBytes: 200_000, blockCount: 1)
                ])
            // And it goes on from there.
            try await again.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 2)
            #expect(try await again.append(cell(blockID(6), at: 0, [1, 2, 3])) == 3)
            #expect(try await again.bytes(of: blockID(5)) == bytes)
            #expect(try await again.bytes(of: blockID(6)) == [1, 2, 3])
            try await again.close()
        }
    }

    @Test("a cell of another replication than the container's is refused and changes nothing")
    func otherReplication() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 2)
            try await store.append(cell(blockID(5), at: 0, [1, 2, 3]))
            let others = try [
                ReplicationConfig("rs-3-2-128k"), ReplicationConfig("rs-6-3-64k"),
                .replicated(.three), .replicated(.one),
            ]
            for other in others {
                var stray = cell(blockID(6), at: 0, [4])
                stray.replicaIndex = 2
                stray.replication = other
                let sent = stray
                let error = await #expect(throws: StoreError.self) {
                    try await store.append(sent, .client)
                }
                #expect(error?.code == .containerState)
                #expect(error?.message.contains("\(replication)") == true)
                #expect(error?.message.contains("\(other)") == true)
            }
            #expect(try await store.blocks(in: ContainerID(1)).map(\.id) == [blockID(5)])
            try await store.close()
        }
    }

    @Test("no replica is made on a volume to be avoided while another has room")
    func avoided() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            let paths = await store.volumes().map(\.path)
            store.avoid([paths[0]])
            for _ in 0..<4 { #expect(try await store.chooseVolume().path == paths[1]) }
            for id in 1...4 as ClosedRange<UInt64> {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
            }
            store.avoid(Set(paths))
            #expect(try await store.chooseVolume().path == paths[0], "the one with fewer")
            store.avoid([])
            #expect(try await store.chooseVolume().path == paths[0])
            try await store.close()
        }
    }

    @Test("many appends of many blocks in flight are each durable and share syncs")
    func concurrent() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            for id in 1...4 as ClosedRange<UInt64> {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
            }
            let blocks = (0..<32).map { blockID(UInt64($0), in: UInt64($0 % 4 + 1)) }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for part in 0..<8 {
                    for (number, block) in blocks.enumerated() {
                        let bytes = pattern(
                            part == 7 ? 5_000 : 65_536, seed: UInt64(number * 8 + part))
                        group.addTask {
                            let length = try await store.append(
                                cell(block, at: part * 65_536, bytes, ended: part == 7))
                            #expect(length >= part * 65_536 + bytes.count)
                        }
                    }
                }
                try await group.waitForAll()
            }
            let statistics = store.statistics
            #expect(statistics.writers == 256)
            #expect(statistics.commits < 128, "\(statistics)")
            #expect(statistics.bytesAppended == 32 * (7 * 65_536 + 5_000))
            try await checkParts(of: blocks, in: store)
            try await store.close()
            let again = try await openStore(directory, on: reactor, volumes: 2)
            try await checkParts(of: blocks, in: again)
        }
    }

    private func checkParts(of blocks: [BlockID], in store: ContainerStore) async throws {
        for (number, block) in blocks.enumerated() {
            let expected = (0..<8).flatMap { part in
                pattern(part == 7 ? 5_000 : 65_536, seed: UInt64(number * 8 + part))
            }
            #expect(try await store.bytes(of: block) == expected)
        }
    }

    @Test("an append at a wrong offset is refused, names the right one and changes nothing")
    func wrongOffset() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            try await store.append(cell(blockID(1), at: 0, pattern(16_384, seed: 1)))
            for offset in [0, 16_383, 16_385, 32_768] {
                let error = await refusal {
                    try await store.append(cell(blockID(1), at: offset, [7, 8]))
                }
                #expect(error?.code == .badRequest)
                #expect(error?.message.contains("16384") == true, "\(String(describing: error))")
            }
            #expect(try await store.bytes(of: blockID(1)) == pattern(16_384, seed: 1))
            #expect(try await store.append(cell(blockID(1), at: 16_384, [7, 8])) == 16_386)
        }
    }

    @Test("a cell that arrives damaged is refused with the unit that is wrong")
    func damagedCell() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            var bad = cell(blockID(1), at: 0, pattern(40_000, seed: 1))
            bad.checksums[2] ^= 1
            let error = await refusal { try await store.append(bad) }
            #expect(error?.code == .badRequest)
            #expect(error?.message.contains("unit 2") == true)
            bad.checksums.removeLast()
            #expect(await refusal { try await store.append(bad) }?.code == .badRequest)
            #expect(
                await refusal { try await store.block(blockID(1)) }?.code == .noSuchBlock)
            let huge = await refusal { try await store.append(cell(blockID(1), at: 1 << 40, [1])) }
            #expect(huge?.code == .badRequest)
        }
    }

    @Test("a repeated cell is acknowledged again and stored once")
    func repeated() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            let first = cell(blockID(1), at: 0, pattern(65_536, seed: 1))
            let last = cell(blockID(1), at: 65_536, pattern(900, seed: 2), ended: true)
            // At the same time, and one after the other.
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<5 { group.addTask { try await store.append(first) } }
                for try await length in group { #expect(length == 65_536) }
            }
            #expect(try await store.append(last) == 66_436)
            #expect(try await store.append(first) == 66_436)
            #expect(try await store.append(last) == 66_436)
            let report = await store.report()
            #expect(report[0].usedBytes == 66_436)
            // The same place with other bytes is no repetition.
            let other = cell(blockID(1), at: 0, pattern(65_536, seed: 3))
            #expect(await refusal { try await store.append(other) }?.code == .badRequest)
        }
    }

    @Test("a repeated last cell may bring the end of the block")
    func repeatedWithEnd() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            let bytes = pattern(1000, seed: 1)
            try await store.append(cell(blockID(1), at: 0, bytes, group: 1000))
            #expect(
                try await store.append(cell(blockID(1), at: 0, bytes, group: 1500, ended: true))
                    == 1000)
            let record = try await store.block(blockID(1))
            #expect(record.isEnded && record.groupLength == 1500 && record.length == 1000)
        }
    }

    @Test("an empty data replica keeps its record, and an ended block takes nothing more")
    func emptyReplica() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 3)
            #expect(
                try await store.append(cell(blockID(9), at: 0, [], group: 100, ended: true)) == 0)
            // Again: nothing to do.
            #expect(
                try await store.append(cell(blockID(9), at: 0, [], group: 100, ended: true)) == 0)
            #expect(store.statistics.writers == 1)
            let error = await refusal { try await store.append(cell(blockID(9), at: 0, [1])) }
            #expect(error?.code == .badRequest)
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            #expect(
                try await again.block(blockID(9))
                    == BlockRecord(id: blockID(9), length: 0, groupLength: 100, isEnded: true))
            #expect(try await again.read(blockID(9), 0..<0).payload.count == 0)
            #expect(await refusal { try await again.read(blockID(9), 0..<1) }?.code == .badRequest)
        }
    }

    @Test("nothing may follow a cell that ends within a unit")
    func cutUnit() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            try await store.append(cell(blockID(1), at: 0, [1, 2, 3]))
            let error = await refusal { try await store.append(cell(blockID(1), at: 3, [4])) }
            #expect(error?.code == .badRequest)
            #expect(try await store.append(cell(blockID(1), at: 3, [], group: 9, ended: true)) == 3)
        }
    }

    @Test(
        "payloads at any place in memory and of any length are stored",
        arguments: [1, 511, 512, 4095, 4096, 4097, 65_535, 65_537, 100_000, 1 << 20])
    func unaligned(count: Int) async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            for shift in [0, 1, 64, 4096] {
                let bytes = pattern(count, seed: UInt64(count + shift))
                let buffer = BufferPool.process.allocate(count + shift)
                buffer.bytes(in: shift..<shift + count).copyBytes(from: bytes)
                var append = cell(blockID(UInt64(shift)), at: 0, bytes)
                append.payload = Payload(buffer, shift..<shift + count)
                #expect(try await store.append(append) == count)
                #expect(try await store.bytes(of: append.block) == bytes)
            }
        }
    }

    @Test("reads are rounded out to units and carry their checksums")
    func ranges() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            let bytes = pattern(4 * 65_536 + 30_000, seed: 4)
            // Cells of two blocks take turns, so the block lies in pieces.
            for start in stride(from: 0, to: bytes.count, by: 65_536) {
                let part = Array(bytes[start..<min(start + 65_536, bytes.count)])
                try await store.append(cell(blockID(1), at: start, part))
                try await store.append(cell(blockID(2), at: start, part))
            }
            var random = SplitMix64(state: 5)
            for _ in 0..<200 {
                let start = Int.random(in: 0..<bytes.count, using: &random)
                let end = Int.random(in: start + 1...bytes.count, using: &random)
                let read = try await store.read(blockID(1), start..<end)
                #expect(read.range.lowerBound == start / 4096 * 4096)
                #expect(
                    read.range.upperBound
                        == min(bytes.count, (end + 4095) / 4096 * 4096))
                #expect(read.payload.withBytes { Array($0) } == Array(bytes[read.range]))
                #expect(read.payload.withBytes { CRC32C.ofUnits($0) } == read.checksums)
            }
            let beyond = await refusal { try await store.read(blockID(1), 0..<bytes.count + 1) }
            #expect(beyond?.code == .badRequest)
        }
    }

    @Test("writeback acknowledges without syncs and loses nothing when the process ends")
    func writeback() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.mortal
            options.durability = .writeback
            let store = try await openStore(directory, on: reactor, options: options)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            for part in 0..<10 {
                try await store.append(
                    cell(blockID(1), at: part * 65_536, pattern(65_536, seed: UInt64(part))))
            }
            #expect(store.statistics.dataSyncs == 0 && store.statistics.journalSyncs == 0)
            let again = try await openStore(directory, on: reactor, options: options)
            #expect(
                try await again.bytes(of: blockID(1))
                    == (0..<10).flatMap { pattern(65_536, seed: UInt64($0)) })
        }
    }
}

/// The `StoreError` that `body` throws; nil if it does not throw.
func refusal<R>(_ body: () async throws -> R) async -> StoreError? {
    do {
        _ = try await body()
        return nil
    } catch { return error as? StoreError }
}
