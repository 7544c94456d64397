import Model
import Testing
import Wire

@testable import SCMCore

private let second: UInt64 = 1_000_000_000

/// A walk of three members that all propose, restart, and are given snapshots.
private struct Walk {
    static let nodes = 7

    var group: Members
    /// Whose `lead` was called last; others may go on as if they led.
    var term: UInt64 = 1
    var localIDs: Set<UInt64> = []
    var blocks: [BlockID] = []
    var given = 0
    var refused = 0
    /// Datanodes that were seen out of service.
    var out = 0
    /// Replicas that were seen where a repair had put them.
    var repaired = 0

    init(seed: UInt64) throws {
        var options = SCMState.Options()
        // Small, so that members come to the end of what they own.
        options.localIDsPerReservation = 64
        group = Members(seed: seed, options: options)
        try group.addNodes(Self.nodes)
    }

    mutating func random(_ range: Range<Int>) -> Int { Int.random(in: range, using: &group.random) }

    mutating func step() throws {
        let member = random(0..<3)
        group.clock.advance(by: UInt64(random(0..<200)) * 1_000_000)
        beat(member, but: random(0..<2 * Self.nodes))
        switch random(0..<19) {
        case 0: lead(member)
        case 1, 2, 3, 4: try allocate(by: member)
        case 5, 6, 7, 8: count(group.apply(member, atMost: random(1..<6)))
        case 9, 10: report(to: member)
        case 11: try propose(state: member)
        case 12: try delete(by: member)
        case 13: try confirm(by: member)
        case 14: try name(by: member)
        case 15, 16: try repair(by: member)
        case 17: try operate(by: member)
        default:
            if random(0..<4) == 0 {
                try group.restart(member)
                lead(member)
            } else {
                try group.installSnapshot(on: member, from: random(0..<3))
            }
        }
    }

    /// Nodes without news; one of them may be silent.
    private func beat(_ member: Int, but silent: Int) {
        for number in 0..<Self.nodes where number != silent {
            _ = group.members[member].memory.withState { state, now in
                state.heard(
                    Members.address(number).id, volumes: [Members.volume], replicas: [],
                    isFull: false, store: 100 + UInt64(number), epoch: 1 + UInt64(number), at: now)
            }
        }
    }

    private mutating func count(_ answers: [SCMAnswer]) {
        for case .refused in answers { refused += 1 }
    }

    private mutating func lead(_ member: Int) {
        term += 1
        let term = term
        group.members[member].memory.withState { state, now in
            state.leaveSafeMode()
            state.lead(in: term, at: now)
        }
    }

    private mutating func allocate(by member: Int) throws {
        let text = random(0..<3) == 0 ? "xor-2-1-1024k" : "rs-3-2-1024k"
        var groups: [BlockGroup] = []
        // As often as a proposer that is not disturbed; others come between now and then.
        for _ in 0..<random(1..<6) where groups.isEmpty {
            groups = try group.allocate(text, count: random(1..<100), by: member) ?? []
            if groups.isEmpty { count(group.apply(member)) }
        }
        given += groups.count
        for group in groups {
            let isNew = localIDs.insert(group.blockID.localID).inserted
            #expect(isNew, "local ID \(group.blockID.localID) was given out twice")
        }
        blocks = (blocks + groups.prefix(2).map(\.blockID)).suffix(50)
    }

    /// A datanode reports replicas of containers that the member knows to be on it.
    private mutating func report(to member: Int) {
        let number = random(0..<Self.nodes)
        let id = Members.address(number).id
        let state = group.state(of: member)
        let kinds: [SCMReplicaState] = [.open, .open, .closing, .closed, .closed, .lost, .none]
        var replicas: [SCMReplicaReport] = []
        for container in state.containers.values.sorted(by: { $0.id < $1.id })
        where container.nodes.contains(id) && random(0..<3) > 0 {
            var replica = SCMReplicaReport()
            replica.container = container.id.rawValue
            replica.state = kinds[random(0..<kinds.count)]
            replica.blocks = UInt64(random(0..<2))
            replicas.append(replica)
        }
        if random(0..<4) == 0 {
            group.register(number, with: member, replicas: replicas)
        } else {
            _ = group.members[member].memory.withState { state, now in
                state.heard(
                    id, volumes: [Members.volume], replicas: replicas, isFull: false,
                    store: 100 + UInt64(number), epoch: 1 + UInt64(number), at: now)
            }
        }
        _ = group.members[member].memory.withState { state, now in state.commands(for: id, at: now)
        }
    }

    private mutating func propose(state member: Int) throws {
        let commands = group.members[member].memory.withState { state, now in
            state.dueStateChanges(at: now) + [state.dueWitnesses()].compactMap { $0 }
        }
        for command in commands { try group.propose(command, by: member) }
    }

    private mutating func delete(by member: Int) throws {
        guard !blocks.isEmpty else { return }
        var change = SCMCommand.DeleteBlocks()
        change.blocks = (0..<random(1..<5)).map { _ in blocks[random(0..<blocks.count)].message }
        try group.propose(SCMCommand(.deleteBlocks(change)), by: member)
    }

