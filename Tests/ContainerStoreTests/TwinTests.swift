import Eventually
import Glibc
import Model
import Reactor
import Testing

@testable import ContainerStore

private let id = Sample.id

/// A disk that is taken out, whose replicas are rebuilt on the others of its node, and that comes back.
@Suite("two replicas of one container", .timeLimit(.minutes(2)))
struct TwinTests {
    private struct Setup: Sendable {
        var directory: String
        var reactor: Reactor
        var store: ContainerStore
        var sample: Sample
        /// Where the replica is, and the other volume.
        var first: Volume
        var second: Volume

        func reopen() async throws -> ContainerStore {
            try await openStore(directory, on: reactor, volumes: 2, options: .mortal)
        }

        /// Names in the folder of containers, below the volume of that path.
        func files(_ volume: Volume) throws -> [String] { try names(in: volume.containersPath) }

        /// The files below `damaged`.
        func kept(_ volume: Volume) -> [String] { (try? names(in: volume.keptPath)) ?? [] }

        /// Rebuilds the blocks but for `without`.
        func rebuild(token: UInt64, without: Set<UInt64>) async throws {
            for (localID, bytes) in sample.bytes.sorted(by: { $0.key < $1.key })
            where !without.contains(localID) {
                for start in stride(from: 0, to: bytes.count, by: 65_536) {
                    let end = min(bytes.count, start + 65_536)
                    var cell = cell(
                        blockID(localID), at: start, Array(bytes[start..<end]),
                        group: 3 * bytes.count, ended: end == bytes.count)
                    cell.replicaIndex = 1
                    try await store.appendRebuilt(cell, token: token)
                }
            }
        }
    }

    /// A closed replica from which block 3 was deleted, on one of two volumes.
    private func withReplica(
        isClosed: Bool = true, _ body: @escaping @Sendable (Setup) async throws -> Void
    ) async throws {
        try await withReactor { directory, reactor in
            let sample = Sample()
            let store = try await openStore(
                directory, on: reactor, volumes: 2, options: .mortal)
            if isClosed {
                try await sample.write(store)
                try await store.deleteBlocks([blockID(3)])
            } else {
                try await store.createContainer(id, replication: replication, replicaIndex: 1)
                try await store.append(cell(blockID(9), at: 0, [9, 9], ended: true))
            }
            let first = try store.container(id).volume
            let second = try #require(store.volumeList.first { $0 !== first })
            try await body(
                Setup(
                    directory: directory, reactor: reactor, store: store, sample: sample,
                    first: first, second: second))
        }
    }

    private func begin(
        _ store: ContainerStore, token: UInt64 = 9, replacing: Bool = true
    ) async throws(StoreError) {
        try await store.beginRecovery(
            id, replication: replication, replicaIndex: 1, token: token, replacing: replacing)
    }

    @Test(
        "a replica on a disk that is out is rebuilt on another of its node, and stays what it is there"
    )
    func rebuilt() async throws {
        try await withReplica { setup in
            let store = setup.store
            // One that works, or may yet, is not left for another.
            #expect(await refusal { try await begin(store) }?.code == .containerState)
            setup.first.withState { $0.suspension = "a test says so" }
            #expect(await refusal { try await begin(store) }?.code == .containerState)
            setup.first.withState { $0.suspension = nil }
            setup.first.fail("a test says so")
            #expect(await store.report().map(\.state) == [.lost])
            let before = try setup.files(setup.first)
            try await begin(store)
            #expect(await store.report().map(\.state) == [.recovering])
            #expect(try setup.files(setup.first) == before)
            // What was confirmed as deleted there is not said again.
            #expect(try store.rebuilt(blockID(3), token: 9) == .deleted)
            try await setup.rebuild(token: 9, without: [2, 3])
            try await store.finishRecovery(id, token: 9)
            try await store.deleteBlocks([blockID(5)])
            #expect(await setup.sample.read(store, deleted: [2, 3, 5]) == 0)
            try await store.close()

            // The disk is back. Which of them has block 2 tells which is used: the later one.
            let again = try await setup.reopen()
            #expect(await again.report().map(\.state) == [.closed])
            #expect(try again.container(id).volume.path == setup.second.path)
            #expect(await setup.sample.read(again, deleted: [2, 3, 5]) == 0)
            #expect(await refusal { try await again.block(blockID(2)) }?.code == .noSuchBlock)
            #expect(try setup.files(setup.first).isEmpty && setup.kept(setup.first).count == 2)
            let problems = await again.volumes().flatMap(\.problems)
            #expect(problems.count == 1 && problems[0].contains("is also on"), "\(problems)")
            try await again.close()
            let third = try await setup.reopen()
            #expect(await third.volumes().allSatisfy { $0.problems.isEmpty })
            #expect(await third.report().map(\.state) == [.closed])
            try await third.close()
        }
    }

