import Model
import Wire

// What is decided of repairs, by the member that leads: when one has come to its end, and which
// ones begin. Both become commands; what the rows say afterwards is all that the next leader needs.
//
// Nothing is decided before this member has applied everything that was logged before it began to
// lead: it would have replicas made, and removed, by rows that are no more.

extension SCMState {
    /// This member leads from now on, and knows nothing of what is missing.
    mutating func beginRepairs() {
        hasCaughtUp = false
        repairs = RepairQueue()
        repairs.look(at: containers.values.lazy.filter { $0.state == .containerClosed }.map(\.id))
        departed = [:]
        deletions.eachContainer { id, waiting in
            guard let members = containers[id]?.members else { return }
            for node in waiting.subtracting(members) {
                departed[node, default: []] += deletions.numbers(in: id, waitingFor: node)
            }
        }
    }

    mutating func endRepairs() {
        hasCaughtUp = false
        repairs = RepairQueue()
        departed = [:]
    }

    /// This member has applied all that was logged before it began to lead in `term`.
    public mutating func caughtUp(in term: UInt64) {
        if leadingTerm == term { hasCaughtUp = true }
    }

    /// The term in which this member leads and has not been told that it has caught up.
    public var termToCatchUp: UInt64? { hasCaughtUp ? nil : leadingTerm }

    /// A container's row changed: who has to do with it.
    mutating func noteMembers(of container: Container, _ before: Container?) {
        members.change(from: before, to: container)
        if leadingTerm != nil { repairs.look(at: container.id) }
        guard let before else { return }
        if leadingTerm != nil { count(before.repairs, container) }
        for repair in before.repairs where !container.repairs.contains(repair) {
            // What is deleted in it can be told now, or need not be.
            deletions.unpark(container.id, by: repair.node)
            repairs.progress[repair.token] = nil
            if nodes[repair.node]?.recovering[container.id] != nil {
                noteStray(container.id, on: repair.node)
            }
        }
        guard before.nodes != container.nodes || before.repairs != container.repairs else { return }
        for node in before.members.subtracting(container.members) {
            if nodes[node]?.replicas[container.id] != nil { noteStray(container.id, on: node) }
            guard leadingTerm != nil else { continue }
            let numbers = deletions.numbers(in: container.id, waitingFor: node)
            if !numbers.isEmpty { departed[node, default: []] += numbers }
        }
    }

    private mutating func count(_ before: [Container.Repair], _ container: Container) {
        repairs.begun += container.repairs.count { !before.contains($0) }
        for repair in before where !container.repairs.contains(repair) {
            let order =
                repair.index <= container.orders.count ? container.orders[repair.index - 1] : 0
            if order == repair.token { repairs.ended += 1 } else { repairs.givenUp += 1 }
        }
    }

    /// What deletions wait for that nobody will do: the nodes have neither a place in the container
    /// nor one to come. To be logged as done.
    public mutating func takeDeparted() -> [DatanodeID: [UInt64]] {
        defer { departed = [:] }
        return departed
    }

    /// A command was refused or done, in whole or in part: what it is about is looked at again.
    mutating func lookAgain(after command: SCMCommand) {
        guard leadingTerm != nil else { return }
        switch command.command {
        case .startRepairs(let change):
            repairs.look(at: change.starts.lazy.map { ContainerID($0.container) })
        case .endRepairs(let change):
            repairs.look(at: change.ends.lazy.map { ContainerID($0.container) })
        default: return
        }
    }

    // MARK: Looking

    /// Looks at what changed since it was last called; of very much, at some now and the rest
    /// later.
    mutating func lookAfterRepairs(at now: UInt64) {
        for id in nodes.keys {
            let phase = phase(of: id, at: now)
            guard let before = repairs.phases.updateValue(phase, forKey: id), before != phase
            else { continue }
            repairs.look(at: members.containers(of: id))
        }
        repairs.wakeUp(at: now)
        for id in repairs.takeUnseen(atMost: Limits.lookedAtOnce) { look(at: id, at: now) }
    }

    /// A node reports replicas: their containers are looked at. How far one has come that is being
    /// rebuilt is no news.
    mutating func noteNews(_ replicas: [SCMReplicaReport], of node: DatanodeID) {
        for replica in replicas {
            let id = ContainerID(replica.container)
            let isNews = replica.state != .recovering || nodes[node]?.replicas[id] != nil
            if isNews { repairs.look(at: id) }
        }
    }

