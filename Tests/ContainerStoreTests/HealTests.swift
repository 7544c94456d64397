import Bytes
import Checksum
import ContainerFormat
import Eventually
import Foundation
import Model
import Reactor
import Synchronization
import Testing

@testable import ContainerStore

private let id = ContainerID(1)

@Suite("replicas healed in place") struct HealTests {
    private func withStore(
        options: ContainerStore.Options = .small,
        _ body: @escaping @Sendable (String, Reactor, ContainerStore, Sample) async throws -> Void
    ) async throws {
        try await withReactor { directory, reactor in
            let sample = Sample()
            let store = try await openStore(directory, on: reactor, options: options)
            try await sample.write(store)
            try await body(directory, reactor, store, sample)
        }
    }

    @Test("a bad byte is made good where it is, what was there is kept, and the mark ends for good")
    func cell() async throws {
        try await withStore { directory, reactor, store, sample in
            let offset = 4096 * 3 + 17
            try flipBit(place(sample, 4, offset) * 8 + 5, of: dataPath(directory))
            #expect(await refusal { try await store.bytes(of: blockID(4)) }?.code == .corrupt)
            #expect(store.report(of: id)?.state == .unhealthy)
            let summary = try await sample.heal(store)
            #expect(summary.healedRanges == 1 && summary.healedBytes == 4096)
            #expect(summary.verifiedBytes >= sample.bytes.values.reduce(0) { $0 + $1.count })
            #expect(store.report(of: id)?.state == .closed)
            #expect(await sample.read(store) == 0)
            // For people: a note, then the bytes as they were.
            let name = try #require(kept(directory).first)
            let file = try contents(of: "\(directory)/v1/damaged/\(name)")
            let note = try DamageNote(parsing: file)
            #expect(note.block == blockID(4) && note.replicaIndex == 1)
            #expect(note.range == 12_288..<16_384 && note.fileOffset == place(sample, 4, 12_288))
            var bad = Array(sample.bytes[4]![note.range])
            bad[17] ^= 1 << 5
            #expect(Array(file[DamageNote.size...]) == bad)
            #expect(file.prefix(60).contains(UInt8(ascii: "\n")))
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            #expect(again.report(of: id)?.state == .closed)
            #expect(await again.report().count == 1)
            #expect(await again.volumes()[0].problems.isEmpty)
            #expect(await sample.read(again) == 0)
            try await again.close()
        }
    }

    @Test("what does not match the recorded checksum is not written, and the replica stays damaged")
    func mismatch() async throws {
        try await withStore { directory, reactor, store, sample in
            try flipBit(place(sample, 3, 70_000) * 8, of: dataPath(directory))
            let before = try contents(of: dataPath(directory))
            let error = await refusal {
                try await store.heal(id, replicaIndex: 1) { damaged throws(StoreError) in
                    Payload(
                        copying: [UInt8](repeating: 7, count: damaged.range.count), pool: .process)
                }
            }
            #expect(error?.code == .corrupt)
            let short = await refusal {
                try await store.heal(id, replicaIndex: 1) { _ throws(StoreError) in
                    Payload(copying: [1, 2, 3], pool: .process)
                }
            }
            #expect(short?.code == .corrupt)
            #expect(try contents(of: dataPath(directory)) == before)
            #expect(store.report(of: id)?.state == .unhealthy && kept(directory).isEmpty)
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            #expect(again.report(of: id)?.state == .unhealthy)
            _ = try await sample.heal(again)
            #expect(again.report(of: id)?.state == .closed)
            try await again.close()
        }
    }

    @Test("a replica that is marked and whole is found whole, and nothing of it is written")
    func wholeAlready() async throws {
        try await withStore { directory, _, store, sample in
            let before = try contents(of: dataPath(directory))
            try store.container(id).markDamaged("a reader said so")
            #expect(store.report(of: id)?.state == .unhealthy)
            let summary = try await sample.heal(store)
            #expect(summary.healedBytes == 0 && store.report(of: id)?.state == .closed)
            #expect(try contents(of: dataPath(directory)) == before && kept(directory).isEmpty)
            try await store.close()
        }
    }

