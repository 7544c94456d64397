import Model
import Wire

/// The tables of the Storage Container Manager. Their numbers are part of the format on disk.
public enum SCMTable {
    /// One row each: cluster ID, next local ID, whether replicas are moved to emptier nodes.
    public static let values = MetadataTable(64)
    /// Container number → SCMContainerRecord.
    public static let containers = MetadataTable(65)
    /// Number of the deletion → SCMDeletionRecord.
    public static let deletions = MetadataTable(66)
    /// Datanode ID → WireAddress.
    public static let nodes = MetadataTable(67)
    /// Datanode ID → SCMNodeOperation, of those that are not in service.
    public static let operations = MetadataTable(68)

    public static let all = [values, containers, deletions, nodes, operations]

    static let clusterKey = Array("cluster".utf8)
    static let localIDKey = Array("local".utf8)
    static let balanceKey = Array("balance".utf8)
    /// The first container number that may be given out, where a recovery left some out.
    static let containerFloorKey = Array("container".utf8)

    static func key(_ number: UInt64) -> [UInt8] {
        var key: [UInt8] = []
        key.appendBigEndian(number)
        return key
    }

    static func key(_ id: Identity128) -> [UInt8] {
        var key: [UInt8] = []
        key.appendBigEndian(id.high)
        key.appendBigEndian(id.low)
        return key
    }
}

/// Applies SCM's commands to its tables, and has the memory beside them follow.
public struct SCMStateMachine: StateMachine {
    public enum Limits {
        /// How many numbers are left out where the members that may have given them are lost.
        public static let lostContainers: UInt64 = 10_000
        /// See `lostContainers`.
        public static let lostLocalIDs: UInt64 = 100_000_000
    }

    private let memory: SCMMemory?

    /// - Parameter memory: what SCM decides from; nil: there are only tables.
    public init(memory: SCMMemory? = nil) { self.memory = memory }

    public var tables: [MetadataTable] { SCMTable.all }

    /// 2: the log may hold commands that are refused where they do not fit, which programs of before
    /// would carry out. 3: containers may have replicas that are being rebuilt, which programs of
    /// before would let miss deletions. 4: datanodes may be out of service, which programs of before
    /// would give new blocks to.
    public var format: TablesFormat { TablesFormat(current: 4, oldest: 1) }

    public func encode(_ command: SCMCommand) -> [UInt8] { command.encoded }

    /// One byte: whether it was made. What it changed is in the tables.
    public func encode(_ answer: SCMAnswer, to command: SCMCommand) -> [UInt8] {
        switch answer {
        case .changed: [1]
        case .refused: [2]
        }
    }

    /// Throws `conflict` for a change that was refused: it is to be decided anew.
    public func decode(answer bytes: [UInt8]) throws(StoreError) -> SCMAnswer {
        switch bytes {
        case [1]: return .changed([])
        case [2]:
            throw StoreError(
                .conflict, "it was refused when it was asked for first: decide it anew")
        default: throw StoreError(.corrupt, "an answer of SCM's of \(bytes.count) bytes")
        }
    }

    public func decode(_ bytes: [UInt8]) throws(StoreError) -> SCMCommand {
        let command = try SCMCommand(parsing: bytes)
        guard command.version <= SCMCommand.currentVersion else {
            throw StoreError(
                .versionMismatch,
                "the log holds a command of version \(command.version); this program knows those "
                    + "up to \(SCMCommand.currentVersion)")
        }
        guard command.command != nil else {
            throw StoreError(
                .versionMismatch, "the log holds a command of a kind not known to this version")
        }
        if case .createContainer(let change) = command.command {
            _ = try change.record.checkedReplication()
        }
        if case .operate(let change) = command.command {
            for each in change.changes { _ = try each.operation.checkedState() }
        }
        return command
    }

