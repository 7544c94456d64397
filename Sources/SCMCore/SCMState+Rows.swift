import Model
import Wire

// How memory follows the tables: by the rows that commands wrote, or by all of them.

extension SCMState {
    /// The state that the tables hold, of an SCM that has heard nothing yet.
    ///
    /// Throws `corrupt` with the table and the key of a row that cannot be read. Without it SCM
    /// would give numbers out again that stand for bytes on disks.
    /// - Parameters:
    ///   - run: tells this run of SCM from others.
    ///   - now: when it begins to listen to datanodes.
    public init(
        options: Options, reading tables: some MetadataReader, run: UInt64 = 1, at now: UInt64 = 0
    ) throws(StoreError) {
        self.init(options: options, run: run, at: now)
        try SCMRows.value(SCMTable.clusterKey, in: tables) { row throws(StoreError) in
            take(.cluster(Identity128(try WireIdentity(parsing: row))), at: now)
        }
        try SCMRows.value(SCMTable.localIDKey, in: tables) { row throws(StoreError) in
            take(.localIDs(until: try SCMRows.number(row)), at: now)
        }
        try SCMRows.value(SCMTable.containerFloorKey, in: tables) { row throws(StoreError) in
            nextContainerID = max(nextContainerID, try SCMRows.number(row))
        }
        try SCMRows.value(SCMTable.balanceKey, in: tables) { row throws(StoreError) in
            take(.balance(try SCMBalance(parsing: row)), at: now)
        }
        try SCMRows.each(of: SCMTable.nodes, in: tables) { _, row throws(StoreError) in
            let address = try WireAddress(parsing: row)
            guard try DatanodeAddress(address) != nil else {
                throw StoreError(.corrupt, "a datanode without an identity")
            }
            take(.node(address), at: now)
        }
        try SCMRows.each(of: SCMTable.operations, in: tables) { key, row throws(StoreError) in
            let operation = try SCMNodeOperation(parsing: row)
            _ = try operation.checkedState()
            let id = Identity128(operation.node)
            guard key == SCMTable.key(id) else {
                throw StoreError(.corrupt, "what is wanted of datanode \(id)")
            }
            take(.operation(id, operation), at: now)
        }
        try SCMRows.each(of: SCMTable.containers, in: tables) { key, row throws(StoreError) in
            let record = try SCMContainerRecord(parsing: row)
            guard try SCMRows.number(key) == record.id else {
                throw StoreError(.corrupt, "the record of container \(record.id)")
            }
            _ = try record.checkedReplication()
            take(.container(record), at: now)
        }
        try SCMRows.each(of: SCMTable.deletions, in: tables) { key, row throws(StoreError) in
            let record = try SCMDeletionRecord(parsing: row)
            take(.deletion(number: try SCMRows.number(key), record), at: now)
        }
    }

    /// Takes a row of the tables as it is now.
    ///
    /// What the tables tell is the same afterwards whatever rows were taken before, in whatever
    /// order: so a memory that followed the log is as one that was read from the tables.
    /// - Parameter now: the present time of the clock that events are told with.
    public mutating func take(_ row: SCMRow, at now: UInt64) {
        switch row {
        case .cluster(let id): cluster = id
        case .localIDs(let until): reservedLocalIDs = until
        case .container(let record):
            do throws(StoreError) {
                try take(record, at: now)
            } catch {
                // Commands and rows are looked at before anything is taken from them.
                preconditionFailure("container \(record.id) was logged with \(error)")
            }
        case .deletion(let number, let record):
            deletions.take(record, number: number)
            if let record { noteUseless(record, number: number) }
        case .node(let message):
            guard let address = try? DatanodeAddress(message) else { return }
            take(address)
        case .operation(let id, let record):
            let before = operations[id]
            operations[id] = record.map { Operation($0) }
            guard before != operations[id] else { return }
            if before == nil || record == nil { repairs.drains[id] = nil }
            if leadingTerm != nil { repairs.look(at: members.containers(of: id)) }
        case .balance(let record):
            balance = record
            repairs.nextMove = 0
        }
    }

    private mutating func take(_ address: DatanodeAddress) {
        let id = address.id
        if nodes[id] != nil {
            nodes[id]!.address = address
            return
        }
        var node = newcomers.removeValue(forKey: id) ?? Node(address: address)
        node.address = address
        nodes[id] = node
        changed.formUnion(node.replicas.keys)
        for number in node.replicas.keys { noteHeld(number, by: id) }
        for number in node.recovering.keys { noteHeld(number, by: id) }
    }

