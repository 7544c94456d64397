import ArgumentParser
import Client
import Foundation
import Model
import Wire

struct AdminCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "admin", abstract: "What SCM knows, and can be told.",
        subcommands: [
            Datanode.self, Container.self, Pipeline.self, SafeMode.self, TraceCommand.self,
        ])

    struct Datanode: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Datanodes.", subcommands: [List.self, Disks.self])

        struct List: AsyncParsableCommand {
            struct Row: Encodable {
                var id, address, rack, state: String
                var silentMilliseconds, containers, capacity, available, used: UInt64
                var pendingDeletions, unreclaimedBlocks: UInt64
                var failedVolumes: [String]
            }
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.nodes = true
                let nodes = try await cluster.client().status(request).nodes.map { node in
                    Row(
                        id: Identity128(node.address.id).description,
                        address: "\(node.address.host):\(node.address.port)",
                        rack: node.address.rack, state: "\(node.state)".uppercased(),
                        silentMilliseconds: node.millisecondsSinceHeartbeat,
                        containers: node.containers,
                        capacity: node.volumes.reduce(0) { $0 + $1.capacity },
                        available: node.volumes.reduce(0) { $0 + $1.available },
                        used: node.volumes.reduce(0) { $0 + $1.used },
                        pendingDeletions: node.pendingDeletions,
                        unreclaimedBlocks: node.unreclaimedBlocks,
                        failedVolumes: node.volumes.filter(\.isFailed).map {
                            "\($0.path): \($0.reason)"
                        })
                }
                if cluster.json { return try printJSON(nodes) }
                printTable(
                    ["datanode", "address", "rack", "state", "heard", "containers", "free"],
                    nodes.map {
                        [
                            $0.id, $0.address, $0.rack, $0.state, "\($0.silentMilliseconds) ms",
                            String($0.containers), formatBytes(Int($0.available)),
                        ]
                    })
            }
        }
    }

    struct Container: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Containers.", subcommands: [List.self, Info.self, Close.self])

        struct Row: Encodable {
            var id: UInt64
            var state, replication: String
            var usedBytes: UInt64
            var replicas: [String]
            var corruptIndexes: [UInt32]

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
                usedBytes = info.usedBytes
                replicas = info.replicas.map { $0.hasID ? "\($0.host):\($0.port)" : "-" }
                corruptIndexes = info.corruptIndexes
            }

            var columns: [String] {
                [
                    String(id), state, replication, formatBytes(Int(usedBytes)),
                    replicas.joined(separator: " "),
                ]
            }
        }

        struct List: AsyncParsableCommand {
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.containers = true
                let rows = try await cluster.client().status(request).containers.map(Row.init)
                if cluster.json { return try printJSON(rows) }
                printTable(
                    ["container", "state", "replication", "used", "replicas by index"],
                    rows.map(\.columns))
            }
        }

        struct Info: AsyncParsableCommand {
            @OptionGroup var cluster: ClusterOptions
            @Argument(help: "Its number.") var id: UInt64
            func run() async throws {
                var request = SCMStatusRequest()
                request.containers = true
                request.container = id
                let rows = try await cluster.client().status(request).containers.map(Row.init)
                guard let row = rows.first else {
                    throw StoreError(.noSuchContainer, "there is no container \(id)")
                }
                if cluster.json { return try printJSON(row) }
                printTable(
                    ["container", "state", "replication", "used", "replicas by index"],
                    [row.columns])
            }
        }

        struct Close: AsyncParsableCommand {
            @OptionGroup var cluster: ClusterOptions
            @Argument(help: "Its number.") var id: UInt64
            func run() async throws {
                try await cluster.client().closeContainer(ContainerID(id))
            }
        }
    }

    struct Pipeline: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pipelines: the datanodes that open containers are written to.",
            subcommands: [List.self])

        struct List: AsyncParsableCommand {
            struct Row: Encodable {
                var id, openContainer: UInt64
                var replication: String
                var nodes: [String]
            }
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                var request = SCMStatusRequest()
                request.pipelines = true
                let rows = try await cluster.client().status(request).pipelines.map { info in
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

    struct SafeMode: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "safemode", abstract: "Safe mode of SCM.",
            subcommands: [Status.self, Exit.self])

        struct Status: AsyncParsableCommand {
            @OptionGroup var cluster: ClusterOptions
            func run() async throws {
                let status = try await cluster.client().status(SCMStatusRequest())
                if cluster.json {
                    return try printJSON([
                        "safeMode": status.isInSafeMode ? "on" : "off",
                        "reason": status.safeModeReason,
                    ])
                }
                print(
                    status.isInSafeMode
                        ? "safe mode is on: \(status.safeModeReason)" : "safe mode is off")
            }
        }

        struct Exit: AsyncParsableCommand {
            @OptionGroup var cluster: ClusterOptions
            func run() async throws { try await cluster.client().exitSafeMode() }
        }
    }
}
