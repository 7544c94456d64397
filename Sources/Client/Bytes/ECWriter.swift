import Bytes
import ErasureCode
import Model
import Reactor

/// Where a writer gets its block groups from.
protocol GroupSource: Sendable {
    /// A group for the key being written, not where `excluding` says.
    func allocate(excluding: ExcludeList) async throws(StoreError) -> BlockGroup
}

/// Writes one stream of bytes as erasure-coded block groups.
///
/// Used by one task at a time; bytes are copied and coded in that task's thread, frames leave on
/// the writer's reactor. A window bounds the bytes that are not acknowledged yet. When a node
/// fails, or a container is closed, the group ends at the last stripe that all acknowledged, and
/// what follows goes to a new group without that node or container; the caller sees nothing but
/// time. Only where disks are full it is told at once.
actor ECWriter {
    enum Limits {
        /// User bytes in flight for one writer, or its share of the process's `TransferWindow`;
        /// at least one stripe goes regardless.
        static let window = 24 << 20
        /// Groups in a row that may fail without a byte kept before the writer gives up.
        static let retries = 10
        /// Groups in a row that it leaves without a byte kept because a node is merely behind.
        static let departures = 3
        /// How long a node that failed is avoided: a long key outlives its death.
        static let avoidance = Duration.seconds(60)
        /// Containers avoided at most: the last ones.
        static let avoidedContainers = 64
        /// How long a writer waits for a cluster that cannot place a group just now.
        static let placementPatience = Duration.seconds(30)
    }

    private let coding: ErasureCoding
    private let source: any GroupSource
    private let client: DatanodeClient
    private let reactor: Reactor
    private var prepared: [BlockGroup]
    private var current: GroupWriter?
    private var finished: [BlockGroup] = []
    /// Nodes that failed, and when.
    private var failedNodes: [DatanodeID: MonotonicTime] = [:]
    /// Containers that took nothing more, oldest first.
    private var refused: [ContainerID] = []
    private var failures = 0
    /// Groups left since a byte was kept because a node was late.
    private var departures = 0
    /// The last failure for want of room, until a group succeeds.
    private var fullFailure: StoreError?

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        coding: ErasureCoding, prepared: [BlockGroup], source: any GroupSource,
        client: DatanodeClient, on reactor: Reactor
    ) {
        self.coding = coding
        self.prepared = prepared
        self.source = source
        self.client = client
        self.reactor = reactor
        client.window.enter()
    }

    deinit { client.window.leave() }

    /// User bytes that may be in flight now. Parity takes its part of the share.
    private var window: Int {
        min(Limits.window, client.window.share / coding.width * coding.data)
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
        guard group.replication == .erasureCoded(coding) else {
            throw StoreError(
                .badRequest,
                "block \(group.blockID) of \(group.replication) was given out for a key of "
                    + "\(coding)")
        }
        let writer = GroupWriter(
            group, coding: coding, client: client, on: reactor,
            isPatient: departures >= Limits.departures
        ) { [weak self] late in
            await self?.group(
                without: Set(late.keys), hanging: Set(late.filter { $0.value == .hanging }.keys))
        }
        current = writer
        return writer
    }

    /// What is to be avoided now.
    private func excluded() -> ExcludeList {
        let now = reactor.now()
        failedNodes = failedNodes.filter { $0.value.duration(to: now) < Limits.avoidance }
        return ExcludeList(nodes: Set(failedNodes.keys), containers: Set(refused))
    }

    private func nextGroup() async throws(StoreError) -> BlockGroup {
        while !prepared.isEmpty {
            let group = prepared.removeFirst()
            if !excluded().contains(group) { return await preferred(to: group) }
        }
        if let group = await groupWithoutLateNodes() { return group }
        let deadline = reactor.now().advanced(by: Limits.placementPatience)
        var delay = Duration.milliseconds(100)
        while true {
            do throws(StoreError) {
                return await preferred(to: try await source.allocate(excluding: excluded()))
            } catch {
                // Nodes are missing because they have no room: waiting does not make any.
                if let fullFailure, [.cannotPlace, .overloaded].contains(error.code) {
                    throw StoreError(
                        .noSpace, "\(error.message); others are full: \(fullFailure.message)")
                }
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

    /// `group`, or another if a node of it was late for a writer just now and there is one without.
    private func preferred(to group: BlockGroup) async -> BlockGroup {
        let now = reactor.now()
        let late = Set(group.nodes.compactMap(\.?.id)).filter {
            client.health.shouldAvoidWriting(to: $0, at: now)
        }
        guard !late.isEmpty, !group.isDegraded,
            client.health.mayGiveUpWriting(to: late, most: coding.parity, at: now)
        else { return group }
        return await self.group(without: late) ?? group
    }

    /// A whole group without the nodes that writers find late, where there are some; nil if it is
    /// not to be looked for, or there is none.
    private func groupWithoutLateNodes() async -> BlockGroup? {
        let late = client.health.beginning(at: reactor.now()).avoiding
        return late.isEmpty ? nil : await group(without: late)
    }

    /// A whole group without `late`; nil if there is none now.
    /// - Parameter hanging: those of them that may have failed.
    private func group(
        without late: Set<DatanodeID>, hanging: Set<DatanodeID> = []
    ) async -> BlockGroup? {
        var excluding = excluded()
        excluding.slowNodes = late.subtracting(hanging).subtracting(excluding.nodes)
        excluding.nodes.formUnion(late)
        excluding.degradedGroups = true
        do throws(StoreError) {
            let group = try await source.allocate(excluding: excluding)
            if !group.isDegraded { return group }
        } catch {
            // Then there is nothing better than what there is.
        }
        client.health.foundNoOther(without: late, at: reactor.now())
        return nil
    }

    /// Ends the current group. Returns the stripes that must be sent again.
    private func moveOn(from writer: GroupWriter) async throws(StoreError) -> [Stripe] {
        let outcome = await writer.settled()
        current = nil
        if let replacement = outcome.replacement { prepared.insert(replacement, at: 0) }
        if outcome.length > 0 {
            var group = writer.group
            group.length = outcome.length
            finished.append(group)
            failures = 0
            departures = 0
            fullFailure = nil
        }
        guard let failure = outcome.failure else { return [] }
        if outcome.isLeft, departures < Limits.departures {
            departures += 1
        } else {
            failures += 1
        }
        avoid(outcome)
        guard failures <= Limits.retries else {
            throw StoreError(
                failure.code, "gave up after \(failures) block groups failed: \(failure.message)")
        }
        return outcome.rest
    }

    private func avoid(_ outcome: GroupWriter.Outcome) {
        let now = reactor.now()
        for node in outcome.failedNodes { failedNodes[node] = now }
        if let container = outcome.refused {
            refused.append(container)
            if refused.count > Limits.avoidedContainers { refused.removeFirst() }
        }
        for node in outcome.fullNodes { failedNodes[node] = now }
        if outcome.isWithoutRoom { fullFailure = outcome.failure }
    }
}
