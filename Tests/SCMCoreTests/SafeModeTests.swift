import Model
import Testing
import Wire

@testable import SCMCore

private let second: UInt64 = 1_000_000_000

@Suite("safe mode")
struct SafeModeTests {
    /// A group whose member 0 has open containers and nodes that hold replicas of them.
    private func group(nodes: Int = 5, options: SCMState.Options = .init()) throws -> Members {
        var group = Members(options: options)
        try group.addNodes(nodes)
        group.members[0].memory.withState { state, now in state.lead(in: 1, at: now) }
        while try group.allocate(by: 0) == nil { group.apply(0) }
        return group
    }

    /// What a node reports: an open replica of each container that is on it.
    private func replicas(_ number: Int, in state: SCMState) -> [SCMReplicaReport] {
        state.containers.values.compactMap { container in
            guard let place = container.nodes.firstIndex(of: Members.address(number).id) else {
                return nil
            }
            var replica = SCMReplicaReport()
            replica.container = container.id.rawValue
            replica.replicaIndex = UInt32(place + 1)
            return replica
        }
    }

    /// Registers a node and looks, as the watch does. Returns what is to be changed.
    private func arrive(_ number: Int, in group: Members, at member: Int = 0) -> [SCMCommand] {
        let replicas = replicas(number, in: group.state(of: member))
        group.register(number, with: member, replicas: replicas)
        return look(group, member)
    }

    private func look(_ group: Members, _ member: Int = 0) -> [SCMCommand] {
        group.members[member].memory.withState { state, now in
            state.noteTime(now)
            state.updateSafeMode(at: now)
            return state.dueStateChanges(at: now)
        }
    }

    private func openContainers(_ group: Members, _ member: Int = 0) -> Int {
        group.state(of: member).openByReplication.values.map(\.count).reduce(0, +)
    }

    @Test("datanodes that come one by one after a restart find their open containers open")
    func restart() throws {
        var group = try group()
        for number in 0..<5 {
            let changes = arrive(number, in: group)
            #expect(changes.isEmpty)
        }
        while let command = group.members[0].memory.withState({ state, _ in state.dueWitnesses() })
        {
            _ = try group.run(command)
        }
        #expect(openContainers(group) == 3)
        try group.restart(0)
        #expect(look(group).isEmpty)
        for number in 0..<4 {
            group.clock.advance(by: second)
            let changes = arrive(number, in: group)
            #expect(changes.isEmpty, "with \(number + 1) of 5 datanodes: \(changes)")
            #expect(group.state(of: 0).isInSafeMode)
        }
        group.clock.advance(by: second)
        let changes = arrive(4, in: group)
        #expect(changes.isEmpty && !group.state(of: 0).isInSafeMode)
        #expect(openContainers(group) == 3)
        // Blocks are given out in them again.
        group.members[0].memory.withState { state, now in state.lead(in: 2, at: now) }
        while true {
            if let groups = try group.allocate(by: 0) {
                #expect(groups[0].blockID.containerID.rawValue <= 3)
                break
            }
            group.apply(0)
        }
        #expect(group.state(of: 0).containers.count == 3)
    }

    @Test("a node that stays away is dead after a while, as if it had been heard of before")
    func absent() throws {
        var group = try group()
        try group.restart(0)
        for number in 0..<4 {
            let changes = arrive(number, in: group)
            #expect(changes.isEmpty)
        }
        let reason = group.members[0].memory.withState { state, now in
            state.safeModeReason(at: now)
        }
        #expect(reason?.contains("0 of 3 open containers") == true, "\(reason ?? "")")
        for _ in 0..<15 {
            group.clock.advance(by: second)
            for number in 0..<4 { _ = beat(number, group) }
            #expect(look(group).isEmpty)
        }
        group.clock.advance(by: second)
        for number in 0..<4 { _ = beat(number, group) }
        let changes = look(group)
        #expect(!group.state(of: 0).isInSafeMode)
        #expect(changes.count == 3, "containers with a dead node take no more blocks")
    }

    private func beat(_ number: Int, _ group: Members) -> Bool {
        group.members[0].memory.withState { state, now in
            state.heard(
                Members.address(number).id, volumes: [Members.volume], replicas: [],
                isFull: false, store: 100 + UInt64(number), epoch: 1 + UInt64(number), at: now)
        }
    }