    @Test(
        "bits flipped anywhere in the cells, header and journal are found, not served, and healed")
    func anywhere() async throws {
        try await withStore { directory, reactor, first, sample in
            try await first.deleteBlocks([blockID(2)])
            await first.reclaim()
            try await first.close()
            let data = try contents(of: dataPath(directory))
            let journal = try contents(of: journalPath(directory))
            let cells = place(sample, Sample.count, sample.bytes[Sample.count]!.count)
            let end = journal.count - journal.reversed().prefix { $0 == 0 }.count
            var random = SplitMix64(state: 4711)
            let rounds = environment("APUS_TEST_ROUNDS").flatMap { Int($0) } ?? 150
            var flips = 0
            for round in 0..<rounds {
                let store = try await openStore(directory, on: reactor)
                for _ in 0..<Int.random(in: 1...12, using: &random) {
                    let bit = Int.random(in: 0..<cells * 8, using: &random)
                    try flipBit(bit, of: dataPath(directory))
                    flips += 1
                }
                if round % 5 == 0 {
                    let bit = Int.random(in: 0..<end * 8, using: &random)
                    try flipBit(bit, of: journalPath(directory))
                    flips += 1
                }
                let clock = Timestamp(milliseconds: 1_000_000_000_000)
                store.startScrubbing(.init(bytesPerSecond: nil)) { clock }
                store.scrubbers[0].scrubNow()
                try await eventually("it is scrubbed") { store.scrubbers[0].status.rounds > 0 }
                _ = await sample.read(store, deleted: [2])
                _ = try await sample.heal(store)
                #expect(store.report(of: id)?.state == .closed, "round \(round)")
                #expect(await sample.read(store, deleted: [2]) == 0, "round \(round)")
                try await store.close()
                let again = try await openStore(directory, on: reactor)
                #expect(again.report(of: id)?.state == .closed, "round \(round)")
                #expect(again.report(of: id)?.blockCount == 5, "round \(round)")
                #expect(await sample.read(again, deleted: [2]) == 0, "round \(round)")
                #expect(
                    await refusal { try await again.block(blockID(2)) }?.code == .noSuchBlock)
                try await again.close()
            }
            print("\(flips) bits flipped in \(rounds) rounds")
            // Byte for byte, but for what lies in no block.
            let healed = try contents(of: dataPath(directory))
            for localID in sample.bytes.keys where localID != 2 {
                let start = place(sample, localID, 0)
                let range = start..<start + sample.bytes[localID]!.count
                #expect(healed[range] == data[range], "block \(localID)")
            }
            let header = try healed.withUnsafeBytes {
                try ContainerHeader(parsing: $0, of: .data)
            }
            #expect(header.containerID == id && header.replicaIndex == 1)
        }
    }

    @Test("a journal that rots while it is known is found by the scrubber, and written anew")
    func journal() async throws {
        try await withStore { directory, reactor, store, sample in
            try await store.deleteBlocks([blockID(5)])
            await store.reclaim()
            try await store.deleteBlocks([blockID(6)])
            let clock = Timestamp(milliseconds: 1_000_000_000_000)
            // In its very first record: at the next start it would not be a container's any more.
            try flipBit((Journal.start + 13) * 8, of: journalPath(directory))
            store.startScrubbing(.init(bytesPerSecond: nil)) { clock }
            store.scrubbers[0].scrubNow()
            try await eventually("it is found") {
                store.report(of: id)?.state == .unhealthy
            }
            #expect(store.scrubbers[0].status.findings.first?.contains("journal") == true)
            // Nothing is added behind what is damaged.
            #expect(
                await refusal { try await store.deleteBlocks([blockID(1)]) }?.code
                    == .containerState)
            _ = try await sample.heal(store)
            try await store.deleteBlocks([blockID(1)])
            try await store.close()
            let again = try await openStore(directory, on: reactor)
            #expect(again.report(of: id)?.state == .closed && again.report(of: id)?.blockCount == 3)
            #expect(await sample.read(again, deleted: [1, 5, 6]) == 0)
            for localID in [1, 5, 6] as [UInt64] {
                #expect(
                    await refusal { try await again.block(blockID(localID)) }?.code
                        == .noSuchBlock)
            }
            try await again.close()
        }
    }

    @Test("what the index has lost cannot be healed, and nothing is changed")
    func index() async throws {
        try await withStore { directory, reactor, store, sample in
            try await store.close()
            let pristine = try contents(of: dataPath(directory))
            // Page, table, footer: the last three blocks that are not padding.
            for bit in [1, 2, 3].map({ (pristine.count - $0 * 4096 + 10) * 8 }) {
                try replaceContents(of: dataPath(directory), with: pristine)
                try flipBit(bit, of: dataPath(directory))
                let store = try await openStore(directory, on: reactor)
                let error = await refusal { try await sample.heal(store) }
                #expect(error?.code == .corrupt, "bit \(bit)")
                #expect(store.report(of: id)?.state == .unhealthy, "bit \(bit)")
                try await store.close()
                try replaceContents(of: dataPath(directory), with: pristine)
                let again = try await openStore(directory, on: reactor)
                _ = try await sample.heal(again)
                #expect(again.report(of: id)?.state == .closed)
                try await again.close()
            }
        }
    }

    @Test(
        "a block that is deleted while it is made good stays a hole; one that cannot be does not matter"
    )
    func deletion() async throws {
        try await withStore { directory, _, store, sample in
            try flipBit(place(sample, 6, 100_000) * 8, of: dataPath(directory))
            try flipBit(place(sample, 5, 100) * 8, of: dataPath(directory))
            _ = try await store.heal(id, replicaIndex: 1) { damaged async throws(StoreError) in
                if damaged.block.localID == 6 {
                    try await store.deleteBlocks([blockID(6)])
                    await store.reclaim()
                    return try sample.make(damaged)
                }
                try await store.deleteBlocks([damaged.block])
                throw StoreError(.unavailable, "nobody has it")
            }
            #expect(store.report(of: id)?.state == .closed && store.report(of: id)?.blockCount == 4)
            let start = place(sample, 6, 0)
            let bytes = try contents(of: dataPath(directory))
            #expect(bytes[start..<start + extent(sample, 6)].allSatisfy { $0 == 0 })
            #expect(await sample.read(store, deleted: [5, 6]) == 0)
            try await store.close()
        }
    }

    @Test("a removal meanwhile ends the healing, and a second one at the same time is refused")
    func removal() async throws {
        try await withStore { directory, _, store, sample in
            try flipBit(place(sample, 3, 5000) * 8, of: dataPath(directory))
            let error = await refusal {
                try await store.heal(id, replicaIndex: 1) { damaged async throws(StoreError) in
                    let second = await refusal { try await sample.heal(store) }
                    #expect(second?.code == .containerState)
                    try await store.deleteContainer(id)
                    return try sample.make(damaged)
                }
            }
            #expect(error?.code == .noSuchContainer)
            #expect(try names(in: "\(directory)/v1/containers").isEmpty)
            try await store.close()
        }
    }

    @Test("what a reader meets while the rest is verified is looked at again before the mark ends")
    func metMeanwhile() async throws {
        try await withStore { directory, _, store, sample in
            try flipBit(place(sample, 6, 5000) * 8, of: dataPath(directory))
            let isFirst = Mutex(true)
            let summary = try await store.heal(id, replicaIndex: 1) {
                damaged async throws(StoreError) in
                // Block 1 has been verified by now, and rots.
                if isFirst.withLock({ $0.exchange(false) }) {
                    #expect(throws: Never.self) {
                        try flipBit(place(sample, 1, 77) * 8, of: dataPath(directory))
                    }
                    #expect(await refusal { try await store.bytes(of: blockID(1)) } != nil)
                }
                return try sample.make(damaged)
            }
            #expect(summary.healedRanges == 2 && store.report(of: id)?.state == .closed)
            #expect(await sample.read(store) == 0)
            try await store.close()
        }
    }

    @Test("a disk that gives an error for a part of a cell has that part written anew")
    func unreadable() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 1)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            try await Task(executorPreference: reactor) {
                let sample = Sample()
                let store = try await openStore(directory, on: reactor)
                try await sample.write(store)
                // The first reads of the healing fail, be it of the index: nothing is lost by that.
                faults.set(error: 5, for: .read)
                #expect(await refusal { try await sample.heal(store) } != nil)
                #expect(store.report(of: id)?.state == .unhealthy)
                faults.set(error: nil, for: .read)
                _ = try await sample.heal(store)
                #expect(store.report(of: id)?.state == .closed)
                #expect(await sample.read(store) == 0)
                try await store.close()
            }.value
        }
    }

    @Test("what is kept is bounded in bytes, files and age, and gone where there is no room")
    func bounds() {
        func file(_ number: Int, _ size: Int, at: Int64) -> KeptFile {
            KeptFile(name: "bytes-1-1-\(number)-0-\(at)", size: size)!
        }
        let now: Int64 = 1_700_000_000_000
        let day: Int64 = 86_400_000
        let files = [
            file(1, 10 << 20, at: now - 8 * day), file(2, 30 << 20, at: now - 2 * day),
            file(3, 30 << 20, at: now - day), file(4, 1 << 20, at: now + 9 * day),
            KeptFile(name: "replica-7-2-\(now - 2 * day).data", size: 1 << 30)!,
            KeptFile(name: "replica-7-2-\(now - day / 2).journal", size: 1 << 12)!,
        ]
        func gone(_ adding: Int, isFull: Bool = false) -> [Int] {
            let gone = KeptFile.superfluous(files, adding: adding, isFull: isFull, at: now)
            return files.indices.filter { gone.contains(files[$0]) }
        }
        #expect(gone(0) == [0, 3, 4])
        #expect(gone(5 << 20) == [0, 1, 3, 4])
        #expect(gone(0, isFull: true) == Array(files.indices))
        for name in [
            "bytes-1-2", "container-1.data", "", ".", "bytes-a-1-1-0-7", "replica-1-2-3-4",
        ] {
            #expect(KeptFile(name: name, size: 1) == nil, "\(name)")
        }
        let many = (0..<5000).map { file($0, 4096, at: now - Int64($0)) }
        #expect(
            KeptFile.superfluous(many, adding: 1, isFull: false, at: now).count
                == 5001 - KeptFile.Limits.files)
    }

    @Test("what was damaged lately, or lies on a disk where something was, is due sooner")
    func order() {
        let day: Int64 = 86_400_000
        let now = 1000 * day
        let verified = [
            ContainerID(1): now - 13 * day, ContainerID(2): now - 2 * day,
            ContainerID(3): now - 7 * day,
        ]
        func urgent(_ damaged: [ContainerID: Int64]) -> [UInt64] {
            let order = ScrubOrder(
                verified: verified, damaged: damaged, period: 14 * day, at: now)
            return (1...4 as ClosedRange<UInt64>).map { ContainerID($0) }
                .filter { order.urgency(of: $0) >= 1 }
                .sorted { order.urgency(of: $0) > order.urgency(of: $1) }.map(\.rawValue)
        }
        #expect(urgent([:]) == [4])
        #expect(urgent([ContainerID(2): now - day]) == [4, 1, 2, 3])
        // Damage of long ago makes nothing suspicious.
        #expect(urgent([ContainerID(2): now - 8 * day]) == [4])
    }
}

