import ArgumentParser
import Client
import Foundation
import Model
import SCMCore
import Wire

struct AdminCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "admin", abstract: "How the cluster is, what SCM knows, and can be told.",
        subcommands: [
            Status.self, GroupCommands<OMGroup>.self, GroupCommands<SCMGroup>.self, Datanode.self,
            Container.self, Pipeline.self, Replicas.self, Balance.self, Safety.self,
            SafeMode.self,
            TraceCommand.self,
        ])

    struct Datanode: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Datanodes and their disks.",
            subcommands: [
                List.self, Disks.self, Decommission.self, Maintenance.self, Recommission.self,
                DrainDisk.self, KeepDisk.self, Progress.self,
            ])

        struct List: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract:
                    "List the datanodes: dead and stale ones and those with failed disks first.")

            struct Row: Encodable {
                var id, address, rack, state: String
                /// Nil: in service.
                var operation: String?
                var silentMilliseconds, containers, capacity, available, used: UInt64
                var pendingDeletions, unreclaimedBlocks, unknownReplicas: UInt64
                var volumes: Int
                var failedVolumes: [String]
                var slowDisks: [SlowDisk]

                init(_ node: SCMNodeInfo) {
                    id = Identity128(node.address.id).description
                    address = "\(node.address.host):\(node.address.port)"
                    rack = node.address.rack
                    state = "\(node.state)".uppercased()
                    operation = node.hasOperation ? node.operation.operation.state.text : nil
                    silentMilliseconds = node.millisecondsSinceHeartbeat
                    containers = node.containers
                    capacity = node.volumes.reduce(0) { $0 + $1.capacity }
                    available = node.volumes.reduce(0) { $0 + $1.available }
                    used = node.volumes.reduce(0) { $0 + $1.used }
                    pendingDeletions = node.pendingDeletions
                    unreclaimedBlocks = node.unreclaimedBlocks
                    unknownReplicas = node.unknownReplicas
                    volumes = node.volumes.count
                    failedVolumes = node.volumes.filter(\.isFailed).map {
                        "\($0.path): \($0.reason)"
                    }
                    slowDisks = node.slowDisks.map(SlowDisk.init)
                }

                var disks: String {
                    failedVolumes.isEmpty
                        ? "\(volumes)" : "\(failedVolumes.count) of \(volumes) FAILED"
                }
            }

            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.nodes = true
                let rows = try await cluster.client().scm.status(request).nodes
                    .worstFirst { NodeHealth($0) }.map(Row.init)
                if cluster.json { return try printJSON(rows) }
                printTable(
                    [
                        "datanode", "address", "state", "disks", "heard", "containers", "free",
                        "rack",
                    ],
                    rows.map {
                        [
                            $0.id, $0.address,
                            $0.state + ($0.operation.map { ", \($0)" } ?? ""), $0.disks,
                            heard($0.silentMilliseconds),
                            String($0.containers), formatBytes(Int($0.available)), $0.rack,
                        ]
                    })
                for row in rows {
                    for volume in row.failedVolumes {
                        print(shown("failed on \(row.address): \(volume)"))
                    }
                    // What is observed may be chance: `datanode disks` shows it.
                    for disk in row.slowDisks where disk.state != "observed" {
                        print(shown("\(disk.state) on \(row.address): \(disk.text)"))
                    }
                }
            }

            private func heard(_ milliseconds: UInt64) -> String {
                milliseconds < 10_000 ? "\(milliseconds) ms ago" : "\(milliseconds / 1000) s ago"
            }
        }
    }

    struct Container: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Containers, in which blocks lie.",
            subcommands: [List.self, Info.self, Close.self])

        struct Row: Encodable {
            var id: UInt64
            var state, replication, health: String
            var usedBytes: UInt64
            var replicas: [String]
            var missingIndexes, corruptIndexes: [UInt32]

            init(_ info: SCMContainerInfo) {
                id = info.id
                switch info.state {
                case .containerOpen: state = "OPEN"
                case .containerClosing: state = "CLOSING"
                case .containerClosed: state = "CLOSED"
                case .containerDeleted: state = "DELETED"
                case .containerDeleting: state = "DELETING"
                case .UNRECOGNIZED(let number): state = "\(number)"
                }
                let config = try? ReplicationConfig(info.replication)
                replication = config?.description ?? "?"
                health = ContainerHealth(info).text
                usedBytes = info.usedBytes
                replicas = info.replicas.map { $0.hasID ? "\($0.host):\($0.port)" : "-" }
                missingIndexes = info.missingIndexes
                corruptIndexes = info.corruptIndexes
            }

            static let header = [
                "container", "state", "health", "replication", "used", "replicas by index",
            ]

            var columns: [String] {
                [
                    String(id), state, health, replication, formatBytes(Int(usedBytes)),
                    replicas.joined(separator: " "),
                ]
            }
        }

        struct List: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "List the containers: those with missing or corrupt replicas first.",
                discussion: """
                    UNREADABLE: more replicas are missing or corrupt than there is parity. A \
                    replica is missing if nobody who is heard of has it.
                    """)
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.containers = true
                let rows = try await cluster.client().scm.status(request).containers
                    .worstFirst { ContainerHealth($0) }.map(Row.init)
                if cluster.json { return try printJSON(rows) }
                printTable(Row.header, rows.map(\.columns))
            }
        }

        struct Info: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "What is known of one container.")
            @OptionGroup var cluster: ClusterOptions
            @Argument(help: "Its number.") var id: UInt64
            func run() async throws {
                var request = SCMStatusRequest()
                request.containers = true
                request.container = id
                let rows = try await cluster.client().scm.status(request).containers.map(Row.init)
                guard let row = rows.first else {
                    throw StoreError(.noSuchContainer, "there is no container \(id)")
                }
                if cluster.json { return try printJSON(row) }
                printFields([
                    ("container", "\(row.id)"), ("health", row.health), ("state", row.state),
                    ("replication", row.replication),
                    ("used", "\(formatBytes(Int(row.usedBytes))), parity and index included"),
                ])
                for (place, address) in row.replicas.enumerated() {
                    let index = UInt32(place + 1)
                    let news =
                        (row.missingIndexes.contains(index) ? "  MISSING" : "")
                        + (row.corruptIndexes.contains(index) ? "  CORRUPT" : "")
                    print("  index \(index)  \(address)\(news)")
                }
            }
        }

        struct Close: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Have a container closed: it takes no more bytes.",
                discussion: "Its datanodes close their replicas when they are next heard of.")
            @OptionGroup var cluster: ClusterOptions
            @Argument(help: "Its number.") var id: UInt64
            func run() async throws {
                try await cluster.client().scm.closeContainer(ContainerID(id))
                try Done(done: "closing", kind: "container", name: "\(id)").print(
                    json: cluster.json)
            }
        }
    }

    struct Pipeline: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pipelines: the datanodes that open containers are written to.",
            subcommands: [List.self])

        struct List: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "List the pipelines: those that lack datanodes first.")

            struct Row: Encodable {
                var id, openContainer: UInt64
                var replication: String
                var nodes: [String]
            }
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.pipelines = true
                let rows = try await cluster.client().scm.status(request).pipelines
                    .worstFirst { -$0.nodes.count { !$0.hasID } }
                    .map { info in
                        Row(
                            id: info.id, openContainer: info.openContainer,
                            replication: (try? ReplicationConfig(info.replication))?.description
                                ?? "?",
                            nodes: info.nodes.map { $0.hasID ? "\($0.host):\($0.port)" : "-" })
                    }
                if cluster.json { return try printJSON(rows) }
                printTable(
                    ["pipeline", "container", "replication", "nodes by index"],
                    rows.map {
                        [
                            String($0.id), String($0.openContainer), $0.replication,
                            $0.nodes.joined(separator: " "),
                        ]
                    })
            }
        }
    }
}
