import Model
import Reactor

/// Sends the stripes of one block group to its datanodes, several in flight.
///
/// A datanode that no byte of a group falls to hears nothing of it: of a key of one cell, the cell
/// and the parity are all that is written. Whoever looks for the others knows by the group's length
/// that they are empty.
///
/// A node that is late is given up if there is a whole group without it, and waited for otherwise:
/// redundancy is not given away for a moment's wait. Late is one beyond its own habit, and one that
/// keeps a stripe waiting of which nearly all other cells are there: against these it is compared
/// (docs/decisions/0015).
///
/// Isolated to its reactor. Cells of one replica leave in the order of their stripes; there is no
/// barrier between stripes. After the first failure no more are sent, and `settled` tells how far
/// all replicas have come.
actor GroupWriter {
    enum Limits {
        /// How long after a look for another group none is looked for again.
        static let replacementPause = Duration.seconds(1)
        /// Between looks at stripes that too much is missing of to say who keeps them waiting.
        static let lookPause = Duration.milliseconds(25)
    }

    /// Finds a group without some nodes that are late; nil if there is no whole one.
    typealias Replacement = @Sendable ([DatanodeID: Lateness]) async -> BlockGroup?

    /// Why a node is late.
    enum Lateness {
        /// By its own habit: it may hang.
        case hanging
        /// Against the others.
        case behind
    }

    private struct Flight {
        var stripe: Stripe
        let since: MonotonicTime
        /// Replicas that have not answered.
        var waiting: Int
        /// What the last one to acknowledge took, in nanoseconds.
        var slowest: UInt64 = 0
        /// So many may be missing when the others are what these are compared with.
        let fewMissing: Int
        var isAcknowledged = false
        var hasFailed = false

        /// So much is there that it says something against those that are missing.
        var isTelling: Bool { waiting <= fewMissing }
    }

    /// A cell that was sent and is not answered.
    private struct Sent {
        var node: DatanodeAddress
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
    /// Leaves the group only for nodes that hang.
    private let isPatient: Bool
    private let replacement: Replacement?
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
    /// Nodes that were late and are not waited for.
    private var leftNodes: Set<DatanodeID> = []
    private var isLeft = false
    private var fullNodes: Set<DatanodeID> = []
    private var isWithoutRoom = false
    private var isRefused = false
    /// A whole group without some nodes that were late, to go on in.
    private var found: BlockGroup?
    private var observers: [CheckedContinuation<Void, Never>] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        _ group: BlockGroup, coding: ErasureCoding, client: DatanodeClient, on reactor: Reactor,
        isPatient: Bool = false,
        replacement: Replacement? = nil
    ) {
        precondition(
            group.replication == .erasureCoded(coding), "a group is written as it was given out")
        self.group = group
        self.coding = coding
        self.client = client
        self.reactor = reactor
        self.isPatient = isPatient
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
        flights.append(
            Flight(
                stripe: stripe, since: reactor.now(), waiting: targets.count,
                fewMissing: max(
                    1, min(coding.parity, targets.count / NodeHealth.Limits.missingShare))))
        for (place, node) in targets {
            let cell = cell(of: stripe, index, at: place, isEnd: isEnd)
            let key = CellPlace(stripe: index, place: place)
            sentCells[key] = Sent(node: node)
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
        } else {
            flights[index].slowest =
                reactor.now().nanoseconds - flights[index].since.nanoseconds
            if flights[index].waiting == 0, !flights[index].hasFailed {
                flights[index].isAcknowledged = true
                client.health.acknowledged(bytes: flights[index].stripe.length)
            }
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
        case .cancelled where leftNodes.contains(node.id): break
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
        while failure == nil {
            var now = reactor.now()
            var limits = client.health.lateWrites(to: group.nodes)
            var late = lateNodes(by: limits, at: now)
            if !late.isEmpty {
                if await leave(late, at: now) { return }
                // They may have answered while another group was looked for.
                now = reactor.now()
                limits = client.health.lateWrites(to: group.nodes)
                late = lateNodes(by: limits, at: now)
            }
            // Those that are late and must be waited for are not looked at all the time.
            let pause =
                late.isEmpty
                ? nextLateness(by: limits, at: now).map { now.duration(to: $0) }
                : Limits.replacementPause
            guard let pause else { return }
            do throws(CancellationError) {
                try await reactor.sleep(for: pause)
            } catch { return }
        }
    }

    /// Ends the group if there is another without the nodes that are late, or without those of them
    /// that are worst: of many some may be so by chance. False if it goes on: there is none, or they
    /// have answered meanwhile.
    private func leave(
        _ late: [DatanodeID: Lateness], at now: MonotonicTime
    ) async -> Bool {
        guard client.health.areFew(Set(late.keys), most: coding.parity, at: now) else {
            return false
        }
        var left = client.health.worstFirst(Set(late.keys))
        left =
            left.filter { late[$0] == .hanging } + left.filter { late[$0] != .hanging }
        while !left.isEmpty {
            let chosen = late.filter { left.contains($0.key) }
            if mayGiveUp(chosen, at: now), let other = await other(without: chosen) {
                found = other
                return giveUp(chosen.keys)
            }
            // What else they said meanwhile, a failure or that they are there, is seen first.
            guard failure == nil else { return false }
            left.removeLast()
        }
        return false
    }

    /// A whole group without `late`: the one that was found before, and not needed then, if it is.
    private func other(without late: [DatanodeID: Lateness]) async -> BlockGroup? {
        if let found, !ExcludeList(nodes: Set(late.keys)).contains(found) { return found }
        guard let other = await replacement?(late), !other.isDegraded else { return nil }
        return other
    }

    /// Whether to do without nodes that are late. For one that may hang nothing is saved; for those
    /// that are merely behind no more than a share is written again of what is written.
    private func mayGiveUp(_ late: [DatanodeID: Lateness], at now: MonotonicTime) -> Bool {
        let ids = Set(late.keys)
        guard client.health.mayGiveUpWriting(to: ids, most: coding.parity, at: now) else {
            return false
        }
        if late.values.contains(.hanging) { return true }
        // Taken when there is another group.
        return !isPatient && client.health.mayRewrite(bytes: sentBytes - acknowledgedBytes)
    }

    /// When to look at the cells on their way, of which none is late at `now`, since one will be;
    /// nil if there are none.
    private func nextLateness(
        by limits: NodeHealth.LateWrites, at now: MonotonicTime
    ) -> MonotonicTime? {
        var next: MonotonicTime?
        for cell in sentCells.keys {
            let flight = flights[cell.stripe]
            var due = flight.since.advanced(by: limits.habits[cell.place])
            if let behind = limits.behind(slowest: flight.slowest) {
                let then = flight.since.advanced(by: behind)
                due = min(
                    due, flight.isTelling ? then : max(then, now.advanced(by: Limits.lookPause)))
            }
            next = next.map { min($0, due) } ?? due
        }
        return next
    }

    private func lateNodes(
        by limits: NodeHealth.LateWrites, at now: MonotonicTime
    ) -> [DatanodeID: Lateness] {
        var late: [DatanodeID: Lateness] = [:]
        for (cell, sent) in sentCells {
            let flight = flights[cell.stripe]
            let age = flight.since.duration(to: now)
            if limits.habits[cell.place] <= age {
                late[sent.node.id] = .hanging
            } else if late[sent.node.id] == nil, flight.isTelling,
                let behind = limits.behind(slowest: flight.slowest), behind <= age
            {
                late[sent.node.id] = .behind
            }
        }
        return late
    }

    /// Ends the group without waiting for those of `nodes` that are late still: while another group
    /// was looked for they may have answered. False, with nothing done, if none is, or if too much
    /// would be written again: other writers were quicker.
    private func giveUp(_ nodes: some Collection<DatanodeID>) -> Bool {
        let now = reactor.now()
        let late = lateNodes(by: client.health.lateWrites(to: group.nodes), at: now)
            .filter { nodes.contains($0.key) }
        let missing = sentCells.values.filter { late[$0.node.id] != nil }
        // Where another node has failed all is written again in any case.
        if failure == nil {
            guard let first = missing.first,
                late.values.contains(.hanging)
                    || !isPatient
                        && client.health.takeRewrite(bytes: sentBytes - acknowledgedBytes)
            else { return false }
            isLeft = true
            failure = StoreError(
                .deadlineExceeded,
                "\(first.node) is late with a cell of \(group.blockID); another node is there")
        }
        for sent in missing {
            if leftNodes.insert(sent.node.id).inserted {
                client.health.gaveUpWriting(to: sent.node.id, at: now)
            }
            sent.task?.cancel()
        }
        wakeObservers()
        return true
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
        /// It ended because nodes were late, not for a failure.
        var isLeft: Bool
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
            failure: failure, isLeft: isLeft, failedNodes: failedNodes, fullNodes: fullNodes,
            isWithoutRoom: isWithoutRoom, refused: isRefused ? group.blockID.containerID : nil,
            replacement: found)
    }
}
