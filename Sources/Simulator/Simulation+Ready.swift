import Raft

// What a node does with what its core wants done: it writes, sends and applies.

extension Simulation {
    /// After anything that reached the core: checks it, and does what it wants done.
    func settle(_ node: SimulatedNode) throws(Violation) {
        try observe(node)
        var count = 0
        while node.outstanding == nil, node.raft?.hasReady == true {
            guard let ready = node.raft?.ready() else { return }
            count += 1
            guard count <= Limits.readiesInARow else {
                throw Violation(
                    property: .liveness,
                    detail: "node \(node.id) has one Ready after another without end")
            }
            try take(ready, node)
            guard node.raft != nil else { return }
            try observe(node)
        }
        if node.disk.wantsCheckpoint { makeCheckpoint(node) }
        if node.disk.wasRefused {
            node.disk.wasRefused = false
            queue.push(
                .fetched(place(of: node), incarnation: node.incarnation),
                after: chance.disk.time(in: scenario.syncTime))
        }
    }

    /// Looks at the core after a step.
    func observe(_ node: SimulatedNode) throws(Violation) {
        guard let (state, role) = node.raft?.observed else { return }
        try checker.observe(node.id, state, role)
        trace.mix(state, role)
        if role == .leader, state.commit > node.commit {
            try checker.committed(
                node.id, state.commit, state.term, node.confState,
                holds: { peer in
                    guard peer.rawValue >= 1, peer.rawValue <= UInt64(nodes.count) else {
                        return false
                    }
                    let image = nodes[Int(peer.rawValue) - 1].disk.durable
                    return state.commit <= image.base.index
                        || image.term(of: state.commit) == state.term
                })
        }
        node.role = role
        node.commit = max(node.commit, state.commit)
    }

    private func take(_ ready: Ready, _ node: SimulatedNode) throws(Violation) {
        if let (state, role) = node.raft?.observed {
            note(
                .node(
                    node.id,
                    .ready(
                        state, role, entries: ready.entries.count,
                        committed: ready.committedEntries.count, messages: ready.messages.count)))
        }
        for read in ready.readStates { keep(read, node) }
        if node.isAsynchronous {
            try takeAsynchronous(ready, node)
        } else {
            try takeSynchronous(ready, node)
        }
        if node.raft != nil { answerReads(node) }
    }

    private func takeSynchronous(_ ready: Ready, _ node: SimulatedNode) throws(Violation) {
        try checker.wrote(
            node.id, entries: ready.entries, snapshot: ready.snapshot?.metadata,
            commit: ready.hardState?.commit)
        node.outstanding = ready
        var write = LogWrite(
            entries: ready.entries, hardState: ready.hardState, snapshot: ready.snapshot)
        let mustSync = ready.mustSync || ready.snapshot != nil
        write.endsReady = mustSync
        write.needsSync = mustSync
        let isWritten = !write.entries.isEmpty || write.hardState != nil || write.snapshot != nil
        if isWritten {
            if persistPoint(node, "before a write") { return }
            issue(write, node)
        }
        if acknowledgesEarly(write) { try sendAll(ready.messages, node) }
        if isWritten, mustSync {
            if persistPoint(node, "before a sync") { return }
            beginSync(node)
        } else {
            try finish(ready, node, isSent: acknowledgesEarly(write))
        }
    }

    private func takeAsynchronous(_ ready: Ready, _ node: SimulatedNode) throws(Violation) {
        for message in ready.messages {
            switch message.to {
            case .appendThread: try append(message, node)
            case .applyThread:
                node.applying.append(message)
                if node.applying.count == 1 { scheduleApply(node) }
            default: try send(message, of: node)
            }
            guard node.raft != nil else { return }
        }
    }

    private func append(_ message: Message, _ node: SimulatedNode) throws(Violation) {
        try checker.wrote(
            node.id, entries: message.entries, snapshot: message.snapshot?.metadata,
            commit: message.hardState?.commit)
        var write = LogWrite(
            entries: message.entries, hardState: message.hardState, snapshot: message.snapshot)
        write.needsSync = true
        let isEarly = acknowledgesEarly(write)
        if !isEarly { write.responses = message.responses }
        if persistPoint(node, "before a write") { return }
        issue(write, node)
        if isEarly { try respond(message.responses, node) }
        if node.raft == nil || persistPoint(node, "before a sync") { return }
        beginSync(node)
    }

    /// Writes a batch as it is, or as a defect makes it.
    private func issue(_ write: LogWrite, _ node: SimulatedNode) {
        node.disk.write(bent(write, node))
    }

    func beginSync(_ node: SimulatedNode) {
        guard node.disk.beginSync() else { return }
        var time = chance.disk.time(in: scenario.syncTime)
        if node.slowUntil > queue.now { time *= 100 }
        queue.push(.synced(place(of: node), incarnation: node.incarnation), after: time)
    }

    /// The sync under way has ended.
    func synced(_ node: SimulatedNode) throws(Violation) {
        let batches = node.disk.endSync()
        try checker.durable(node.id, node.disk.durable.hardState)
        note(.node(node.id, .synced(node.disk.durable.lastIndex)))
        if persistPoint(node, "after a sync") { return }
        for batch in batches {
            if let snapshot = batch.snapshot { try restore(snapshot, node) }
            if scenario.mutation == .appliesUncommitted { try apply(batch.entries, node) }
            try respond(batch.responses, node)
            guard node.raft != nil else { return }
            if batch.endsReady, let ready = node.outstanding {
                let isEarly = acknowledgesEarly(batch)
                try finish(ready, node, isSent: isEarly)
                guard node.raft != nil else { return }
            }
        }
        try settle(node)
        if node.raft != nil, node.disk.unsynced.contains(where: \.needsSync) { beginSync(node) }
    }

    /// Sends what waited for a write: to peers through the network, to the core itself at once.
    private func respond(_ messages: [Message], _ node: SimulatedNode) throws(Violation) {
        for message in messages {
            if message.to == node.id {
                step(node, message)
                try observe(node)
            } else {
                try send(message, of: node)
            }
        }
    }

    private func sendAll(_ messages: [Message], _ node: SimulatedNode) throws(Violation) {
        for message in messages { try send(message, of: node) }
    }

    /// The rest of a synchronous node's Ready, once it is persisted.
    private func finish(
        _ ready: Ready, _ node: SimulatedNode, isSent: Bool
    ) throws(Violation) {
        if !isSent { try sendAll(ready.messages, node) }
        if persistPoint(node, "between sending and applying") { return }
        try apply(ready.committedEntries, node)
        if node.raft == nil { return }
        node.outstanding = nil
        node.raft?.advance()
        try observe(node)
    }

    /// Entries that had to be read from disk are there.
    func fetched(_ node: SimulatedNode) throws(Violation) {
        node.disk.coldBefore = 0
        for peer in node.raft?.fetching ?? [] { node.raft?.entriesFetched(for: peer) }
        try settle(node)
    }
}
