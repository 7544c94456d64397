import Bytes
import ContainerFormat
import Eventually
import Model
import Reactor
import Synchronization
import Telemetry
import Testing

@testable import ContainerStore

@Suite("Scrubbing")
struct ScrubTests {
    /// A clock that the test moves.
    private final class Clock: Sendable {
        private let time = Atomic<Int64>(1_000_000_000_000)
        /// Moves on with each look at it.
        func now() -> Timestamp {
            Timestamp(milliseconds: time.wrappingAdd(1, ordering: .relaxed).newValue)
        }
        func advance(days: Int64) { time.wrappingAdd(days * 86_400_000, ordering: .relaxed) }
    }

    private func fill(
        _ store: ContainerStore, containers: ClosedRange<UInt64>, closing: Bool
    ) async throws {
        for id in containers {
            try await store.createContainer(
                ContainerID(id), replication: replication, replicaIndex: 1)
            for localID in 1...3 as ClosedRange<UInt64> {
                let bytes = pattern(50_000, seed: id * 10 + localID)
                try await store.append(
                    cell(blockID(localID, in: id), at: 0, bytes, ended: true))
            }
            if closing { try await store.closeContainer(ContainerID(id)) }
        }
    }

    private func rounds(_ count: Int, of store: ContainerStore) async throws {
        try await eventually("\(count) rounds are finished") {
            store.scrubbers.allSatisfy { $0.status.rounds >= count }
        }
    }

    @Test("all cells are read and found whole, and the time is kept over a restart")
    func whole() async throws {
        for closing in [false, true] {
            try await withReactor { directory, reactor in
                let clock = Clock()
                let store = try await openStore(directory, on: reactor)
                try await fill(store, containers: 1...4, closing: closing)
                store.startScrubbing(.init(bytesPerSecond: nil), clock: clock.now)
                try await rounds(1, of: store)
                let status = store.scrubbers[0].status
                #expect(status.bytesDone == 600_000 && status.bytesTotal == 600_000)
                #expect(status.containersDone == 4 && status.damaged == 0)
                #expect(store.disks()[0][.scrub].bytesRead >= 600_000)
                #expect(store.disks()[0][.client].writes.count > 0)
                try await store.close()
                // Nothing is due after the restart, until the period is over.
                let again = try await openStore(directory, on: reactor)
                again.startScrubbing(.init(bytesPerSecond: nil), clock: clock.now)
                try await reactor.sleep(for: .milliseconds(200))
                #expect(again.scrubbers[0].status.rounds == 0)
                #expect(again.scrubbers[0].status.activity == .idle)
                clock.advance(days: 15)
                again.scrubbers[0].scrubNow()
                try await rounds(1, of: again)
                try await again.close()
            }
        }
    }

    @Test("a flipped bit is found, named, and the replica unhealthy, as after a read")
    func damage() async throws {
        for closing in [false, true] {
            try await withReactor { directory, reactor in
                let store = try await openStore(directory, on: reactor)
                try await fill(store, containers: 1...3, closing: closing)
                try await store.close()
                let path = "\(directory)/v1/containers/container-2.data"
                let start = DataFile.start + DataFile.aligned(50_000)
                try flipBit((start + 20_000) * 8 + 5, of: path)
                let again = try await openStore(directory, on: reactor)
                again.startScrubbing(.init(bytesPerSecond: nil), clock: Clock().now)
                try await rounds(1, of: again)
                let status = again.scrubbers[0].status
                #expect(status.damaged == 1)
                #expect(status.findings[0].contains("#2/2"), "\(status.findings)")
                #expect(status.findings[0].contains("\(directory)/v1"))
                let states = await again.report().map(\.state)
                #expect(states[1] == .unhealthy && states[0] != .unhealthy)
                #expect(states[2] != .unhealthy)
                try await again.close()
            }
        }
    }

