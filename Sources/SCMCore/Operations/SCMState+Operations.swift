import Model
import Wire

// Datanodes that leave service, for good or for a while. What is asked for is in a row; what has to
// be copied first is found as what is missing is (`ContainerHealth.leaving`), and copied in the same
// way, after it.

extension SCMState {
    /// The command for what is asked of datanodes; nil: all are so already.
    ///
    /// Throws `invalidArgument` where a datanode is not known, or too few would be left for what is
    /// stored.
    /// - Parameter wall: milliseconds since 1970.
    public func operate(
        _ request: SCMOperateRequest, at now: UInt64, wall: UInt64
    ) throws(StoreError) -> SCMCommand? {
        let wanted = try request.checked(at: wall)
        let ids = request.nodes.map { Identity128($0) }
        for id in ids where nodes[id] == nil {
            throw StoreError(
                .invalidArgument,
                "there is no datanode \(id); apus admin datanode list shows those that are known")
        }
        if wanted != .inService, !request.isForced { try checkThoseLeft(ids, wanted, at: now) }
        var change = SCMCommand.Operate()
        for id in Set(ids).sorted() {
            let before = operations[id]
            guard
                !(before?.isAlready(wanted, until: request.endsAtMilliseconds)
                    ?? (wanted == .inService))
            else { continue }
            var each = SCMCommand.Operate.Change()
            each.from = before?.state ?? .inService
            each.fromEndsAtMilliseconds = before?.endsAt ?? 0
            // One that is in maintenance stays so: only its end is another one.
            let isLonger = wanted == .enteringMaintenance && before?.state == .inMaintenance
            each.operation =
                Operation(
                    state: isLonger ? .inMaintenance : wanted, endsAt: request.endsAtMilliseconds,
                    since: wall
                ).message(of: id)
            change.changes.append(each)
        }
        return change.changes.isEmpty ? nil : SCMCommand(.operate(change))
    }

    /// Refuses what could not be finished with the datanodes that would be left.
    private func checkThoseLeft(
        _ ids: [DatanodeID], _ wanted: SCMOperationalState, at now: UInt64
    ) throws(StoreError) {
        let going = Set(ids)
        let left = nodes.keys.count { id in
            !going.contains(id) && operations[id] == nil && state(of: id, at: now) != .dead
        }
        for replication in members.counts.keys.sorted(by: { $0.width > $1.width }) {
            let needed =
                wanted == .decommissioning
                ? replication.width : leastWithoutMaintenance(replication)
            guard left < needed else { continue }
            throw StoreError(
                .invalidArgument,
                "\(left) datanodes would be left in service, and \(replication), which is stored "
                    + "here, needs \(needed); add datanodes first. With --force it is begun, and "
                    + "ends once there are enough")
        }
    }

    /// Replicas that are to be in service of a container while others are in maintenance.
    func leastWithoutMaintenance(_ replication: ReplicationConfig) -> Int {
        min(replication.minimumReplicas + options.maintenanceRedundancy, replication.width)
    }

    /// Changes that have come to be due: a datanode has nothing left that is needed, is not needed for a
    /// while, or its maintenance is over; nil: none.
    ///
    /// - Parameter wall: milliseconds since 1970.
    public mutating func dueOperations(at now: UInt64, wall: UInt64) -> SCMCommand? {
        guard hasCaughtUp, !isInSafeMode, !operations.isEmpty else { return nil }
        lookAfterRepairs(at: now)
        var change = SCMCommand.Operate()
        for (id, operation) in operations.sorted(by: { $0.key < $1.key }) {
            guard let next = next(id, operation, wall: wall) else { continue }
            var each = SCMCommand.Operate.Change()
            each.from = operation.state
            each.fromEndsAtMilliseconds = operation.endsAt
            each.operation = operation.message(of: id)
            each.operation.state = next
            change.changes.append(each)
        }
        return change.changes.isEmpty ? nil : SCMCommand(.operate(change))
    }

    private func next(
        _ id: DatanodeID, _ operation: Operation, wall: UInt64
    ) -> SCMOperationalState? {
        if operation.isMaintenance, operation.endsAt != 0, operation.endsAt <= wall {
            return .inService
        }
        switch operation.state {
        case .decommissioning: return isDrained(id) ? .decommissioned : nil
        case .enteringMaintenance: return isSpared(id) ? .inMaintenance : nil
        case .inService, .decommissioned, .inMaintenance, .UNRECOGNIZED: return nil
        }
    }

    /// Whether nothing that may hold bytes has its place on the node, or is to have.
    private func isDrained(_ id: DatanodeID) -> Bool {
        members.repairs(on: id).isEmpty
            && !members.containers(of: id).contains { number in
                guard let container = containers[number] else { return false }
                return container.holds(id)
            }
    }

