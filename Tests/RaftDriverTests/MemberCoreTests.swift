import GroupTestSupport
import Model
import Raft
import Reactor
import Testing

@testable import RaftDriver

/// A member's core on a log in memory, carried out step by step by the test.
private struct Driven {
    let storage: MemoryStorage
    var core: MemberCore<MemoryStorage>
    /// What it said and did, in order of effects taken.
    var effects: [MemberEffects] = []

    init(voters: [PeerID]) throws {
        storage = MemoryStorage(confState: ConfState(voters: voters))
        let options = RaftMemberOptions(id: 1)
        let node = try RawNode(
            configuration: options.configuration(applied: 0), storage: storage,
            randomTimeout: { $0.lowerBound })
        core = MemberCore(
            node: node, members: ConfState(voters: voters), applied: 0, options: options, life: 9)
    }

    mutating func advance() -> MemberEffects {
        core.advance()
        return core.effects.take()
    }

    /// Makes durable all that is to be.
    mutating func write() -> MemberEffects {
        while var batch = core.appends.next() {
            if core.appends.begin(&batch) {
                storage.append(batch.entries)
                if let state = batch.hardState { storage.setHardState(state) }
                core.appends.isWritten(batch)
            }
            core.isDurable(batch.responses)
            core.advance()
        }
        return core.effects.take()
    }

    /// Applies all that is to be; the commands that were proposed here.
    mutating func apply() -> [any PendingCommand] {
        var commands: [any PendingCommand] = []
        while !core.applies.isEmpty {
            let messages = core.takeApplies()
            for entry in messages.flatMap(\.entries) {
                if let command = core.takeProposed(entry) { commands.append(command) }
                core.isNoChange(entry.index)
                core.isReadable(through: entry.index)
            }
            core.isApplied(messages)
            core.advance()
        }
        return commands
    }

    /// Elects it in a group of three, with what `voter` says.
    mutating func elect() throws {
        core.node.campaign()
        _ = advance()
        _ = write()
        core.step(Message(.preVoteResponse, to: 1, from: 2, term: core.node.term + 1))
        _ = advance()
        _ = write()
        core.step(Message(.voteResponse, to: 1, from: 2, term: core.node.term))
        _ = advance()
        _ = write()
        try #require(core.role == .leader)
        acknowledge()
        _ = advance()
        _ = apply()
    }

    mutating func acknowledge() {
        core.step(
            Message(
                .appendResponse, to: 1, from: 2, term: core.node.term, index: core.node.lastIndex))
    }
}

@Suite("What one member decides")
struct MemberCoreTests {
    @Test("a sole voter leads alone once an entry of its term is applied, and needs no clock")
    func alone() throws {
        var driven = try Driven(voters: [1])
        #expect(driven.core.standing.needsClock)
        driven.core.node.campaign()
        _ = driven.advance()
        _ = driven.write()
        #expect(driven.core.role == .leader)
        #expect(!driven.core.standing.needsClock)
        #expect(!driven.core.standing.isAlone && !driven.core.standing.leadership.isLeading)
        _ = driven.apply()
        #expect(driven.core.standing.isAlone && driven.core.standing.leadership.isLeading)
        // From when it is decided that another has a say, not from when that is durable.
        var change = ConfChangeV2(changes: [ConfChangeSingle(.addLearner, 2)])
        let state = try driven.core.apply(change)
        #expect(!driven.core.standing.isAlone && driven.core.standing.needsClock)
        driven.core.membersChanged(to: state)
        #expect(driven.core.standing.isAlone, "a learner has no say")
        change = ConfChangeV2(changes: [ConfChangeSingle(.addVoter, 2)])
        driven.core.membersChanged(to: try driven.core.apply(change))
        #expect(!driven.core.standing.isAlone && driven.core.standing.needsClock)
    }

