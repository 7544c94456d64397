import Model
import Reactor

/// Sends the stripes of one block group to its datanodes, several in flight.
///
/// A datanode that no byte of a group falls to hears nothing of it: of a key of one cell, the cell
/// and the parity are all that is written. Whoever looks for the others knows by the group's length
/// that they are empty.
///
/// Isolated to its reactor. Cells of one replica leave in the order of their stripes; there is no
/// barrier between stripes. After the first failure no more are sent, and `settled` tells how far
/// all replicas have come.
actor GroupWriter {
    private struct Flight {
        var stripe: Stripe
        /// Replicas that have not answered.
        var waiting: Int
        var isAcknowledged = false
    }

    nonisolated let group: BlockGroup
    nonisolated let reactor: Reactor
    private let client: DatanodeClient
    private var flights: [Flight] = []
    /// Leading stripes that all replicas have acknowledged; their buffers are gone.
    private var acknowledged = 0
    private var sent = 0
    private var sentBytes = 0
    private var acknowledgedBytes = 0
    private(set) var failure: StoreError?
    private var failedNodes: Set<DatanodeID> = []
    private var fullNodes: Set<DatanodeID> = []
    private var isRefused = false
    private var observers: [CheckedContinuation<Void, Never>] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(_ group: BlockGroup, client: DatanodeClient, on reactor: Reactor) {
        self.group = group
        self.client = client
        self.reactor = reactor
    }

    /// Stripes that fit into a group.
    private var stripesPerGroup: Int {
        group.replication.blockGroupSize / group.replication.stripeSize
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
        let groupLength = sentBytes
        for (place, node) in targets {
            let (payload, checksums) = stripe.cell(place)
            let cell = DatanodeClient.Cell(
                block: group.blockID, replication: group.replication, replicaIndex: place + 1,
                offset: index * group.replication.cellSize, payload: payload,
                checksums: checksums, groupLength: groupLength, isEnd: isEnd)
            Task(executorPreference: reactor) { @concurrent [client, reactor] in
                let failure: StoreError?
                do throws(StoreError) {
                    _ = try await client.write(cell, to: node, on: reactor)
                    failure = nil
                } catch {
                    failure = error
                }
                if reactor.isCurrent {
                    self.inPlace(with: (index, node, failure)) {
                        $0.finished($1.0, $1.1, $1.2)
                    }
                } else {
                    await self.finished(index, node, failure)
                }
            }
        }
        return true
    }

    private func finished(_ index: Int, _ node: DatanodeAddress, _ error: StoreError?) {
        flights[index].waiting -= 1
        if let error {
            if failure == nil { failure = error }
            // What is wrong with a container, a block or one disk says nothing against its node.
            switch error.code {
            case .containerState, .noSuchContainer: refuse()
            case .noSpace:
                refuse()
                fullNodes.insert(node.id)
            case .badRequest, .corrupt, .noSuchBlock: break
            default:
                failedNodes.insert(node.id)
                client.health.failed(node.id, at: reactor.now())
            }
            flights[index].isAcknowledged = false
            errorsByStripe.insert(index)
        } else if flights[index].waiting == 0, !errorsByStripe.contains(index) {
            flights[index].isAcknowledged = true
        }
        while acknowledged < flights.count, flights[acknowledged].isAcknowledged {
            acknowledgedBytes += flights[acknowledged].stripe.length
            flights[acknowledged].stripe.dropBuffers()
            acknowledged += 1
        }
        let woken = observers
        observers = []
        for observer in woken { observer.resume() }
    }

    /// The container takes nothing more: what was planned with it is to be given up.
    private func refuse() {
        if !isRefused { client.onRefusal(group.blockID.containerID) }
        isRefused = true
    }

    private var errorsByStripe: Set<Int> = []

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
        /// Nodes that had no room.
        var fullNodes: Set<DatanodeID>
        /// The group's container, if a replica of it was closed or without room.
        var refused: ContainerID?
    }

    /// Waits for every answer.
    func settled() async -> Outcome {
        await progress { flights.contains { $0.waiting > 0 } }
        return Outcome(
            length: acknowledgedBytes, rest: flights[acknowledged...].map(\.stripe),
            failure: failure, failedNodes: failedNodes, fullNodes: fullNodes,
            refused: isRefused ? group.blockID.containerID : nil)
    }
}
