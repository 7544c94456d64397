import Eventually
import Glibc
import Model
import Reactor
import Testing

@testable import ContainerStore

private let id = Sample.id
private let now: Int64 = 1_700_000_000_000

/// What is kept for people, and what it must not cost.
@Suite("what is kept below damaged", .timeLimit(.minutes(2)))
struct KeptTests {
    private static func options(limit: Int? = nil) -> ContainerStore.Options {
        var options = ContainerStore.Options.mortal
        options.volumeLimitBytes = limit
        options.clock = { Timestamp(milliseconds: now) }
        return options
    }

    private func begin(_ store: ContainerStore) async throws(StoreError) {
        try await store.beginRecovery(
            id, replication: replication, replicaIndex: 1, token: 9, replacing: true)
    }

    @Test("only names that are given here are kept files: none that a crash left half")
    func givenNames() {
        for name in [
            "bytes-1-1-1-0-7.new", "bytes-1-1-1-0-7.data", "replica-1-1-7",
            "replica-1-1-7.data.new", "replica-1-1-7.new",
        ] {
            #expect(KeptFile(name: name, size: 1) == nil, "\(name)")
        }
        for name in ["bytes-1-1-1-0-7", "replica-1-1-7.data", "replica-1-1-7.journal"] {
            #expect(KeptFile(name: name, size: 1)?.at == 7, "\(name)")
        }
    }

    @Test("a damaged replica stays where it is as long as there is no room for another")
    func noRoom() async throws {
        try await withReactor { directory, reactor in
            let sample = Sample()
            let first = try await openStore(directory, on: reactor, options: .mortal)
            try await sample.write(first)
            try first.container(id).markDamaged("a test says so")
            try await first.close()
            let store = try await openStore(
                directory, on: reactor, options: Self.options(limit: 1 << 20))
            #expect(await refusal { try await begin(store) }?.code == .noSpace)
            #expect(await store.report().map(\.state) == [.unhealthy])
            #expect(kept(directory).isEmpty)
            #expect(await sample.read(store) == 0)
            try await store.close()
        }
    }

    @Test("what is kept gives way before a container is closed for want of room")
    func filling() async throws {
        try await withReactor { directory, reactor in
            try await openStore(directory, on: reactor, options: .mortal).close()
            try makeDirectory("\(directory)/v1/damaged")
            try replaceContents(
                of: "\(directory)/v1/damaged/replica-7-1-\(now).data",
                with: [UInt8](repeating: 7, count: 500 << 10))
            let store = try await openStore(
                directory, on: reactor, options: Self.options(limit: 800 << 10))
            try await store.createContainer(id, replication: replication, replicaIndex: 1)
            let report = await store.volumes()[0]
            #expect(!report.isFull && kept(directory).isEmpty)
            try await reactor.sleep(for: .milliseconds(200))
            #expect(store.report(of: id)?.state == .open)
            try await store.close()
        }
    }

    @Test("that nothing can be kept takes no disk out, at a start neither")
    func cannotBeKept() async throws {
        try await withReactor { directory, reactor in
            let sample = Sample()
            let store = try await openStore(directory, on: reactor, options: .mortal)
            try await sample.write(store)
            // Not a folder: whatever is done below fails.
            try replaceContents(of: "\(directory)/v1/damaged", with: [1])
            try flipBit(place(sample, 4, 5000) * 8, of: dataPath(directory))
            #expect(try await sample.heal(store).healedRanges == 1)
            let report = await store.volumes()[0]
            #expect(!report.isFailed && report.problems.count == 1, "\(report)")
            #expect(report.problems.first?.contains("damaged") == true)
            #expect(await sample.read(store) == 0)
            try await store.close()
            let again = try await openStore(directory, on: reactor, options: .mortal)
            #expect(await again.report().map(\.state) == [.closed])
            #expect(await again.volumes()[0].isFailed == false)
            try await again.close()
        }
    }

    @Test("files of a replica that cannot be opened are moved aside when SCM says so, no others")
    func unusable() async throws {
        try await withReactor { directory, reactor in
            let first = try await openStore(directory, on: reactor, options: .mortal)
            try await Sample().write(first)
            #expect(try await !first.removeReplica(id, replicaIndex: 0, token: 0))
            #expect(await first.report().map(\.state) == [.closed])
            try await first.close()
            var bytes = try contents(of: journalPath(directory))
            bytes[25] ^= 8
            try replaceContents(of: journalPath(directory), with: bytes)
            let store = try await openStore(directory, on: reactor, options: Self.options())
            #expect(await store.report().map(\.state) == [.lost])
            #expect(try await store.removeReplica(id, replicaIndex: 0, token: 0))
            #expect(await store.report().isEmpty && kept(directory).count == 2)
            #expect(try await !store.removeReplica(id, replicaIndex: 0, token: 0))
            try await store.close()
        }
    }

    @Test("files that cannot be read now are not moved aside: they may be a later program's")
    func unreadable() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 5)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            try await Task(executorPreference: reactor) {
                let first = try await openStore(directory, on: reactor, options: .mortal)
                try await Sample().write(first)
                try await first.close()
                var bytes = try contents(of: journalPath(directory))
                bytes[25] ^= 8
                try replaceContents(of: journalPath(directory), with: bytes)
                let store = try await openStore(directory, on: reactor, options: .mortal)
                #expect(await store.report().map(\.state) == [.lost])
                faults.set(error: EIO, for: .read)
                #expect(await refusal { try await begin(store) } != nil)
                #expect(kept(directory).isEmpty)
                faults.set(error: nil, for: .read)
                try await begin(store)
                #expect(kept(directory).count == 2)
                try await store.close()
            }.value
        }
    }

    @Test("a replica that was moved aside stays as long as another is rebuilt in its place")
    func whileRebuilt() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, options: Self.options())
            try await Sample().write(store)
            try store.container(id).markDamaged("a test says so")
            try await begin(store)
            let volume = try store.container(id).volume
            #expect(await volume.makeRoom() == false && kept(directory).count == 2)
            // Containers are closed as ever.
            volume.noteFull()
            #expect(volume.withState { $0.isFull } && kept(directory).count == 2)
            try await store.finishRecovery(id, token: 9)
            #expect(await volume.makeRoom() && kept(directory).isEmpty)
            try await store.close()
        }
    }

    @Test("a replica that cannot be moved aside stays, and its disk with it")
    func cannotBeMovedAside() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, options: .mortal)
            try await Sample().write(store)
            try store.container(id).markDamaged("a test says so")
            try replaceContents(of: "\(directory)/v1/damaged", with: [1])
            #expect(await refusal { try await begin(store) }?.code == .io)
            #expect(await store.volumes()[0].isFailed == false)
            // It serves as before, and may be healed yet.
            #expect(await store.report().map(\.state) == [.unhealthy])
            #expect(await Sample().read(store) == 0)
            try removeFile("\(directory)/v1/damaged")
            try await begin(store)
            #expect(await store.report().map(\.state) == [.recovering])
            #expect(kept(directory).count == 2)
            try await store.close()
        }
    }
}
