import Raft

// The application of a node: it applies, makes checkpoints, restores snapshots and answers.

extension Simulation {
    func scheduleApply(_ node: SimulatedNode) {
        queue.push(
            .applied(place(of: node), incarnation: node.incarnation),
            after: chance.nodes.time(in: isHealing ? 10...1_000 : scenario.applyTime))
    }

    /// The apply thread of an asynchronous node is done with its first message.
    func applyNext(_ node: SimulatedNode) throws(Violation) {
        guard !node.applying.isEmpty else { return }
        let message = node.applying.removeFirst()
        // What a snapshot brought meanwhile is not applied again.
        try apply(message.entries.filter { $0.index > node.restored }, node)
        guard node.raft != nil else { return }
        for response in message.responses { step(node, response) }
        if !node.applying.isEmpty { scheduleApply(node) }
        try settle(node)
    }

    /// Applies committed entries, in order.
    func apply(_ entries: [Entry], _ node: SimulatedNode) throws(Violation) {
        for entry in entries {
            if scenario.mutation == .appliesUncommitted, entry.index <= node.applied.index {
                continue
            }
            let answer: RegisterOperation.Answer?
            if entry.kind == .normal {
                answer = node.state.apply(entry.data)
            } else {
                answer = nil
                node.state.skip()
                try change(entry, node)
            }
            try checker.applied(
                node.id, entry, after: node.applied.index, stateDigest: node.state.digest,
                confState: node.confState)
            node.applied = (entry.index, entry.term)
            statistics.entriesApplied += 1
            if let answer { self.answer(entry, answer, node) }
        }
        guard let last = entries.last else { return }
        note(.node(node.id, .applied(last.index)))
        if persistPoint(node, "after applying") { return }
        answerReads(node)
        makeCheckpoint(node)
    }

    /// Applies a change of the members.
    private func change(_ entry: Entry, _ node: SimulatedNode) throws(Violation) {
        try observe(node)
        let change: ConfChangeV2
        do throws(ConfChangeError) {
            change = try ConfChangeV2(entry: entry)
        } catch {
            throw Violation(
                property: .stateMachineSafety,
                detail: "node \(node.id) cannot read the change of entry \(entry.index): \(error)")
        }
        if scenario.mutation == .skipsConfChangeAfterRestart,
            entry.index <= node.lastAtStart, node.incarnation > 0
        {
            return
        }
        do throws(ConfChangeRefusal) {
            guard let members = try node.raft?.applyConfChange(change) else { return }
            node.confState = members
            statistics.membershipChanges += 1
        } catch {
            // The same on all nodes, or the checker finds different members.
            note(.node(node.id, .told("leaves out the change of entry \(entry.index): \(error)")))
        }
        note(.node(node.id, .told("has members \(members(node.confState))")))
        try observe(node)
    }

    /// The members as text.
    private func members(_ state: ConfState) -> String {
        var text = "voters \(state.voters.map(\.rawValue))"
        if !state.votersOutgoing.isEmpty { text += "&\(state.votersOutgoing.map(\.rawValue))" }
        if !state.learners.isEmpty { text += " learners \(state.learners.map(\.rawValue))" }
        if !state.learnersNext.isEmpty { text += " next \(state.learnersNext.map(\.rawValue))" }
        return text + (state.autoLeave ? " (leaves)" : "")
    }

    private func answer(
        _ entry: Entry, _ answer: RegisterOperation.Answer, _ node: SimulatedNode
    ) {
        guard !node.waitingWrites.isEmpty, let command = Command(decoding: entry.data) else {
            return
        }
        let key = WriteKey(client: command.client, sequence: command.sequence)
        guard let place = node.waitingWrites.firstIndex(of: key) else { return }
        node.waitingWrites.remove(at: place)
        reply(to: Int(key.client), key.sequence, .answer(answer, from: node.id))
    }

    // MARK: Checkpoints and snapshots

    /// Makes a checkpoint if it is time, or if a snapshot is asked for that the last is not.
    func makeCheckpoint(_ node: SimulatedNode) {
        let last = node.disk.checkpoint?.metadata.index ?? 0
        let interval = node.disk.wantsCheckpoint ? 1 : LogIndex(scenario.checkpointInterval)
        guard node.disk.pendingCheckpoint == nil, node.applied.index >= last + interval else {
            return
        }
        node.disk.wantsCheckpoint = false
        var snapshot = Snapshot(
            metadata: SnapshotMetadata(
                confState: node.confState, index: node.applied.index, term: node.applied.term),
            data: node.state.encoded(
                leavingOutSessions: scenario.mutation == .leavesOutSessions))
        bend(&snapshot, node)
        node.disk.pendingCheckpoint = snapshot
        if scenario.mutation == .compactsBeyondCheckpoint { compact(node, node.applied.index) }
        queue.push(
            .checkpoint(place(of: node), incarnation: node.incarnation),
            after: 2 * chance.disk.time(in: scenario.syncTime))
    }

