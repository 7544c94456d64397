@testable import Raft

/// A storage whose snapshots are of the state machine's latest state, as a driver makes them.
final class InteractionStorage: RaftStorage {
    let log = MemoryStorage()
    /// The latest snapshot that could be made.
    var current = Snapshot()

    func initialState() throws(StorageError) -> (HardState, ConfState) {
        let state = try log.initialState()
        return (state.0, current.metadata.confState)
    }

    func entries(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) throws(StorageError) -> [Entry] {
        try log.entries(from: lo, to: hi, maxSize: maxSize)
    }

    func term(of index: LogIndex) throws(StorageError) -> Term { try log.term(of: index) }

    var firstIndex: LogIndex { log.firstIndex }
    var lastIndex: LogIndex { log.lastIndex }

    func snapshot(index: LogIndex, to peer: PeerID) throws(StorageError) -> Snapshot {
        if current.metadata.index < index { throw .snapshotTemporarilyUnavailable }
        return current
    }
}

/// One member with its storage, its two storage threads and a state machine that is the
/// concatenation of all commands.
struct InteractionNode {
    var node: RawNode<InteractionStorage>
    let storage: InteractionStorage
    let configuration: Configuration
    var appendWork: [Message] = []
    var applyWork: [Message] = []
    /// Commands applied, for comparison with other members.
    var appliedEntries: [Entry] = []
    /// Changes of members that were left out.
    var refusals: [ConfChangeRefusal] = []

    /// A member that begins with a snapshot, or with nothing. Its timeouts are the shortest, so
    /// that tests can count on them, unless they are drawn.
    init(
        _ configuration: Configuration, snapshot: Snapshot,
        randomTimeout: @escaping (ClosedRange<Int>) -> Int = { $0.lowerBound }
    ) throws {
        let storage = InteractionStorage()
        if !snapshot.isEmpty { try storage.log.applySnapshot(snapshot) }
        storage.current = snapshot
        try self.init(configuration, restarting: storage, randomTimeout: randomTimeout)
    }

    /// A member that comes back with what its storage holds.
    init(
        _ configuration: Configuration, restarting storage: InteractionStorage,
        randomTimeout: @escaping (ClosedRange<Int>) -> Int = { $0.lowerBound }
    ) throws {
        self.storage = storage
        self.configuration = configuration
        node = try RawNode(
            configuration: configuration, storage: storage, randomTimeout: randomTimeout)
    }

    /// Persists. What is to be synced is in memory and never lost.
    func write(_ state: HardState?, _ entries: [Entry], _ snapshot: Snapshot?) throws {
        if let state { storage.log.setHardState(state) }
        if let snapshot, snapshot.metadata.index > storage.log.firstIndex - 1 {
            try storage.log.applySnapshot(snapshot)
            storage.current = snapshot
        }
        storage.log.append(entries)
    }

    mutating func apply(_ entries: [Entry]) throws {
        for entry in entries {
            var update = entry.data
            var members = storage.current.metadata.confState
            if entry.kind != .normal {
                let change = try ConfChangeV2(entry: entry)
                update = change.context
                do {
                    members = try node.applyConfChange(change)
                } catch {
                    refusals.append(error)
                }
            }
            appliedEntries.append(entry)
            storage.current = Snapshot(
                metadata: SnapshotMetadata(
                    confState: members, index: entry.index, term: entry.term),
                data: storage.current.data + update)
        }
    }

    /// Does all of a Ready's work but sending.
    mutating func process(_ ready: Ready) throws -> [Message] {
        if !configuration.asyncStorageWrites {
            try write(ready.hardState, ready.entries, ready.snapshot)
            try apply(ready.committedEntries)
            return ready.messages
        }
        var sent: [Message] = []
        for message in ready.messages {
            switch message.to {
            case .appendThread: appendWork.append(message)
            case .applyThread: applyWork.append(message)
            default: sent.append(message)
            }
        }
        return sent
    }
}
