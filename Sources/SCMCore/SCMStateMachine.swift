import Model
import Wire

/// The tables of the Storage Container Manager. Their numbers are part of the format on disk.
public enum SCMTable {
    /// One row each: cluster ID, next local ID.
    public static let values = MetadataTable(64)
    /// Container number → SCMContainerRecord.
    public static let containers = MetadataTable(65)
    /// Number of the deletion → SCMDeletionRecord.
    public static let deletions = MetadataTable(66)
    /// Datanode ID → WireAddress.
    public static let nodes = MetadataTable(67)

    public static let all = [values, containers, deletions, nodes]

    static let clusterKey = Array("cluster".utf8)
    static let localIDKey = Array("local".utf8)

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

/// Applies SCM's commands to its tables. The same commands are applied to `SCMState`, which holds
/// what SCM decides from in memory.
public struct SCMStateMachine: StateMachine {
    public init() {}

    public var tables: [MetadataTable] { SCMTable.all }

    public func encode(_ command: SCMCommand) -> [UInt8] { command.encoded }

    public func decode(_ bytes: [UInt8]) throws(StoreError) -> SCMCommand {
        let command = try SCMCommand(parsing: bytes)
        guard command.command != nil else {
            throw StoreError(
                .versionMismatch, "the log holds a command of a kind not known to this version")
        }
        if case .createContainer(let change) = command.command {
            _ = try change.record.checkedReplication()
        }
        return command
    }

    /// Answers with the index of the command; nil if it was refused.
    public func apply(
        _ command: SCMCommand, at index: UInt64, in transaction: some MetadataTransaction
    ) -> UInt64? {
        switch command.command {
        case .cluster(let change):
            // The first one counts; a second proposal that raced with it changes nothing.
            if transaction.get(SCMTable.values, SCMTable.clusterKey) == nil {
                transaction.put(SCMTable.values, SCMTable.clusterKey, change.id.encoded)
            }
        case .createContainer(let change):
            transaction.put(SCMTable.containers, SCMTable.key(change.id), change.record.encoded)
        case .containerState(let change):
            let key = SCMTable.key(change.id)
            guard let row = transaction.get(SCMTable.containers, key),
                var record = try? SCMContainerRecord(parsing: row)
            else { return nil }
            record.state = change.state
            if change.state == .containerClosed { record.emptyIndexes = change.emptyIndexes }
            transaction.put(SCMTable.containers, key, record.encoded)
        case .reserveNumbers(let change):
            transaction.put(
                SCMTable.values, SCMTable.localIDKey, SCMTable.key(change.localIdsUntil))
        case .deleteBlocks(let change): delete(change.blocks, at: index, in: transaction)
        case .deletedOn(let change): confirm(change, in: transaction)
        case .witnessed(let change): witness(change, in: transaction)
        case .node(let change):
            transaction.put(
                SCMTable.nodes, SCMTable.key(Identity128(change.address.id)),
                change.address.encoded)
        case nil: break
        }
        return index
    }

    /// Notes replicas that were reported for the first time. What was logged as empty is not.
    private func witness(
        _ change: SCMCommand.Witnessed, in transaction: some MetadataTransaction
    ) {
        for replicas in change.containers {
            let key = SCMTable.key(replicas.container)
            guard let row = transaction.get(SCMTable.containers, key),
                var record = try? SCMContainerRecord(parsing: row)
            else { continue }
            record.witnessedIndexes =
                Set(record.witnessedIndexes).union(replicas.indexes).sorted()
            record.emptyIndexes.removeAll { replicas.indexes.contains($0) }
            transaction.put(SCMTable.containers, key, record.encoded)
        }
    }

    /// One deletion per container, waiting for each node that holds one of its replicas.
    private func delete(
        _ blocks: [WireBlock], at index: UInt64, in transaction: some MetadataTransaction
    ) {
        let groups = SCMDeletions.byContainer(blocks)
        for (offset, group) in groups.enumerated() {
            guard let row = transaction.get(SCMTable.containers, SCMTable.key(group.container)),
                let container = try? SCMContainerRecord(parsing: row)
            else { continue }
            let number = SCMDeletions.number(commandIndex: index, offset: offset)
            let record = SCMDeletions.record(group.blocks, container)
            transaction.put(SCMTable.deletions, SCMTable.key(number), record.encoded)
        }
    }

    private func confirm(
        _ change: SCMCommand.DeletedOn, in transaction: some MetadataTransaction
    ) {
        for number in change.transactions {
            let key = SCMTable.key(number)
            guard let row = transaction.get(SCMTable.deletions, key),
                var record = try? SCMDeletionRecord(parsing: row)
            else { continue }
            record.waiting.removeAll { $0 == change.node }
            if record.waiting.isEmpty {
                transaction.delete(SCMTable.deletions, key)
            } else {
                transaction.put(SCMTable.deletions, key, record.encoded)
            }
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

/// How a command that deletes blocks becomes deletions with numbers; the same for tables and
/// memory.
enum SCMDeletions {
    /// A command deletes blocks of fewer containers than this.
    static let containersPerCommand: UInt64 = 1 << 16

    static func number(commandIndex: UInt64, offset: Int) -> UInt64 {
        precondition(offset < containersPerCommand, "too many containers in one deletion")
        return commandIndex * containersPerCommand + UInt64(offset)
    }

    static func byContainer(_ blocks: [WireBlock]) -> [(container: UInt64, blocks: [WireBlock])] {
        Dictionary(grouping: blocks, by: \.container).sorted { $0.key < $1.key }
            .map { (container: $0.key, blocks: $0.value) }
    }

    static func record(
        _ blocks: [WireBlock], _ container: SCMContainerRecord
    ) -> SCMDeletionRecord {
        var record = SCMDeletionRecord()
        record.blocks = blocks
        record.waiting = container.nodes.filter(\.hasID).map(\.id)
        return record
    }
}
