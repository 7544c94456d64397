import Model
import Reactor
import Synchronization
import Testing

@testable import Client

@Suite("Reserved keys")
struct KeyReservationsTests {
    /// The Ozone Manager's part: numbers, groups, and what was asked for.
    private final class Source: Sendable {
        struct State {
            var next: UInt64 = 1
            var asked: [Int] = []
            var failure: StoreError?
            /// Answers nothing for now.
            var isHeld = false
            /// Whether each group has the same five nodes.
            var isSmall = false
        }
        let state = Mutex(State())

        func reserve(
            _ bucket: BucketPath, _ count: Int, _ user: String
        ) throws(StoreError) -> [KeyReservations.Reserved] {
            let (first, failure, isSmall) = state.withLock { state in
                state.asked.append(count)
                defer { state.next += UInt64(count) }
                return (state.next, state.failure, state.isSmall)
            }
            if let failure { throw failure }
            var reserved: [KeyReservations.Reserved] = []
            for number in first..<first + UInt64(count) {
                let group = try group(number, firstNode: isSmall ? 1 : number)
                reserved.append(.init(id: number, group: group))
            }
            return reserved
        }

        /// Returns when answers are not held back.
        func waitUntilReleased(on reactor: Reactor) async throws(StoreError) {
            do {
                while state.withLock({ $0.isHeld }) {
                    try await reactor.sleep(for: .milliseconds(1))
                }
            } catch {
                throw StoreError(.cancelled, "\(error)")
            }
        }

        /// A group whose nodes are `firstNode` and the four after it.
        private func group(
            _ number: UInt64, firstNode: UInt64
        ) throws(StoreError) -> BlockGroup {
            let replication: ReplicationConfig
            do throws(ReplicationError) {
                replication = try ReplicationConfig("rs-3-2-1024k")
            } catch {
                throw StoreError(.internal, "\(error)")
            }
            return BlockGroup(
                blockID: BlockID(containerID: ContainerID(1), localID: number),
                replication: replication, length: 0,
                nodes: (0..<5).map { place in
                    DatanodeAddress(
                        id: Identity128(high: 0, low: firstNode + place), host: "localhost", port: 1
                    )
                })
        }
    }

    /// A clock that stands: how long a busy machine takes for a test changes nothing.
    private static let still: @Sendable () -> MonotonicTime = {
        MonotonicTime(nanoseconds: 1_000_000_000_000)
    }

    /// Reservations that `source` makes at once.
    private static func reservations(of source: Source) -> KeyReservations {
        KeyReservations(clock: still) { (bucket, count, user, _) throws(StoreError) in
            try source.reserve(bucket, count, user)
        }
    }

    private static func path(_ name: String, bucket: String = "b") -> KeyPath {
        KeyPath(
            bucket: BucketPath(volume: "s3v", bucket: bucket),
            name: KeyName(unchecked: Array(name.utf8)))
    }

    /// Waits until a refill has come in: until a take finds something.
    private func takeEventually(
        _ reservations: KeyReservations, on reactor: Reactor
    ) async throws -> OpenKey {
        while true {
            if let open = reservations.take(
                for: Self.path("k"), length: 100, user: "ann", on: reactor)
            {
                return open
            }
            try await reactor.sleep(for: .milliseconds(1))
        }
    }