    @Test("time in which SCM itself stood still is no time in which it listened")
    func standstill() throws {
        var group = try group()
        try group.restart(0)
        for number in 0..<4 { #expect(arrive(number, in: group).isEmpty) }
        group.clock.advance(by: 100 * second)
        #expect(look(group).isEmpty)
        #expect(group.state(of: 0).isInSafeMode, "the fifth could not be heard of")
    }

    @Test("a follower that has listened is out of it when it begins to lead")
    func follower() throws {
        let group = try group()
        // Member 1 has applied the same and heard the same, while member 0 led.
        var followed = group
        followed.apply(1)
        for number in 0..<5 {
            let replicas = replicas(number, in: followed.state(of: 1))
            followed.register(number, with: 1, replicas: replicas)
        }
        _ = look(followed, 1)
        #expect(!followed.state(of: 1).isInSafeMode)
        followed.members[1].memory.withState { state, now in state.lead(in: 2, at: now) }
        var rounds = 0
        while try followed.allocate(by: 1) == nil {
            followed.apply(1)
            rounds += 1
            try #require(rounds < 10)
        }
        #expect(openContainers(followed, 1) == 3)
    }

    @Test("as many datanodes as are configured, and enough replicas of what is closed")
    func others() throws {
        var options = SCMState.Options()
        options.minimumDatanodes = 4
        var group = try group(options: options)
        var closing = SCMCommand.ContainerStateChange()
        for (from, to) in [
            (SCMContainerState.containerOpen, SCMContainerState.containerClosing),
            (.containerClosing, .containerClosed),
        ] {
            closing.id = 1
            closing.from = from
            closing.state = to
            _ = try group.run(SCMCommand(.containerState(closing)))
        }
        try group.restart(0)
        func reason() -> String? {
            group.members[0].memory.withState { state, now in state.safeModeReason(at: now) }
        }
        for number in 0..<3 { _ = arrive(number, in: group) }
        #expect(reason() == "3 of at least 4 datanodes have registered")
        // Without replicas of the closed container.
        for number in 3..<5 { group.register(number, with: 0) }
        #expect(reason() == nil)
        // A node that may have some is not heard of; then all have come without.
        try group.restart(0)
        for number in 0..<4 { group.register(number, with: 0) }
        #expect(reason() == "0 of 1 containers have enough replicas reported")
        group.register(4, with: 0)
        #expect(reason() == nil, "nobody is waited for")
    }

    @Test(
        "what a datanode says to a member that has not applied its registration counts once it has")
    func newcomer() throws {
        var group = try group()
        let newcomer = 5
        var change = SCMCommand.Node()
        change.address = Members.address(newcomer).message
        try group.propose(SCMCommand(.node(change)), by: 0)
        group.apply(1, atMost: group.log.count - 1 - group.members[1].applied)
        group.register(newcomer, with: 1)
        let id = Members.address(newcomer).id
        #expect(group.state(of: 1).nodes[id] == nil)
        let isHeard = group.members[1].memory.withState { state, now in
            state.heard(
                id, volumes: [Members.volume], replicas: [], isFull: false,
                store: 100 + UInt64(newcomer), epoch: 9, at: now)
        }
        #expect(isHeard)
        group.apply(1)
        #expect(group.state(of: 1).nodes[id]?.epoch == 9)
        #expect(group.state(of: 1).state(of: id, at: group.clock.now) == .healthy)
        // Not for ever many.
        let isTaken = group.members[1].memory.withState { state, now in
            (0..<2000).count { number in
                state.registered(
                    Members.address(100 + number), volumes: [], replicas: [], at: now)
            }
        }
        #expect(isTaken == SCMState.Limits.newcomers)
    }

    @Test("what all nodes have lost that could have it is not waited for; what may yet come is")
    func lost() throws {
        var rig = try RepairRig(nodes: 5)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(2)
        for number in 0..<5 { rig.nodes[number].replicas[id] = nil }
        rig.state = try SCMState(
            options: rig.state.options, reading: rig.tables, run: 2, at: rig.now)
        for number in 0..<5 {
            #expect(rig.state.safeModeReason(at: rig.now) != nil, "\(number) nodes")
            rig.nodes[number].isRegistered = false
            rig.beat(number)
        }
        #expect(rig.state.safeModeReason(at: rig.now) == nil)
        // A node that falls silent may have been moved with all that it has.
        rig.nodes[2].isUp = false
        rig.tick(20)
        #expect(rig.state.safeModeReason(at: rig.now)?.contains("0 of 1 containers") == true)
    }
}
