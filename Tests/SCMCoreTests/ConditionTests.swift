import Model
import Testing
import Wire

@testable import SCMCore

/// A command as programs of before wrote it: carried out whatever is there.
private func old(_ command: SCMCommand.OneOf_Command) -> SCMCommand {
    var old = SCMCommand()
    old.command = command
    return old
}

private func creation(_ id: UInt64, _ text: String = "rs-3-2-1024k", first: Int = 0) throws
    -> SCMCommand.CreateContainer
{
    let replication = try ReplicationConfig(text)
    var change = SCMCommand.CreateContainer()
    change.id = id
    change.pipeline = id
    change.replication = replication.message
    change.nodes = (0..<replication.width).map { Members.address(first + $0).message }
    return change
}

private func change(
    _ id: UInt64, from: SCMContainerState, to: SCMContainerState, empty: [UInt32] = []
) -> SCMCommand.ContainerStateChange {
    var change = SCMCommand.ContainerStateChange()
    change.id = id
    change.from = from
    change.state = to
    change.emptyIndexes = empty
    return change
}

@Suite("commands are refused where what they were decided from does not hold")
struct ConditionTests {
    @Test("no container is made over another")
    func containers() throws {
        var group = Members()
        try group.addNodes(8)
        let first = try group.run(SCMCommand(.createContainer(try creation(1))))
        guard case .changed = first else {
            Issue.record("refused: \(first)")
            return
        }
        let row = group.members[0].tables.get(SCMTable.containers, SCMTable.key(1))
        let before = Followed(group.state(of: 0))
        let second = try group.run(SCMCommand(.createContainer(try creation(1, first: 2))))
        #expect(second == .refused(.containerExists(ContainerID(1))))
        #expect(group.members[0].tables.get(SCMTable.containers, SCMTable.key(1)) == row)
        #expect(Followed(group.state(of: 0)) == before)
        // A log of before means what it meant.
        _ = try group.run(old(.createContainer(try creation(1, first: 2))))
        #expect(
            group.state(of: 0).containers[ContainerID(1)]?.nodes.first == Members.address(2).id)
    }

    @Test("a container's state changes only from the state that the change was decided from")
    func states() throws {
        var group = Members()
        try group.addNodes(5)
        _ = try group.run(SCMCommand(.createContainer(try creation(1))))
        func run(_ change: SCMCommand.ContainerStateChange) throws -> SCMAnswer {
            try group.run(SCMCommand(.containerState(change)))
        }
        func isChanged(_ answer: SCMAnswer) -> Bool {
            if case .changed = answer { true } else { false }
        }
        let missing = try run(change(9, from: .containerOpen, to: .containerClosing))
        #expect(missing == .refused(.noSuchContainer(ContainerID(9))))
        let early = try run(change(1, from: .containerClosing, to: .containerClosed))
        #expect(early == .refused(.containerIs(ContainerID(1), .containerOpen)))
        #expect(isChanged(try run(change(1, from: .containerOpen, to: .containerClosing))))
        // Two leaders close it; the second has no say in what the first has gone on to.
        #expect(isChanged(try run(change(1, from: .containerClosing, to: .containerClosed))))
        let late = try run(change(1, from: .containerOpen, to: .containerClosing))
        #expect(late == .refused(.containerIs(ContainerID(1), .containerClosed)))
        #expect(group.state(of: 0).containers[ContainerID(1)]?.state == .containerClosed)
        _ = try group.run(
            old(.containerState(change(1, from: .containerOpen, to: .containerClosing))))
        #expect(group.state(of: 0).containers[ContainerID(1)]?.state == .containerClosing)
    }

    @Test("an index that was witnessed meanwhile is not noted as empty")
    func empty() throws {
        var group = Members()
        try group.addNodes(5)
        _ = try group.run(SCMCommand(.createContainer(try creation(1))))
        _ = try group.run(
            SCMCommand(.containerState(change(1, from: .containerOpen, to: .containerClosing))))
        var replicas = SCMCommand.Witnessed.Replicas()
        replicas.container = 1
        replicas.indexes = [2]
        var witnessed = SCMCommand.Witnessed()
        witnessed.containers = [replicas]
        _ = try group.run(SCMCommand(.witnessed(witnessed)))
        let again = try group.run(SCMCommand(.witnessed(witnessed)))
        #expect(again == .changed([]), "it is known")
        let wrong = try group.run(
            SCMCommand(
                .containerState(
                    change(1, from: .containerClosing, to: .containerClosed, empty: [2, 3]))))
        #expect(wrong == .refused(.wasWitnessed(ContainerID(1))))
        _ = try group.run(
            SCMCommand(
                .containerState(
                    change(1, from: .containerClosing, to: .containerClosed, empty: [3]))))
        #expect(group.state(of: 0).containers[ContainerID(1)]?.empty == [3])
    }

    @Test("numbers are reserved upwards, from where the last reservation ended")
    func numbers() throws {
        var group = Members()
        func reserve(_ from: UInt64, _ until: UInt64) throws -> SCMAnswer {
            var change = SCMCommand.ReserveNumbers()
            change.localIdsFrom = from
            change.localIdsUntil = until
            return try group.run(SCMCommand(.reserveNumbers(change)))
        }
        #expect(try reserve(1, 100) == .changed([.localIDs(until: 100)]))
        #expect(try reserve(1, 200) == .refused(.localIDsAreReserved(until: 100)))
        #expect(try reserve(100, 100) == .refused(.localIDsAreReserved(until: 100)))
        #expect(try reserve(100, 50) == .refused(.localIDsAreReserved(until: 100)))
        #expect(try reserve(100, 150) == .changed([.localIDs(until: 150)]))
        #expect(group.state(of: 0).reservedLocalIDs == 150)
        // Of before: what it says, and none that this member owns.
        var change = SCMCommand.ReserveNumbers()
        change.localIdsUntil = 400
        let before = group.state(of: 0).ownLocalIDs
        _ = try group.run(old(.reserveNumbers(change)))
        #expect(group.state(of: 0).reservedLocalIDs == 400)
        #expect(group.state(of: 0).ownLocalIDs == before)
    }

    @Test("a confirmation counts once, and the cluster is named once")
    func idempotent() throws {
        var group = Members()
        try group.addNodes(5)
        _ = try group.run(SCMCommand(.createContainer(try creation(1))))
        var deletion = SCMCommand.DeleteBlocks()
        deletion.blocks = [BlockID(containerID: ContainerID(1), localID: 7).message]
        let answer = try group.run(SCMCommand(.deleteBlocks(deletion)))
        guard case .deletion(let number, let record?)? = answer.rows.first else {
            Issue.record("no deletion: \(answer)")
            return
        }
        #expect(record.waiting.count == 5)
        var confirmation = SCMCommand.DeletedOn()
        confirmation.node = Members.address(0).id.message
        confirmation.transactions = [number, number, 999]
        let confirmed = try group.run(SCMCommand(.deletedOn(confirmation)))
        #expect(confirmed.rows.count == 1)
        #expect(try group.run(SCMCommand(.deletedOn(confirmation))) == .changed([]))
        #expect(group.state(of: 0).deletions.count(of: Members.address(0).id) == 0)
        var name = SCMCommand.Cluster()
        name.id = ClusterID(high: 1, low: 1).message
        _ = try group.run(SCMCommand(.cluster(name)))
        name.id = ClusterID(high: 2, low: 2).message
        #expect(try group.run(SCMCommand(.cluster(name))) == .refused(.isNamed))
        #expect(group.state(of: 0).cluster == ClusterID(high: 1, low: 1))
    }

    @Test("a command of a later version is refused with its number, and so are tables of one")
    func versions() throws {
        let machine = SCMStateMachine()
        var later = SCMCommand(.createContainer(try creation(1)))
        later.version = 2
        let error = #expect(throws: StoreError.self) {
            try machine.decode(machine.encode(later))
        }
        #expect(error?.code == .versionMismatch && error?.message.contains("version 2") == true)
        #expect(machine.format == TablesFormat(current: 4, oldest: 1))
    }
}
