import Model
import Reactor

/// Sends the stripes of one block group to its datanodes, several in flight.
///
/// A datanode that no byte of a group falls to hears nothing of it: of a key of one cell, the cell
/// and the parity are all that is written. Whoever looks for the others knows by the group's length
/// that they are empty.
///
/// A node that is late beyond its own habit is given up if there is a whole group without it, and
/// waited for otherwise: redundancy is not given away for a moment's wait.
///
/// Isolated to its reactor. Cells of one replica leave in the order of their stripes; there is no
/// barrier between stripes. After the first failure no more are sent, and `settled` tells how far
/// all replicas have come.
actor GroupWriter {
    enum Limits {
        /// How long after a look for another group none is looked for again.
        static let replacementPause = Duration.seconds(1)
    }

    private struct Flight {
        var stripe: Stripe
        /// Replicas that have not answered.
        var waiting: Int
        var isAcknowledged = false
        var hasFailed = false
    }

    /// A cell that was sent and is not answered.
    private struct Sent {
        var node: DatanodeAddress
        var since: MonotonicTime
        var task: Task<Void, Never>?
    }

    private struct CellPlace: Hashable {
        var stripe: Int
        var place: Int
    }

    nonisolated let group: BlockGroup
    private let coding: ErasureCoding
    nonisolated let reactor: Reactor
    private let client: DatanodeClient
    /// Finds a group without some nodes that are late; nil if there is no whole one.
    private let replacement: (@Sendable (Set<DatanodeID>) async -> BlockGroup?)?
    private var flights: [Flight] = []
    private var sentCells: [CellPlace: Sent] = [:]
    private var watch: Task<Void, Never>?
    /// Leading stripes that all replicas have acknowledged; their buffers are gone.
    private var acknowledged = 0
    private var sent = 0
    private var sentBytes = 0
    private var acknowledgedBytes = 0
    private(set) var failure: StoreError?
    private var failedNodes: Set<DatanodeID> = []
    private var fullNodes: Set<DatanodeID> = []
    private var isWithoutRoom = false
    private var isRefused = false
    private var found: BlockGroup?
    private var observers: [CheckedContinuation<Void, Never>] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        _ group: BlockGroup, coding: ErasureCoding, client: DatanodeClient, on reactor: Reactor,
        replacement: (@Sendable (Set<DatanodeID>) async -> BlockGroup?)? = nil
    ) {
        precondition(
            group.replication == .erasureCoded(coding), "a group is written as it was given out")
        self.group = group
        self.coding = coding
        self.client = client
        self.reactor = reactor
        self.replacement = replacement
    }

    /// Stripes that fit into a group.
    private var stripesPerGroup: Int {
        coding.blockGroupSize / coding.stripeSize
    }

    var isFull: Bool { sent == stripesPerGroup }

    /// The first stripe is on its way: until it has arrived everywhere (containers made,
    /// connections opened) the others wait, so that none can overtake it.
    private var isOpening: Bool { sent == 1 && acknowledged == 0 }

    /// Waits while the next stripe must: until at most `limit` bytes are in flight.
    func waitForRoom(limit: Int) async {
        await progress {
            failure == nil && (isOpening || sentBytes - acknowledgedBytes > limit)
        }
    }

    /// Sends an encoded stripe. False, with nothing sent, if the group has failed before.
    func send(_ stripe: Stripe, isLast: Bool) -> Bool {
        guard failure == nil else { return false }
        precondition(sent < stripesPerGroup, "the group is full")
        let index = sent
        sent += 1
        sentBytes += stripe.length
        let isEnd = isLast || sent == stripesPerGroup
        let isWhole = index > 0 || !isLast
        let targets = group.nodes.enumerated().compactMap { place, node in
            isWhole || stripe.cellLength(place) > 0 ? node.map { (place, $0) } : nil
        }
        flights.append(Flight(stripe: stripe, waiting: targets.count))
        let now = reactor.now()
        for (place, node) in targets {
            let cell = cell(of: stripe, index, at: place, isEnd: isEnd)
            let key = CellPlace(stripe: index, place: place)
            sentCells[key] = Sent(node: node, since: now)
            sentCells[key]!.task = Task(executorPreference: reactor) {
                @concurrent [client, reactor] in
                let failure: StoreError?
                do throws(StoreError) {
                    _ = try await client.write(cell, to: node, on: reactor)
                    failure = nil
                } catch {
                    failure = error
                }
                if reactor.isCurrent {
                    self.inPlace(with: (key, node, failure)) { $0.finished($1.0, $1.1, $1.2) }
                } else {
                    await self.finished(key, node, failure)
                }
            }
        }
        if replacement != nil, watch == nil {
            watch = Task(executorPreference: reactor) { await self.watchForLateNodes() }
        }
        return true
    }

    private func cell(
        of stripe: Stripe, _ index: Int, at place: Int, isEnd: Bool
    ) -> DatanodeClient.Cell {
        let (payload, checksums) = stripe.cell(place)
        return DatanodeClient.Cell(
            block: group.blockID, replication: group.replication, replicaIndex: place + 1,
            offset: index * coding.cellSize, payload: payload, checksums: checksums,
            groupLength: sentBytes, isEnd: isEnd,
            permission: index == 0 ? group.permission(at: place) : 0, token: group.token)
    }

    private func finished(_ cell: CellPlace, _ node: DatanodeAddress, _ error: StoreError?) {
        let index = cell.stripe
        sentCells[cell] = nil
        flights[index].waiting -= 1
        if let error {
            if failure == nil { failure = error }
            note(error, of: cell, on: node)
            flights[index].isAcknowledged = false
            flights[index].hasFailed = true
        } else if flights[index].waiting == 0, !flights[index].hasFailed {
            flights[index].isAcknowledged = true
        }
        while acknowledged < flights.count, flights[acknowledged].isAcknowledged {
            acknowledgedBytes += flights[acknowledged].stripe.length
            flights[acknowledged].stripe.dropBuffers()
            acknowledged += 1
        }
        wakeObservers()
    }

    /// What is wrong with a container, a block or one disk says nothing against its node.
    private func note(_ error: StoreError, of cell: CellPlace, on node: DatanodeAddress) {
        switch error.code {
        // No replica, and none may be made; or its disk is gone.
        case .containerState, .noSuchContainer, .io: refuse()
        case .noSpace:
            refuse()
            isWithoutRoom = true
            // The disk of a replica is full; but where one was to be made, all of them are.
            if cell.stripe == 0, group.permission(at: cell.place) != 0 {
                fullNodes.insert(node.id)
            }
        case .badRequest, .corrupt, .noSuchBlock: break
        // It was given up before: this is only the end of it.
        case .cancelled where failedNodes.contains(node.id): break
        default:
            failedNodes.insert(node.id)
            client.health.failed(node.id, at: reactor.now())
        }
    }

    private func wakeObservers() {
        let woken = observers
        observers = []
        for observer in woken { observer.resume() }
    }

    /// The container takes nothing more: what was planned with it is to be given up.
    private func refuse() {
        if !isRefused { client.onRefusal(group.blockID.containerID) }
        isRefused = true
    }

    // MARK: Late nodes

    /// Looks after the cells on their way as long as there are some.
    private func watchForLateNodes() async {
        defer { watch = nil }
        while failure == nil, let due = nextLateness() {
            let pause = reactor.now().duration(to: due)
            do throws(CancellationError) {
                if pause > .zero { try await reactor.sleep(for: pause) }
            } catch { return }
            let now = reactor.now()
            let late = lateNodes(at: now)
            guard !late.isEmpty, failure == nil else { continue }
            if client.health.mayGiveUpWriting(to: late, most: coding.parity, at: now),
                let other = await replacement?(late), !other.isDegraded
            {
                found = other
                giveUp(late)
                return
            }
            do throws(CancellationError) {
                try await reactor.sleep(for: Limits.replacementPause)
            } catch { return }
        }
    }

    /// When the first of the cells on their way will be late; nil if there are none.
    private func nextLateness() -> MonotonicTime? {
        sentCells.values.map { $0.since.advanced(by: client.health.lateWriteAfter($0.node.id)) }
            .min()
    }

    private func lateNodes(at now: MonotonicTime) -> Set<DatanodeID> {
        Set(
            sentCells.values.filter {
                $0.since.advanced(by: client.health.lateWriteAfter($0.node.id)) <= now
            }.map(\.node.id))
    }

    /// Ends the group without waiting for those of `nodes` that still have not answered.
    private func giveUp(_ nodes: Set<DatanodeID>) {
        let now = reactor.now()
        for sent in sentCells.values where nodes.contains(sent.node.id) {
            if failedNodes.insert(sent.node.id).inserted {
                client.health.gaveUpWriting(to: sent.node.id, at: now)
            }
            if failure == nil {
                failure = StoreError(
                    .deadlineExceeded,
                    "\(sent.node) is late with a cell of \(group.blockID); another node is there")
            }
            sent.task?.cancel()
        }
        wakeObservers()
    }

    /// Suspends until `mustWait` is false; it is looked at whenever something was acknowledged or
    /// has failed. An answer may come in between a look and the suspension, so the last look is
    /// where the continuation is kept: what comes later will find it.
    private func progress(while mustWait: () -> Bool) async {
        while mustWait() {
            await withCheckedContinuation { continuation in
                if mustWait() { observers.append(continuation) } else { continuation.resume() }
            }
        }
    }

    /// What a group has come to when nothing of it is in flight any more.
    struct Outcome: Sendable {
        /// User bytes that all replicas have acknowledged.
        var length: Int
        /// Stripes sent beyond that, to be sent to another group.
        var rest: [Stripe]
        var failure: StoreError?
        var failedNodes: Set<DatanodeID>
        /// Nodes that had no room on any disk.
        var fullNodes: Set<DatanodeID>
        /// A disk was full.
        var isWithoutRoom: Bool
        /// The group's container, if a replica of it was closed, lost, or without room.
        var refused: ContainerID?
        /// A group that was asked for while a node was late.
        var replacement: BlockGroup?
    }

    /// Waits for every answer.
    func settled() async -> Outcome {
        await progress { flights.contains { $0.waiting > 0 } }
        watch?.cancel()
        return Outcome(
            length: acknowledgedBytes, rest: flights[acknowledged...].map(\.stripe),
            failure: failure, failedNodes: failedNodes, fullNodes: fullNodes,
            isWithoutRoom: isWithoutRoom, refused: isRefused ? group.blockID.containerID : nil,
            replacement: found)
    }
}
