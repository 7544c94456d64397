import ArgumentParser
import Client
import Foundation
import Model
import Wire

extension AdminCommand.Datanode {
    /// A volume of a datanode.
    struct VolumeName: ParsableArguments {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "The datanode: its ID, or HOST:PORT, or HOST where there is one alone.")
        var datanode: String
        @Argument(help: "The directory of the volume, as the datanode's settings have it.")
        var path: String

        func set(leaving isLeaving: Bool) async throws {
            let client = try await cluster.client()
            var question = SCMStatusRequest()
            question.nodes = true
            let nodes = try await client.scm.status(question).nodes
            let found = try NodeNames.find(datanode, among: nodes)
            guard let address = try DatanodeAddress(found) else { return }
            try await client.setLeaving(isLeaving, volume: path, of: address)
            // Until SCM has heard of it, so that `progress` knows.
            for _ in 0..<50 {
                let told = try await client.scm.status(question).nodes
                    .first { $0.address.id == found.id }?.volumes.first { $0.path == path }
                if told?.isLeaving == isLeaving { break }
                try await Task.sleep(for: .milliseconds(100))
            }
            if cluster.json {
                return try printJSON([
                    "datanode": "\(address.host):\(address.port)", "volume": path,
                    "state": isLeaving ? "leaving" : "in use",
                ])
            }
            print(
                isLeaving
                    ? "\(shown(path)) of \(address.host):\(address.port) gets nothing new; what it has "
                        + "is copied to other datanodes: apus admin datanode progress"
                    : "\(shown(path)) of \(address.host):\(address.port) is in use again")
        }
    }

    struct DrainDisk: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "drain-disk",
            abstract: "Take one disk of a datanode out of use.",
            discussion: """
                It gets nothing new; what it has is copied to other datanodes, and can be read and \
                counts meanwhile. Once progress says that it is empty it can be taken out of the \
                settings, and replaced.
                """)
        @OptionGroup var volume: VolumeName

        func run() async throws { try await volume.set(leaving: true) }
    }

    struct KeepDisk: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "keep-disk", abstract: "Use a disk again that was being drained.")
        @OptionGroup var volume: VolumeName

        func run() async throws { try await volume.set(leaving: false) }
    }
}

/// A disk that leaves, as it is printed.
struct LeavingDiskRow: Encodable {
    var id, address, volume: String
    var containersLeft, bytesLeft: UInt64
    var isUnderWay: Bool

    static func rows(of node: SCMNodeInfo) -> [Self] {
        node.volumes.filter(\.isLeaving).map { volume in
            Self(
                id: Identity128(node.address.id).description,
                address: "\(node.address.host):\(node.address.port)", volume: volume.path,
                containersLeft: volume.containers,
                bytesLeft: volume.containers > 0 ? volume.used : 0,
                isUnderWay: volume.containers > 0)
        }
    }

    static let header = ["datanode", "disk", "state", "containers left", "bytes left"]

    var columns: [String] {
        [
            address, volume, isUnderWay ? "leaving" : "empty", "\(containersLeft)",
            formatBytes(Int(clamping: bytesLeft)),
        ]
    }
}