    @Test("commands are refused where another leads, taken when committed, failed when replaced")
    func commands() throws {
        var driven = try Driven(voters: [1, 2, 3])
        let stranger = Counted()
        driven.core.propose([stranger])
        let refused = driven.advance().failed
        #expect(refused.count == 1 && refused.first?.command === stranger)
        if case .error? = refused.first?.refusal { Issue.record("the leader is to be asked") }
        try driven.elect()
        let (kept, lost) = (Counted(), Counted())
        driven.core.propose([kept])
        _ = driven.advance()
        _ = driven.write()
        let early = driven.apply()
        #expect(early.isEmpty, "it is on no majority")
        driven.acknowledge()
        _ = driven.advance()
        let taken = driven.apply()
        #expect(taken.map { $0 === kept } == [true])
        driven.core.propose([lost])
        _ = driven.advance()
        _ = driven.write()
        driven.core.step(
            Message(.heartbeat, to: 1, from: 3, term: driven.core.node.term + 1))
        let failed = driven.advance().failed
        #expect(failed.map { $0.command === lost } == [true])
        guard case .error(let error)? = failed.first?.refusal else {
            Issue.record("it is in the log, and may yet be made")
            return
        }
        #expect(error.code == .connection)
    }

    @Test("a leader is behind from before others hear of a commit until it can be read")
    func behind() throws {
        var driven = try Driven(voters: [1, 2, 3])
        try driven.elect()
        driven.core.propose([Counted()])
        _ = driven.advance()
        // Its own disk is slower than the others.
        driven.acknowledge()
        driven.core.step(
            Message(
                .appendResponse, to: 1, from: 3, term: driven.core.node.term,
                index: driven.core.node.lastIndex))
        let unheard = driven.advance()
        #expect(unheard.messages.allSatisfy { $0.commit < driven.core.node.lastIndex })
        #expect(!driven.core.standing.isBehind, "nobody has heard of it")
        driven.core.tick(at: MonotonicTime(nanoseconds: 0), isShort: false)
        driven.core.advance()
        #expect(driven.core.standing.isBehind)
        #expect(
            driven.core.effects.messages.contains { $0.commit == driven.core.node.lastIndex })
        _ = driven.write()
        _ = driven.apply()
        #expect(!driven.core.standing.isBehind)
    }

    @Test("leadership that is handed over, and a member that has ended, have no lease")
    func lease() throws {
        var driven = try Driven(voters: [1, 2, 3])
        try driven.elect()
        var now = MonotonicTime(nanoseconds: 1_000_000_000)
        for _ in 0..<4 {
            driven.core.tick(at: now, isShort: false)
            for beat in driven.advance().messages where beat.kind == .heartbeat && beat.to == 2 {
                driven.core.step(
                    Message(
                        .heartbeatResponse, to: 1, from: 2, term: driven.core.node.term,
                        context: beat.context))
            }
            _ = driven.advance()
            now = now.advanced(by: .milliseconds(50))
        }
        let end = try #require(driven.core.standing.leaseEnd)
        #expect(end > now && end <= now.advanced(by: .milliseconds(500)))
        driven.core.node.transferLeader(to: 2)
        driven.core.advance()
        #expect(driven.core.standing.leaseEnd == nil)
        let transfer = driven.core.effects.take()
        #expect(!transfer.messages.isEmpty)
        driven.core.end(StoreError(.connection, "ended"), reads: .notLeader)
        #expect(driven.core.standing.leaseEnd == nil)
        #expect(!driven.core.standing.leadership.isLeading && !driven.core.standing.needsClock)
        driven.core.tick(at: now, isShort: false)
        let said = driven.advance().messages
        #expect(said.isEmpty, "who has ended says nothing")
    }

    @Test("a leader whose disk has no room asks others to lead, one after the other")
    func handsOver() throws {
        var driven = try Driven(voters: [1, 2, 3])
        try driven.elect()
        for _ in 0..<2 {
            driven.core.step(
                Message(
                    .appendResponse, to: 1, from: 3, term: driven.core.node.term,
                    index: driven.core.node.lastIndex))
        }
        var asked: [PeerID] = []
        for _ in 0..<60 {
            driven.core.tick(at: MonotonicTime(nanoseconds: 0), isShort: true)
            for message in driven.advance().messages {
                if message.kind == .timeoutNow { asked.append(message.to) }
                guard message.kind == .heartbeat else { continue }
                driven.core.step(
                    Message(
                        .heartbeatResponse, to: 1, from: message.to, term: driven.core.node.term,
                        context: message.context))
            }
            _ = driven.advance()
        }
        #expect(asked.count >= 2 && Set(asked) == [2, 3])
        #expect(zip(asked, asked.dropFirst()).allSatisfy { $0 != $1 })
    }

    @Test("a member that has lost what it acknowledged says so")
    func lostEntries() throws {
        var driven = try Driven(voters: [1, 2, 3])
        driven.core.step(Message(.heartbeat, to: 1, from: 2, term: 3, commit: 17))
        #expect(driven.core.effects.failure?.code == .corrupt)
    }
}