    public func apply(
        _ command: SCMCommand, at index: UInt64, in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        switch command.command {
        case .cluster(let change):
            guard transaction.get(SCMTable.values, SCMTable.clusterKey) == nil else {
                return .refused(.isNamed)
            }
            transaction.put(SCMTable.values, SCMTable.clusterKey, change.id.encoded)
            return .changed([.cluster(Identity128(change.id))])
        case .createContainer(let change):
            return create(change.record, isConditional: command.isConditional, in: transaction)
        case .containerState(let change):
            return set(change, isConditional: command.isConditional, in: transaction)
        case .reserveNumbers(let change):
            return reserve(change, isConditional: command.isConditional, in: transaction)
        case .deleteBlocks(let change):
            return .changed(delete(change.blocks, at: index, in: transaction))
        case .deletedOn(let change): return .changed(confirm(change, in: transaction))
        case .witnessed(let change): return .changed(witness(change, in: transaction))
        case .node(let change):
            transaction.put(
                SCMTable.nodes, SCMTable.key(Identity128(change.address.id)),
                change.address.encoded)
            return .changed([.node(change.address)])
        case .startRepairs(let change): return start(change, at: index, in: transaction)
        case .endRepairs(let change): return end(change, in: transaction)
        case .operate(let change): return operate(change, in: transaction)
        case .balance(let change): return set(change, in: transaction)
        case nil: return .changed([])
        }
    }

    public func applied(_ command: SCMCommand, answer: SCMAnswer, at index: UInt64) {
        memory?.take(answer)
    }

    public func reset(from tables: some MetadataReader) throws(StoreError) {
        try memory?.reset(from: tables)
    }

    /// Containers and local IDs that only the lost members knew of have bytes on datanodes.
    public func recovered(in transaction: some MetadataTransaction) {
        let row = transaction.get(SCMTable.values, SCMTable.localIDKey)
        let reserved = row.flatMap { try? SCMRows.number($0) } ?? 1
        transaction.put(
            SCMTable.values, SCMTable.localIDKey, SCMTable.key(reserved + Limits.lostLocalIDs))
        var floor =
            transaction.get(SCMTable.values, SCMTable.containerFloorKey)
            .flatMap { try? SCMRows.number($0) } ?? 1
        transaction.scan(SCMTable.containers, from: []) { key, _ in
            if let number = try? SCMRows.number(key) { floor = max(floor, number + 1) }
            return true
        }
        transaction.put(
            SCMTable.values, SCMTable.containerFloorKey,
            SCMTable.key(floor + Limits.lostContainers))
    }

    // MARK: Containers

    private func create(
        _ record: SCMContainerRecord, isConditional: Bool, in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        let key = SCMTable.key(record.id)
        if isConditional, transaction.get(SCMTable.containers, key) != nil {
            return .refused(.containerExists(ContainerID(record.id)))
        }
        transaction.put(SCMTable.containers, key, record.encoded)
        return .changed([.container(record)])
    }

    private func set(
        _ change: SCMCommand.ContainerStateChange, isConditional: Bool,
        in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        let id = ContainerID(change.id)
        guard var record = record(change.id, in: transaction) else {
            return .refused(.noSuchContainer(id))
        }
        let isClosed = change.state == .containerClosed
        if isConditional {
            guard record.state == change.from else {
                return .refused(.containerIs(id, record.state))
            }
            guard !isClosed || Set(change.emptyIndexes).isDisjoint(with: record.witnessedIndexes)
            else { return .refused(.wasWitnessed(id)) }
        }
        record.state = change.state
        if isClosed { record.emptyIndexes = change.emptyIndexes }
        transaction.put(SCMTable.containers, SCMTable.key(change.id), record.encoded)
        return .changed([.container(record)])
    }

    func record(
        _ id: UInt64, in transaction: some MetadataReader
    ) -> SCMContainerRecord? {
        transaction.get(SCMTable.containers, SCMTable.key(id)).flatMap {
            try? SCMContainerRecord(parsing: $0)
        }
    }

    /// Notes replicas that were reported for the first time. What was logged as empty is not.
    private func witness(
        _ change: SCMCommand.Witnessed, in transaction: some MetadataTransaction
    ) -> [SCMRow] {
        change.containers.compactMap { replicas in
            guard var record = record(replicas.container, in: transaction) else { return nil }
            let before = record
            record.witnessedIndexes =
                Set(record.witnessedIndexes).union(replicas.indexes).sorted()
            record.emptyIndexes.removeAll { replicas.indexes.contains($0) }
            guard record != before else { return nil }
            transaction.put(
                SCMTable.containers, SCMTable.key(replicas.container), record.encoded)
            return .container(record)
        }
    }

