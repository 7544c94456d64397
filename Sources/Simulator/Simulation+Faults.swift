import Raft

/// What disturbs the cluster from outside, each at a rate of the scenario.
enum FaultKind: CaseIterable {
    case partition
    case crash
    case slowDisk
    case pause
    case coldCache
    case membership
    case disturbance
}

extension Simulation {
    private func rate(of kind: FaultKind) -> Double {
        switch kind {
        case .partition: scenario.partitionRate
        case .crash: scenario.crashRate
        case .slowDisk: scenario.slowDiskRate
        case .pause: scenario.pauseRate
        case .coldCache: scenario.coldReadShare * 600
        case .membership: scenario.membershipRate
        case .disturbance: scenario.disturbanceRate
        }
    }

    /// Schedules the next fault of a kind, if the scenario has any.
    func scheduleFault(_ kind: FaultKind) {
        let rate = rate(of: kind)
        guard rate > 0 else { return }
        let mean = 60_000_000 / rate
        queue.push(
            .fault(kind), after: Microseconds(mean * (0.1 + 1.8 * chance.faults.fraction())))
    }

    /// A fault happens.
    func strike(_ kind: FaultKind) throws(Violation) {
        guard !isHealing else { return }
        scheduleFault(kind)
        switch kind {
        case .partition: partition()
        case .crash:
            // Often the leader, whose crash matters most.
            let victim = chance.faults.chance(0.4) ? leader() : nil
            if let node = victim ?? chance.faults.element(of: nodes) { crash(node, "by chance") }
        case .slowDisk:
            guard let node = chance.faults.element(of: nodes) else { return }
            node.slowUntil = queue.now + chance.faults.time(in: 500_000...8_000_000)
            note(.fault("the disk of node \(node.id) is slow"))
        case .pause:
            guard let node = chance.faults.element(of: nodes) else { return }
            node.pausedUntil = queue.now + chance.faults.time(in: 50_000...4_000_000)
            note(.fault("node \(node.id) pauses"))
        case .coldCache:
            guard let node = chance.faults.element(of: nodes) else { return }
            let back = LogIndex(chance.faults.int(in: 0...20))
            node.disk.coldBefore = node.disk.lastIndex + 1 - min(back, node.disk.lastIndex)
        case .membership: try changeMembers()
        case .disturbance: try disturb()
        }
    }

    /// The node that leads in the highest term.
    func leader() -> SimulatedNode? {
        nodes.filter { $0.role == .leader && $0.raft != nil }
            .max { ($0.raft?.observed.0.term ?? 0) < ($1.raft?.observed.0.term ?? 0) }
    }

    private func partition() {
        if !network.isWhole, chance.faults.chance(0.4) { network.heal() }
        let text = network.partition(
            oneWay: scenario.cutsOneWay, leader: leader()?.id, from: &chance.faults)
        statistics.partitions += 1
        note(.fault(text))
        queue.push(.partitionEnd, after: chance.faults.time(in: 200_000...10_000_000))
    }

    func endPartition() {
        network.heal()
        note(.fault("the network is whole"))
    }

    /// Hands leadership on, forces a campaign, or makes a follower forget its leader.
    private func disturb() throws(Violation) {
        switch chance.faults.int(in: 0...4) {
        case 0...2:
            guard let node = leader(), let to = chance.faults.element(of: node.confState.all)
            else { return }
            statistics.transfers += 1
            note(.node(node.id, .told("is to hand leadership to \(to)")))
            node.raft?.transferLeader(to: to)
            try settle(node)
        case 3:
            guard let node = chance.faults.element(of: nodes), node.raft != nil else { return }
            note(.node(node.id, .told("is to campaign")))
            node.raft?.campaign()
            try settle(node)
        default:
            guard let node = chance.faults.element(of: nodes), node.raft != nil else { return }
            note(.node(node.id, .told("is to forget its leader")))
            node.raft?.forgetLeader()
            try settle(node)
        }
    }

    // MARK: Members

    /// Proposes a change of members to the leader, of any kind that its configuration allows.
    private func changeMembers() throws(Violation) {
        guard let node = leader() else { return }
        let count = scenario.changesHastily ? chance.members.int(in: 1...3) : 1
        for _ in 0..<count where node.raft != nil {
            try propose(nextChange(after: node.confState), at: node)
        }
    }

    func propose(_ change: ConfChangeV2, at node: SimulatedNode) throws(Violation) {
        for change in change.changes where change.kind != .removePeer {
            let added = nodes[Int(change.peer.rawValue) - 1]
            if !added.isStarted { try start(added) }
        }
        let text = change.changes.map { "\($0.kind) \($0.peer)" }.joined(separator: ", ")
        note(
            .node(
                node.id,
                .told(
                    change.leavesJoint
                        ? "is to leave the joint configuration"
                        : "is to change members: \(text), \(change.transition)")))
        do throws(RaftError) {
            try node.raft?.proposeConfChange(change)
        } catch {
            note(.node(node.id, .told("refuses the change: \(error)")))
        }
        try settle(node)
    }

    private func nextChange(after members: ConfState) -> ConfChangeV2 {
        if !members.votersOutgoing.isEmpty, !members.autoLeave, chance.faults.chance(0.8) {
            return ConfChangeV2()
        }
        if scenario.changesHastily, chance.members.chance(0.15) {
            let others = nodes.map(\.id).filter { !members.voters.contains($0) }
            let added = others.map { ConfChangeSingle(.addVoter, $0) }
            let removed = members.voters.map { ConfChangeSingle(.removePeer, $0) }
            if !added.isEmpty { return ConfChangeV2(changes: removed + added) }
        }
        let transition = chance.faults.element(of: [
            ConfChangeV2.Transition.auto, .auto, .auto, .jointImplicit, .jointExplicit,
        ])
        let count = chance.faults.element(of: [1, 1, 1, 2, 2, 3]) ?? 1
        let changes = (0..<count).map { _ in oneChange(members) }
        return ConfChangeV2(transition: transition ?? .auto, changes: changes)
    }

    private func oneChange(_ members: ConfState) -> ConfChangeSingle {
        let peer = PeerID(UInt64(chance.faults.int(in: 1...nodes.count)))
        switch chance.faults.int(in: 0...9) {
        case 0...4: return ConfChangeSingle(.addVoter, peer)
        case 5...6: return ConfChangeSingle(.addLearner, peer)
        case 7:
            let leader = leader()?.id ?? peer
            return ConfChangeSingle(.removePeer, leader)
        default: return ConfChangeSingle(.removePeer, peer)
        }
    }
}

extension ConfState {
    /// All members, voters of both halves and learners, ascending.
    var all: [PeerID] {
        var members: [PeerID] = []
        for peer in voters + votersOutgoing + learners + learnersNext
        where !members.contains(peer) { members.append(peer) }
        return members.sorted()
    }
}
