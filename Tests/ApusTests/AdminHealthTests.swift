import Model
import Testing
import Wire

@testable import apus

/// The worst news come first.
@Suite("Health")
struct AdminHealthTests {
    private struct Named {
        var name: String
        var health: ContainerHealth

        init(_ name: String, parity: Int = 2, missing: [UInt32] = [], corrupt: [UInt32] = []) {
            self.name = name
            health = ContainerHealth(redundancy: parity, missing: missing, corrupt: corrupt)
        }
    }

    @Test("containers are ordered by how many more replicas they may lose")
    func containers() {
        let order = [
            Named("whole"), Named("one missing", missing: [3]), Named("other whole"),
            Named("unreadable", missing: [1, 2], corrupt: [4]), Named("last", missing: [1, 2]),
            Named("one corrupt", corrupt: [2]), Named("whole without parity", parity: 0),
            Named("xor, one missing", parity: 1, missing: [1]),
        ].worstFirst(\.health).map(\.name)
        #expect(
            order == [
                "unreadable", "last", "xor, one missing", "one missing", "one corrupt", "whole",
                "other whole", "whole without parity",
            ])
    }

    @Test("a replica that is both missing and corrupt is lost once")
    func both() {
        let health = ContainerHealth(redundancy: 2, missing: [2], corrupt: [2])
        #expect(health.spare == 1)
        #expect(health.text == "missing 2 corrupt 2")
    }

    @Test("the text names the indexes, and shouts when bytes cannot be read")
    func text() {
        #expect(ContainerHealth(redundancy: 2, missing: [], corrupt: []).text == "ok")
        #expect(ContainerHealth(redundancy: 2, missing: [3, 1], corrupt: []).text == "missing 1,3")
        #expect(
            ContainerHealth(redundancy: 1, missing: [1], corrupt: [3]).text
                == "UNREADABLE: missing 1 corrupt 3")
    }

    @Test(
        "what may still be lost depends on the container's replication",
        arguments: [("rs-3-2-1024k", 1), ("ratis-3", 1), ("ratis-1", -1), ("xor-2-1-64k", 0)])
    func replications(replication: String, spare: Int) throws {
        var info = SCMContainerInfo()
        info.replication = try ReplicationConfig(replication).message
        info.missingIndexes = [1]
        #expect(ContainerHealth(info).spare == spare)
        // One that is not known may lose nothing.
        info.replication.codec = .UNRECOGNIZED(9)
        #expect(ContainerHealth(info).spare == -1)
    }

    @Test("datanodes: dead, stale, failed disks, healthy")
    func nodes() {
        let nodes = [
            NodeHealth(state: .healthy, failedVolumes: 0),
            NodeHealth(state: .healthy, failedVolumes: 2),
            NodeHealth(state: .dead, failedVolumes: 0),
            NodeHealth(state: .healthy, failedVolumes: 1),
            NodeHealth(state: .stale, failedVolumes: 0),
        ].worstFirst { $0 }
        #expect(
            nodes.map(\.failedVolumes) == [0, 0, 2, 1, 0]
                && nodes.map(\.state) == [.dead, .stale, .healthy, .healthy, .healthy])
    }
}
