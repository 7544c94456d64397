import ContainerFormat
import Eventually
import Glibc
import Model
import Reactor
import Synchronization
import Testing

@testable import ContainerStore

private let id = Sample.id

/// What comes in between while a replica is verified, healed, or has its journal replaced.
@Suite("healing, and what comes in between", .timeLimit(.minutes(2)))
struct HealTroubleTests {
    /// A closed replica on a disk whose faults the injector makes, its index in memory.
    private func withFaults(
        _ body:
            @escaping @Sendable (String, FaultInjector, Reactor, ContainerStore, Sample)
            async throws -> Void
    ) async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 5)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer {
                faults.set(hungPath: nil)
                reactor.stop()
            }
            try await Task(executorPreference: reactor) {
                let sample = Sample()
                let store = try await openStore(directory, on: reactor, options: .mortal)
                try await sample.write(store)
                #expect(await sample.read(store) == 0)
                try await body(directory, faults, reactor, store, sample)
            }.value
        }
    }

    /// Opens the store again, and has it be whole without the blocks `deleted`.
    private func reopen(
        _ directory: String, _ reactor: Reactor, _ sample: Sample, deleted: Set<UInt64>
    ) async throws {
        let again = try await openStore(directory, on: reactor, options: .mortal)
        #expect(await again.report().map(\.state) == [.closed])
        #expect(again.report(of: id)?.blockCount == Int(Sample.count) - deleted.count)
        #expect(await sample.read(again, deleted: deleted) == 0)
        for localID in deleted {
            #expect(await refusal { try await again.block(blockID(localID)) }?.code == .noSuchBlock)
        }
        try await again.close()
    }

    @Test("what waits for a journal that is found rotten is told, and the replica can be healed")
    func rottenMeanwhile() async throws {
        try await withFaults { directory, faults, reactor, store, sample in
            let container = try store.container(id)
            let file = try await store.cache.dataFile(of: container)
            try flipBit((Journal.start + 13) * 8, of: journalPath(directory))
            faults.set(hungPath: journalPath(directory))
            let scrub = Task(executorPreference: reactor) {
                try await container.damageBesideCells(file)
            }
            try await eventually("the journal is read") {
                container.state.withLock { $0.isJournalHeld }
            }
            let deletion = Task(executorPreference: reactor) {
                await refusal { try await store.deleteBlocks([blockID(5)]) }
            }
            container.note(.mark)
            try await eventually("both wait") {
                container.state.withLock { $0.extras.count == 2 }
            }
            faults.set(hungPath: nil)
            #expect(try await scrub.value?.contains("journal") == true)
            #expect(await deletion.value?.code == .containerState)
            #expect(try await store.bytes(of: blockID(5)) == sample.bytes[5])
            _ = try await sample.heal(store)
            #expect(store.report(of: id)?.state == .closed)
            try await store.deleteBlocks([blockID(5)])
            try await store.close()
            try await reopen(directory, reactor, sample, deleted: [5])
        }
    }

    @Test("what a suspended disk refuses is no damage to the journal")
    func suspended() async throws {
        try await withFaults { _, _, _, store, _ in
            let container = try store.container(id)
            #expect(try await container.soundJournal() != nil)
            container.volume.disk.suspend(true)
            #expect(await refusal { _ = try await container.soundJournal() } != nil)
            container.volume.disk.suspend(false)
            #expect(try await container.soundJournal() != nil)
            try await store.close()
        }
    }

    @Test("a replica is not removed while its journal is replaced", arguments: [false, true])
    func removedMeanwhile(isDeletion: Bool) async throws {
        try await withFaults { directory, faults, reactor, store, sample in
            let container = try store.container(id)
            container.markDamaged("a test says so")
            faults.set(hungPath: journalPath(directory) + ".new")
            let healing = Task(executorPreference: reactor) {
                await refusal { try await sample.heal(store) }
            }
            try await eventually("the journal is replaced") { faults.hangingNames > 0 }
            let isRemoved = Mutex(false)
            let removal = Task(executorPreference: reactor) {
                let error = await refusal {
                    if isDeletion {
                        try await store.deleteContainer(id)
                    } else {
                        try await store.removeReplica(id, replicaIndex: 1, token: 0)
                    }
                }
                isRemoved.withLock { $0 = true }
                return error
            }
            try await reactor.sleep(for: .milliseconds(200))
            #expect(!isRemoved.withLock { $0 })
            faults.set(hungPath: nil)
            _ = await healing.value
            #expect(await removal.value == nil)
            // What begins with a dot is what the injector would bring back.
            let left = try names(in: "\(directory)/v1/containers").filter { $0.first != "." }
            #expect(left.isEmpty)
            #expect(await store.volumes()[0].isFailed == false)
            try await store.close()
        }
    }

    @Test("a replica that is being healed does not give way")
    func givesNotWay() async throws {
        try await withFaults { directory, _, _, store, sample in
            try flipBit(place(sample, 3, 5000) * 8, of: dataPath(directory))
            let refused = Mutex<StoreError?>(nil)
            _ = try await store.heal(id, replicaIndex: 1) { damaged async throws(StoreError) in
                let error = await refusal {
                    try await store.beginRecovery(
                        id, replication: replication, replicaIndex: 1, token: 9, replacing: true)
                }
                refused.withLock { $0 = error }
                return try sample.make(damaged)
            }
            #expect(refused.withLock { $0?.code } == .containerState)
            #expect(await store.report().map(\.state) == [.closed])
            try await store.close()
        }
    }

    @Test("a deletion under way while the journal is written anew is written once")
    func deletionMeanwhile() async throws {
        try await withFaults { directory, faults, reactor, store, sample in
            let container = try store.container(id)
            try await store.deleteBlocks([blockID(2)])
            try await eventually("a mark stands behind it") { !container.needsMark }
            container.markDamaged("a test says so")
            try await container.commit([.mark])
            try await eventually("a mark stands behind that") { !container.needsMark }
            await container.untilIdle()
            // Nothing is written over it any more; the scrubber has not seen it yet.
            try flipBit((Journal.start + 13) * 8, of: journalPath(directory))
            faults.set(hungPath: journalPath(directory))
            let healing = Task(executorPreference: reactor) {
                await refusal { try await sample.heal(store) }
            }
            try await eventually("the journal is read") {
                container.state.withLock { $0.isJournalHeld }
            }
            let deletion = Task(executorPreference: reactor) {
                await refusal { try await store.deleteBlocks([blockID(5)]) }
            }
            try await eventually("the deletion waits") {
                container.state.withLock { !$0.extras.isEmpty && !$0.unconfirmed.isEmpty }
            }
            faults.set(hungPath: nil)
            #expect(await healing.value == nil)
            #expect(await deletion.value == nil)
            try await store.close()
            try await reopen(directory, reactor, sample, deleted: [2, 5])
        }
    }

    /// Has the syncing of the folder fail, once, in which the new journal of `body` was just named.
    private func failNaming(
        _ directory: String, _ faults: FaultInjector, _ reactor: Reactor,
        _ body: @escaping @Sendable () async throws -> Void
    ) async throws -> StoreError? {
        faults.set(hungPath: journalPath(directory) + ".new")
        let work = Task(executorPreference: reactor) { await refusal { try await body() } }
        try await eventually("the journal is replaced") { faults.hangingNames > 0 }
        faults.set(error: ENOMEM, for: .open)
        faults.set(hungPath: nil)
        defer { faults.set(error: nil, for: .open) }
        return await work.value
    }

    @Test("a healing that fails right after the renaming of the journal leaves it in order")
    func namedWhileHealed() async throws {
        try await withFaults { directory, faults, reactor, store, sample in
            try await store.deleteBlocks([blockID(1)])
            let container = try store.container(id)
            // The old journal is longer than the new one: what is added to the one is lost in the other.
            try await container.commit(Array(repeating: .mark, count: 600))
            container.markDamaged("a test says so")
            let error = try await failNaming(directory, faults, reactor) {
                _ = try await sample.heal(store)
            }
            #expect(error?.code == .overloaded)
            // What may be written behind must be found again.
            let early = await refusal { try await store.deleteBlocks([blockID(4)]) }
            try copyTree(
                directory + "/v1", to: directory + "/copy/v1", making: directory + "/copy")
            let copy = try await openStore(directory + "/copy", on: reactor, options: .mortal)
            #expect(
                copy.report(of: id).map { $0.state == .closed || $0.state == .unhealthy } == true)
            #expect(
                await sample.read(copy, deleted: early == nil ? [1, 4] : [1]) == 0)
            if early == nil {
                #expect(await refusal { try await copy.block(blockID(4)) }?.code == .noSuchBlock)
            }
            try await copy.close()
            try await eventually("it is healed") {
                await refusal { try await sample.heal(store) } == nil
            }
            #expect(store.report(of: id)?.state == .closed)
            try await store.deleteBlocks([blockID(6)])
            try await store.close()
            try await reopen(
                directory, reactor, sample, deleted: early == nil ? [1, 4, 6] : [1, 6])
        }
    }

    @Test("a close that fails right after the renaming of the journal is carried out again")
    func namedWhileClosed() async throws {
        try await withFaults { directory, faults, reactor, store, sample in
            try await store.deleteContainer(id)
            try await store.createContainer(id, replication: replication, replicaIndex: 1)
            for number in 1...3 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1, 2], ended: true))
            }
            let error = try await failNaming(directory, faults, reactor) {
                try await store.closeContainer(id)
            }
            #expect(error?.code == .overloaded)
            try await eventually("it is closed after all") {
                store.report(of: id)?.state == .closed
            }
            try await store.deleteBlocks([blockID(2)])
            try await store.close()
            let again = try await openStore(directory, on: reactor, options: .mortal)
            #expect(again.report(of: id)?.state == .closed)
            #expect(again.report(of: id)?.blockCount == 2)
            #expect(try await again.bytes(of: blockID(3)) == [1, 2])
            try await again.close()
        }
    }

    @Test("a block that was passed over as deleted, and is there after all, is verified yet")
    func deletionFails() async throws {
        try await withFaults { directory, _, _, store, sample in
            let container = try store.container(id)
            for localID in [4, 5, 6] as [UInt64] {
                try flipBit(place(sample, localID, 5000) * 8, of: dataPath(directory))
            }
            let summary = try await store.heal(id, replicaIndex: 1) {
                damaged throws(StoreError) in
                container.state.withLock { state in
                    switch damaged.block.localID {
                    case 4:
                        state.deleted.insert(5)
                        state.unconfirmed.insert(5)
                    case 6:
                        state.deleted.remove(5)
                        state.unconfirmed.remove(5)
                    default: break
                    }
                }
                return try sample.make(damaged)
            }
            #expect(summary.healedRanges == 3 && store.report(of: id)?.state == .closed)
            #expect(await sample.read(store) == 0)
            try await store.close()
        }
    }

    @Test("damage that the scrubber finds makes the disk suspicious")
    func suspicion() async throws {
        try await withFaults { directory, _, _, store, sample in
            try flipBit(place(sample, 3, 5000) * 8, of: dataPath(directory))
            store.startScrubbing(.init(bytesPerSecond: nil)) {
                Timestamp(milliseconds: 1_000_000_000_000)
            }
            let scrubber = store.scrubbers[0]
            scrubber.scrubNow()
            try await eventually("it is found") { scrubber.status.damaged > 0 }
            #expect(scrubber.withState { $0.damaged[id] } == 1_000_000_000_000)
            try await store.close()
        }
    }

    @Test("what passes by itself is no failed healing; what does not is one")
    func passing() async throws {
        try await withFaults { directory, _, _, store, sample in
            try flipBit(place(sample, 3, 5000) * 8, of: dataPath(directory))
            let volume = try store.container(id).volume
            func heal(_ error: StoreError, suspends: Bool = false) async -> StoreError.Code? {
                await refusal {
                    try await store.heal(id, replicaIndex: 1) { _ throws(StoreError) in
                        if suspends { volume.withState { $0.suspension = "a test says so" } }
                        throw error
                    }
                }?.code
            }
            #expect(await heal(StoreError(.deadlineExceeded, "late")) == .deadlineExceeded)
            #expect(await heal(StoreError(.overloaded, "busy")) == .overloaded)
            #expect(await heal(StoreError(.io, "no answer"), suspends: true) == .overloaded)
            volume.withState { $0.suspension = nil }
            #expect(volume.withState { $0.heals.failed } == 0)
            #expect(await heal(StoreError(.unavailable, "nobody has it")) == .corrupt)
            #expect(volume.withState { $0.heals.failed } == 1)
            _ = try await sample.heal(store)
            #expect(store.report(of: id)?.state == .closed)
            try await store.close()
        }
    }
}