    @Test("the replica verified longest ago comes first")
    func order() async throws {
        try await withReactor { directory, reactor in
            let clock = Clock()
            let first = try await openStore(directory, on: reactor)
            try await fill(first, containers: 5...6, closing: true)
            first.startScrubbing(.init(bytesPerSecond: nil), clock: clock.now)
            try await rounds(1, of: first)
            clock.advance(days: 1)
            try await first.close()
            // Nobody scrubs while the others are made: else one may be verified before the next is.
            let store = try await openStore(directory, on: reactor)
            try await fill(store, containers: 1...2, closing: true)
            store.startScrubbing(.init(bytesPerSecond: nil), clock: clock.now)
            store.scrubbers[0].scrubNow()
            try await rounds(1, of: store)
            clock.advance(days: 1)
            try await store.close()
            let bytes = try contents(of: "\(directory)/v1/scrubbed")
            let times = try ScrubTimes(parsing: bytes).verified
            let order = times.sorted { $0.value < $1.value }.map(\.key.rawValue)
            #expect(order == [1, 2, 5, 6], "those never verified come before the others")
        }
    }

    @Test("the rate limit is kept, a pause holds, and the end is not waited for")
    func rate() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await fill(store, containers: 1...4, closing: true)
            store.startScrubbing(.init(bytesPerSecond: 400_000), clock: Clock().now)
            let scrubber = store.scrubbers[0]
            try await reactor.sleep(for: .milliseconds(500))
            // 600 kB take a second and a half.
            #expect(scrubber.status.rounds == 0)
            #expect(scrubber.status.bytesDone < 500_000)
            #expect(scrubber.status.remaining ?? .zero > .zero)
            scrubber.pause()
            try await reactor.sleep(for: .milliseconds(300))
            let held = scrubber.status.bytesDone
            try await reactor.sleep(for: .milliseconds(300))
            #expect(scrubber.status.bytesDone == held && scrubber.status.activity == .paused)
            scrubber.resume()
            scrubber.set(.init(bytesPerSecond: nil))
            try await rounds(1, of: store)
            scrubber.set(.init(bytesPerSecond: 1))
            scrubber.scrubNow()
            try await reactor.sleep(for: .milliseconds(300))
            let before = reactor.now()
            try await store.close()
            #expect(before.duration(to: reactor.now()) < .seconds(5))
        }
    }

    @Test("blocks and containers that are deleted while they are read are no damage")
    func deletions() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await fill(store, containers: 1...6, closing: true)
            store.startScrubbing(.init(bytesPerSecond: 2_000_000), clock: Clock().now)
            for id in 1...6 as ClosedRange<UInt64> {
                try await store.deleteBlocks([blockID(2, in: id)])
                if id % 2 == 0 { try await store.deleteContainer(ContainerID(id)) }
            }
            try await rounds(1, of: store)
            #expect(store.scrubbers[0].status.damaged == 0)
            #expect(await store.report().allSatisfy { $0.state == .closed })
            try await store.close()
        }
    }

    @Test("a profile in the volume sets the disk; one of a newer program is refused by number")
    func profile() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.close()
            let path = "\(directory)/v1/disk"
            try replaceContents(of: path, with: Array("apus-disk 9\n".utf8))
            let error = await refusal { _ = try await openStore(directory, on: reactor) }
            #expect(error?.code == .versionMismatch)
            #expect(error?.message.contains("version 9") == true)
            var profile = DiskProfile(
                measuredAt: 1, readBandwidth: 1, writeBandwidth: 1, readIOPS: 1, writeIOPS: 1,
                overwriteSyncMicroseconds: 1, newExtentSyncMicroseconds: 1, depth: 1,
                bytesInFlight: 4096, operationBytes: 1, client: .init(depth: 1, weight: 70),
                repair: .init(depth: 1, weight: 15), scrub: .init(depth: 1, weight: 7),
                background: .init(depth: 1, weight: 8), syncDelayMicroseconds: 100)
            profile.depth = 1
            try replaceContents(of: path, with: profile.encoded())
            let again = try await openStore(directory, on: reactor)
            try await fill(again, containers: 1...1, closing: false)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for localID in 10...40 as ClosedRange<UInt64> {
                    group.addTask {
                        try await again.append(
                            cell(blockID(localID), at: 0, pattern(4096, seed: localID)))
                    }
                }
                try await group.waitForAll()
            }
            #expect(again.disks()[0][.client].waits.count > 0, "with a depth of 1 some wait")
            try await again.close()
        }
    }
}
