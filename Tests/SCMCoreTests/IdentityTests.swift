import Model
import Testing
import Wire

@testable import SCMCore

@Suite("two datanodes with one identity")
struct IdentityTests {
    @Test("the second is refused while the first is heard of, and not for longer")
    func conflict() throws {
        var rig = try RepairRig(nodes: 3)
        rig.tick()
        var copy = rig.address(1)
        copy.port = 4000
        let error = try #require(rig.state.identityConflict(of: copy, at: rig.now))
        #expect(error.code == .conflict && error.message.contains("127.0.0.1:1001"))
        #expect(rig.state.identityConflict(of: rig.address(1), at: rig.now) == nil, "the same")
        // Moved to another rack it is the same one.
        var moved = rig.address(1)
        moved.rack = "/elsewhere"
        #expect(rig.state.identityConflict(of: moved, at: rig.now) == nil)
        rig.nodes[1].isUp = false
        rig.tick(4)
        #expect(rig.state.identityConflict(of: copy, at: rig.now) != nil)
        rig.tick(2)
        #expect(rig.state.identityConflict(of: copy, at: rig.now) == nil, "the first is gone")
        // From then on that is the one, and the other is refused.
        let isTaken = rig.state.registered(
            copy, volumes: rig.volumes(of: 1), replicas: [], store: 100, epoch: 1, at: rig.now)
        #expect(isTaken)
        #expect(rig.state.identityConflict(of: rig.address(1), at: rig.now) != nil)
        // Nobody is known of after a start.
        try rig.changeLeader()
        rig.nodes[1].isRegistered = false
        #expect(rig.state.identityConflict(of: copy, at: rig.now) == nil)
    }
}

@Suite("replicas of containers that are in no table")
struct UnknownReplicaTests {
    @Test("they are counted and left alone, until they are gone or their container is known")
    func counted() throws {
        var rig = try RepairRig(nodes: 6)
        _ = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.put(RepairRig.report(ContainerID(70), 2), on: 3)
        rig.put(RepairRig.report(ContainerID(71), 3), on: 3)
        rig.tick(5)
        func count() -> UInt64 {
            var request = SCMStatusRequest()
            request.nodes = true
            return rig.state.report(request, at: rig.now).nodes.reduce(0) {
                $0 + $1.unknownReplicas
            }
        }
        #expect(count() == 2 && rig.nodes[3].removed.isEmpty)
        // Another leader has heard of them as well.
        try rig.changeLeader()
        #expect(count() == 2)
        rig.nodes[3].replicas[ContainerID(71)] = nil
        rig.nodes[3].news[ContainerID(71)] = RepairRig.report(ContainerID(71), 0, .none)
        rig.tick()
        #expect(count() == 1)
        // This member was late: its row comes.
        _ = try rig.addContainer(70, on: [0, 3, 2, 1, 4])
        rig.tick()
        #expect(count() == 0)
    }
}
