import ArgumentParser
import Bytes
import Client
import Crypto
import Foundation
import Model

struct KeyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Keys, written /volume/bucket/key.",
        subcommands: [Put.self, Get.self, Cat.self, List.self, Info.self, Delete.self])

    struct Put: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Store a file.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket/key") var key: String
        @Argument(help: "The file.") var file: String
        @Option(help: "codec-data-parity-cell, over the bucket's.") var replication: String?

        func run() async throws {
            let path = try ObjectPath.key(key)
            let replication = try replication.map { try ReplicationConfig($0) }
            guard let handle = FileHandle(forReadingAtPath: file) else {
                throw StoreError(.io, "\(file) cannot be read: \(String(cString: strerror(errno)))")
            }
            let size = Int(try handle.seekToEnd())
            try handle.seek(toOffset: 0)
            let client = try await cluster.client()
            let writer = try await client.openWriter(
                path, length: size, replication: replication, user: cluster.user)
            var digest = Insecure.MD5()
            var progress = Progress("put \(path.name)", total: size)
            do {
                while let data = try handle.read(upToCount: 1 << 20), !data.isEmpty {
                    digest.update(data: data)
                    let copy = [UInt8](data)
                    try await send(copy, to: writer)
                    progress.advance(copy.count)
                }
                let etag = digest.finalize().map { String(format: "%02x", $0) }.joined()
                let info = try await writer.commit(KeyCommit(etag: etag))
                if cluster.json { try printJSON(KeyRow(info)) }
            } catch {
                await writer.abort()
                throw error
            }
        }

        private func send(_ bytes: [UInt8], to writer: KeyWriter) async throws(StoreError) {
            let buffer = UnsafeMutableRawBufferPointer.allocate(
                byteCount: bytes.count, alignment: 16)
            defer { buffer.deallocate() }
            buffer.copyBytes(from: bytes)
            try await writer.write(UnsafeRawBufferPointer(buffer))
        }
    }

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Fetch a key into a file.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket/key") var key: String
        @Argument(help: "The file.") var file: String
        func run() async throws {
            let temporary = file + ".part"
            FileManager.default.createFile(atPath: temporary, contents: nil)
            guard let handle = FileHandle(forWritingAtPath: temporary) else {
                throw StoreError(
                    .io, "\(temporary) cannot be written: \(String(cString: strerror(errno)))")
            }
            do {
                try await fetch(try ObjectPath.key(key), cluster, into: handle, isShown: true)
            } catch {
                // Half a file is worse than none.
                try? FileManager.default.removeItem(atPath: temporary)
                throw error
            }
            guard rename(temporary, file) == 0 else {
                throw StoreError(.io, "cannot name \(file): \(String(cString: strerror(errno)))")
            }
        }
    }

    struct Cat: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a key to standard output.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket/key") var key: String
        func run() async throws {
            try await fetch(
                try ObjectPath.key(key), cluster, into: .standardOutput, isShown: false)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List keys.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket or /volume/bucket/prefix") var path: String
        func run() async throws {
            let parts = ObjectPath.parts(path)
            let bucket = try ObjectPath.bucket("/" + parts.prefix(2).joined(separator: "/"))
            let client = try await cluster.client()
            var query = ListQuery(prefix: Array((parts.count > 2 ? parts[2] : "").utf8))
            var rows: [KeyRow] = []
            while true {
                let page = try await client.list(bucket, query, user: cluster.user)
                rows += page.keys.map(KeyRow.init)
                guard let next = page.next else { break }
                query.startAfter = next
            }
            if cluster.json { return try printJSON(rows) }
            printTable(
                ["key", "bytes", "modified", "etag"],
                rows.map { [$0.key, String($0.length), $0.modified, $0.etag] })
        }
    }

    struct Info: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "What is known of a key.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket/key") var key: String
        @Flag(help: "Groups, containers, replicas and their nodes.") var blocks = false
        func run() async throws {
            let info = try await cluster.client().key(ObjectPath.key(key), user: cluster.user)
            var row = KeyRow(info)
            if blocks { row.blocks = info.blockGroups.map(KeyRow.Group.init) }
            if cluster.json { return try printJSON(row) }
            print("key          \(row.key)\nbytes        \(row.length)")
            print("replication  \(row.replication)\nmodified     \(row.modified)")
            print("etag         \(row.etag)")
            for group in row.blocks ?? [] {
                print(
                    "group        container \(group.container) block \(group.block)"
                        + " bytes \(group.length)")
                for replica in group.replicas {
                    print("  index \(replica.index)  \(replica.node)  \(replica.address)")
                }
            }
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Delete a key.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket/key") var key: String
        func run() async throws {
            let path = try ObjectPath.key(key)
            guard
                try await cluster.client().deleteKey(path, condition: .none, user: cluster.user)
            else { throw StoreError(.noSuchKey, "there is no key \(path)") }
        }
    }
}

private func fetch(
    _ path: KeyPath, _ cluster: ClusterOptions, into handle: FileHandle, isShown: Bool
) async throws {
    let client = try await cluster.client()
    let info = try await client.key(path, user: cluster.user)
    let reader = try await client.openReader(info)
    let sink = Sink(handle, Progress("get \(path.name)", total: isShown ? info.length : 0))
    try await reader.read(0..<info.length) { piece in
        try await sink.write(piece.withBytes { Data($0) })
    }
}

/// Where fetched bytes go.
private actor Sink {
    private let handle: FileHandle
    private var progress: Progress

    init(_ handle: sending FileHandle, _ progress: Progress) {
        self.handle = handle
        self.progress = progress
    }

    func write(_ data: Data) throws {
        try handle.write(contentsOf: data)
        progress.advance(data.count)
    }
}

/// A key as it is printed.
struct KeyRow: Encodable {
    struct Replica: Encodable {
        var index: Int
        var node: String
        var address: String
    }
    struct Group: Encodable {
        var container: UInt64
        var block: UInt64
        var length: Int
        var replication: String
        var replicas: [Replica]

        init(_ group: BlockGroup) {
            container = group.blockID.containerID.rawValue
            block = group.blockID.localID
            length = group.length
            replication = group.replication.description
            replicas = group.nodes.enumerated().map { index, node in
                Replica(
                    index: index + 1, node: node?.id.description ?? "none",
                    address: node.map { "\($0.host):\($0.port)" } ?? "-")
            }
        }
    }
    var key: String
    var length: Int
    var etag: String
    var modified: String
    var replication: String
    var blocks: [Group]?

    init(_ info: KeyInfo) {
        key = info.name.description
        length = info.length
        etag = info.etag
        modified = info.modified.text
        replication = info.replication.description
    }
}
