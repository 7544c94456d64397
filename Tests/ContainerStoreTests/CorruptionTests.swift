import Bytes
import ContainerFormat
import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite struct CorruptionTests {
    /// Blocks 1…6 of container 1, of different lengths; the store is closed in order.
    private func make(
        _ directory: String, _ reactor: Reactor, closing: Bool
    ) async throws -> [UInt64: [UInt8]] {
        let store = try await openStore(directory, on: reactor)
        try await store.createContainer(
            ContainerID(1), replication: replication, replicaIndex: 1)
        var expected: [UInt64: [UInt8]] = [:]
        for localID in 1...6 as ClosedRange<UInt64> {
            let bytes = pattern(Int(localID) * 13_000, seed: localID)
            for start in stride(from: 0, to: bytes.count, by: 65_536) {
                let end = min(bytes.count, start + 65_536)
                try await store.append(
                    cell(
                        blockID(localID), at: start, Array(bytes[start..<end]),
                        ended: end == bytes.count))
            }
            expected[localID] = bytes
        }
        if closing { try await store.closeContainer(ContainerID(1)) }
        try await store.close()
        return expected
    }

    /// Reads everything. What is read is right; what is not to be had is known to be damaged.
    private func check(
        _ store: ContainerStore, _ expected: [UInt64: [UInt8]], _ comment: Comment
    ) async throws {
        var missing = 0
        for (localID, bytes) in expected {
            var length = 0
            let error = await refusal {
                length = try await store.block(blockID(localID)).length
                let found = try await store.read(blockID(localID), 0..<length).payload
                #expect(found.withBytes { Array($0) } == Array(bytes.prefix(length)), comment)
            }
            if error != nil || length < bytes.count { missing += 1 }
            if let error {
                #expect(
                    [.corrupt, .noSuchBlock, .noSuchContainer].contains(error.code),
                    "\(error), \(comment)")
            }
        }
        guard missing > 0 else { return }
        let states = await store.report().map(\.state)
        let problems = await store.volumes()[0].problems
        #expect(states == [.unhealthy] || states == [.lost] || !problems.isEmpty, comment)
    }

    @Test(
        "a journal that is cut off within its header ends nothing, and is left as it is",
        arguments: [true, false], [0, 1, 8, 60, 100, 2000, 4095])
    func shortJournal(closing: Bool, size: Int) async throws {
        try await withReactor { directory, reactor in
            let expected = try await make(directory, reactor, closing: closing)
            let path = "\(directory)/v1/containers/container-1.journal"
            try replaceContents(of: path, with: Array(try contents(of: path).prefix(size)))
            let store = try await openStore(directory, on: reactor)
            try await check(store, expected, "\(size) bytes are left")
            #expect(await store.report().map(\.state) == [.lost])
            try await store.close()
            #expect(try contents(of: path).count == size)
        }
    }

    @Test("a flipped bit in a cell is found by the read and named, and told after a restart too")
    func cellNamed() async throws {
        for closing in [false, true] {
            try await withReactor { directory, reactor in
                let expected = try await make(directory, reactor, closing: closing)
                let path = "\(directory)/v1/containers/container-1.data"
                // Block 3 begins after the header and blocks 1 and 2; damage its fifth unit.
                let start = DataFile.start + DataFile.aligned(13_000) + DataFile.aligned(26_000)
                try flipBit((start + 18_000) * 8 + 3, of: path)
                let store = try await openStore(directory, on: reactor)
                #expect(await store.report()[0].state == (closing ? .closed : .open))
                let error = await refusal { try await store.bytes(of: blockID(3)) }
                #expect(error?.code == .corrupt)
                for part in ["#1", "#1/3", "offset 16384", "\(directory)/v1"] {
                    #expect(error?.message.contains(part) == true, "\(part) in \(error!)")
                }
                // Its other units are whole, and so are the other blocks.
                let whole = try await store.read(blockID(3), 0..<16_384)
                #expect(whole.payload.withBytes { Array($0) } == Array(expected[3]!.prefix(16_384)))
                #expect(try await store.bytes(of: blockID(4)) == expected[4])
                #expect(await store.report()[0].state == .unhealthy)
                let refused = await refusal {
                    try await store.append(cell(blockID(9), at: 0, [1]))
                }
                #expect(refused?.code == .containerState)
                try await store.close()
                let again = try await openStore(directory, on: reactor)
                #expect(await again.report()[0].state == .unhealthy)
                #expect(try await again.bytes(of: blockID(4)) == expected[4])
                try await again.deleteContainer(ContainerID(1))
                #expect(await again.report().isEmpty)
            }
        }
    }

    @Test(
        "bits flipped anywhere in the files never give wrong bytes, and losses are known",
        arguments: ["data", "journal"], [false, true])
    func anywhere(kind: String, closing: Bool) async throws {
        try await withReactor { directory, reactor in
            let expected = try await make(directory, reactor, closing: closing)
            let path = "\(directory)/v1/containers/container-1.\(kind)"
            let pristine = try contents(of: path)
            let used = pristine.count - pristine.reversed().prefix { $0 == 0 }.count
            var random = SplitMix64(state: 99)
            for round in 0..<120 {
                var damaged = pristine
                let count = Int.random(in: 1...3, using: &random)
                var bits: [Int] = []
                for _ in 0..<count {
                    let bit = Int.random(in: 0..<used * 8, using: &random)
                    bits.append(bit)
                    damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                }
                let copy = "\(directory)/copy-\(round)"
                try copyTree("\(directory)/v1", to: copy + "/v1", making: copy)
                try replaceContents(
                    of: "\(copy)/v1/containers/container-1.\(kind)", with: damaged)
                let store = try await openStore(copy, on: reactor)
                try await check(store, expected, "\(kind), bits \(bits)")
                try await store.close()
                // Nor does another start make it worse.
                let again = try await openStore(copy, on: reactor)
                try await check(again, expected, "\(kind), bits \(bits), second start")
                try await again.close()
                try removeFile(copy)
            }
        }
    }

    @Test("files that are missing, cut, or another container's are noticed, and nothing is removed")
    func files() async throws {
        for closing in [false, true] {
            for damage in 0..<4 {
                try await withReactor { directory, reactor in
                    let expected = try await make(directory, reactor, closing: closing)
                    let base = "\(directory)/v1/containers/container-1"
                    switch damage {
                    case 0: try removeFile(base + ".data")
                    case 1:
                        let bytes = try contents(of: base + ".data")
                        try replaceContents(of: base + ".data", with: Array(bytes.prefix(50_000)))
                    case 2: try removeFile(base + ".journal")
                    default:
                        let journal = try contents(of: base + ".journal")
                        try replaceContents(
                            of: "\(directory)/v1/containers/container-2.journal", with: journal)
                    }
                    let store = try await openStore(directory, on: reactor)
                    if damage == 2 {
                        #expect(await store.report().map(\.state) == [.lost])
                        #expect(
                            try await store.deleteBlocks([blockID(1)])
                                == [ContainerID(1): .unusable])
                        #expect(await store.volumes()[0].problems.count == 1)
                        #expect(
                            await refusal {
                                try await store.createContainer(
                                    ContainerID(1), replication: replication, replicaIndex: 1)
                            }?.code == .containerState)
                        #expect(try contents(of: base + ".data").count > 100_000)
                    } else if damage == 3 {
                        #expect(await store.volumes()[0].problems.count == 1)
                        let refused = await refusal {
                            try await store.createContainer(
                                ContainerID(2), replication: replication, replicaIndex: 1)
                        }
                        #expect(refused?.code == .containerState)
                        try await store.deleteContainer(ContainerID(2))
                        try await store.createContainer(
                            ContainerID(2), replication: replication, replicaIndex: 1)
                        for (localID, bytes) in expected {
                            #expect(try await store.bytes(of: blockID(localID)) == bytes)
                        }
                    } else {
                        #expect(await store.report().map(\.state) == [.unhealthy])
                        for localID in expected.keys {
                            #expect(
                                await refusal { try await store.bytes(of: blockID(localID)) }
                                    .map { [.corrupt, .io].contains($0.code) } ?? true)
                        }
                    }
                }
            }
        }
    }

    @Test("a journal of a newer program is left alone and named with its version")
    func newerVersion() async throws {
        try await withReactor { directory, reactor in
            _ = try await make(directory, reactor, closing: false)
            let path = "\(directory)/v1/containers/container-1.journal"
            var bytes = try contents(of: path)
            // With a right checksum, as a newer program would write it.
            bytes[8] = UInt8(ContainerHeader.version + 1)
            let length = Int(bytes[12]) | Int(bytes[13]) << 8
            let sum = crc(Array(bytes[..<16]) + bytes[20..<20 + length])
            for index in 0..<4 { bytes[16 + index] = UInt8(truncatingIfNeeded: sum >> (8 * index)) }
            try replaceContents(of: path, with: bytes)
            let store = try await openStore(directory, on: reactor)
            let problems = await store.volumes()[0].problems
            #expect(problems.count == 1 && problems[0].contains("version 4"))
            #expect(try contents(of: path) == bytes)
        }
    }

    @Test("a torn tail is cut from the file, so that nothing in it can come back")
    func tornTail() async throws {
        try await withReactor { directory, reactor in
            let expected = try await make(directory, reactor, closing: false)
            let path = "\(directory)/v1/containers/container-1.journal"
            var bytes = try contents(of: path)
            let parsed = try bytes.withUnsafeBytes { try Journal.parse($0) }
            // A batch of two records, the first of which was torn.
            var tail = bytes.withUnsafeBytes { JournalTail(parsed, of: $0) }
            let write = tail.append([
                .commit(.init(localID: 100, groupLength: 1, isEnded: false)),
                .commit(.init(localID: 101, groupLength: 1, isEnded: false)),
            ])
            bytes.replaceSubrange(
                write.offset..<write.offset + write.bytes.count, with: write.bytes)
            bytes[parsed.end + 4] ^= 0xFF
            try replaceContents(of: path, with: bytes)
            let store = try await openStore(directory, on: reactor)
            for (localID, bytes) in expected {
                #expect(try await store.bytes(of: blockID(localID)) == bytes)
            }
            for lost in [100, 101] as [UInt64] {
                #expect(await refusal { try await store.block(blockID(lost)) } != nil)
            }
            let cut = try contents(of: path)
            #expect(cut[parsed.end...].allSatisfy { $0 == 0 })
            #expect(Array(cut[..<parsed.end]) == Array(bytes[..<parsed.end]))
        }
    }
}