    private mutating func confirm(by member: Int) throws {
        let known = group.state(of: member).deletions.all.keys.sorted()
        guard !known.isEmpty else { return }
        var change = SCMCommand.DeletedOn()
        change.node = Members.address(random(0..<Self.nodes)).id.message
        change.transactions = (0..<random(1..<8)).map { _ in known[random(0..<known.count)] }
        try group.propose(SCMCommand(.deletedOn(change)), by: member)
    }

    /// Repairs begin and end; now and then of what is not so.
    private mutating func repair(by member: Int) throws {
        let containers = group.state(of: member).containers.values.sorted { $0.id < $1.id }
        var starts = SCMCommand.StartRepairs()
        var ends = SCMCommand.EndRepairs()
        for container in containers where random(0..<3) == 0 {
            let place = random(0..<container.nodes.count)
            var start = SCMCommand.StartRepairs.Start()
            start.container = container.id.rawValue
            start.replicaIndex = UInt32(place + 1)
            if let from = container.nodes[place], random(0..<8) > 0 { start.from = from.message }
            let target = random(0..<Self.nodes)
            start.to = Members.address(target).message
            start.store = 100 + UInt64(target)
            start.reason = [.rebuild, .drain, .balance][random(0..<3)]
            starts.starts.append(start)
            for repair in container.repairs where random(0..<2) == 0 {
                var end = SCMCommand.EndRepairs.End()
                end.container = container.id.rawValue
                end.replicaIndex = UInt32(repair.index)
                end.token = repair.token + UInt64(random(0..<8) / 7)
                end.isGivenUp = random(0..<3) == 0
                ends.ends.append(end)
            }
        }
        repaired += containers.reduce(0) { $0 + $1.orders.count { $0 > 0 } }
        if !starts.starts.isEmpty {
            try group.propose(SCMCommand(.startRepairs(starts)), by: member)
        }
        if !ends.ends.isEmpty { try group.propose(SCMCommand(.endRepairs(ends)), by: member) }
    }

    /// Datanodes leave service and come back; now and then they are not as they are said to be.
    private mutating func operate(by member: Int) throws {
        let known = group.state(of: member).operations
        out += known.count
        let states: [SCMOperationalState] = [
            .inService, .inService, .inService, .decommissioning, .enteringMaintenance,
        ]
        var change = SCMCommand.Operate()
        for _ in 0..<random(1..<4) {
            let id = Members.address(random(0..<Self.nodes)).id
            var each = SCMCommand.Operate.Change()
            each.operation.node = id.message
            each.operation.state = states[random(0..<states.count)]
            each.from = random(0..<8) == 0 ? .decommissioned : known[id]?.state ?? .inService
            change.changes.append(each)
        }
        try group.propose(SCMCommand(.operate(change)), by: member)
    }

    private mutating func name(by member: Int) throws {
        if random(0..<2) == 0 {
            var change = SCMCommand.Cluster()
            change.id = ClusterID.random(using: &group.random).message
            try group.propose(SCMCommand(.cluster(change)), by: member)
        } else {
            let number = random(0..<Self.nodes)
            var change = SCMCommand.Node()
            change.address = Members.address(number, port: 2000 + random(0..<3)).message
            try group.propose(SCMCommand(.node(change)), by: member)
        }
    }

    /// All have applied everything: tables and memories are the same, and the same as ones made
    /// anew.
    mutating func converge() throws {
        for member in 0..<3 { count(group.apply(member)) }
        let first = Followed(group.state(of: 0))
        for member in 0..<3 {
            let tables = group.members[member].tables
            for table in SCMTable.all {
                let isSame =
                    tables.entries(table, prefix: [], limit: .max).map { [$0.key, $0.value] }
                    == group.members[0].tables.entries(table, prefix: [], limit: .max)
                    .map { [$0.key, $0.value] }
                #expect(isSame, "\(table) of member \(member) is another one")
            }
            let state = group.state(of: member)
            #expect(Followed(state) == first, "member \(member) has another memory than 0")
            let read = try SCMState(options: .init(), reading: tables, at: group.clock.now)
            #expect(Followed(read) == Followed(state), "member \(member): its tables say otherwise")
        }
    }
}

@Suite("SCM's memory follows its log")
struct FollowingTests {
    @Test(
        "members that all propose, restart and get snapshots come to one state, as their tables say"
    )
    func walks() throws {
        var given = 0
        var refused = 0
        var repaired = 0
        var out = 0
        for seed in 1...60 as ClosedRange<UInt64> {
            var walk = try Walk(seed: seed)
            for step in 0..<400 {
                try walk.step()
                if step % 100 == 99 { try walk.converge() }
            }
            given += walk.given
            refused += walk.refused
            repaired += walk.repaired
            out += walk.out
        }
        // The walks go where they are meant to.
        #expect(given > 5000, "\(given) groups")
        #expect(refused > 100, "\(refused) refusals")
        #expect(repaired > 300, "\(repaired) replicas seen that were rebuilt")
        #expect(out > 300, "\(out) datanodes seen out of service")
    }