@Suite("damaged replicas that give way") struct ReplacingTests {
    private func begin(
        _ store: ContainerStore, token: UInt64 = 9, index: Int = 1, replacing: Bool = true
    ) async throws(StoreError) {
        try await store.beginRecovery(
            id, replication: replication, replicaIndex: index, token: token, replacing: replacing)
    }

    @Test("a damaged replica is moved aside, counts for nothing, and is gone a day later")
    func aside() async throws {
        let day: Int64 = 86_400_000
        let time = Mutex<Int64>(1_700_000_000_000)
        var options = ContainerStore.Options.small
        options.clock = { Timestamp(milliseconds: time.withLock { $0 }) }
        let settings = options
        try await withReactor { directory, reactor in
            let sample = Sample()
            let store = try await openStore(directory, on: reactor, options: settings)
            try await sample.write(store)
            try await store.deleteBlocks([blockID(3)])
            await store.reclaim()
            // One that is whole does not give way, nor one of another index.
            #expect(await refusal { try await begin(store) }?.code == .containerState)
            try store.container(id).markDamaged("a test says so")
            #expect(
                await refusal { try await begin(store, replacing: false) }?.code == .containerState)
            #expect(await refusal { try await begin(store, index: 2) }?.code == .containerState)
            try await begin(store)
            #expect(store.report(of: id)?.state == .recovering)
            // What was deleted does not come back.
            #expect(try store.rebuilt(blockID(3), token: 9) == .deleted)
            let names = kept(directory)
            #expect(names.count == 2 && names.allSatisfy { $0.hasPrefix("replica-1-1-") })
            try await store.close()
            let again = try await openStore(directory, on: reactor, options: settings)
            #expect(await again.report().map(\.state) == [.recovering])
            #expect(await again.volumes()[0].problems.isEmpty && kept(directory).count == 2)
            time.withLock { $0 += day + 1 }
            _ = await again.volumes()
            #expect(kept(directory).isEmpty)
            try await again.close()
        }
    }

    @Test("files that could not be opened are moved aside; those of a later program are left alone")
    func unusable() async throws {
        for isLater in [false, true] {
            try await withReactor { directory, reactor in
                let sample = Sample()
                let first = try await openStore(directory, on: reactor)
                try await sample.write(first)
                try await first.close()
                var bytes = try contents(of: journalPath(directory))
                if isLater {
                    bytes[8] = UInt8(ContainerHeader.version + 1)
                    let length = Int(bytes[12]) | Int(bytes[13]) << 8
                    let sum = crc(Array(bytes[..<16]) + bytes[20..<20 + length])
                    for index in 0..<4 {
                        bytes[16 + index] = UInt8(truncatingIfNeeded: sum >> (8 * index))
                    }
                } else {
                    bytes[25] ^= 8
                }
                try replaceContents(of: journalPath(directory), with: bytes)
                let store = try await openStore(directory, on: reactor)
                #expect(await store.report().map(\.state) == [.lost])
                let error = await refusal { try await begin(store) }
                if isLater {
                    #expect(error?.code == .versionMismatch)
                    #expect(try contents(of: journalPath(directory)) == bytes)
                } else {
                    #expect(error == nil && kept(directory).count == 2)
                    #expect(await store.report().map(\.state) == [.recovering])
                }
                try await store.close()
            }
        }
    }
}

