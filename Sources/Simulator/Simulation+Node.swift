import Raft

// The life of a node: it starts from its disk, ticks, receives, and crashes.

extension Simulation {
    /// Starts a node from what its disk holds.
    func start(_ node: SimulatedNode) throws(Violation) {
        let disk = node.disk
        let checkpoint = [disk.checkpoint, disk.written.snapshot].compactMap { $0 }
            .max { $0.metadata.index < $1.metadata.index }
        try recover(node, from: checkpoint)
        var hardState = disk.written.hardState
        bendRecovered(&hardState, node)
        // The checkpoint may be ahead of the commit index on disk, which needs no sync.
        hardState.commit = max(hardState.commit, node.applied.index)
        disk.rewrite(hardState: hardState)
        try checker.started(node.id, disk.written, hardState: hardState)
        if let checkpoint {
            try checker.restored(
                node.id, at: checkpoint.metadata.index, stateDigest: node.state.digest,
                confState: node.confState)
        }
        var configuration = scenario.core
        configuration.id = node.id
        configuration.applied = node.applied.index
        configuration.asyncStorageWrites = node.isAsynchronous
        let isBlank = hardState.isEmpty && disk.written.lastIndex == 0
        node.raft = try makeCore(configuration, node)
        node.isStarted = true
        node.commit = hardState.commit
        node.lastAtStart = disk.written.lastIndex
        note(
            .node(
                node.id,
                .started(hardState, last: disk.written.lastIndex, applied: node.applied.index)))
        if isBlank, scenario.isBootstrapped, firstMembers.voters.contains(node.id) {
            bootstrap(node)
        }
        var share = 2 * chance.nodes.fraction() - 1
        if scenario.driftsFully { share = share < 0 ? -1 : 1 }
        share *= scenario.drift
        node.tickPeriod = Microseconds(Double(scenario.tick) * (1 + share))
        queue.push(
            .tick(place(of: node), incarnation: node.incarnation),
            after: chance.nodes.time(in: 0...node.tickPeriod))
        try settle(node)
    }

    /// The application's state: that of the checkpoint, from which the log goes on.
    private func recover(
        _ node: SimulatedNode, from checkpoint: Snapshot?
    ) throws(Violation) {
        let image = node.disk.written
        node.state = KeyValueState()
        node.applied = (0, 0)
        node.confState = ConfState()
        if let checkpoint, let state = KeyValueState(decoding: checkpoint.data) {
            node.state = state
            node.applied = (checkpoint.metadata.index, checkpoint.metadata.term)
            node.confState = checkpoint.metadata.confState
        }
        node.disk.confState = node.confState
        guard image.base.index <= node.applied.index, node.applied.index <= image.lastIndex else {
            throw Violation(
                property: .hardState,
                detail: "node \(node.id) finds a log of \(image.firstIndex)...\(image.lastIndex) "
                    + "but its checkpoint is of \(node.applied.index): a hole")
        }
    }

    func place(of node: SimulatedNode) -> Int { Int(node.id.rawValue) - 1 }

    func tick(_ node: SimulatedNode, _ incarnation: Int) throws(Violation) {
        guard node.incarnation == incarnation, node.raft != nil else { return }
        let place = place(of: node)
        if node.pausedUntil > queue.now {
            queue.push(
                .tick(place, incarnation: incarnation), after: node.pausedUntil - queue.now)
            return
        }
        queue.push(.tick(place, incarnation: incarnation), after: node.tickPeriod)
        node.raft?.tick()
        if node.raft?.hasRest == true { node.raft?.sendRest() }
        try settle(node)
        retire(node)
    }

    /// A leader that is no longer a member leads on without taking proposals, unless it is
    /// configured to step down: its driver must stop it, as this one does after some ticks.
    private func retire(_ node: SimulatedNode) {
        guard !scenario.core.stepDownOnRemoval, node.role == .leader,
            !node.confState.all.contains(node.id)
        else {
            node.ticksSinceRemoval = 0
            return
        }
        node.ticksSinceRemoval += 1
        if node.ticksSinceRemoval == Limits.ticksToRetire { crash(node, "as it is removed") }
    }