    /// A node has told of a replica, or of one that it rebuilds, before this member knew of the node or
    /// of the container.
    private mutating func noteHeld(_ id: ContainerID, by node: DatanodeID) {
        if let found = nodes[node]?.replicas[id] {
            noteReported(id, found.state, index: found.replicaIndex, by: node)
        } else if let found = nodes[node]?.recovering[id] {
            noteReported(id, .recovering, index: found.replicaIndex, by: node)
        }
    }

    private mutating func take(
        _ record: SCMContainerRecord, at now: UInt64
    ) throws(StoreError) {
        let replication = try record.checkedReplication()
        let id = ContainerID(record.id)
        let before = containers[id]
        var container = Container(
            id: id, pipeline: PipelineID(record.pipeline), replication: replication,
            nodes: record.nodes.map { $0.hasID ? Identity128($0.id) : nil }, state: record.state,
            corrupt: before?.corrupt ?? [], empty: ReplicaIndexes(record.emptyIndexes))
        container.stores = record.stores
        container.witnessed = ReplicaIndexes(record.witnessedIndexes)
        container.believeOldRecord()
        container.repairs = record.repairs.map { .init($0) }
        container.orders = record.orders
        container.forgetReplaced(before)
        containers[id] = container
        noteMembers(of: container, before, at: now)
        nextContainerID = max(nextContainerID, record.id + 1)
        noteOpen(container, before)
        if before == nil {
            // Datanodes may have told of replicas before this member knew of the container: those
            // that have places by now, and others.
            for node in unknown.removeValue(forKey: id) ?? [] {
                noteHeld(id, by: node)
            }
        }
        if before?.state != record.state {
            noteTransition(of: id, from: before?.state, to: record.state, at: now)
        }
        guard var indexes = unlogged.removeValue(forKey: id) else { return }
        indexes.subtract(container.witnessed)
        if !indexes.isEmpty { unlogged[id] = indexes }
    }

    /// Keeps `openByReplication` in the order of container numbers.
    private mutating func noteOpen(_ container: Container, _ before: Container?) {
        let isOpen = container.state == .containerOpen
        if let before, before.state == .containerOpen {
            if isOpen, before.replication == container.replication { return }
            openByReplication[before.replication]?.removeAll { $0 == container.id }
        }
        guard isOpen else { return }
        var open = openByReplication.removeValue(forKey: container.replication) ?? []
        let place = open.firstIndex { $0 > container.id } ?? open.endIndex
        open.insert(container.id, at: place)
        openByReplication[container.replication] = open
    }

    private mutating func noteTransition(
        of id: ContainerID, from before: SCMContainerState?, to state: SCMContainerState,
        at now: UInt64
    ) {
        // After a start nobody knows who has heard of it: all have the whole delay to.
        let isNews = before == nil ? state == .containerClosing : before == .containerOpen
        if isNews, state != .containerOpen { closings.add(id, at: now) }
        switch state {
        case .containerClosing, .containerDeleting: inTransition.insert(id)
        case .containerOpen, .containerClosed, .containerDeleted, .UNRECOGNIZED:
            if state == .containerDeleted { noteLeftovers(of: id) }
            inTransition.remove(id)
            changed.insert(id)
            closings.forget(id)
        }
    }

    /// A container was removed without waiting for nodes that are gone: what they have of it goes when
    /// they are back.
    private mutating func noteLeftovers(of id: ContainerID) {
        for case let node? in containers[id]?.nodes ?? [] where nodes[node]?.replicas[id] != nil {
            noteStray(id, on: node)
        }
    }

    /// Others have taken the place of the tables: what they hold is in `fresh`. What was heard
    /// stays.
    mutating func replaceTables(by fresh: SCMState, at now: UInt64) {
        var next = fresh
        next.isInSafeMode = isInSafeMode
        next.lastUse = lastUse
        next.listeningSince = listeningSince
        next.turn = turn
        next.newcomers = newcomers
        next.beats = beats
        for (id, node) in nodes where node.lastHeartbeat != nil { next.newcomers[id] = node }
        for address in fresh.nodes.values.map(\.address) {
            // As if the datanode had been logged just now.
            if next.newcomers[address.id] != nil { next.nodes[address.id] = nil }
            next.take(address)
        }
        for (id, container) in containers where next.containers[id] != nil {
            next.containers[id]!.corrupt = container.corrupt
        }
        next.closings = closings
        for id in next.containers.keys.sorted() {
            let state = next.containers[id]!.state
            let isNews = containers[id]?.state == .containerOpen && state != .containerOpen
            if isNews || (state == .containerClosing && !closings.isWaiting(id)) {
                next.closings.add(id, at: now)
            }
            if state != .containerClosing { next.closings.forget(id) }
        }
        next.changed.formUnion(changed)
        next.waiting = waiting
        next.again = again
        self = next
    }
}