@Suite("What is to be made durable")
struct AppendQueueTests {
    private func message(
        _ indexes: ClosedRange<LogIndex>? = nil, term: Term = 1, state: HardState? = nil,
        snapshot: LogIndex? = nil
    ) -> Message {
        var message = Message(.storageAppend, to: .appendThread, from: 1)
        if let indexes {
            message.entries = indexes.map { Entry(term: term, index: $0, data: [UInt8($0)]) }
        }
        if let state {
            (message.term, message.vote, message.commit) = (state.term, state.vote, state.commit)
        }
        if let snapshot {
            message.snapshot = Snapshot(metadata: SnapshotMetadata(index: snapshot, term: term))
        }
        message.responses = [Message(.appendResponse, to: 2, from: 1, term: term)]
        return message
    }

    private func next(_ queue: inout AppendQueue) throws -> AppendQueue.Batch {
        let batch = queue.next()
        return try #require(batch)
    }

    @Test("what comes later replaces what it overlaps, and one write has it all")
    func overlaps() throws {
        var queue = AppendQueue(written: HardState(term: 1))
        queue.add(message(1...5))
        queue.add(message(3...4, term: 2, state: HardState(term: 2)))
        queue.add(message(5...6, term: 2))
        var batch = try next(&queue)
        #expect(queue.isEmpty)
        #expect(batch.entries.map(\.index) == [1, 2, 3, 4, 5, 6])
        #expect(batch.entries.map(\.term) == [1, 1, 2, 2, 2, 2])
        #expect(batch.responses.count == 3)
        let isWritten = queue.begin(&batch)
        #expect(isWritten && batch.hardState?.term == 2)
    }

    @Test("a commit index alone is not written, but goes with what is written next")
    func commitAlone() throws {
        var queue = AppendQueue(written: HardState(term: 1, vote: 2))
        /// Whether it is written, and with which commit index.
        func write(_ message: Message) throws -> (isWritten: Bool, commit: LogIndex?) {
            queue.add(message)
            var batch = try next(&queue)
            let isWritten = queue.begin(&batch)
            if isWritten { queue.isWritten(batch) }
            return (isWritten, batch.hardState?.commit)
        }
        let alone = try write(message(state: HardState(term: 1, vote: 2, commit: 7)))
        #expect(!alone.isWritten)
        let along = try write(message(8...8))
        #expect(along.isWritten && along.commit == 7)
        let after = try write(message(9...9))
        #expect(after.isWritten && after.commit == nil, "it is written once")
        // A vote is a promise, and so is a term.
        for state in [HardState(term: 1, vote: 3, commit: 7), HardState(term: 2, commit: 7)] {
            let promise = try write(message(state: state))
            #expect(promise.isWritten)
        }
    }

    @Test("a snapshot is written by itself, between what was before and what builds on it")
    func snapshots() throws {
        var queue = AppendQueue(written: HardState())
        queue.add(message(1...2))
        queue.add(message(snapshot: 10))
        queue.add(message(11...12))
        let before = try next(&queue)
        #expect(before.entries.count == 2 && before.snapshot == nil)
        let snapshot = try next(&queue)
        #expect(snapshot.snapshot?.index == 10 && snapshot.entries.isEmpty)
        let after = try next(&queue)
        #expect(after.entries.map(\.index) == [11, 12])
        #expect(queue.isEmpty)
    }
}
