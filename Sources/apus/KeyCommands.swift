import ArgumentParser
import Bytes
import Client
import Crypto
import Foundation
import Model

struct KeyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Keys, written /volume/bucket/key.",
        subcommands: [
            Put.self, Get.self, Cat.self, Copy.self, List.self, Info.self, Delete.self,
        ])

    struct Put: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Store a file, or standard input, as a key.",
            discussion: """
                The key is there when all its bytes are stored, and not before. Until then a key \
                of the same name stays what it was.
                """)
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Where to: /volume/bucket/key.") var key: String
        @Argument(help: "The file; - for standard input.") var file: String
        @Option(help: ReplicationArgument.help, transform: ReplicationArgument.parse)
        var replication: ReplicationConfig?

        func run() async throws {
            let path = try ObjectPath.key(key)
            let source = try ByteSource(file)
            let client = try await cluster.client()
            let writer = try await client.openWriter(
                path, length: source.length, replication: replication, user: cluster.user)
            do {
                let etag = try await send(source, to: writer, named: "put \(path.name)")
                let info = try await writer.commit(KeyCommit(etag: etag))
                if cluster.json { return try printJSON(KeyRow(info)) }
                print(
                    "stored key \(shown("\(path)")), \(formatBytes(info.length)), "
                        + "\(info.replication)")
            } catch {
                await writer.abort()
                throw error
            }
        }

        /// Sends all bytes and returns their MD5.
        private func send(
            _ source: ByteSource, to writer: KeyWriter, named name: String
        ) async throws -> String {
            var digest = Insecure.MD5()
            var progress = ByteProgress(name, total: source.length, isQuiet: cluster.json)
            let buffer = BufferPool.process.allocate(ByteSource.pieceBytes)
            while true {
                let count = try source.read(into: buffer.bytes)
                guard count > 0 else { break }
                let piece = Payload(buffer, 0..<count)
                piece.withBytes { digest.update(bufferPointer: $0) }
                try await writer.write(piece)
                progress.advance(count)
            }
            return digest.finalize().map { String(format: "%02x", $0) }.joined()
        }
    }

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Fetch a key into a file, or to standard output.",
            discussion: """
                The bytes go to FILE.part, which becomes FILE when all are there. A device or a \
                pipe is written to as it is.
                """)
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Which: /volume/bucket/key.") var key: String
        @Argument(help: "The file; - for standard output.") var file: String

        func run() async throws {
            let path = try ObjectPath.key(key)
            guard file != "-" else { return try await toStandardOutput(path, cluster) }
            let client = try await cluster.client()
            let info = try await client.key(path, user: cluster.user)
            let target = try ByteTarget(file)
            let sink = FileSink(
                target.descriptor, target.name,
                ByteProgress("get \(path.name)", total: info.length, isQuiet: cluster.json))
            try await client.openReader(info).read(0..<info.length) { try await sink.write($0) }
            try target.keep()
            if cluster.json { return try printJSON(KeyRow(info)) }
            print(
                "fetched key \(shown("\(path)")) into \(shown(file)), \(formatBytes(info.length))")
        }
    }

    struct Cat: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a key to standard output: as get KEY -.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Which: /volume/bucket/key.") var key: String
        func run() async throws {
            try await toStandardOutput(try ObjectPath.key(key), cluster)
        }
    }

    struct Copy: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cp", abstract: "Copy a key, within a bucket or to another one.",
            discussion: """
                Of any size; the bytes pass through this program. Headers and metadata are kept, \
                and a checksum that was made of the whole; the ETag is the MD5 of the bytes, also \
                if the source was uploaded in parts. The copy is coded as its bucket is.
                """)
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "From where: /volume/bucket/key.") var source: String
        @Argument(help: "Where to: /volume/bucket/key, or /volume/bucket for the same key.")
        var destination: String
        @Option(help: ReplicationArgument.help, transform: ReplicationArgument.parse)
        var replication: ReplicationConfig?

        func run() async throws {
            let from = try ObjectPath.key(source)
            let to = try ObjectPath.key(destination, named: from.name)
            let client = try await cluster.client()
            let info = try await client.key(from, user: cluster.user)
            let writer = try await client.openWriter(
                to, length: info.length, replication: replication, user: cluster.user)
            do {
                let sink = CopySink(
                    writer,
                    ByteProgress("cp \(from.name)", total: info.length, isQuiet: cluster.json))
                try await client.openReader(info).read(0..<info.length) {
                    try await sink.write($0)
                }
                let checksum = info.checksum.flatMap { $0.kind == .fullObject ? $0 : nil }
                let copied = try await writer.commit(
                    KeyCommit(
                        etag: await sink.etag(), attributes: info.attributes, checksum: checksum))
                if cluster.json { return try printJSON(KeyRow(copied)) }
                print(
                    "copied key \(shown("\(from)")) to \(shown("\(to)")), "
                        + "\(formatBytes(copied.length)), \(copied.replication)")
            } catch {
                await writer.abort()
                throw error
            }
        }
    }
}

private func toStandardOutput(_ path: KeyPath, _ cluster: ClusterOptions) async throws {
    let client = try await cluster.client()
    let info = try await client.key(path, user: cluster.user)
    let sink = FileSink(
        STDOUT_FILENO, "standard output",
        ByteProgress(
            "get \(path.name)", total: info.length,
            // Both on a terminal would be written over each other.
            isQuiet: cluster.json || Escaping.outputIsTerminal))
    try await client.openReader(info).read(0..<info.length) { try await sink.write($0) }
}

/// Where fetched bytes go.
private actor FileSink {
    private let descriptor: Int32
    private let name: String
    private var progress: ByteProgress

    init(_ descriptor: Int32, _ name: String, _ progress: consuming sending ByteProgress) {
        self.descriptor = descriptor
        self.name = name
        self.progress = progress
    }

    func write(_ piece: Payload) throws {
        try piece.withBytes { (bytes: UnsafeRawBufferPointer) throws in
            try writeAll(bytes, to: descriptor, name)
        }
        progress.advance(piece.count)
    }
}

/// Where copied bytes go.
private actor CopySink {
    private let writer: KeyWriter
    private var digest = Insecure.MD5()
    private var progress: ByteProgress

    init(_ writer: KeyWriter, _ progress: consuming sending ByteProgress) {
        self.writer = writer
        self.progress = progress
    }

    func write(_ piece: Payload) async throws {
        piece.withBytes { digest.update(bufferPointer: $0) }
        try await writer.write(piece)
        progress.advance(piece.count)
    }

    /// Of all bytes so far: their MD5.
    func etag() -> String { digest.finalize().map { String(format: "%02x", $0) }.joined() }
}