    @Test("a disk that comes back before the other replica is whole has the one that counts")
    func comesBackEarly() async throws {
        try await withReplica { setup in
            setup.first.fail("a test says so")
            try await begin(setup.store)
            try await setup.rebuild(token: 9, without: [3, 4, 5, 6])
            // Confirmed by the one that is being rebuilt, be it there yet or not.
            try await setup.store.deleteBlocks([blockID(2), blockID(5)])
            try await setup.store.close()
            let again = try await setup.reopen()
            #expect(await again.report().map(\.state) == [.closed])
            #expect(try again.container(id).volume.path == setup.first.path)
            #expect(again.report(of: id)?.blockCount == 3)
            #expect(await setup.sample.read(again, deleted: [2, 3, 5]) == 0)
            for localID in [2, 3, 5] as [UInt64] {
                #expect(
                    await refusal { try await again.block(blockID(localID)) }?.code
                        == .noSuchBlock)
            }
            #expect(try setup.files(setup.second).isEmpty && setup.kept(setup.second).count == 2)
            try await again.close()
        }
    }

    @Test(
        "what may have something that the other one lacks is left where it is, and nothing replaces it"
    )
    func leftAlone() async throws {
        try await withReplica(isClosed: false) { setup in
            setup.first.fail("a test says so")
            try await begin(setup.store)
            try await setup.rebuild(token: 9, without: [])
            try await setup.store.finishRecovery(id, token: 9)
            try setup.store.container(id).markDamaged("a test says so")
            try await setup.store.close()
            let before = try setup.files(setup.first)
            let again = try await setup.reopen()
            #expect(await again.report().map(\.state) == [.unhealthy])
            #expect(try again.container(id).volume.path == setup.second.path)
            #expect(await setup.sample.read(again) == 0)
            #expect(try setup.files(setup.first) == before && setup.kept(setup.first).isEmpty)
            #expect(await again.volumes().flatMap(\.problems).count == 1)
            #expect(await refusal { try await begin(again, replacing: false) } != nil)
            // An order to replace what is damaged moves both aside.
            try await begin(again)
            #expect(await again.report().map(\.state) == [.recovering])
            #expect(setup.kept(setup.first).count == 2 && setup.kept(setup.second).count == 2)
            try await again.close()
        }
    }

    @Test("where no other disk has room the lost replica stays known")
    func noOther() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, options: .mortal)
            try await Sample().write(store)
            try store.container(id).volume.fail("a test says so")
            #expect(await refusal { try await begin(store) }?.code == .noSpace)
            #expect(await store.report().map(\.state) == [.lost])
            try await store.close()
        }
    }

    @Test("the standing of replicas: what counts, is closed, is whole, is newer")
    func standing() {
        func standing(
            _ stage: ReplicaStanding.Stage, token: UInt64 = 0, at: Int64 = 0, bytes: Int = 0
        ) -> ReplicaStanding {
            ReplicaStanding(stage: stage, token: token, writtenAt: at, tail: bytes, blocks: 0)
        }
        let order = [
            standing(.recovering, token: 3, bytes: 9), standing(.recovering, token: 4, bytes: 2),
            standing(.openDamaged, bytes: 8), standing(.open, bytes: 4), standing(.open, bytes: 5),
            standing(.closedDamaged, at: 9), standing(.closed, at: 3, bytes: 7),
            standing(.closed, at: 4, bytes: 6), standing(.closed, at: 4, bytes: 7),
        ]
        #expect(order.shuffled().sorted() == order)
    }

    @Test("a creation that fails once its journal is named leaves nothing that a start would find")
    func failedCreation() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 5)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer {
                faults.set(hungPath: nil)
                reactor.stop()
            }
            try await Task(executorPreference: reactor) {
                let store = try await openStore(directory, on: reactor, options: .mortal)
                faults.set(hungPath: journalPath(directory) + ".new")
                let making = Task(executorPreference: reactor) {
                    await refusal {
                        try await store.createContainer(
                            id, replication: replication, replicaIndex: 1)
                    }
                }
                try await eventually("its journal is made") { faults.hangingNames > 0 }
                faults.set(error: ENOMEM, for: .open)
                faults.set(hungPath: nil)
                #expect(await making.value?.code == .overloaded)
                faults.set(error: nil, for: .open)
                #expect(await store.report().isEmpty)
                try await store.close()
                let again = try await openStore(directory, on: reactor, options: .mortal)
                #expect(await again.report().isEmpty)
                let left = try names(in: "\(directory)/v1/containers")
                #expect(left.allSatisfy { $0.first == "." }, "\(left)")
                try await again.createContainer(id, replication: replication, replicaIndex: 1)
                try await again.close()
            }.value
        }
    }
}
