import ArgumentParser
import Client
import Foundation
import Model
import Reactor
import Transport

/// How a command finds its cluster.
struct ClusterOptions: ParsableArguments {
    @Option(help: "The directory given to `apus up`.") var dir: String?
    @Option(help: "A settings file with om.* and scm.*.") var config: String?
    @Option(help: "On whose behalf.") var user = Users.firstName
    @Flag(help: "For programs.") var json = false

    /// The settings file that tells where OM and SCM are.
    func file() throws -> String {
        let environment = ProcessInfo.processInfo.environment
        if let config { return config }
        if let dir { return dir + "/etc/s3g1.json" }
        if let config = environment["APUS_CONFIG"] { return config }
        if let dir = environment["APUS_DIR"] { return dir + "/etc/s3g1.json" }
        throw ValidationError(
            "which cluster? Give --dir DIR or --config FILE, or set APUS_DIR or APUS_CONFIG")
    }

    func client() async throws -> ClusterClient {
        try await client(try Runtime(name: "apus", memory: .datanodes, reactors: 1))
    }

    /// A client whose connections live on the reactors of `runtime`.
    func client(_ runtime: Runtime) async throws -> ClusterClient {
        let settings = try await Settings(file: file(), overrides: [])
        return try Roles.client(settings, runtime)
    }
}

/// `/volume`, `/volume/bucket` or `/volume/bucket/key`, as the command line writes them.
enum ObjectPath {
    static func parts(_ text: String) -> [String] {
        let trimmed = text.hasPrefix("/") ? String(text.dropFirst()) : text
        return trimmed.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false)
            .map(String.init)
    }

    static func bucket(_ text: String) throws -> BucketPath {
        let parts = parts(text)
        guard parts.count == 2, parts.allSatisfy({ !$0.isEmpty }) else {
            throw ValidationError("a bucket is written /volume/bucket, not '\(text)'")
        }
        return BucketPath(volume: parts[0], bucket: parts[1])
    }

    static func key(_ text: String) throws -> KeyPath {
        let parts = parts(text)
        guard parts.count == 3, let name = KeyName(parts[2]) else {
            throw ValidationError(
                "a key is written /volume/bucket/key, 1 to 1024 bytes of name, not '\(text)'")
        }
        return KeyPath(bucket: BucketPath(volume: parts[0], bucket: parts[1]), name: name)
    }
}

extension Timestamp {
    var text: String {
        Date(timeIntervalSince1970: Double(milliseconds) / 1000).formatted(.iso8601)
    }
}

struct VolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Volumes.",
        subcommands: [Create.self, List.self, Delete.self])

    struct Create: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name.") var name: String
        func run() async throws {
            try await cluster.client().createVolume(
                ObjectPath.parts(name)[0], user: cluster.user)
        }
    }

    struct List: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        func run() async throws {
            let volumes = try await cluster.client().volumes(user: cluster.user)
            if cluster.json {
                return try printJSON(
                    volumes.map {
                        ["name": $0.name, "owner": $0.owner, "created": $0.created.text]
                    })
            }
            printTable(
                ["volume", "owner", "created"],
                volumes.map { ["/" + $0.name, $0.owner, $0.created.text] })
        }
    }

    struct Delete: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name.") var name: String
        func run() async throws {
            try await cluster.client().deleteVolume(
                ObjectPath.parts(name)[0], user: cluster.user)
        }
    }
}

struct BucketCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bucket", abstract: "Buckets. S3's live in volume s3v.",
        subcommands: [Create.self, List.self, Info.self, Delete.self])

    struct Create: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket") var bucket: String
        @Option(help: "codec-data-parity-cell, as in rs-6-3-1024k.") var replication: String?
        func run() async throws {
            let replication = try replication.map { try ReplicationConfig($0) }
            try await cluster.client().createBucket(
                ObjectPath.bucket(bucket), replication: replication, user: cluster.user)
        }
    }

    struct Row: Encodable {
        var bucket, owner, created, replication: String
        init(_ info: BucketInfo) {
            bucket = "/\(info.volume)/\(info.name)"
            owner = info.owner
            created = info.created.text
            replication = info.replication.description
        }
    }

    struct List: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume") var volume = "/" + BucketPath.s3Volume
        func run() async throws {
            let buckets = try await cluster.client().buckets(
                volume: ObjectPath.parts(volume)[0], user: cluster.user
            ).map(Row.init)
            if cluster.json { return try printJSON(buckets) }
            printTable(
                ["bucket", "owner", "created", "replication"],
                buckets.map { [$0.bucket, $0.owner, $0.created, $0.replication] })
        }
    }

    struct Info: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket") var bucket: String
        func run() async throws {
            let row = Row(
                try await cluster.client().bucket(ObjectPath.bucket(bucket), user: cluster.user))
            if cluster.json { return try printJSON(row) }
            printTable(
                ["bucket", "owner", "created", "replication"],
                [[row.bucket, row.owner, row.created, row.replication]])
        }
    }

    struct Delete: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket") var bucket: String
        func run() async throws {
            try await cluster.client().deleteBucket(
                ObjectPath.bucket(bucket), user: cluster.user)
        }
    }
}

struct UserCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "user", abstract: "Users and their S3 keys.",
        subcommands: [Create.self, List.self, Delete.self])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a user and print its keys, in the AWS credentials format.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name.") var name: String
        @Option(name: .customLong("display-name"), help: "As S3 shows it.")
        var displayName: String?
        @Flag(help: "May do everything in every bucket.") var admin = false
        func run() async throws {
            let user = Users.make(name, displayName: displayName, administrator: admin)
            try await cluster.client().createUser(user)
            if cluster.json {
                return try printJSON([
                    "name": user.name, "accessKeyID": user.accessKeyID,
                    "secretAccessKey": user.secretAccessKey, "canonicalID": user.canonicalID,
                    "displayName": user.displayName,
                ])
            }
            print("[\(user.name)]")
            print("aws_access_key_id = \(user.accessKeyID)")
            print("aws_secret_access_key = \(user.secretAccessKey)")
        }
    }

    struct List: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        func run() async throws {
            let users = try await cluster.client().users()
            if cluster.json {
                return try printJSON(
                    users.map {
                        [
                            "name": $0.name, "accessKeyID": $0.accessKeyID,
                            "canonicalID": $0.canonicalID, "displayName": $0.displayName,
                            "role": $0.isAdministrator ? "administrator" : "user",
                        ]
                    })
            }
            printTable(
                ["user", "role", "access key", "display name"],
                users.map {
                    [
                        $0.name, $0.isAdministrator ? "administrator" : "user", $0.accessKeyID,
                        $0.displayName,
                    ]
                })
        }
    }

    struct Delete: AsyncParsableCommand {
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name.") var name: String
        func run() async throws { try await cluster.client().deleteUser(named: name) }
    }
}