    @Test("the first keys are opened one by one, then they are reserved in batches")
    func batches() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        let reservations = Self.reservations(of: source)
        for _ in 1..<KeyReservations.Limits.patience {
            #expect(
                reservations.take(for: Self.path("k"), length: 100, user: "ann", on: reactor)
                    == nil)
        }
        #expect(source.state.withLock { $0.asked.isEmpty })
        var ids: Set<UInt64> = []
        for _ in 0..<40 {
            let open = try await takeEventually(reservations, on: reactor)
            #expect(open.key == Self.path("k") && open.user == "ann" && open.part == nil)
            #expect(open.groups.map(\.blockID.localID) == [open.id])
            ids.insert(open.id)
        }
        #expect(ids.count == 40, "none is handed out twice")
        let asked = source.state.withLock { $0.asked }
        #expect(asked[0] == 8 && asked.allSatisfy { $0 <= 64 } && asked.count <= 10)
    }

    @Test("long keys, keys of no length, other users and other buckets get none")
    func others() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        let reservations = Self.reservations(of: source)
        _ = try await takeEventually(reservations, on: reactor)
        let other = Self.path("k", bucket: "c")
        for (key, length, user) in [
            (Self.path("k"), 0, "ann"), (Self.path("k"), (1 << 20) + 1, "ann"),
            (Self.path("k"), 1, "bob"), (other, 1, "ann"),
        ] {
            #expect(reservations.take(for: key, length: length, user: user, on: reactor) == nil)
        }
        #expect(
            reservations.take(for: Self.path("x"), length: 1 << 20, user: "ann", on: reactor)
                != nil)
    }

    @Test("what has a place on a failed node is not handed out")
    func failed() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        let reservations = Self.reservations(of: source)
        let first = try await takeEventually(reservations, on: reactor)
        let bad = first.groups[0].nodes[4]!.id
        reservations.forget(bad, at: Self.still())
        for _ in 0..<3 {
            let open = try await takeEventually(reservations, on: reactor)
            #expect((6...8).contains(open.id), "of eight these have no place there")
        }
    }

    @Test("what is on its way when a node fails is not handed out if it has a place there")
    func failedMeanwhile() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        source.state.withLock { $0.isHeld = true }
        let reservations = KeyReservations(clock: Self.still) {
            (bucket, count, user, _) throws(StoreError) in
            let keys = try source.reserve(bucket, count, user)
            try await source.waitUntilReleased(on: reactor)
            return keys
        }
        while source.state.withLock({ $0.asked.isEmpty }) {
            _ = reservations.take(for: Self.path("k"), length: 1, user: "ann", on: reactor)
            try await reactor.sleep(for: .milliseconds(1))
        }
        // The first of eight has the nodes 1 to 5, the last 8 to 12.
        let bad = Identity128(high: 0, low: 5)
        reservations.forget(bad, at: Self.still())
        source.state.withLock { $0.isHeld = false }
        for _ in 0..<3 {
            let open = try await takeEventually(reservations, on: reactor)
            #expect(!open.groups[0].nodes.contains { $0?.id == bad })
            #expect((6...8).contains(open.id), "the others are kept")
        }
    }

    @Test("while a node of all groups fails, batch after batch is not reserved and dropped")
    func failing() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        source.state.withLock { $0.isSmall = true }
        let reservations = Self.reservations(of: source)
        let first = try await takeEventually(reservations, on: reactor)
        let bad = first.groups[0].nodes[2]!.id
        let asked = source.state.withLock { $0.asked.count }
        // Whether a writer has a reservation or not, it meets that node.
        for _ in 0..<200 {
            reservations.forget(bad, at: Self.still())
            for _ in 0..<8 {
                _ = reservations.take(for: Self.path("k"), length: 1, user: "ann", on: reactor)
            }
            try await reactor.sleep(for: .milliseconds(1))
        }
        let more = source.state.withLock { $0.asked }.dropFirst(asked)
        #expect(more.count <= 1, "at most once a pause")
        #expect(more.allSatisfy { $0 == KeyReservations.Limits.leastBatch })
    }

    @Test("an owner holds at most a batch")
    func held() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        let reservations = Self.reservations(of: source)
        // So many at once that the batch grows to its most at the first refill.
        var taken = 0
        while source.state.withLock({ $0.asked.max() ?? 0 }) <= KeyReservations.Limits.leastBatch {
            for _ in 0..<100
            where reservations.take(for: Self.path("k"), length: 1, user: "ann", on: reactor)
                != nil
            {
                taken += 1
            }
            try await reactor.sleep(for: .milliseconds(1))
        }
        for _ in 0..<200 {
            _ = try await takeEventually(reservations, on: reactor)
            taken += 1
            // A refill is in by now, or is counted though it is not.
            let reserved = source.state.withLock { Int($0.next) - 1 }
            #expect(reserved - taken <= KeyReservations.Limits.mostBatch)
        }
    }

    @Test("when there are too many owners, those that have reservations keep them")
    func owners() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        let reservations = Self.reservations(of: source)
        let first = try await takeEventually(reservations, on: reactor)
        for number in 0..<2 * KeyReservations.Limits.pools {
            _ = reservations.take(
                for: Self.path("k", bucket: "b\(number)"), length: 1, user: "ann", on: reactor)
        }
        let second = reservations.take(for: Self.path("k"), length: 1, user: "ann", on: reactor)
        #expect(second?.id == first.id + 1)
    }

    @Test("where none can be reserved, keys are opened one by one, and it is not asked each time")
    func refused() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let source = Source()
        source.state.withLock { $0.failure = StoreError(.noSuchBucket, "gone") }
        let reservations = Self.reservations(of: source)
        for _ in 0..<20 {
            #expect(
                reservations.take(for: Self.path("k"), length: 1, user: "ann", on: reactor) == nil)
            try await reactor.sleep(for: .milliseconds(1))
        }
        #expect(source.state.withLock { $0.asked.count } <= 5)
    }
}
