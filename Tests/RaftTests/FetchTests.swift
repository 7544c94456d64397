import Testing

@testable import Raft

/// A log of which only the end is in memory: the rest must be fetched.
private final class FetchingStorage: RaftStorage {
    let log = MemoryStorage(confState: ConfState(voters: [1, 2]))
    /// The first entry in memory.
    var resident: LogIndex = 1

    func initialState() throws(StorageError) -> (HardState, ConfState) { try log.initialState() }

    func entries(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) throws(StorageError) -> [Entry] {
        if lo < resident { throw .temporarilyUnavailable }
        return try log.entries(from: lo, to: hi, maxSize: maxSize)
    }

    func term(of index: LogIndex) throws(StorageError) -> Term { try log.term(of: index) }
    var firstIndex: LogIndex { log.firstIndex }
    var lastIndex: LogIndex { log.lastIndex }
    func snapshot(index: LogIndex, to peer: PeerID) throws(StorageError) -> Snapshot {
        try log.snapshot(index: index, to: peer)
    }
}

@Suite("Entries that must be fetched")
struct FetchTests {
    private let storage = FetchingStorage()

    private func node(applied: LogIndex = 0) throws -> RawNode<FetchingStorage> {
        storage.log.append((1...20).map { Entry(term: 1, index: $0, data: [UInt8($0)]) })
        storage.log.setHardState(HardState(term: 1, vote: 1, commit: 20))
        var configuration = Configuration(id: 1)
        configuration.applied = applied
        return try RawNode(
            configuration: configuration, storage: storage, randomTimeout: { $0.lowerBound })
    }

    private func drain(_ node: RawNode<FetchingStorage>) -> (sent: [Message], applied: [Entry]) {
        var sent: [Message] = []
        var applied: [Entry] = []
        while node.hasReady {
            let ready = node.ready()
            if let state = ready.hardState { storage.log.setHardState(state) }
            storage.log.append(ready.entries)
            sent += ready.messages
            applied += ready.committedEntries
            node.advance()
        }
        return (sent, applied)
    }

    @Test("a restart applies what is committed once it was fetched, and is quiet until then")
    func apply() throws {
        storage.resident = 15
        let node = try node(applied: 5)
        #expect(drain(node).applied.isEmpty)
        #expect(!node.hasReady)
        #expect(node.isFetching)
        #expect(node.fetching == [1])
        storage.resident = 6
        node.entriesFetched(for: 1)
        #expect(node.hasReady)
        #expect(drain(node).applied.map(\.index) == Array(6...20))
        #expect(!node.isFetching)
    }

    @Test("a member that is behind waits for its entries, and gets them when they are there")
    func replicate() throws {
        let node = try node(applied: 20)
        node.campaign()
        _ = drain(node)
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 2))
        _ = drain(node)
        storage.resident = 18
        try node.step(
            Message(
                .appendResponse, to: 1, from: 2, term: 2, logTerm: 1, index: 20, reject: true,
                rejectHint: 10))
        #expect(drain(node).sent.isEmpty)
        #expect(node.fetching == [2])
        // Heartbeats go on, and their answers do not ask twice.
        node.tick()
        #expect(drain(node).sent.map(\.kind) == [.heartbeat])
        try node.step(Message(.heartbeatResponse, to: 1, from: 2, term: 2))
        #expect(drain(node).sent.isEmpty)
        storage.resident = 1
        node.entriesFetched(for: 2)
        let sent = drain(node).sent
        #expect(sent.map(\.kind) == [.append])
        #expect(sent.first?.entries.map(\.index) == Array(11...21))
        #expect(node.fetching.isEmpty)
    }

    @Test("a change of role forgets who waited")
    func forgets() throws {
        let node = try node(applied: 20)
        node.campaign()
        _ = drain(node)
        try node.step(Message(.voteResponse, to: 1, from: 2, term: 2))
        _ = drain(node)
        storage.resident = 18
        try node.step(
            Message(
                .appendResponse, to: 1, from: 2, term: 2, logTerm: 1, index: 20, reject: true,
                rejectHint: 10))
        #expect(node.isFetching)
        try node.step(Message(.heartbeat, to: 1, from: 2, term: 3))
        #expect(!node.isFetching)
        node.entriesFetched(for: 2)
        #expect(!drain(node).sent.contains { $0.kind == .append })
    }

    @Test("a member does not campaign while it cannot look for changes of members")
    func campaign() throws {
        storage.resident = 15
        let node = try node(applied: 5)
        node.campaign()
        #expect(node.basicStatus.softState.role == .follower)
        storage.resident = 1
        node.campaign()
        #expect(node.basicStatus.softState.role == .candidate)
    }
}
