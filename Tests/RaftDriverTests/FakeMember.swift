import Bytes
import Foundation
import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization

@testable import RaftDriver

/// Lets those pass who come while it is open.
final class Gate: Sendable {
    private struct State {
        var isOpen: Bool
        var waiting: [CheckedContinuation<Void, Never>] = []
    }
    private let state: Mutex<State>

    init(isOpen: Bool = true) { state = Mutex(State(isOpen: isOpen)) }

    func shut() { state.withLock { $0.isOpen = false } }

    func open() {
        let waiting = state.withLock { state in
            state.isOpen = true
            defer { state.waiting = [] }
            return state.waiting
        }
        for waiter in waiting { waiter.resume() }
    }

    /// How many wait.
    var count: Int { state.withLock { $0.waiting.count } }

    func pass() async {
        await withCheckedContinuation { waiter in
            let passes = state.withLock { state in
                if !state.isOpen { state.waiting.append(waiter) }
                return state.isOpen
            }
            if passes { waiter.resume() }
        }
    }
}

/// A state that only counts what is applied to it, as slowly and as badly as a test wants.
final class CountingApplier: CommandApplier {
    private struct State {
        var applied: LogIndex = 0
        var error: StoreError?
        var snapshotIndex: LogIndex?
    }

    let applying = Gate()
    let copying = Gate()
    private let state = Mutex(State())

    var appliedIndex: LogIndex { state.withLock { $0.applied } }

    /// Work that takes long ends.
    func interrupt() { copying.open() }

    /// What the next calls of `apply` throw.
    func fail(_ error: StoreError?) { state.withLock { $0.error = error } }

    /// What the snapshot that is being written has applied.
    func setSnapshotIndex(_ index: LogIndex) { state.withLock { $0.snapshotIndex = index } }

    func apply(_ commands: [CommittedCommand]) async throws(StoreError) {
        await applying.pass()
        if let error = state.withLock({ $0.error }) { throw error }
        guard let last = commands.last else { return }
        state.withLock { $0.applied = last.index }
    }

    func writeSnapshot(to path: String) async throws(StoreError) -> LogIndex {
        await copying.pass()
        _ = FileManager.default.createFile(atPath: path, contents: Data(repeating: 7, count: 5000))
        return state.withLock { $0.snapshotIndex ?? $0.applied }
    }

    func installSnapshot(from path: String, index: LogIndex) async throws(StoreError) {
        await copying.pass()
        state.withLock { $0.applied = index }
    }
}

/// What a member sends, kept; the test plays the others.
final class KeepingTransport: RaftTransport {
    private let state = Mutex<(messages: [Message], pieces: [SnapshotRequest])>(([], []))
    /// What becomes of a step of a snapshot.
    private let outcome: @Sendable (SnapshotRequest) throws(StoreError) -> Int

    init(
        deliver: @escaping @Sendable (SnapshotRequest) throws(StoreError) -> Int = {
            request throws(StoreError) in
            guard let piece = request.piece else { return 0 }
            return piece.offset + piece.payload.count
        }
    ) {
        outcome = deliver
    }

    var messages: [Message] { state.withLock { $0.messages } }
    var requests: [SnapshotRequest] { state.withLock { $0.pieces } }

    func all(_ kind: MessageKind) -> [Message] { messages.filter { $0.kind == kind } }

    func send(_ messages: [Message]) { state.withLock { $0.messages += messages } }

    func address(of peer: PeerID) -> String? { nil }

    func deliver(_ request: SnapshotRequest, to peer: PeerID) async throws(StoreError) -> Int {
        state.withLock { $0.pieces.append(request) }
        return try outcome(request)
    }
}

/// A command of which only the outcome counts.
final class Counted: PendingCommand {
    let bytes: [UInt8]
    let outcome = Mutex<Result<LogIndex, StoreError>?>(nil)

    init(_ bytes: [UInt8] = [1]) { self.bytes = bytes }

