import Raft

// After the faults: everything must be well again within the scenario's time.

extension Simulation {
    private static let inspectionPeriod: Microseconds = 100_000

    /// Ends all faults.
    func heal() throws(Violation) {
        isHealing = true
        healedAt = queue.now
        network.heal()
        note(.fault("no more faults"))
        for node in nodes {
            node.slowUntil = 0
            node.pausedUntil = 0
            node.disk.coldBefore = 0
            if node.raft == nil, node.isStarted { try start(node) }
        }
        for place in clients.indices { wake(place, after: messageDelay()) }
        queue.push(.inspection, after: Self.inspectionPeriod)
    }

    /// Looks whether all is well; if not, it must be before the time is up.
    func inspect() throws(Violation) {
        guard let missing = missing() else {
            isDone = true
            return
        }
        if queue.now - healedAt >= scenario.healingTime {
            guard scenario.properties.contains(.liveness) else {
                isDone = true
                return
            }
            throw Violation(
                property: .liveness,
                detail:
                    "\(TraceText.seconds(scenario.healingTime)) seconds after the faults \(missing)"
            )
        }
        try retireOutsiders()
        // An explicit joint configuration stays until somebody ends it.
        if let node = leader(), !node.confState.votersOutgoing.isEmpty, !node.confState.autoLeave,
            (queue.now - healedAt) % 1_000_000 < Self.inspectionPeriod
        {
            try propose(ConfChangeV2(), at: node)
        }
        queue.push(.inspection, after: Self.inspectionPeriod)
    }

    /// Nodes that are out are stopped, as by an operator, once all members have applied that: some
    /// do not know it and campaign on, which without pre-vote disturbs the others for ever.
    private func retireOutsiders() throws(Violation) {
        let members = checker.confState.all
        let isKnown = members.allSatisfy { peer in
            nodes[Int(peer.rawValue) - 1].applied.index >= checker.confIndex
        }
        for node in nodes where node.isStarted {
            if members.contains(node.id) {
                if node.raft == nil { try start(node) }
            } else if isKnown, node.raft != nil {
                note(.node(node.id, .told("is stopped: it is no member")))
                node.disk.crash(.all, ignoringDamage: false, from: &chance.disk)
                node.loseMemory()
                checker.stopped(node.id)
            }
        }
    }

    /// What is not well yet; nil if all is.
    private func missing() -> String? {
        guard let leader = leader() else { return "no node leads" }
        if let client = clients.firstIndex(where: { !$0.hasProven || $0.pending != nil }) {
            return "client \(client) has no answer"
        }
        if !leader.confState.votersOutgoing.isEmpty { return "the configuration is still joint" }
        for peer in leader.confState.all {
            let node = nodes[Int(peer.rawValue) - 1]
            if node.applied.index != checker.commit || node.commit != checker.commit {
                return "node \(peer) has applied \(node.applied.index) of \(checker.commit) entries"
            }
            if node.state != leader.state { return "nodes \(peer) and \(leader.id) differ" }
        }
        return nil
    }
}
