import Model
import Wire

// Replicas that are made anew elsewhere. `StartRepairs` notes who rebuilds which one, by an order
// with a token; `EndRepairs` puts it into the place, or gives it up. Each part of a command is
// taken or refused by itself, by the row as the parts before it have left it.
//
// What is deleted meanwhile must reach those replicas too: they are copied from others that may not
// have heard of the deletion yet. So a deletion waits for who is being given a replica when it
// is logged, and, once all of these have confirmed, for who was given one since: `late`.

/// How deletions and orders to rebuild replicas are numbered: in one way, so that which came first can
/// be told by comparing one with another.
enum SCMNumbers {
    /// A command draws fewer than this.
    static let perCommand: UInt64 = 1 << 16

    /// Greater than each that was drawn before. Precondition: `offset` is less than `perCommand`.
    static func number(commandIndex: UInt64, offset: Int) -> UInt64 {
        precondition(offset < perCommand, "too many numbers for one command")
        return commandIndex * perCommand + UInt64(offset)
    }
}

extension SCMStateMachine {
    func start(
        _ change: SCMCommand.StartRepairs, at index: UInt64,
        in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        changeEach(change.starts, \.container, in: transaction) { record, start, offset in
            guard offset < SCMNumbers.perCommand else { return .tooManyRepairs }
            if let refusal = record.refusal(of: start) { return refusal }
            var repair = SCMContainerRecord.Repair()
            repair.replicaIndex = start.replicaIndex
            repair.node = start.to
            repair.store = start.store
            repair.token = SCMNumbers.number(commandIndex: index, offset: offset)
            repair.reason = start.reason
            record.repairs.append(repair)
            return nil
        }
    }

    func end(
        _ change: SCMCommand.EndRepairs, in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        changeEach(change.ends, \.container, in: transaction) { record, end, _ in
            let id = ContainerID(record.id)
            let found = record.repairs.firstIndex {
                $0.replicaIndex == end.replicaIndex && $0.token == end.token
            }
            guard let found else { return .noSuchRepair(id, index: Int(end.replicaIndex)) }
            // Of a container that is being removed no replica is kept.
            guard end.isGivenUp || record.state == .containerClosed else {
                return .containerIs(id, record.state)
            }
            let repair = record.repairs.remove(at: found)
            if !end.isGivenUp { record.place(repair) }
            return nil
        }
    }

    /// Changes a container's row for each of `changes` that `body` does not refuse. Refused as the
    /// first was where all are.
    private func changeEach<Change>(
        _ changes: [Change], _ container: KeyPath<Change, UInt64>,
        in transaction: some MetadataTransaction,
        _ body: (inout SCMContainerRecord, Change, _ offset: Int) -> SCMRefusal?
    ) -> SCMAnswer {
        var changed: [UInt64: SCMContainerRecord] = [:]
        var refusal: SCMRefusal?
        for (offset, change) in changes.enumerated() {
            let number = change[keyPath: container]
            guard var record = changed[number] ?? record(number, in: transaction) else {
                refusal = refusal ?? .noSuchContainer(ContainerID(number))
                continue
            }
            if let found = body(&record, change, offset) {
                refusal = refusal ?? found
            } else {
                changed[number] = record
            }
        }
        if changed.isEmpty, let refusal { return .refused(refusal) }
        return .changed(
            changed.sorted { $0.key < $1.key }.map { number, record in
                transaction.put(SCMTable.containers, SCMTable.key(number), record.encoded)
                return .container(record)
            })
    }

    /// All that `record` waited for have confirmed: it waits for those that have been given a
    /// replica since it was logged, each once.
    func waitForLate(
        _ record: inout SCMDeletionRecord, number: UInt64, in transaction: some MetadataReader
    ) {
        guard let id = record.blocks.first?.container,
            let container = self.record(id, in: transaction)
        else { return }
        var late: [WireIdentity] = []
        for (place, order) in container.orders.enumerated()
        where order > number && place < container.nodes.count && container.nodes[place].hasID {
            late.append(container.nodes[place].id)
        }
        late += container.repairs.filter { $0.token > number }.map(\.node.id)
        for node in late where !record.late.contains(node) {
            record.late.append(node)
            record.waiting.append(node)
        }
    }
}

extension SCMContainerRecord {
    /// Who has a place, or is being given one, each once.
    var members: [WireIdentity] {
        var members = nodes.filter(\.hasID).map(\.id)
        for repair in repairs where !members.contains(repair.node.id) {
            members.append(repair.node.id)
        }
        return members
    }

    /// Why a replica is not to be rebuilt; nil: it is.
    fileprivate func refusal(of start: SCMCommand.StartRepairs.Start) -> SCMRefusal? {
        let id = ContainerID(self.id)
        let index = Int(start.replicaIndex)
        guard state == .containerClosed else { return .containerIs(id, state) }
        guard index >= 1, index <= nodes.count, start.to.hasID else {
            return .placeIsAnothers(id, index: index)
        }
        let place = nodes[index - 1]
        guard place.hasID == start.hasFrom, !start.hasFrom || place.id == start.from else {
            return .placeIsAnothers(id, index: index)
        }
        guard !repairs.contains(where: { $0.replicaIndex == start.replicaIndex }) else {
            return .isBeingRebuilt(id, index: index)
        }
        let others = nodes.enumerated().filter { $0.offset != index - 1 }.map(\.element)
        let taken = others + repairs.map(\.node)
        guard !taken.contains(where: { $0.hasID && $0.id == start.to.id }) else {
            return .hasReplica(id, Identity128(start.to.id))
        }
        return nil
    }

    /// The replica that `repair` made is the one of its index from now on.
    fileprivate mutating func place(_ repair: Repair) {
        let index = Int(repair.replicaIndex)
        if stores.isEmpty {
            // From before indexes were witnessed: said from now on instead of being inferred.
            witnessedIndexes = (1...UInt32(nodes.count)).filter {
                nodes[Int($0) - 1].hasID && !emptyIndexes.contains($0)
            }
        }
        if stores.count < nodes.count {
            stores += repeatElement(0, count: nodes.count - stores.count)
        }
        if orders.count < nodes.count {
            orders += repeatElement(0, count: nodes.count - orders.count)
        }
        nodes[index - 1] = repair.node
        stores[index - 1] = repair.store
        orders[index - 1] = repair.token
        emptyIndexes.removeAll { $0 == repair.replicaIndex }
        witnessedIndexes = Set(witnessedIndexes).union([repair.replicaIndex]).sorted()
    }
}