    func apply(at index: LogIndex, in tables: StoredTables) {}
    func succeed(at index: LogIndex) { outcome.withLock { $0 = .success(index) } }
    func fail(_ error: StoreError) { outcome.withLock { $0 = .failure(error) } }
}

/// One member on a real log, its clock in the test's hand.
final class FakeMember: Sendable {
    static let group = GroupID(high: 3, low: 4)
    let log: SharedLog
    let groupLog: GroupLog
    let member: RaftMember
    let applier: CountingApplier
    let transport: KeepingTransport
    let reactor: Reactor

    init(
        _ directory: String, on reactor: Reactor, voters: [PeerID] = [1], seed: UInt64 = 1,
        applier: CountingApplier = CountingApplier(),
        transport: KeepingTransport = KeepingTransport(),
        log options: SharedLog.Options = .init(segmentSize: 256 << 10)
    ) async throws(StoreError) {
        log = try await SharedLog.open(
            directory: directory + "/log", on: reactor, options: options)
        if let found = log.group(Self.group) {
            groupLog = found
        } else {
            groupLog = try await log.create(Self.group, confState: ConfState(voters: voters))
        }
        self.applier = applier
        self.transport = transport
        self.reactor = reactor
        var settings = RaftMemberOptions(id: 1)
        // Never by itself: `tick` is called.
        settings.tick = .seconds(1_000_000)
        member = try await RaftMember.start(
            log: groupLog, applier: applier, transport: transport,
            snapshots: directory + "/snapshots", options: settings, on: reactor,
            generator: SplitMix64(state: seed))
    }

    func close() async throws(StoreError) {
        applier.applying.open()
        await member.close()
        try await log.close()
    }

    /// Waits for what must come.
    func until(
        _ what: String, _ condition: () async throws -> Bool
    ) async throws {
        for _ in 0..<20_000 {
            if try await condition() { return }
            try await reactor.sleep(for: .milliseconds(1))
        }
        throw StoreError(.deadlineExceeded, "this never came: \(what)")
    }

    /// Elects the member, of a group of which members 2 and 3 vote for it.
    func elect() async throws {
        await member.campaign()
        try await until("a pre-vote") { !transport.all(.preVote).isEmpty }
        guard let preVote = transport.all(.preVote).last else { return }
        member.receive([
            Message(.preVoteResponse, to: 1, from: 2, term: preVote.term)
        ])
        try await until("a vote") { transport.all(.vote).contains { $0.term == preVote.term } }
        member.receive([Message(.voteResponse, to: 1, from: 2, term: preVote.term)])
        try await until("the election") { await member.state.role == .leader }
    }

    /// Member 2 has the log up to its end.
    func acknowledge(from peer: PeerID = 2) async throws {
        let (last, term) = await member.position
        member.receive([Message(.appendResponse, to: 1, from: peer, term: term, index: last)])
    }
}

extension RaftMember {
    /// Where its log ends, and its term.
    var position: (last: LogIndex, term: Term) { (node.lastIndex, node.term) }

    /// Reads that wait.
    var reads: WaitingReads { core.reads }

    /// What lets reads go on without a question.
    nonisolated var isSure: Bool { isAlone.load(ordering: .acquiring) }

    /// Whether a snapshot is being written.
    var isWritingSnapshot: Bool { snapshots.offer.isWriting }

    /// The log waits for nobody any more who was given a snapshot.
    func forgetReceivers() {
        snapshots.offer.forgetInstalling()
        holdLog()
    }

    /// Whether another member was heard of lately.
    func hears(_ peer: PeerID) -> Bool {
        node.progress.first { $0.peer == peer }?.recentActive == true
    }

    /// Whom a snapshot is being given.
    var snapshotReceivers: Set<PeerID> { snapshots.offer.receivers }

    /// Index of the snapshot that others are given.
    var offeredIndex: LogIndex? { snapshots.offer.index }
}
