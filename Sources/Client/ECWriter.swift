import Bytes
import ErasureCode
import Model
import Reactor

/// Where a writer gets its block groups from.
protocol GroupSource: Sendable {
    /// A group for the key being written, on none of the `excluding` nodes.
    func allocate(excluding: Set<DatanodeID>) async throws(StoreError) -> BlockGroup
}

/// Writes one stream of bytes as erasure-coded block groups.
///
/// Used by one task at a time; bytes are copied and coded in that task's thread, frames leave on
/// the writer's reactor. A window bounds the bytes that are not acknowledged yet. When a node
/// fails the group ends at the last stripe that all acknowledged, and what follows goes to a new
/// group without that node; the caller sees nothing but time.
actor ECWriter {
    enum Limits {
        /// User bytes in flight for one writer, or its share of the process's `TransferWindow`;
        /// at least one stripe goes regardless.
        static let window = 24 << 20
        /// Groups that may fail before the writer gives up.
        static let retries = 10
        /// How long a writer waits for a cluster that cannot place a group just now.
        static let placementPatience = Duration.seconds(30)
    }

    private let replication: ReplicationConfig
    private let codec: Codec
    private let source: any GroupSource
    private let client: DatanodeClient
    private let reactor: Reactor
    private var prepared: [BlockGroup]
    private var current: GroupWriter?
    private var finished: [BlockGroup] = []
    private var excluded: Set<DatanodeID> = []
    private var failures = 0

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        replication: ReplicationConfig, codec: Codec, prepared: [BlockGroup],
        source: any GroupSource, client: DatanodeClient, on reactor: Reactor
    ) {
        self.replication = replication
        self.codec = codec
        self.prepared = prepared
        self.source = source
        self.client = client
        self.reactor = reactor
        client.window.enter()
    }

    deinit { client.window.leave() }

    /// User bytes that may be in flight now. Parity takes its part of the share.
    private var window: Int {
        min(Limits.window, client.window.share / replication.width * replication.data)
    }

    /// Sends an encoded stripe, waiting while the window is full.
    func send(_ stripe: Stripe, isLast: Bool) async throws(StoreError) {
        var queue = [stripe]
        while let next = queue.first {
            let writer = try await writer()
            let limit = max(window - next.length, 0)
            await writer.waitForRoom(limit: limit)
            if await writer.send(next, isLast: isLast && queue.count == 1) {
                queue.removeFirst()
            } else {
                queue = try await moveOn(from: writer) + queue
            }
        }
    }

    /// Waits until everything is durable; the groups written, with their lengths.
    func finish() async throws(StoreError) -> [BlockGroup] {
        while let writer = current {
            let rest = try await moveOn(from: writer)
            for (index, stripe) in rest.enumerated() {
                try await send(stripe, isLast: index == rest.count - 1)
            }
        }
        return finished
    }

    /// The writer of the current group, a new one when the last is full.
    private func writer() async throws(StoreError) -> GroupWriter {
        if let current {
            guard await current.isFull else { return current }
            let rest = try await moveOn(from: current)
            // A full group that failed: its rest goes out before anything else.
            for stripe in rest { try await send(stripe, isLast: false) }
            return try await writer()
        }
        let group = try await nextGroup()
        let writer = GroupWriter(group, client: client, on: reactor)
        current = writer
        return writer
    }

    private func nextGroup() async throws(StoreError) -> BlockGroup {
        while !prepared.isEmpty {
            let group = prepared.removeFirst()
            if group.nodes.allSatisfy({ $0.map { !excluded.contains($0.id) } ?? true }) {
                return group
            }
        }
        let deadline = reactor.now().advanced(by: Limits.placementPatience)
        var delay = Duration.milliseconds(100)
        while true {
            do throws(StoreError) {
                return try await source.allocate(excluding: excluded)
            } catch {
                let isPassing = [.cannotPlace, .notReady, .overloaded, .connection].contains(
                    error.code)
                guard isPassing, reactor.now() < deadline else { throw error }
            }
            do {
                try await reactor.sleep(for: delay)
            } catch {
                throw StoreError(.cancelled, "the write was cancelled")
            }
            delay = min(delay * 2, .seconds(2))
        }
    }

    /// Ends the current group. Returns the stripes that must be sent again.
    private func moveOn(from writer: GroupWriter) async throws(StoreError) -> [Stripe] {
        let outcome = await writer.settled()
        current = nil
        if outcome.length > 0 {
            var group = writer.group
            group.length = outcome.length
            finished.append(group)
        }
        guard let failure = outcome.failure else { return [] }
        failures += 1
        excluded.formUnion(outcome.failedNodes)
        guard failures <= Limits.retries else {
            throw StoreError(
                failure.code, "gave up after \(failures) block groups failed: \(failure.message)")
        }
        return outcome.rest
    }
}
