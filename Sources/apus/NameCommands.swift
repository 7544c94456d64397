import ArgumentParser
import Client
import Foundation
import Model

struct VolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Volumes, which hold buckets.",
        subcommands: [Create.self, List.self, Delete.self])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Create a volume.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name, /volume.") var name: String
        func run() async throws {
            let volume = try ObjectPath.volume(name)
            try await cluster.client().createVolume(volume, user: cluster.user)
            try Done(done: "created", kind: "volume", name: "/" + volume).print(
                json: cluster.json)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List all volumes.")
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
        static let configuration = CommandConfiguration(
            abstract: "Delete a volume, which must hold no buckets.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name, /volume.") var name: String
        func run() async throws {
            let volume = try ObjectPath.volume(name)
            try await cluster.client().deleteVolume(volume, user: cluster.user)
            try Done(done: "deleted", kind: "volume", name: "/" + volume).print(
                json: cluster.json)
        }
    }
}

struct BucketCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bucket",
        abstract: "Buckets, written /volume/bucket. S3's live in volume s3v.",
        subcommands: [Create.self, List.self, Info.self, Delete.self])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Create a bucket.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name, /volume/bucket.") var bucket: String
        @Option(
            help: """
                How its keys are coded: codec-data-parity-cell, as in rs-6-3-1024k. Default: the \
                cluster's.
                """, transform: ReplicationArgument.parse)
        var replication: ReplicationConfig?
        func run() async throws {
            let path = try ObjectPath.bucket(bucket)
            let client = try await cluster.client()
            try await client.createBucket(path, replication: replication, user: cluster.user)
            let info = try await client.bucket(path, user: cluster.user)
            try Done(
                done: "created", kind: "bucket", name: "\(path)",
                replication: "\(info.replication)"
            ).print(json: cluster.json)
        }
    }

    struct Row: Encodable {
        var bucket, owner, created, replication: String
        /// Of all its keys; absent if they were not counted.
        var keys, bytes: Int?
        init(_ info: BucketInfo) {
            bucket = "/\(info.volume)/\(info.name)"
            owner = info.owner
            created = info.created.text
            replication = info.replication.description
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the buckets of a volume that the user owns; an administrator's: all.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "The volume.") var volume = "/" + BucketPath.s3Volume
        func run() async throws {
            let rows = try await cluster.client().buckets(
                volume: ObjectPath.volume(volume), user: cluster.user
            ).map(Row.init)
            if cluster.json { return try printJSON(rows) }
            printTable(
                ["bucket", "owner", "created", "replication"],
                rows.map { [$0.bucket, $0.owner, $0.created, $0.replication] })
        }
    }

    struct Info: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "What is known of a bucket, with the number and size of its keys.",
            discussion: """
                The keys are counted by walking through all of them, a page at a time: about \
                50,000 keys a second. --quick leaves that out. Parts of uploads that are not \
                completed are not counted, nor what coding adds.
                """)
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name, /volume/bucket.") var bucket: String
        @Flag(help: "Do not count the keys.") var quick = false

        func run() async throws {
            let path = try ObjectPath.bucket(bucket)
            let client = try await cluster.client()
            var row = Row(try await client.bucket(path, user: cluster.user))
            if !quick {
                let line = StatusLine(isQuiet: cluster.json)
                var (keys, bytes) = (0, 0)
                let walk = KeyWalk(
                    client: client, bucket: path, query: ListQuery(), user: cluster.user)
                try await walk.pages { page, total in
                    for case .key(let info) in page.entries {
                        keys += 1
                        bytes += info.length
                    }
                    line.show("counting: \(keys) keys, \(formatBytes(bytes))")
                }
                line.end()
                row.keys = keys
                row.bytes = bytes
            }
            if cluster.json { return try printJSON(row) }
            printFields([
                ("bucket", row.bucket), ("owner", row.owner), ("created", row.created),
                ("replication", row.replication), ("keys", row.keys.map { "\($0)" }),
                ("size", row.bytes.map { "\(formatBytes($0)) (\($0) bytes)" }),
            ])
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a bucket, which must be empty.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name, /volume/bucket.") var bucket: String
        func run() async throws {
            let path = try ObjectPath.bucket(bucket)
            try await cluster.client().deleteBucket(path, user: cluster.user)
            try Done(done: "deleted", kind: "bucket", name: "\(path)").print(json: cluster.json)
        }
    }
}

struct UserCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "user", abstract: "Users and their S3 keys.",
        subcommands: [Create.self, List.self, Delete.self])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a user and print its keys, in the AWS credentials format.",
            discussion: "The secret key is told this once.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name.") var name: String
        @Option(
            name: .customLong("display-name"),
            help: "How S3 calls the owner of a bucket. Default: the name.")
        var displayName: String?
        @Flag(help: "It may do everything in every bucket.") var admin = false
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
            print("[\(shown(user.name))]")
            print("aws_access_key_id = \(user.accessKeyID)")
            print("aws_secret_access_key = \(user.secretAccessKey)")
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List all users.")
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
        static let configuration = CommandConfiguration(
            abstract: "Delete a user, who must own no volumes and buckets.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Its name.") var name: String
        func run() async throws {
            try await cluster.client().deleteUser(named: name)
            try Done(done: "deleted", kind: "user", name: name).print(json: cluster.json)
        }
    }
}
