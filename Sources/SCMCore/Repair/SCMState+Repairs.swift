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
            guard let holders = containers[id]?.holders else { return }
            for node in waiting.subtracting(holders) {
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
    mutating func noteMembers(of container: Container, _ before: Container?, at now: UInt64) {
        members.change(from: before, to: container)
        if leadingTerm != nil { repairs.look(at: container.id) }
        guard let before else { return }
        if leadingTerm != nil { count(before, container, at: now) }
        for repair in before.repairs where !container.repairs.contains(repair) {
            // What is deleted in it can be told now, or need not be.
            deletions.unpark(container.id, by: repair.node)
            repairs.progress[repair.token] = nil
            if nodes[repair.node]?.recovering[container.id] != nil {
                noteStray(container.id, on: repair.node)
            }
        }
        if before.nodes != container.nodes || before.repairs != container.repairs {
            for node in before.members.subtracting(container.members)
            where nodes[node]?.replicas[container.id] != nil
                || nodes[node]?.unusable.contains(container.id) == true
            {
                noteStray(container.id, on: node)
            }
        }
        guard leadingTerm != nil else { return }
        for node in before.holders.subtracting(container.holders) {
            let numbers = deletions.numbers(in: container.id, waitingFor: node)
            if !numbers.isEmpty { departed[node, default: []] += numbers }
        }
    }

    /// A deletion waits for nodes that have nothing to delete, as those that no byte fell to: they may
    /// be gone for good.
    mutating func noteUseless(_ record: SCMDeletionRecord, number: UInt64) {
        guard leadingTerm != nil, let id = record.blocks.first?.container,
            let holders = containers[ContainerID(id)]?.holders
        else { return }
        for node in record.waiting.map({ Identity128($0) }) where !holders.contains(node) {
            departed[node, default: []].append(number)
        }
    }

    private mutating func count(
        _ before: Container, _ container: Container, at now: UInt64
    ) {
        for repair in container.repairs where !before.repairs.contains(repair) {
            repairs.begun += 1
            if !hasNothing(of: container, repair.node) { repairs.adopted.insert(repair.token) }
            noteCopy(repair, of: before, isDone: false, at: now)
        }
        for repair in before.repairs where !container.repairs.contains(repair) {
            let order =
                repair.index <= container.orders.count ? container.orders[repair.index - 1] : 0
            let wasThere = repairs.adopted.remove(repair.token) != nil
            guard order == repair.token else {
                repairs.givenUp += 1
                continue
            }
            repairs.ended += 1
            if !wasThere { repairs.meter.noteMade(replicaBytes(before)) }
            noteCopy(repair, of: before, isDone: true, at: now)
        }
    }

    /// What deletions wait for that nobody will do: the nodes have neither a place in the container
    /// nor one to come. To be logged as done.
    public mutating func takeDeparted() -> [DatanodeID: [UInt64]] {
        defer { departed = [:] }
        // What was found when rows came may be otherwise by now.
        return departed.reduce(into: [:]) { result, entry in
            let numbers = entry.value.filter { number in
                guard let id = deletions.container(of: number) else { return true }
                return containers[id]?.holders.contains(entry.key) != true
            }
            if !numbers.isEmpty { result[entry.key] = numbers }
        }
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
        var receivers: Set<DatanodeID> = []
        for (id, node) in nodes {
            let phase = phase(of: id, at: now)
            // One that is merely late is none that comes.
            if phase == .there || phase == .late, operations[id] == nil, hasRoom(node) {
                receivers.insert(id)
            }
            let known = repairs.phases.updateValue(phase, forKey: id)
            guard let before = known, before != phase else { continue }
            repairs.look(at: members.containers(of: id))
            // Nobody waited for what it has of containers that have been removed meanwhile.
            if before == .overdue, phase == .there {
                changed.formUnion(node.replicas.keys)
            }
        }
        repairs.note(receivers: receivers)
        noteRacks(at: now)
        repairs.wakeUp(at: now)
        lookAfterHeals(at: now)
        for id in repairs.takeUnseen(atMost: Limits.lookedAtOnce) { look(at: id, at: now) }
    }

    /// A node reports replicas: their containers are looked at. How far one has come that is being
    /// rebuilt is no news.
    mutating func noteNews(_ replicas: [SCMReplicaReport], of node: DatanodeID) {
        for replica in replicas {
            let id = ContainerID(replica.container)
            let isNews = replica.state != .recovering || nodes[node]?.replicas[id] != nil
            guard isNews else { continue }
            if isNew(replica, of: node) {
                repairs.lookAnew(at: id)
            } else {
                repairs.look(at: id)
            }
        }
    }

    /// Whether the node has said something else of the container before.
    private func isNew(_ replica: SCMReplicaReport, of node: DatanodeID) -> Bool {
        let id = ContainerID(replica.container)
        guard let known = nodes[node] else { return true }
        return switch replica.state {
        case .lost: !known.lost.contains(id)
        case .none: !known.retired.contains(id)
        default: known.replicas[id] != Replica(replica)
        }
    }

    private mutating func look(at id: ContainerID, at now: UInt64) {
        repairs.looks += 1
        guard let container = containers[id], container.state == .containerClosed else {
            repairs.heals.forget(id)
            repairs.note(id, nil, isDue: false, at: now)
            return
        }
        noteDamage(of: container, at: now)
        let health = health(of: container, at: now)
        let isSpared = isSpared(health, container)
        let misplaced = misplaced(health, container)
        guard !health.missing.isEmpty || !health.leaving.isEmpty || !isSpared || !misplaced.isEmpty
        else {
            repairs.note(id, nil, isDue: false, at: now)
            return
        }
        let waiting = health.missing.filter { container.repair(of: $0.place) == nil }
        let staying = (health.leaving + misplaced).filter { container.repair(of: $0) == nil }
        let found = RepairQueue.Degraded(
            redundancy: health.redundancy, missing: health.missing.count, isSpared: isSpared,
            waiting: waiting.count + staying.count, isRepairable: health.isRepairable, since: now)
        let isDue =
            health.isRepairable && (!staying.isEmpty || waiting.contains { $0.due <= now })
            || hasAdoptable(health, of: container, at: now)
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
        if let found = nodes[repair.node]?.replicas[container.id],
            !isToBeReplaced(by: repair, container)
        {
            let isIt = found.state == .closed && Int(found.replicaIndex) == repair.index
            return isIt ? .done : .failed
        }
        // What it makes would have to be copied from it.
        if operations[repair.node]?.leaves == true { return .needless }
        if isNeedless(repair, container, at: now) { return .needless }
        guard let found = nodes[repair.node]?.recovering[container.id], found.token == repair.token
        else {
            return now > progress.at + options.repairStartNanoseconds ? .failed : .goesOn
        }
        if found.usedBytes != progress.usedBytes || found.blocks != progress.blocks {
            progress = .init(usedBytes: found.usedBytes, blocks: found.blocks, at: now)
        }
        return now > progress.at + options.repairStallNanoseconds ? .failed : .goesOn
    }

    /// Whether who has the place is to keep it, and has what is being made.
    private func isNeedless(
        _ repair: Container.Repair, _ container: Container, at now: UInt64
    ) -> Bool {
        let place = repair.index - 1
        guard container.nodes[place] != repair.node, isWhole(place, of: container, at: now) else {
            return false
        }
        switch repair.reason {
        // Whatever it was begun for, what leaves is copied.
        case .rebuild:
            return operation(of: container.nodes[place])?.leaves != true
                && replica(of: container, at: place)?.isLeaving != true
        case .drain:
            return operation(of: container.nodes[place]) == nil
                && replica(of: container, at: place)?.isLeaving != true
        case .spread: return false
        case .balance: return !balance.isRunning && operation(of: container.nodes[place]) == nil
        case .UNRECOGNIZED: return false
        }
    }

    // MARK: Beginning

    /// The repairs that begin now: of what is least redundant, as many as nodes have room for; nil:
    /// none.
    public mutating func dueRepairStarts(
        at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> SCMCommand? {
        guard leadingTerm != nil else { return nil }
        repairs.meter.note(isBusy: !members.repairing.isEmpty, at: now)
        lookAfterRepairs(at: now)
        guard hasCaughtUp, !isInSafeMode, repairs.count > 0 else { return nil }
        var plan = RepairPlan(targets: repairTargets(at: now, using: &random))
        var examined: [ContainerID] = []
        var inVain = 0
        while plan.targets.slots > 0, plan.starts.count < Limits.repairsPerCommand,
            inVain < Limits.examinedInVain, plan.resting.count < Limits.restedAtOnce,
            let id = repairs.next()
        {
            examined.append(id)
            repairs.looks += 1
            let before = (starts: plan.starts.count, resting: plan.resting.count)
            if let container = containers[id] { extend(&plan, by: container, at: now) }
            if plan.starts.count > before.starts {
                inVain = 0
            } else if plan.resting.count == before.resting {
                inVain += 1
            }
        }
        repairs.putBack(examined)
        for id in plan.resting { repairs.rest(id, until: now + Limits.restNanoseconds) }
        guard !plan.starts.isEmpty else { return nil }
        var change = SCMCommand.StartRepairs()
        change.starts = plan.starts
        return SCMCommand(.startRepairs(change))
    }

    private func repairTargets(
        at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> RepairTargets {
        let candidates = healthyNodes(at: now, excluding: []).compactMap {
            id -> RepairTargets.Node? in
            guard !repairs.isAvoided(id, at: now), let node = nodes[id] else { return nil }
            let under = members.repairs(on: id)
            let bound = repairBound(of: id)
            // Of each volume, as much as may be written.
            let least = UInt64(options.minimumFreeBytes)
            let rooms = node.usableVolumes.map { $0.available - min($0.available, least) }
            let sum = rooms.reduce(UInt64(0), &+)
            return RepairTargets.Node(
                id: id, rack: node.address.rack,
                // One that is slow is the last choice, and a choice.
                load: min(
                    under.count + slownessAsLoad(of: id),
                    max(under.count, bound - 1)),
                bound: bound,
                most: rooms.max() ?? 0, rest: sum - min(sum, arriving(at: id)))
        }
        return RepairTargets(candidates, using: &random)
    }

    /// How much a replica of the container is at most, by those that are reported.
    func replicaBytes(_ container: Container) -> UInt64 {
        container.nodes.indices.reduce(0) { most, place in
            max(most, replica(of: container, at: place)?.usedBytes ?? 0)
        }
    }

    private func extend(_ plan: inout RepairPlan, by container: Container, at now: UInt64) {
        let health = health(of: container, at: now)
        // The others are looked at when these are in their places.
        guard !adopt(for: container, health, &plan, at: now), health.isRepairable else { return }
        let misplaced = misplaced(health, container)
        let going = Set(health.missing.map(\.place)).union(health.leaving).union(misplaced)
        plan.begin(container, bytes: replicaBytes(container))
        for (place, id) in container.nodes.enumerated() where !going.contains(place) {
            plan.note(rack: id.flatMap { nodes[$0]?.address.rack })
        }
        for repair in container.repairs { plan.note(rack: nodes[repair.node]?.address.rack) }
        let before = plan.starts.count
        rebuild(what: health, of: container, &plan, at: now)
        for place in health.leaving { move(place, of: container, for: .drain, &plan) }
        for place in misplaced { move(place, of: container, for: .spread, &plan) }
        if plan.starts.count == before, plan.isHopeless { plan.resting.append(container.id) }
    }

    /// Has nodes take the places whose replicas they have. Whether there are any.
    private func adopt(
        for container: Container, _ health: ContainerHealth, _ plan: inout RepairPlan,
        at now: UInt64
    ) -> Bool {
        var given: Set<DatanodeID> = []
        for missing in health.missing
        where isDue(missing, health, at: now) && container.repair(of: missing.place) == nil {
            guard let id = adoptable(missing.place, of: container, at: now),
                given.insert(id).inserted
            else { continue }
            plan.starts.append(start(missing.place, of: container, on: id, for: .rebuild))
        }
        return !given.isEmpty
    }

    private func rebuild(
        what health: ContainerHealth, of container: Container, _ plan: inout RepairPlan,
        at now: UInt64
    ) {
        let sources = health.whole.compactMap { container.nodes[$0] }
        for missing in health.missing
        where missing.due <= now && container.repair(of: missing.place) == nil {
            guard sources.allSatisfy({ isFree($0, plan) }), !plan.isFull else { return plan.wait() }
            let target =
                plan.choose { mayReceive($0, of: container) }
                // In a cluster as wide as the container there is no other.
                ?? own(missing.place, of: container).flatMap { plan.choose(own: $0) }
                // Last, one with files that cannot be opened: it moves them aside.
                ?? plan.choose { hasNothing(of: container, $0) }
            guard let target else { continue }
            for source in sources { plan.reads[source, default: 0] += 1 }
            plan.starts.append(start(missing.place, of: container, on: target, for: .rebuild))
        }
    }

    /// Has a replica copied to another node. What moves for its rack alone is to be better off.
    private func move(
        _ place: Int, of container: Container, for reason: SCMRepairReason,
        _ plan: inout RepairPlan
    ) {
        guard container.repair(of: place) == nil, let source = container.nodes[place] else {
            return
        }
        guard !plan.isFull, isFree(source, plan) else { return plan.wait() }
        let most = mostPerRack(container.replication)
        let racks = plan.racks
        let target = plan.choose { id in
            let rack = nodes[id]?.address.rack ?? ""
            let isBetter =
                reason != .spread
                || racks[rack, default: 0] < most && freePart(of: id) > Limits.leastFreeToSpread
            return isBetter && mayReceive(id, of: container)
        }
        guard let target else { return }
        plan.reads[source, default: 0] += 1
        plan.starts.append(start(place, of: container, on: target, for: reason))
    }

    /// Whether one more repair may read from the node.
    private func isFree(_ source: DatanodeID, _ plan: RepairPlan) -> Bool {
        members.reads(from: source) + (plan.reads[source] ?? 0) < readBound(of: source)
    }

    /// How many replicas a node rebuilds at a time: as many as its disks bear.
    func repairBound(of id: DatanodeID) -> Int {
        options.repairsPerTarget * (nodes[id]?.usableVolumes.count ?? 0)
    }

    /// How many repairs may read from a node at a time: as many as its disks bear.
    func readBound(of id: DatanodeID) -> Int {
        options.repairsPerSource * max(nodes[id]?.usableVolumes.count ?? 0, 1)
    }

    /// Whether a node can be given a replica: it has none, and no files that cannot be opened.
    func mayReceive(_ id: DatanodeID, of container: Container) -> Bool {
        hasNothing(of: container, id) && nodes[id]?.lost.contains(container.id) != true
    }

    func hasNothing(of container: Container, _ id: DatanodeID) -> Bool {
        nodes[id]?.replicas[container.id] == nil && nodes[id]?.recovering[container.id] == nil
    }

    /// Who has the place, if it reports nothing of the container: it has lost its replica, or never
    /// made it; or if its replica is damaged and could not be healed: that one gives way.
    private func own(_ place: Int, of container: Container) -> DatanodeID? {
        guard let id = container.nodes[place],
            nodes[id]?.replicas[container.id] == nil || mayBeReplaced(place, of: container),
            nodes[id]?.recovering[container.id] == nil,
            !container.repairs.contains(where: { $0.node == id })
        else { return nil }
        return id
    }

    func start(
        _ place: Int, of container: Container, on target: DatanodeID, for reason: SCMRepairReason
    ) -> SCMCommand.StartRepairs.Start {
        var start = SCMCommand.StartRepairs.Start()
        start.container = container.id.rawValue
        start.replicaIndex = UInt32(place + 1)
        start.reason = reason
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
            store: message.store, token: message.token, reason: message.reason)
    }
}