    @Test(
        "a leader that comes back gives out no number of a range it or another had reserved before")
    func comesBack() throws {
        var options = SCMState.Options()
        options.localIDsPerReservation = 150
        var group = Members(options: options)
        try group.addNodes(5)
        var seen: Set<UInt64> = []
        func give(_ times: Int, by member: Int, in term: UInt64) throws -> [UInt64] {
            group.members[member].memory.withState { state, now in state.lead(in: term, at: now) }
            var given: [UInt64] = []
            var rounds = 0
            while given.count < times * 100 {
                rounds += 1
                try #require(rounds < 100)
                for other in 0..<3 { group.apply(other) }
                let groups = try group.allocate(count: 100, by: member) ?? []
                given += groups.map(\.blockID.localID)
            }
            for id in given { #expect(seen.insert(id).inserted, "\(id) was given out twice") }
            return given
        }
        let first = try give(1, by: 0, in: 2)
        let second = try give(1, by: 1, in: 3)
        #expect(first == Array(1...100) && second == Array(251...350))
        // Above all that was reserved, and on beyond what this one had and what the other one has.
        let third = try give(6, by: 0, in: 4)
        #expect(third.min() == 501)
        // One that was deposed without knowing uses up what it owns, and then asks for more.
        let fourth = try give(6, by: 1, in: 3)
        #expect(fourth.min() == 351)
        _ = try give(6, by: 2, in: 5)
        #expect(seen.count == 2000)
    }

    @Test(
        "two reservations from the same number: the second is refused, and its member decides anew")
    func racingReservations() throws {
        var group = Members()
        try group.addNodes(5)
        for member in 0..<2 {
            group.members[member].memory.withState { state, now in
                state.lead(in: UInt64(member + 2), at: now)
            }
        }
        // Containers first.
        while group.state(of: 0).openByReplication.values.first?.count != 3 {
            _ = try group.allocate(by: 0)
            for member in 0..<3 { group.apply(member) }
        }
        // Both decide before either's entry is applied.
        for member in 0..<2 { #expect(try group.allocate(by: member) == nil) }
        #expect(group.apply(0).last == .changed([.localIDs(until: 100_002)]))
        #expect(
            group.apply(1).last == .refused(.localIDsAreReserved(until: 100_002)))
        #expect(try group.allocate(by: 0)?.first?.blockID.localID == 1)
        #expect(try group.allocate(by: 1) == nil, "it has none of its own")
        #expect(group.apply(1).last == .changed([.localIDs(until: 200_003)]))
        #expect(try group.allocate(by: 1)?.first?.blockID.localID == 100_002)
    }

    @Test("a snapshot takes the place of the tables, and nothing of what was heard")
    func snapshot() throws {
        var group = Members()
        try group.addNodes(5)
        group.members[0].memory.withState { state, now in state.lead(in: 1, at: now) }
        while try group.allocate(by: 0) == nil { group.apply(0) }
        group.apply(1)
        let open = try #require(group.state(of: 1).containers.keys.min())
        var replica = SCMReplicaReport()
        replica.container = open.rawValue
        let node = try #require(group.state(of: 1).containers[open]?.nodes[0])
        let number = try #require((0..<5).first { Members.address($0).id == node })
        group.register(number, with: 1, replicas: [replica])
        group.members[1].memory.withState { state, _ in state.markCorrupt(open, index: 2) }
        let before = group.state(of: 1)
        // What member 1 gets with the snapshot alone: a closing, a datanode, and a container.
        var change = SCMCommand.ContainerStateChange()
        change.id = open.rawValue
        change.from = .containerOpen
        change.state = .containerClosing
        _ = try group.run(SCMCommand(.containerState(change)))
        var newcomer = SCMCommand.Node()
        newcomer.address = Members.address(8).message
        group.register(8, with: 1)
        _ = try group.run(SCMCommand(.node(newcomer)))
        try group.installSnapshot(on: 1, from: 0)
        let after = group.state(of: 1)
        #expect(Followed(after) == Followed(group.state(of: 0)))
        #expect(after.containers[open]?.state == .containerClosing)
        #expect(after.containers[open]?.corrupt == [2])
        #expect(after.unlogged == [open: [1]])
        #expect(after.nodes[node]?.replicas == before.nodes[node]?.replicas)
        #expect(after.isInSafeMode == before.isInSafeMode && after.run == before.run)
        #expect(after.state(of: Members.address(8).id, at: group.clock.now) == .healthy)
        // Watchers hear of the closing as if it had been applied.
        var question = SCMClosingsRequest()
        question.watcher = Identity128(high: 0, low: 5).message
        question.term = after.run
        let news = group.members[1].memory.withState { state, now in
            state.closings(question, at: now)
        }
        #expect(news.containers == [open.rawValue] && !news.isIncomplete)
    }
}
