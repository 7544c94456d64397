import Model
import Testing
import Wire

@testable import apus

@Suite("The page of the cluster's state")
struct StatusPageTests {
    private func node(
        _ number: Int, _ state: SCMNodeState = .healthy, failed: Bool = false,
        megabytes available: UInt64 = 500
    ) -> SCMNodeInfo {
        var node = SCMNodeInfo()
        node.address.host = "node\(number)"
        node.address.port = 9864
        node.state = state
        node.millisecondsSinceHeartbeat = state == .healthy ? 400 : 32_000
        var volume = DNVolume()
        volume.path = "/disks/1"
        volume.capacity = 1000 << 20
        volume.available = available << 20
        volume.isFailed = failed
        volume.reason = failed ? "fdatasync: Input/output error" : ""
        node.volumes = [volume]
        return node
    }

    private func container(
        _ id: UInt64, missing: [UInt32] = [], _ state: SCMContainerState = .containerOpen
    ) throws -> SCMContainerInfo {
        var container = SCMContainerInfo()
        container.id = id
        container.state = state
        container.replication = try ReplicationConfig("rs-3-2-1024k").message
        container.missingIndexes = missing
        return container
    }

    private func status(
        _ nodes: [SCMNodeInfo], _ containers: [SCMContainerInfo]
    ) -> SCMStatusResponse {
        var status = SCMStatusResponse()
        status.nodes = nodes
        status.containers = containers
        return status
    }

    @Test("five nodes, all replicas and room: well")
    func well() throws {
        let page = StatusPage(
            om: .success(1), scm: .success(status((1...5).map { node($0) }, [try container(1)])))
        #expect(page.isWell && page.findings.isEmpty)
        #expect(
            page.summary == [
                "OM answers", "datanodes: 5 healthy", "SCM answers", "containers: 1 whole",
                "space: 2.4 GiB of 4.9 GiB are free",
            ])
    }

    @Test("each thing that is wrong is named, outages first, with what to do")
    func findings() throws {
        let nodes = [
            node(1), node(2, .dead), node(3, .stale), node(4, failed: true), node(5, megabytes: 40),
        ]
        let containers = [
            try container(1, missing: [2]), try container(2, missing: [1, 2, 3], .containerClosed),
            try container(3, missing: [5], .containerDeleted),
        ]
        var all = status(nodes, containers)
        all.isInSafeMode = true
        all.safeModeReason = "1 of 3 datanodes"
        let page = StatusPage(
            om: .failure(StoreError(.connection, "connection refused")), scm: .success(all))
        #expect(!page.isWell)
        let expected: [(StatusPage.Finding.Severity, String)] = [
            (.outage, "OM: connection refused"), (.outage, "safe mode"),
            (.outage, "to read container 2"),
            (.outage, "3 datanodes are healthy and in service, and rs-3-2-1024k"),
            (.outage, "the cluster is full, nothing can be written: 1 of 3 datanodes have less"),
            (.danger, "node2:9864 is dead: silent for 32 s"), (.danger, "node3:9864 is stale"),
            (.danger, "node4:9864: /disks/1 is out: fdatasync"),
            (.danger, "node5:9864: /disks/1 is nearly full"), (.danger, "damaged of container 1;"),
        ]
        #expect(page.findings.count == expected.count)
        for (finding, (severity, text)) in zip(page.findings, expected) {
            #expect(finding.severity == severity, "\(finding)")
            #expect(finding.what.contains(text), "\(finding)")
            #expect(!finding.advice.isEmpty)
        }
    }

    @Test("datanodes without room are named; where too few are left to write to, that is an outage")
    func full() throws {
        for full in 0...5 {
            let nodes = (1...5).map { node($0, megabytes: $0 <= full ? 255 : 256) }
            let page = StatusPage(
                om: .success(1), scm: .success(status(nodes, [try container(1)])))
            let found = page.findings.first
            // One of five may be missing where there are no more: rs-3-2 is written to four.
            #expect(found?.severity == (full == 0 ? nil : full == 1 ? .danger : .outage))
            #expect(page.findings.count == min(full, 1))
            guard let found else { continue }
            #expect(found.what.contains("\(full) of 5 datanodes have less than 256.0 MiB free"))
            #expect(found.what.contains("the cluster is full") == (full > 1))
            #expect(!found.advice.isEmpty)
        }
    }

    @Test("a slow disk is named once it is avoided or should be, not while it may be chance")
    func slowDisks() throws {
        var slow = node(2)
        for (path, state) in [
            ("/disks/1", SCMSlowDisk.State.avoided), ("/disks/2", .observed), ("/disks/3", .spared),
        ] {
            var disk = SCMSlowDisk()
            disk.path = path
            disk.state = state
            disk.latency = 502_000_000
            disk.siblings = 21_000_000
            disk.millisecondsInState = 14_000
            slow.slowDisks.append(disk)
        }
        let nodes = [node(1), slow, node(3), node(4), node(5)]
        let page = StatusPage(
            om: .success(1), scm: .success(status(nodes, [try container(1)])))
        #expect(page.findings.map(\.severity) == [.danger, .danger])
        #expect(
            page.findings[0].what
                == "datanode node2:9864: a disk is slow: /disks/1: p99 502 ms, others 21 ms; for 14 s"
        )
        #expect(page.findings[0].advice.contains("nothing new is placed"))
        #expect(page.findings[1].what.contains("/disks/3"))
        #expect(page.findings[1].advice.contains("too many"))
    }

    @Test("without SCM or any datanode that is an outage; with one too few, a danger")
    func places() throws {
        let gone = StatusPage(
            om: .success(1), scm: .failure(StoreError(.connection, "connection refused")))
        #expect(gone.findings.map(\.severity) == [.outage])
        let none = StatusPage(om: .success(1), scm: .success(status([], [])))
        #expect(none.findings.map(\.what) == ["no datanode is healthy and in service"])
        let four = StatusPage(
            om: .success(1), scm: .success(status((1...4).map { node($0) }, [try container(1)])))
        #expect(four.findings.map(\.severity) == [.danger])
    }
}