    /// The application's checkpoint is on disk: the log may lose what it holds.
    func checkpointIsDurable(_ node: SimulatedNode) throws(Violation) {
        guard let snapshot = node.disk.pendingCheckpoint else { return }
        if persistPoint(node, "before a checkpoint is durable") { return }
        node.disk.pendingCheckpoint = nil
        node.disk.keep(snapshot)
        note(.node(node.id, .checkpoint(snapshot.metadata.index)))
        if persistPoint(node, "before compacting") { return }
        let kept = LogIndex(scenario.keptEntries)
        if snapshot.metadata.index > kept { compact(node, snapshot.metadata.index - kept) }
        if persistPoint(node, "after compacting") { return }
        try settle(node)
    }

    private func compact(_ node: SimulatedNode, _ index: LogIndex) {
        guard index > node.disk.written.base.index else { return }
        node.disk.write(LogWrite(compaction: index))
    }

    /// The application takes over a snapshot that a leader sent, durable by now.
    func restore(_ snapshot: Snapshot, _ node: SimulatedNode) throws(Violation) {
        guard let state = KeyValueState(decoding: snapshot.data) else {
            throw Violation(
                property: .stateMachineSafety,
                detail: "node \(node.id) is given a snapshot that it cannot read")
        }
        statistics.snapshotsInstalled += 1
        node.state = state
        node.applied = (snapshot.metadata.index, snapshot.metadata.term)
        node.restored = snapshot.metadata.index
        node.confState = snapshot.metadata.confState
        node.disk.keep(snapshot)
        note(.node(node.id, .restored(snapshot.metadata.index)))
        try checker.restored(
            node.id, at: snapshot.metadata.index, stateDigest: state.digest,
            confState: node.confState)
    }

    // MARK: Clients' requests

    /// A client's request is there.
    func serve(_ command: Command, at peer: PeerID) throws(Violation) {
        let node = nodes[Int(peer.rawValue) - 1]
        guard node.raft != nil else { return }
        if node.pausedUntil > queue.now {
            queue.push(.request(command, peer), after: node.pausedUntil - queue.now)
            return
        }
        if case .read = command.request {
            serveRead(
                ReadRequest(
                    client: command.client, sequence: command.sequence,
                    register: command.register), node)
        } else {
            serveWrite(command, node)
        }
        try settle(node)
    }

    private func serveWrite(_ command: Command, _ node: SimulatedNode) {
        do throws(RaftError) {
            try node.raft?.propose(command.encoded)
            let key = WriteKey(client: command.client, sequence: command.sequence)
            if !node.waitingWrites.contains(key) { node.waitingWrites.append(key) }
        } catch {
            reply(to: Int(command.client), command.sequence, .refused)
        }
    }

    private func serveRead(_ request: ReadRequest, _ node: SimulatedNode) {
        let isAnsweredAtOnce =
            scenario.mutation == .readsFromFollower
            || scenario.mutation == .readsWithoutRound && node.role == .leader
        if isAnsweredAtOnce {
            node.waitingReads.append((node.applied.index, request))
            answerReads(node)
        } else {
            do throws(RaftError) {
                try node.raft?.readIndex(context: request.context)
            } catch {
                reply(to: Int(request.client), request.sequence, .refused)
            }
        }
    }

    /// The core says from which index on a read may be answered.
    func keep(_ read: ReadState, _ node: SimulatedNode) {
        guard let request = ReadRequest(context: read.context) else { return }
        let index = scenario.mutation == .readsBeforeApplied ? 0 : read.index
        node.waitingReads.append((index, request))
    }

    /// Answers the reads whose index is applied.
    func answerReads(_ node: SimulatedNode) {
        guard !node.waitingReads.isEmpty else { return }
        var waiting: [(index: LogIndex, request: ReadRequest)] = []
        for read in node.waitingReads {
            guard read.index <= node.applied.index else {
                waiting.append(read)
                continue
            }
            let value = node.state.value(of: read.request.register)
            reply(
                to: Int(read.request.client), read.request.sequence,
                .answer(.value(value), from: node.id))
        }
        node.waitingReads = waiting
    }
}