    private mutating func look(at id: ContainerID, at now: UInt64) {
        repairs.looks += 1
        guard let container = containers[id], container.state == .containerClosed else {
            repairs.note(id, nil, isDue: false, at: now)
            return
        }
        let health = health(of: container, at: now)
        guard !health.missing.isEmpty else {
            repairs.note(id, nil, isDue: false, at: now)
            return
        }
        let waiting = health.missing.filter { container.repair(of: $0.place) == nil }
        let found = RepairQueue.Degraded(
            redundancy: health.redundancy, missing: health.missing.count, waiting: waiting.count,
            isRepairable: health.isRepairable, since: now)
        let isDue = health.isRepairable && waiting.contains { $0.due <= now }
        repairs.note(id, found, isDue: isDue, at: now)
    }

    // MARK: Ending

    /// The repairs that have come to their end, one way or the other; nil: none has.
    public mutating func dueRepairEnds(at now: UInt64) -> SCMCommand? {
        guard hasCaughtUp, !isInSafeMode else { return nil }
        var change = SCMCommand.EndRepairs()
        for id in members.repairing.sorted() {
            guard let container = containers[id] else { continue }
            for repair in container.repairs {
                guard change.ends.count < Limits.repairsPerCommand else { break }
                let outcome = outcome(of: repair, container, at: now)
                guard outcome != .goesOn else { continue }
                if outcome == .failed { repairs.noteFailure(of: id, on: repair.node, at: now) }
                var end = SCMCommand.EndRepairs.End()
                end.container = id.rawValue
                end.replicaIndex = UInt32(repair.index)
                end.token = repair.token
                end.isGivenUp = outcome != .done
                change.ends.append(end)
            }
        }
        return change.ends.isEmpty ? nil : SCMCommand(.endRepairs(change))
    }

    private enum Outcome {
        case goesOn, done
        /// It is not wanted any more, or its node is gone.
        case needless
        /// Its node does not do it.
        case failed
    }

    private mutating func outcome(
        of repair: Container.Repair, _ container: Container, at now: UInt64
    ) -> Outcome {
        guard container.state == .containerClosed else { return .needless }
        let place = repair.index - 1
        var progress = repairs.progress[repair.token] ?? RepairQueue.Progress(at: now)
        defer { repairs.progress[repair.token] = progress }
        switch state(of: repair.node, at: now) {
        case .dead: return .needless
        case .unheard:
            // It may be at it; this member has not heard.
            progress.at = now
            return .goesOn
        case .healthy, .stale: break
        }
        if let found = nodes[repair.node]?.replicas[container.id] {
            let isIt = found.state == .closed && Int(found.replicaIndex) == repair.index
            return isIt ? .done : .failed
        }
        // Who had the place is back, with what is missing.
        if container.nodes[place] != repair.node, isWhole(place, of: container, at: now) {
            return .needless
        }
        guard let found = nodes[repair.node]?.recovering[container.id], found.token == repair.token
        else {
            return now > progress.at + options.repairStartNanoseconds ? .failed : .goesOn
        }
        if found.usedBytes != progress.usedBytes || found.blocks != progress.blocks {
            progress = .init(usedBytes: found.usedBytes, blocks: found.blocks, at: now)
        }
        return now > progress.at + options.repairStallNanoseconds ? .failed : .goesOn
    }

    // MARK: Beginning