    /// Whether all that the node has can be read without it, and one more replica be lost.
    private func isSpared(_ id: DatanodeID) -> Bool {
        guard repairs.unseen.isEmpty else { return false }
        let isOpen = openByReplication.values.joined().contains {
            containers[$0]?.nodes.contains(id) == true
        }
        let isClosing = inTransition.contains { number in
            guard let container = containers[number], container.state == .containerClosing else {
                return false
            }
            return container.nodes.contains(id)
        }
        guard !isOpen, !isClosing else { return false }
        return !repairs.degraded.contains { number, found in
            !found.isSpared && containers[number]?.nodes.contains(id) == true
        }
    }

    // MARK: Progress

    /// How far a datanode is that leaves service; nil: it is in service. Costs what it has.
    func progress(of id: DatanodeID, at now: UInt64) -> SCMOperationProgress? {
        guard let operation = operations[id] else { return nil }
        var progress = SCMOperationProgress()
        progress.operation = operation.message(of: id)
        let clock = repairs.drains[id]
        progress.bytesMoved = clock?.moved ?? 0
        if let clock { progress.millisecondsCounted = (now - min(now, clock.began)) / 1_000_000 }
        for number in members.containers(of: id) {
            guard let container = containers[number], container.holds(id),
                let place = container.nodes.firstIndex(of: id),
                isToGo(place, of: container, operation, at: now)
            else { continue }
            progress.containersLeft += 1
            if container.state != .containerClosed { progress.open += 1 }
            var bytes = replica(of: container, at: place)?.usedBytes ?? 0
            if let repair = container.repair(of: place) {
                progress.underWay += 1
                let copied = nodes[repair.node]?.recovering[number]?.usedBytes ?? 0
                progress.bytesMoved += min(bytes, copied)
                bytes -= min(bytes, copied)
            }
            progress.bytesLeft += bytes
        }
        return progress
    }

    private func isToGo(
        _ place: Int, of container: Container, _ operation: Operation, at now: UInt64
    ) -> Bool {
        if operation.leaves || container.state != .containerClosed { return true }
        guard let found = repairs.degraded[container.id], !found.isSpared else { return false }
        return health(of: container, at: now).leaving.contains(place)
    }

    /// A replica has been copied away from a node, or begins to be: how much that was.
    ///
    /// - Parameter container: as it was before.
    mutating func noteCopy(
        _ repair: Container.Repair, of container: Container, isDone: Bool, at now: UInt64
    ) {
        guard let id = container.nodes[repair.index - 1] else { return }
        let bytes = nodes[id]?.replicas[container.id]?.usedBytes ?? 0
        if repair.reason == .balance, isDone { repairs.moved += bytes }
        guard repair.reason == .drain, operations[id] != nil else { return }
        var clock = repairs.drains[id] ?? RepairQueue.Drain(began: now)
        if isDone { clock.moved += bytes }
        repairs.drains[id] = clock
    }
}

extension SCMState.Container {
    /// Whether a replica that may hold bytes has its place on `node`.
    fileprivate func holds(_ node: DatanodeID) -> Bool {
        state != .containerDeleted
            && nodes.indices.contains { nodes[$0] == node && !empty.contains($0 + 1) }
    }
}

extension SCMState.Operation {
    /// Whether what is asked for is so.
    fileprivate func isAlready(_ wanted: SCMOperationalState, until end: UInt64) -> Bool {
        switch wanted {
        case .decommissioning: leaves
        case .enteringMaintenance: isMaintenance && endsAt == end
        case .inService, .decommissioned, .inMaintenance, .UNRECOGNIZED: false
        }
    }
}

extension SCMOperateRequest {
    /// What is wanted. Throws `invalidArgument` where that cannot be asked for.
    fileprivate func checked(at wall: UInt64) throws(StoreError) -> SCMOperationalState {
        guard !nodes.isEmpty else {
            throw StoreError(.invalidArgument, "no datanode is named")
        }
        switch state {
        case .inService, .decommissioning:
            guard endsAtMilliseconds == 0 else {
                throw StoreError(.invalidArgument, "only maintenance has an end")
            }
        case .enteringMaintenance:
            guard endsAtMilliseconds == 0 || endsAtMilliseconds > wall else {
                throw StoreError(.invalidArgument, "the end of the maintenance is in the past")
            }
        case .decommissioned, .inMaintenance, .UNRECOGNIZED:
            throw StoreError(
                .invalidArgument,
                "a datanode comes to be \(state.text) by itself; it can be asked to be in service, "
                    + "decommissioning or entering maintenance")
        }
        return state
    }
}