    /// A message of another node is there.
    func arrive(_ message: Message) throws(Violation) {
        let node = nodes[Int(message.to.rawValue) - 1]
        guard node.raft != nil else {
            lose(message, "node \(node.id) is down")
            return
        }
        if node.pausedUntil > queue.now {
            queue.push(.arrival(message), after: node.pausedUntil - queue.now)
            return
        }
        statistics.messagesDelivered += 1
        note(.delivered(message))
        if message.kind == .snapshot { report(message, isDelivered: true) }
        guard let message = bent(incoming: message, at: node) else { return }
        step(node, message)
        try settle(node)
    }

    /// Gives the core a message; what it refuses is as good as lost.
    func step(_ node: SimulatedNode, _ message: Message) {
        do throws(RaftError) {
            try node.raft?.step(message)
        } catch {
            note(.node(node.id, .told("refuses \(message.kind): \(error)")))
        }
    }

    /// Sends a message of a node into the network.
    func send(_ message: Message, of node: SimulatedNode) throws(Violation) {
        let message = bent(outgoing: message, of: node)
        try checker.sent(message, node.disk.durable)
        guard message.to.rawValue >= 1, message.to.rawValue <= UInt64(nodes.count) else {
            throw Violation(
                property: .liveness, detail: "node \(node.id) sends to nobody: \(message.kind)")
        }
        let copies = !isHealing && chance.network.chance(scenario.duplicateShare) ? 2 : 1
        for _ in 0..<copies {
            if !network.isOpen(from: message.from, to: message.to) {
                lose(message, "cut")
            } else if !isHealing, chance.network.chance(scenario.lossShare) {
                lose(message, "")
            } else {
                queue.push(.arrival(message), after: messageDelay())
            }
        }
    }

    func messageDelay() -> Microseconds {
        if !isHealing, chance.network.chance(scenario.lateShare) {
            return chance.network.time(in: scenario.delay.lowerBound...scenario.longDelay)
        }
        return chance.network.time(in: scenario.delay)
    }

    /// A message is gone. Its sender may learn of that; of a snapshot it does in any case.
    private func lose(_ message: Message, _ why: String) {
        statistics.messagesLost += 1
        note(.lost(message, why))
        if message.kind == .snapshot {
            report(message, isDelivered: false)
        } else if message.kind == .append, chance.network.chance(0.1) {
            nodes[Int(message.from.rawValue) - 1].raft?.reportUnreachable(message.to)
        }
    }

    private func report(_ message: Message, isDelivered: Bool) {
        let place = Int(message.from.rawValue) - 1
        queue.push(
            .snapshotStatus(
                place, incarnation: nodes[place].incarnation, to: message.to,
                isDelivered: isDelivered),
            after: messageDelay())
    }

    /// Loses power, to come back later.
    func crash(_ node: SimulatedNode, _ why: String) {
        guard node.raft != nil else { return }
        statistics.crashes += 1
        let tear = chance.disk.element(of: scenario.tears) ?? .none
        note(.node(node.id, .crashed("\(why), tear \(tear)")))
        node.disk.crash(
            tear, ignoringDamage: scenario.mutation == .ignoresDamage, from: &chance.disk)
        node.loseMemory()
        checker.stopped(node.id)
        let down = isHealing ? 1000 : chance.faults.time(in: scenario.downTime)
        queue.push(.restart(place(of: node)), after: down)
    }

    /// A moment at which a crash matters. True if the node crashed.
    func persistPoint(_ node: SimulatedNode, _ name: String) -> Bool {
        statistics.persistPoints += 1
        guard !isHealing else { return false }
        let isChosen =
            statistics.persistPoints == scenario.crashAtPersistPoint
            || chance.faults.chance(scenario.persistPointCrash)
        if isChosen { crash(node, "at persist point \(statistics.persistPoints), \(name)") }
        return isChosen
    }
}
