import ArgumentParser
import Client
import Foundation
import Model
import Reactor
import Transport

/// How a command finds its cluster.
struct ClusterOptions: ParsableArguments {
    @Option(help: "The directory given to `apus up` (or APUS_DIR).") var dir: String?
    @Option(
        help: """
            A settings file with om.* and scm.* (or APUS_CONFIG). Default, without a directory: \
            /etc/apus/cluster.json.
            """)
    var config: String?
    @Option(help: "The user on whose behalf it is done.") var user = Users.firstName
    @Flag(help: "Print JSON, for programs.") var json = false

    /// The settings file that tells where OM and SCM are.
    func file() throws -> String {
        let environment = ProcessInfo.processInfo.environment
        if let config { return config }
        if let dir { return try Self.file(of: dir) }
        if let config = environment["APUS_CONFIG"] { return config }
        if let dir = environment["APUS_DIR"] { return try Self.file(of: dir) }
        if let file = RoleOptions.usualFile { return file }
        throw ValidationError(
            "which cluster? Give --dir DIR or --config FILE, or set APUS_DIR or APUS_CONFIG; there "
                + "is no \(SettingsFile.standardPath)")
    }

    /// That of a cluster under `directory`.
    private static func file(of directory: String) throws -> String {
        let file = directory + "/etc/s3g1.json"
        guard FileManager.default.fileExists(atPath: file) else {
            throw StoreError(
                .io,
                "there is no cluster in \(directory): \(file) is not there; --dir takes the "
                    + "directory that `apus up` was given")
        }
        return file
    }

    func client() async throws -> ClusterClient {
        try await client(try Runtime(name: "apus", memory: .datanodes, reactors: 1))
    }

    /// A client whose connections live on the reactors of `runtime`.
    /// - Parameter reads: which OMs answer questions; nil: as the settings say.
    func client(
        _ runtime: Runtime, reads: LeaderChannel.ReadPlace? = nil
    ) async throws -> ClusterClient {
        try Roles.client(await settings(), runtime, reads: reads)
    }

    /// The settings that tell where OM and SCM are.
    func settings() async throws -> Settings {
        try await Settings(file: file(), overrides: [])
    }
}

/// An option that tells how bytes are coded. Whether the cluster does that, it says itself.
enum ReplicationArgument {
    static let help: ArgumentHelp =
        "Code the bytes so: codec-data-parity-cell, as in rs-6-3-1024k. Default: as the bucket."

    static func parse(_ text: String) throws -> ReplicationConfig {
        do throws(ReplicationError) {
            return try ReplicationConfig(text)
        } catch {
            throw ValidationError("\(error)")
        }
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

    static func volume(_ text: String) throws -> String {
        let parts = parts(text)
        guard parts.count == 1, !parts[0].isEmpty else {
            throw ValidationError("a volume is written /volume, not '\(text)'")
        }
        return parts[0]
    }

    /// - Parameter name: the key's if `text` names a bucket only.
    static func key(_ text: String, named name: KeyName) throws -> KeyPath {
        let parts = parts(text)
        guard parts.count == 2 || parts.count == 3 && parts[2].isEmpty else {
            return try key(text)
        }
        return KeyPath(
            bucket: try bucket(parts.prefix(2).joined(separator: "/")), name: name)
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