    // MARK: Numbers

    private func reserve(
        _ change: SCMCommand.ReserveNumbers, isConditional: Bool,
        in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        if isConditional {
            // Without a row none was ever given out; they count from 1.
            let row = transaction.get(SCMTable.values, SCMTable.localIDKey)
            let reserved = row.flatMap { try? SCMRows.number($0) } ?? 1
            guard change.localIdsFrom == reserved, change.localIdsUntil > reserved else {
                return .refused(.localIDsAreReserved(until: reserved))
            }
        }
        transaction.put(
            SCMTable.values, SCMTable.localIDKey, SCMTable.key(change.localIdsUntil))
        return .changed([.localIDs(until: change.localIdsUntil)])
    }

    // MARK: Deletions

    /// One deletion per container, waiting for each node that holds one of its replicas or is being
    /// given one.
    private func delete(
        _ blocks: [WireBlock], at index: UInt64, in transaction: some MetadataTransaction
    ) -> [SCMRow] {
        SCMDeletions.byContainer(blocks).enumerated().compactMap { offset, group in
            guard let container = record(group.container, in: transaction) else { return nil }
            let number = SCMNumbers.number(commandIndex: index, offset: offset)
            let record = SCMDeletions.record(group.blocks, container)
            transaction.put(SCMTable.deletions, SCMTable.key(number), record.encoded)
            return .deletion(number: number, record)
        }
    }

    private func confirm(
        _ change: SCMCommand.DeletedOn, in transaction: some MetadataTransaction
    ) -> [SCMRow] {
        change.transactions.compactMap { number in
            let key = SCMTable.key(number)
            guard let row = transaction.get(SCMTable.deletions, key),
                var record = try? SCMDeletionRecord(parsing: row),
                record.waiting.contains(change.node)
            else { return nil }
            record.waiting.removeAll { $0 == change.node }
            if record.waiting.isEmpty { waitForLate(&record, number: number, in: transaction) }
            if record.waiting.isEmpty {
                transaction.delete(SCMTable.deletions, key)
                return .deletion(number: number, nil)
            }
            transaction.put(SCMTable.deletions, key, record.encoded)
            return .deletion(number: number, record)
        }
    }
}

extension SCMCommand.CreateContainer {
    /// The open container that it makes.
    var record: SCMContainerRecord {
        var record = SCMContainerRecord()
        record.id = id
        record.pipeline = pipeline
        record.replication = replication
        record.nodes = nodes
        record.stores = stores
        record.state = .containerOpen
        return record
    }
}

extension SCMContainerRecord {
    /// How the container's blocks are laid out. Throws `corrupt` if that cannot be, or if the
    /// container has not a place for each replica: groups could not be given out in it.
    func checkedReplication() throws(StoreError) -> ReplicationConfig {
        let config: ReplicationConfig
        do throws(StoreError) { config = try ReplicationConfig(replication) } catch {
            throw StoreError(.corrupt, "container \(id) has no replication: \(error.message)")
        }
        guard nodes.count == config.width else {
            throw StoreError(
                .corrupt,
                "container \(id) of \(config) has \(config.width) places, not \(nodes.count)")
        }
        return config
    }
}

/// How a command that deletes blocks becomes deletions with numbers.
enum SCMDeletions {
    static func byContainer(_ blocks: [WireBlock]) -> [(container: UInt64, blocks: [WireBlock])] {
        Dictionary(grouping: blocks, by: \.container).sorted { $0.key < $1.key }
            .map { (container: $0.key, blocks: $0.value) }
    }

    static func record(
        _ blocks: [WireBlock], _ container: SCMContainerRecord
    ) -> SCMDeletionRecord {
        var record = SCMDeletionRecord()
        record.blocks = blocks
        record.waiting = container.members
        return record
    }
}