    /// The repairs that begin now: of what is least redundant, as many as nodes have room for; nil:
    /// none.
    public mutating func dueRepairStarts(
        at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> SCMCommand? {
        guard leadingTerm != nil else { return nil }
        lookAfterRepairs(at: now)
        guard hasCaughtUp, !isInSafeMode, repairs.count > 0 else { return nil }
        var plan = RepairPlan(targets: repairTargets(at: now, using: &random))
        var examined: [ContainerID] = []
        var inVain = 0
        while plan.targets.slots > 0, plan.starts.count < Limits.repairsPerCommand,
            inVain < Limits.examinedInVain, let id = repairs.next()
        {
            examined.append(id)
            repairs.looks += 1
            let before = plan.starts.count
            if let container = containers[id] { extend(&plan, by: container, at: now) }
            inVain = plan.starts.count > before ? 0 : inVain + 1
        }
        repairs.putBack(examined)
        guard !plan.starts.isEmpty else { return nil }
        var change = SCMCommand.StartRepairs()
        change.starts = plan.starts
        return SCMCommand(.startRepairs(change))
    }

    /// What is begun with one command, and what that takes of nodes beyond what the rows say.
    private struct RepairPlan {
        var targets: RepairTargets
        var reads: [DatanodeID: Int] = [:]
        var starts: [SCMCommand.StartRepairs.Start] = []
    }

    private func repairTargets(
        at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> RepairTargets {
        let candidates = healthyNodes(at: now, excluding: []).compactMap {
            id -> RepairTargets.Node? in
            guard !repairs.isAvoided(id, at: now), let node = nodes[id] else { return nil }
            let under = members.repairs(on: id)
            let most = node.volumes.filter { !$0.isFailed }.map(\.available).max() ?? 0
            let taken = under.reduce(UInt64(options.minimumFreeBytes)) { sum, container in
                let written = node.recovering[container]?.usedBytes ?? 0
                let whole = containers[container].map { replicaBytes($0) } ?? 0
                return sum + whole - min(whole, written)
            }
            return RepairTargets.Node(
                id: id, rack: node.address.rack, load: under.count + slownessAsLoad(of: id),
                free: most - min(most, taken))
        }
        return RepairTargets(candidates, bound: options.repairsPerTarget, using: &random)
    }

    /// How much a replica of the container is at most, by those that are reported.
    private func replicaBytes(_ container: Container) -> UInt64 {
        container.nodes.indices.reduce(0) { most, place in
            max(most, replica(of: container, at: place)?.usedBytes ?? 0)
        }
    }

    private func extend(_ plan: inout RepairPlan, by container: Container, at now: UInt64) {
        let health = health(of: container, at: now)
        guard health.isRepairable else { return }
        var used: [String: Int] = [:]
        let lost = Set(health.missing.map(\.place))
        for (place, id) in container.nodes.enumerated() where !lost.contains(place) {
            if let rack = id.flatMap({ nodes[$0]?.address.rack }) { used[rack, default: 0] += 1 }
        }
        for repair in container.repairs {
            if let rack = nodes[repair.node]?.address.rack { used[rack, default: 0] += 1 }
        }
        let bytes = replicaBytes(container)
        let sources = health.whole.compactMap { container.nodes[$0] }
        var given: Set<DatanodeID> = []
        for missing in health.missing
        where missing.due <= now && container.repair(of: missing.place) == nil {
            let areFree = sources.allSatisfy {
                members.reads(from: $0) + (plan.reads[$0] ?? 0) < options.repairsPerSource
            }
            guard areFree, plan.starts.count < Limits.repairsPerCommand else { return }
            let taken = container.members.union(given)
            let target =
                plan.targets.choose(bytes: bytes, used: used) { id in
                    !taken.contains(id) && nodes[id]?.replicas[container.id] == nil
                        && nodes[id]?.recovering[container.id] == nil
                }
                // In a cluster as wide as the container there is no other.
                ?? own(missing.place, of: container).flatMap { own in
                    plan.targets.choose(bytes: bytes, used: [:]) { $0 == own }
                }
            guard let target else { continue }
            given.insert(target.id)
            used[target.rack, default: 0] += 1
            for source in sources { plan.reads[source, default: 0] += 1 }
            plan.starts.append(start(missing.place, of: container, on: target.id))
        }
    }

    /// Who has the place, if it reports nothing of the container: it has lost its replica, or never
    /// made it. One that has a bad replica does not get another beside it.
    private func own(_ place: Int, of container: Container) -> DatanodeID? {
        guard let id = container.nodes[place], nodes[id]?.replicas[container.id] == nil,
            nodes[id]?.recovering[container.id] == nil,
            !container.repairs.contains(where: { $0.node == id })
        else { return nil }
        return id
    }

    private func start(
        _ place: Int, of container: Container, on target: DatanodeID
    ) -> SCMCommand.StartRepairs.Start {
        var start = SCMCommand.StartRepairs.Start()
        start.container = container.id.rawValue
        start.replicaIndex = UInt32(place + 1)
        if let from = container.nodes[place] { start.from = from.message }
        if let node = nodes[target] {
            start.to = node.address.message
            start.store = node.store
        }
        return start
    }
}

extension SCMState.Container {
    /// The repair of the replica at `place`, if it is under way.
    func repair(of place: Int) -> Repair? { repairs.first { $0.index == place + 1 } }
}

extension SCMState.Container.Repair {
    init(_ message: SCMContainerRecord.Repair) {
        self.init(
            index: Int(message.replicaIndex), node: Identity128(message.node.id),
            store: message.store, token: message.token)
    }
}
