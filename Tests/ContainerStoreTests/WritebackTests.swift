import ContainerFormat
import Eventually
import Model
import Reactor
import Synchronization
import Testing

@testable import ContainerStore

/// In writeback nobody waits for a sync, and yet damage must be told from a torn write.
@Suite("Writeback") struct WritebackTests {
    private static let writeback: ContainerStore.Options = {
        var options = ContainerStore.Options.mortal
        options.durability = .writeback
        return options
    }()

    private func fill(
        _ directory: String, _ reactor: Reactor, options: ContainerStore.Options
    ) async throws -> ContainerStore {
        let store = try await openStore(directory, on: reactor, options: options)
        try await store.createContainer(ContainerID(1), replication: replication, replicaIndex: 1)
        for number in 1...20 as ClosedRange<UInt64> {
            try await store.append(cell(blockID(number), at: 0, [UInt8(number)], ended: true))
        }
        return store
    }

    /// Damages the journal's fourth record, and looks what becomes of the others.
    private func damage(_ directory: String, _ reactor: Reactor) async throws {
        let path = "\(directory)/v1/containers/container-1.journal"
        let before = try contents(of: path)
        let parsed = try parseJournal(before)
        #expect(parsed.records.count >= 20)
        try flipBit((Journal.start + 4 * 60) * 8, of: path)
        let damaged = try contents(of: path)
        let store = try await openStore(directory, on: reactor, options: Self.writeback)
        #expect(await store.report().map(\.state) == [.unhealthy])
        #expect(try contents(of: path) == damaged, "acknowledged records were cut")
        try await store.close()
    }

    @Test("after a clean stop one flipped bit makes a replica unhealthy, and cuts nothing")
    func cleanStop() async throws {
        try await withReactor { directory, reactor in
            let store = try await fill(directory, reactor, options: Self.writeback)
            try await store.close()
            try await damage(directory, reactor)
        }
    }

    @Test("so it does when the store was quiet for a moment before it died")
    func quiet() async throws {
        try await withReactor { directory, reactor in
            let store = try await fill(directory, reactor, options: Self.writeback)
            let container = try store.container(ContainerID(1))
            let end = container.state.withLock { $0.writtenTo }
            // A mark behind the last record says that it is durable.
            try await eventually("a mark is there, and durable") {
                container.state.withLock { $0.journal.syncedTo >= end && $0.writtenTo != end }
            }
            try await damage(directory, reactor)
        }
    }

    @Test("the deletions of a closed container do not come back for a flipped bit either")
    func closed() async throws {
        try await withReactor { directory, reactor in
            let store = try await fill(directory, reactor, options: Self.writeback)
            try await store.closeContainer(ContainerID(1))
            for number in 1...10 as ClosedRange<UInt64> {
                try await store.deleteBlocks([blockID(number)])
            }
            try await store.close()
            let path = "\(directory)/v1/containers/container-1.journal"
            let parsed = try parseJournal(try contents(of: path))
            // The first deletion: behind it are those that were confirmed to SCM.
            try flipBit((Journal.start + 80) * 8, of: path)
            let damaged = try contents(of: path)
            #expect(try parseJournal(damaged).records.count < parsed.records.count)
            let again = try await openStore(directory, on: reactor, options: Self.writeback)
            #expect(await again.report().map(\.state) == [.unhealthy])
            #expect(try contents(of: path) == damaged, "confirmed deletions were cut")
            try await again.close()
        }
    }

    @Test("under a load that never pauses there is a proof all the same")
    func busy() async throws {
        try await withReactor { directory, reactor in
            var options = Self.writeback
            options.proofInterval = .milliseconds(300)
            let store = try await fill(directory, reactor, options: options)
            let container = try store.container(ContainerID(1))
            let first = container.state.withLock { $0.writtenTo }
            var number: UInt64 = 100
            while container.state.withLock({ $0.journal.syncedTo }) < first {
                number += 1
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
                #expect(number < 1_000_000)
            }
            try await store.append(cell(blockID(50), at: 0, [1], ended: true))
            try await damage(directory, reactor)
        }
    }
}
