import Bytes
import Foundation
import GroupTestSupport
import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Testing

@testable import RaftDriver

@Suite("A member, the others played by the test", .serialized, .timeLimit(.minutes(10)))
struct MemberTests {
    private func with(
        voters: [PeerID] = [1], transport: KeepingTransport = KeepingTransport(),
        _ body: (FakeMember, String) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let fake = try await FakeMember(
                directory, on: reactor, voters: voters, transport: transport)
            do {
                if voters.count == 1 { try await fake.member.untilReplayed() }
                try await body(fake, directory)
            } catch {
                try await fake.close()
                throw error
            }
            try await fake.close()
        }
    }

    /// Proposes and waits until it is applied.
    private func propose(_ fake: FakeMember, _ count: Int = 1) async throws {
        for _ in 0..<count {
            let command = Counted()
            fake.member.propose(command)
            try await fake.until("an answer") { command.outcome.withLock { $0 != nil } }
        }
    }

    private func adding(_ peer: PeerID) -> ConfChangeV2 {
        ConfChangeV2(changes: [ConfChangeSingle(.addLearner, peer)])
    }

    /// Has learner 2, which is at the very start of the log, ask for what is compacted.
    private func learnerWithNothing(_ fake: FakeMember) async throws {
        try await propose(fake, 5)
        try await fake.groupLog.compact(through: fake.groupLog.lastIndex)
        _ = try await fake.member.change(adding(2))
        try await askForEverything(fake)
    }

    private func askForEverything(_ fake: FakeMember) async throws {
        try await fake.until("an append") { !fake.transport.all(.append).isEmpty }
        guard let append = fake.transport.all(.append).last else { return }
        fake.member.receive([
            Message(
                .appendResponse, to: 1, from: 2, term: append.term, index: append.index,
                reject: true)
        ])
    }

    /// Learner 2 answers a heartbeat, once there is a snapshot to give it.
    private func answerHeartbeat(_ fake: FakeMember) async throws {
        try await fake.until("a snapshot to be offered") {
            await fake.member.offeredIndex != nil
        }
        try await answerHeartbeat(of: fake)
    }

    /// Learner 2 answers a heartbeat.
    private func answerHeartbeat(of fake: FakeMember) async throws {
        let term = await fake.member.position.term
        fake.member.receive([Message(.heartbeatResponse, to: 1, from: 2, term: term)])
    }

    @Test("a snapshot names the members as of its last entry, however many changes come meanwhile")
    func snapshotMembers() async throws {
        try await with { fake, _ in
            fake.applier.copying.shut()
            try await learnerWithNothing(fake)
            try await fake.until("a snapshot to be written") { fake.applier.copying.count == 1 }
            _ = try await fake.member.change(adding(3))
            try await propose(fake)
            // Its contents are of this moment.
            fake.applier.setSnapshotIndex(fake.applier.appliedIndex)
            _ = try await fake.member.change(adding(4))
            try await propose(fake)
            fake.applier.copying.open()
            try await answerHeartbeat(fake)
            try await fake.until("the snapshot") {
                fake.transport.all(.snapshot).first != nil
            }
            let snapshot = try #require(fake.transport.all(.snapshot).first?.snapshot)
            #expect(snapshot.metadata.confState.learners == [2, 3])
        }
    }

    @Test("a member that is closed does not wait for a snapshot that is being written")
    func closedWhileWriting() async throws {
        try await with { fake, _ in
            fake.applier.copying.shut()
            try await learnerWithNothing(fake)
            try await fake.until("a snapshot to be written") { fake.applier.copying.count == 1 }
            // Returns only because the applier is told.
            await fake.member.close()
            #expect(fake.applier.copying.count == 0)
        }
    }

    @Test("a change of members that the core refuses is failed, and does not wait for ever")
    func refusedChange() async throws {
        try await with { fake, _ in
            let joint = try await fake.member.change(
                ConfChangeV2(
                    transition: .jointExplicit, changes: [ConfChangeSingle(.addLearner, 2)]))
            #expect(joint.votersOutgoing == [1])
            // In a joint configuration only leaving it is taken.
            let refusal = await #expect(throws: StoreError.self) {
                try await fake.member.change(adding(3))
            }
            #expect(refusal?.code == .overloaded)
            let left = try await fake.member.change(ConfChangeV2())
            #expect(left.votersOutgoing.isEmpty && left.learners == [2])
            let third = try await fake.member.change(adding(3))
            #expect(third.learners == [2, 3])
        }
    }

    @Test("a change that cannot be logged or applied says so")
    func impossibleChange() async throws {
        try await with { fake, _ in
            let many = (2...400 as ClosedRange<UInt64>).map {
                ConfChangeSingle(.addLearner, PeerID($0))
            }
            for change in [
                ConfChangeV2(changes: many),
                ConfChangeV2(changes: [ConfChangeSingle(.removePeer, 1)]),
            ] {
                let refusal = await #expect(throws: StoreError.self) {
                    try await fake.member.change(change)
                }
                #expect(refusal?.code == .invalidArgument)
            }
            #expect(await fake.member.members == ConfState(voters: [1]))
            try await propose(fake)
        }
    }

    @Test("a stopped member takes neither changes nor messages, and keeps none")
    func stopped() async throws {
        try await with { fake, _ in
            fake.applier.fail(StoreError(.io, "the disk is gone"))
            try await propose(fake)
            try await fake.until("the stop") { await fake.member.isClosed }
            let refusal = await #expect(throws: StoreError.self) {
                try await fake.member.change(adding(2))
            }
            #expect(refusal?.code == .io)
            let heartbeat = Message(.heartbeat, to: 1, from: 2, term: 9)
            for _ in 0..<10 { #expect(!fake.member.receive([heartbeat])) }
            #expect(fake.member.waitingMessages == 0)
            let late = Counted()
            fake.member.propose(late)
            let outcome = late.outcome.withLock { $0 }
            guard case .failure(let error)? = outcome else {
                Issue.record("a stopped member took a command")
                return
            }
            #expect(error.code == .io)
        }
    }

    @Test("messages that wait are bounded in bytes; what claims to come from the member is dropped")
    func messageBounds() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            // Of no use to a follower.
            let big = Message(
                .appendResponse, to: 1, from: 2, term: 1,
                context: [UInt8](repeating: 1, count: 8 << 20))
            // The loop that would take them runs on the reactor that this holds up.
            let waiting = await fake.member.receiveAtOnce(Array(repeating: big, count: 20))
            #expect(waiting == 7)
            let forged = [
                Message(.appendResponse, to: 1, from: 1, term: 1, index: 1),
                Message(.heartbeat, to: 2, from: 3, term: 1),
            ]
            try await fake.until("room") { fake.member.waitingMessages == 0 }
            #expect(await fake.member.receiveAtOnce(forged) == 0)
            #expect(await !fake.member.isClosed)
        }
    }

    // MARK: Reads

    private func follow(_ fake: FakeMember) async throws {
        fake.member.receive([Message(.heartbeat, to: 1, from: 2, term: 5)])
        try await fake.until("a leader") { await fake.member.state.leader == 2 }
    }

    private func askedContext(_ fake: FakeMember) async throws -> [UInt8] {
        try await fake.until("a question") { !fake.transport.all(.readIndex).isEmpty }
        return try #require(fake.transport.all(.readIndex).last?.entries.first?.data)
    }

    @Test("an answer that was meant for an earlier life of a member confirms no read of this one")
    func readsOfAnEarlierLife() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            var fake = try await FakeMember(directory, on: reactor, voters: [1, 2, 3], seed: 1)
            try await follow(fake)
            let first = Task { [member = fake.member] in try await member.readBarrier() }
            let earlier = try await askedContext(fake)
            try await fake.close()
            _ = await first.result
            fake = try await FakeMember(directory, on: reactor, voters: [1, 2, 3], seed: 2)
            try await follow(fake)
            let done = Shared(isDone: false)
            let second = Task { [member = fake.member] in
                try await member.readBarrier()
                done.isDone = true
            }
            let context = try await askedContext(fake)
            #expect(context != earlier)
            let answer = { (context: [UInt8]) in
                Message(
                    .readIndexResponse, to: 1, from: 2, term: 5,
                    entries: [Entry(data: context)])
            }
            fake.member.receive([answer(earlier)])
            // Behind it, so it is taken when this is.
            fake.member.receive([Message(.heartbeat, to: 1, from: 2, term: 5, context: [9])])
            try await fake.until("the heartbeat") {
                fake.transport.all(.heartbeatResponse).contains { $0.context == [9] }
            }
            #expect(!done.isDone)
            fake.member.receive([answer(context)])
            try await second.value
            #expect(done.isDone)
            try await fake.close()
        }
    }

    @Test("reads of a follower share a question, but none that was asked before they began")
    func sharedReads() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await follow(fake)
            let member = fake.member
            let first = Task { try await member.readBarrier() }
            let context = try await askedContext(fake)
            let done = Shared(isDone: false)
            let others = (0..<5).map { _ in
                Task {
                    try await member.readBarrier()
                    done.isDone = true
                }
            }
            try await fake.until("they wait") { await fake.member.reads.count == 6 }
            func confirm(_ context: [UInt8]) {
                fake.member.receive([
                    Message(
                        .readIndexResponse, to: 1, from: 2, term: 5,
                        entries: [Entry(data: context)])
                ])
            }
            confirm(context)
            try await first.value
            // Those that came later are asked for together now, or were by a tick meanwhile.
            try await fake.until("they are asked for") {
                await fake.member.reads.gathered.isEmpty
            }
            let asked = fake.transport.all(.readIndex).compactMap(\.entries.first?.data)
            #expect(!done.isDone)
            for later in asked.dropFirst() { confirm(later) }
            for other in others { try await other.value }
            #expect(asked.count < 6)
        }
    }

    @Test("a question that is lost holds up its own reads only, and not for ever")
    func lostQuestion() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await follow(fake)
            let lost = Task { [member = fake.member] in try await member.readBarrier() }
            let context = try await askedContext(fake)
            let next = Task { [member = fake.member] in try await member.readBarrier() }
            try await fake.until("it waits") { await fake.member.reads.gathered.count == 1 }
            await fake.member.tick()
            try await fake.until("another question") {
                let asked = fake.transport.all(.readIndex).compactMap(\.entries.first?.data)
                guard let other = asked.first(where: { $0 != context }) else { return false }
                fake.member.receive([
                    Message(
                        .readIndexResponse, to: 1, from: 2, term: 5, entries: [Entry(data: other)])
                ])
                return true
            }
            try await next.value
            for _ in 0..<2 * RaftMemberLimits.readElections {
                try await follow(fake)
                for _ in 0..<5 { await fake.member.tick() }
            }
            let error = await #expect(throws: StoreError.self) { try await lost.value }
            #expect(error?.code == .notLeader)
        }
    }

    @Test("a read that waits for an entry is given up where the entry does not come")
    func lostEntry() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await follow(fake)
            let lost = Task { [member = fake.member] in try await member.readBarrier() }
            let context = try await askedContext(fake)
            fake.member.receive([
                Message(
                    .readIndexResponse, to: 1, from: 2, term: 5, index: 1000,
                    entries: [Entry(data: context)])
            ])
            try await fake.until("it waits for the entry") {
                await fake.member.reads.confirmed.count == 1
            }
            for _ in 0..<2 * RaftMemberLimits.readElections {
                try await follow(fake)
                for _ in 0..<5 { await fake.member.tick() }
            }
            try await fake.until("it is given up") { await fake.member.reads.count == 0 }
            let error = await #expect(throws: StoreError.self) { try await lost.value }
            #expect(error?.code == .notLeader)
        }
    }

    @Test("a leader that has its lease tells a follower at once how far to apply")
    func readIndexByLease() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await fake.elect()
            try await fake.acknowledge()
            let transport = fake.transport
            func ask(_ context: UInt8) {
                fake.member.receive([
                    Message(.readIndex, to: 1, from: 3, entries: [Entry(data: [context])])
                ])
            }
            func answer(_ context: UInt8) -> Message? {
                transport.all(.readIndexResponse).first { $0.entries.first?.data == [context] }
            }
            let (last, term) = await fake.member.position
            // Nobody has answered a heartbeat: there is no lease yet, and no answer without one.
            ask(6)
            try await fake.until("a heartbeat that asks") {
                !fake.transport.all(.heartbeat).isEmpty
            }
            #expect(answer(6) == nil)
            try await fake.until("the lease") {
                await fake.member.tick()
                for beat in fake.transport.all(.heartbeat).suffix(2) where beat.to == 2 {
                    fake.member.receive([
                        Message(
                            .heartbeatResponse, to: 1, from: 2, term: term, context: beat.context)
                    ])
                }
                return fake.member.holdsLease
            }
            // No more heartbeats are sent or answered.
            ask(7)
            try await fake.until("the answer") { answer(7) != nil }
            #expect(answer(7)?.to == 3 && answer(7)?.index == last)
        }
    }

    @Test("a command that comes with the word of another leader is that one's")
    func proposedWhileSteppingDown() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await fake.elect()
            let term = await fake.member.position.term
            let command = Counted()
            await fake.member.take(
                command, with: Message(.heartbeat, to: 1, from: 2, term: term + 1))
            try await fake.until("an answer") { command.outcome.withLock { $0 } != nil }
            let outcome = try #require(command.outcome.withLock { $0 })
            let error = #expect(throws: StoreError.self) { try outcome.get() }
            #expect(error?.code == .notLeader)
        }
    }

    @Test("a sole voter answers no read before it has applied an entry of its term")
    func aloneAndNotThereYet() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let applier = CountingApplier()
            applier.applying.shut()
            let fake = try await FakeMember(directory, on: reactor, applier: applier)
            try await fake.until("the election") { await fake.member.state.role == .leader }
            try await fake.until("what is to be applied") { applier.applying.count == 1 }
            #expect(!fake.member.isSure)
            applier.applying.open()
            try await fake.member.untilReplayed()
            #expect(fake.member.isSure)
            try await fake.member.readBarrier()
            _ = try await fake.member.change(
                ConfChangeV2(changes: [ConfChangeSingle(.addVoter, 2)]))
            #expect(!fake.member.isSure)
            try await fake.close()
        }
    }

    // MARK: Disks that are full or hang

    @Test("a leader whose state has no room hands leadership over, and says where to go meanwhile")
    func fullLeader() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await fake.elect()
            fake.applier.fail(StoreError(.noSpace, "the disk is full"))
            try await fake.acknowledge()
            try await fake.until("the shortage") { await fake.member.waitsForSpace > 0 }
            #expect(fake.transport.all(.timeoutNow).isEmpty)
            await fake.member.tick()
            #expect(fake.transport.all(.timeoutNow).map(\.to) == [2])
            // The other leads: this one names it, and does not speak of its disk.
            let term = await fake.member.position.term
            fake.member.receive([Message(.heartbeat, to: 1, from: 2, term: term + 1)])
            try await fake.until("the follower") { await fake.member.state.leader == 2 }
            let command = Counted()
            fake.member.propose(command)
            try await fake.until("an answer") { command.outcome.withLock { $0 != nil } }
            guard case .failure(let error)? = command.outcome.withLock({ $0 }) else {
                Issue.record("a follower took a command")
                return
            }
            #expect(error.code == .notLeader && error.message.contains("member 2 leads"))
            fake.applier.fail(nil)
        }
    }

    @Test("a leader whose state hangs hands leadership over after two elections, not before")
    func hangingLeader() async throws {
        try await with(voters: [1, 2, 3]) { fake, _ in
            try await fake.elect()
            fake.applier.applying.shut()
            try await fake.acknowledge()
            try await fake.until("what is to be applied") { fake.applier.applying.count == 1 }
            let term = await fake.member.position.term
            let limit = RaftMemberLimits.stallElections * 10
            for _ in 0..<limit {
                await fake.member.tick()
                fake.member.receive([Message(.heartbeatResponse, to: 1, from: 2, term: term)])
                try await fake.until("room") { fake.member.waitingMessages == 0 }
            }
            #expect(fake.transport.all(.timeoutNow).isEmpty)
            #expect(await fake.member.state.role == .leader)
            for _ in 0..<2 { await fake.member.tick() }
            #expect(fake.transport.all(.timeoutNow).map(\.to) == [2])
        }
    }

    @Test("a group of one stays led though its disk is full")
    func fullAlone() async throws {
        try await with { fake, _ in
            fake.applier.fail(StoreError(.noSpace, "the disk is full"))
            let command = Counted()
            fake.member.propose(command)
            try await fake.until("the shortage") { await fake.member.waitsForSpace > 0 }
            for _ in 0..<100 { await fake.member.tick() }
            #expect(await fake.member.state.role == .leader)
            fake.applier.fail(nil)
            try await fake.until("an answer") { command.outcome.withLock { $0 != nil } }
            guard case .success? = command.outcome.withLock({ $0 }) else {
                Issue.record("the command was not made")
                return
            }
        }
    }

    @Test("a disk that is full while the members change makes them wait, and stops nobody")
    func fullWhileMembersChange() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 4)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            let fake = try await FakeMember(
                directory, on: reactor, log: .init(segmentSize: 32 << 10))
            try await fake.member.untilReplayed()
            var waits = 0
            var expected: [PeerID] = []
            for round in 2..<40 as Range<UInt64> {
                faults.set(isFull: true)
                let task = Task { [member = fake.member, change = adding(PeerID(round))] in
                    try await member.change(change)
                }
                expected.append(PeerID(round))
                try await fake.until("a change or a shortage") {
                    if await fake.member.waitsForSpace > 0 {
                        waits += 1
                        faults.set(isFull: false)
                        return true
                    }
                    return await fake.member.members.learners == expected
                }
                faults.set(isFull: false)
                #expect(try await task.value.learners == expected)
            }
            #expect(waits > 0, "the disk was never full")
            #expect(await !fake.member.isClosed)
            try await fake.close()
        }
    }

    // MARK: Snapshots on their way

    @Test("a snapshot that could not be delivered stays, and is gone on with; the log waits for it")
    func snapshotResumed() async throws {
        let isReachable = Shared(isDone: false)
        let transport = KeepingTransport { request throws(StoreError) in
            guard let piece = request.piece else { return 0 }
            guard isReachable.isDone else { throw StoreError(.connection, "cut off") }
            return piece.offset + piece.payload.count
        }
        try await with(transport: transport) { fake, _ in
            try await learnerWithNothing(fake)
            try await answerHeartbeat(fake)
            try await fake.until("a failed piece") {
                guard transport.requests.contains(where: { $0.piece != nil }) else { return false }
                return await fake.member.snapshotReceivers.isEmpty
            }
            let header = try #require(transport.requests.first?.header)
            #expect(await fake.member.offeredIndex == header.index)
            #expect(fake.groupLog.held == header.index)
            // The group goes on meanwhile; then the member can be reached again.
            try await propose(fake, 3)
            isReachable.isDone = true
            try await answerHeartbeat(fake)
            try await fake.until("the snapshot") { !transport.all(.snapshot).isEmpty }
            #expect(Set(transport.requests.map(\.header.checksum)) == [header.checksum])
            #expect(Set(transport.requests.map(\.header.index)) == [header.index])
            // All have it.
            try await fake.until("its end") { await fake.member.offeredIndex == nil }
            // It takes the tables over, for however long, and will go on from there.
            #expect(fake.groupLog.held == header.index)
            try await propose(fake, 5)
            for _ in 0..<3 {
                for _ in 0..<RaftMemberLimits.offerElections * 5 { await fake.member.tick() }
                // Twice: the core forgets what it heard once in ten ticks.
                for _ in 0..<2 {
                    try await answerHeartbeat(of: fake)
                    try await fake.until("its answer") { await fake.member.hears(2) }
                    await fake.member.tick()
                }
            }
            #expect(fake.groupLog.held == header.index)
            try await fake.acknowledge()
            try await fake.until("its having caught up") {
                await fake.member.tick()
                return fake.groupLog.held == nil
            }
        }
    }

    @Test("the log does not wait for ever for who has got a snapshot and is not heard of any more")
    func receiverGone() async throws {
        try await with { fake, _ in
            try await learnerWithNothing(fake)
            try await answerHeartbeat(fake)
            try await fake.until("the snapshot") { !fake.transport.all(.snapshot).isEmpty }
            try await fake.until("its end") { await fake.member.offeredIndex == nil }
            #expect(fake.groupLog.held != nil)
            for _ in 0...RaftMemberLimits.offerElections * 10 + 20 { await fake.member.tick() }
            #expect(fake.groupLog.held == nil)
        }
    }

    @Test("a snapshot is not kept for ever for a member that does not come back")
    func snapshotAbandoned() async throws {
        let transport = KeepingTransport { _ throws(StoreError) in
            throw StoreError(.connection, "cut off")
        }
        try await with(transport: transport) { fake, _ in
            try await learnerWithNothing(fake)
            try await answerHeartbeat(fake)
            try await fake.until("a failed piece") {
                guard !transport.requests.isEmpty else { return false }
                return await fake.member.snapshotReceivers.isEmpty
            }
            #expect(await fake.member.offeredIndex != nil)
            for _ in 0...RaftMemberLimits.offerElections * 10 { await fake.member.tick() }
            try await fake.until("its end") { await fake.member.offeredIndex == nil }
            #expect(fake.groupLog.held == nil)
        }
    }
}

/// Something that becomes true.
private final class Shared: Sendable {
    private let state: Mutex<Bool>
    init(isDone: Bool) { state = Mutex(isDone) }
    var isDone: Bool {
        get { state.withLock { $0 } }
        set { state.withLock { $0 = newValue } }
    }
}

extension RaftMember {
    /// Hands messages over while nothing takes them, and says how many wait then.
    func receiveAtOnce(_ messages: [Message]) -> Int {
        receive(messages)
        return waitingMessages
    }

    /// Hands both over before either is looked at.
    func take(_ command: any PendingCommand, with message: Message) {
        receive([message])
        propose(command)
    }
}
