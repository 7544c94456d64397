import Model
import Testing
import Wire

@testable import SCMCore

private let second: UInt64 = 1_000_000_000

/// Containers of whole copies: SCM gives none out, and lives with those that its tables or its log
/// may hold.
@Suite("containers of copies in SCM's state")
struct CopiesTests {
    private struct NoChoice: RandomNumberGenerator {
        mutating func next() -> UInt64 { 7 }
    }

    private let now = second
    private let three = ReplicationConfig.replicated(.three)

    private func id(_ number: Int) -> DatanodeID { DatanodeID(high: 7, low: UInt64(number)) }

    private func address(_ number: Int) -> WireAddress {
        DatanodeAddress(id: id(number), host: "h\(number)", port: 1000 + number).message
    }

    private func creation(_ places: Int = 3) -> SCMCommand {
        var command = SCMCommand()
        command.createContainer.id = 1
        command.createContainer.pipeline = 1
        command.createContainer.replication = three.message
        command.createContainer.nodes = (0..<places).map { address($0) }
        command.createContainer.stores = (0..<places).map { 100 + UInt64($0) }
        return command
    }

    /// What `commands` make of empty tables, with five nodes of which nothing was heard.
    private func tables(_ commands: [SCMCommand]) -> InMemoryTables {
        let tables = InMemoryTables()
        let nodes = (0..<5).map { number in
            var command = SCMCommand()
            command.node.address = address(number)
            return command
        }
        for (place, command) in (nodes + commands).enumerated() {
            _ = SCMStateMachine().apply(command, at: UInt64(place + 1), in: tables)
        }
        return tables
    }

    @Test("after a recovery numbers that lost members may have given are left out")
    func recovered() throws {
        let tables = tables([creation()])
        SCMStateMachine().recovered(in: tables)
        let state = try SCMState(options: .init(), reading: tables)
        #expect(state.nextContainerID == 2 + SCMStateMachine.Limits.lostContainers)
        #expect(state.reservedLocalIDs == 1 + SCMStateMachine.Limits.lostLocalIDs)
        // It may be run again after a crash, or happen twice.
        SCMStateMachine().recovered(in: tables)
        let again = try SCMState(options: .init(), reading: tables)
        #expect(again.nextContainerID > state.nextContainerID)
        #expect(again.reservedLocalIDs > state.reservedLocalIDs)
    }

    private func register(
        _ state: inout SCMState, _ number: Int, _ replica: SCMReplicaState?, blocks: UInt64 = 1
    ) {
        var volume = DNVolume()
        volume.capacity = 1 << 40
        volume.available = 1 << 39
        var report = SCMReplicaReport()
        report.container = 1
        report.replicaIndex = UInt32(number + 1)
        report.replication = three.message
        report.state = replica ?? .none
        report.blocks = blocks
        let own = DatanodeAddress(id: id(number), host: "h\(number)", port: 1000 + number)
        _ = state.registered(
            own, volumes: [volume], replicas: replica == nil ? [] : [report],
            store: 100 + UInt64(number), epoch: 1 + UInt64(number), at: now)
    }

    private func container(_ state: SCMState) -> SCMContainerInfo {
        var request = SCMStatusRequest()
        request.containers = true
        request.pipelines = true
        return state.report(request, at: now).containers[0]
    }

    @Test("no group of copies is given out, nor said to be placeable; nothing is logged for it")
    func allocation() throws {
        var state = try SCMState(options: .init(), reading: tables([]))
        for number in 0..<5 { register(&state, number, nil) }
        state.leaveSafeMode()
        var random = NoChoice()
        for factor in ReplicationConfig.Factor.allCases {
            for count in [0, 1, 5000] {
                let allocation = state.allocate(
                    .replicated(factor), count: count, at: now, using: &random)
                guard case .refused(let error) = allocation else {
                    Issue.record("\(factor), \(count): \(allocation)")
                    continue
                }
                #expect(error.code == .unsupported && error.message.contains("Ratis pipelines"))
            }
        }
    }

    @Test("a container of copies from the tables is shown, and is lost only with its last copy")
    func stored() throws {
        var closed = SCMCommand()
        closed.containerState.id = 1
        closed.containerState.state = .containerClosed
        var state = try SCMState(options: .init(), reading: tables([creation(), closed]))
        #expect(state.containers[ContainerID(1)]?.replication == three)
        for number in 2..<5 { register(&state, number, number == 2 ? .closed : nil) }
        // One copy of three is all that reading needs.
        #expect(state.safeModeReason(at: now) == nil)
        let info = container(state)
        #expect(try ReplicationConfig(info.replication) == three && info.replicas.count == 3)
        #expect(info.missingIndexes == [1, 2])
    }

    @Test("without a copy heard of safe mode stays, as with a stripe of which too little is there")
    func safeMode() throws {
        var closed = SCMCommand()
        closed.containerState.id = 1
        closed.containerState.state = .containerClosed
        var state = try SCMState(options: .init(), reading: tables([creation(), closed]))
        for number in 2..<5 { register(&state, number, nil) }
        #expect(state.safeModeReason(at: now)?.contains("0 of 1 containers") == true)
    }

    @Test("an empty closed container of copies is removed: any copy tells that no block is there")
    func emptied() throws {
        var closed = SCMCommand()
        closed.containerState.id = 1
        closed.containerState.state = .containerClosed
        var state = try SCMState(options: .init(), reading: tables([creation(), closed]))
        for number in 0..<5 { register(&state, number, number == 1 ? .closed : nil, blocks: 0) }
        state.leaveSafeMode()
        let due = state.dueStateChanges(at: now)
        #expect(due.map(\.containerState.state) == [.containerDeleting])
    }

    @Test("a logged container with places for another replication is refused where it is read")
    func logged() throws {
        let machine = SCMStateMachine()
        let good = creation()
        #expect(try machine.decode(machine.encode(good)) == good)
        var bad = [creation(5), creation(0), creation(), creation()]
        bad[2].createContainer.replication.data = 2
        bad[3].createContainer.replication.codec = .UNRECOGNIZED(9)
        for command in bad {
            let error = #expect(throws: StoreError.self) {
                try machine.decode(machine.encode(command))
            }
            #expect(error?.code == .corrupt && error?.message.contains("container 1") == true)
            // The same as a row of the tables: SCM says which, and does not start.
            let row = tables([command])
            let reading = #expect(throws: StoreError.self) {
                try SCMState(options: .init(), reading: row)
            }
            #expect(reading?.code == .corrupt)
            #expect(reading?.message.contains("table 65 at key 0000000000000001") == true)
        }
    }
}