extension Bool {
    /// Takes on `value`, and returns what it was.
    fileprivate mutating func exchange(_ value: Bool) -> Bool {
        defer { self = value }
        return self
    }
}

@Suite("crashes while a replica is healed", .serialized) struct HealCrashTests {
    private struct Outcome: Sendable {
        var isHealed: Bool
        var operations: Int
    }

    /// Makes a damaged replica below `directory`, with a deletion that is not carried out yet.
    private func prepare(_ directory: String, _ sample: Sample) async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        try await Task(executorPreference: reactor) {
            let store = try await openStore(directory, on: reactor)
            try await sample.write(store)
            try await store.deleteBlocks([blockID(2)])
            for (localID, offset) in [(1, 10), (4, 65_600), (4, 9000), (6, 239_000)] {
                try flipBit(place(sample, UInt64(localID), offset) * 8, of: dataPath(directory))
            }
            #expect(await sample.read(store, deleted: [2]) == 3)
            try await store.close()
        }.value
    }

    /// Heals, has it deleted from, and moves it aside in the end, until the power is cut.
    private func run(
        _ directory: String, _ sample: Sample, seed: UInt64, crashAt: Int?
    ) async throws -> Outcome {
        let faults = FaultInjector(seed: seed)
        if let crashAt { faults.crash(atOperation: crashAt) }
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        let isHealed = Mutex(false)
        let error = await Task(executorPreference: reactor) {
            await refusal {
                let store = try await openStore(directory, on: reactor, options: .mortal)
                _ = try await sample.heal(store)
                isHealed.withLock { $0 = true }
                try await store.close()
            }
        }.value
        if crashAt == nil { #expect(error == nil) }
        let count = faults.operationCount
        reactor.stop()
        faults.applyCrash()
        return Outcome(isHealed: isHealed.withLock { $0 }, operations: count)
    }

    @Test(
        "a power cut before any operation leaves a replica that is damaged, or whole, and is healed"
    )
    func everyPoint() async throws {
        let sample = Sample()
        try await withDirectory { base in
            try await prepare(base + "/pristine", sample)
            try copyTree(base + "/pristine/v1", to: base + "/all/v1", making: base + "/all")
            let all = try await run(base + "/all", sample, seed: 0, crashAt: nil)
            #expect(all.isHealed && all.operations > 20)
            for seed in 1...3 as ClosedRange<UInt64> {
                for point in 0..<all.operations {
                    let copy = "\(base)/\(seed)-\(point)"
                    try copyTree(base + "/pristine/v1", to: copy + "/v1", making: copy)
                    let outcome = try await run(copy, sample, seed: seed, crashAt: point)
                    let reactor = try Reactor.start()
                    try await Task(executorPreference: reactor) {
                        let comment: Comment = "seed \(seed), point \(point)"
                        let store = try await openStore(copy, on: reactor, options: .mortal)
                        let state = store.report(of: id)?.state
                        #expect(state == .unhealthy || state == .closed, comment)
                        let failures = await sample.read(store, deleted: [2])
                        #expect(failures == 0 || state == .unhealthy, comment)
                        if outcome.isHealed { #expect(state == .closed, comment) }
                        _ = try await sample.heal(store)
                        #expect(store.report(of: id)?.state == .closed, comment)
                        #expect(await sample.read(store, deleted: [2]) == 0, comment)
                        try await store.close()
                        let again = try await openStore(copy, on: reactor, options: .mortal)
                        #expect(again.report(of: id)?.state == .closed, comment)
                        #expect(again.report(of: id)?.blockCount == 5, comment)
                        #expect(await again.report().count == 1, comment)
                        #expect(await sample.read(again, deleted: [2]) == 0, comment)
                        try await again.close()
                    }.value
                    reactor.stop()
                    try removeFile(copy)
                }
            }
        }
    }

    @Test(
        "a power cut while a damaged replica is moved aside leaves it damaged, lost, or recovering")
    func moving() async throws {
        let sample = Sample()
        try await withDirectory { base in
            try await prepare(base + "/pristine", sample)
            func move(_ directory: String, _ seed: UInt64, _ crashAt: Int?) async throws -> Int {
                let faults = FaultInjector(seed: seed)
                if let crashAt { faults.crash(atOperation: crashAt) }
                let reactor = try Reactor.start(.init(backend: .faulty(faults)))
                let error = await Task(executorPreference: reactor) {
                    await refusal {
                        let store = try await openStore(directory, on: reactor, options: .mortal)
                        try await store.beginRecovery(
                            id, replication: replication, replicaIndex: 1, token: 9,
                            replacing: true)
                        try await store.close()
                    }
                }.value
                if crashAt == nil { #expect(error == nil) }
                let count = faults.operationCount
                reactor.stop()
                faults.applyCrash()
                return count
            }
            try copyTree(base + "/pristine/v1", to: base + "/all/v1", making: base + "/all")
            let count = try await move(base + "/all", 0, nil)
            for seed in 1...3 as ClosedRange<UInt64> {
                for point in 0..<count {
                    let copy = "\(base)/\(seed)-\(point)"
                    try copyTree(base + "/pristine/v1", to: copy + "/v1", making: copy)
                    _ = try await move(copy, seed, point)
                    let reactor = try Reactor.start()
                    try await Task(executorPreference: reactor) {
                        let comment: Comment = "seed \(seed), point \(point)"
                        let store = try await openStore(copy, on: reactor, options: .mortal)
                        let states = await store.report().map(\.state)
                        #expect(
                            [[.unhealthy], [.lost], [.recovering], []].contains(states), comment)
                        try await store.beginRecovery(
                            id, replication: replication, replicaIndex: 1, token: 9,
                            replacing: true)
                        #expect(await store.report().map(\.state) == [.recovering], comment)
                        try await store.finishRecovery(id, token: 9)
                        #expect(await store.report().map(\.state) == [.closed], comment)
                        try await store.close()
                        let again = try await openStore(copy, on: reactor, options: .mortal)
                        #expect(await again.report().map(\.state) == [.closed], comment)
                        try await again.close()
                    }.value
                    reactor.stop()
                    try removeFile(copy)
                }
            }
        }
    }
}
