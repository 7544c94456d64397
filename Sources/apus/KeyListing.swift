import ArgumentParser
import Client
import Foundation
import Model

extension KeyCommand {
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List keys, in the order of their bytes.",
            discussion: """
                Keys are printed as they are found: a bucket may hold millions. With --json an \
                array is printed, each element on a line of its own: of a key as `key info` has \
                it, of names that a delimiter ends {"prefix": …}.
                """)
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "/volume/bucket, or /volume/bucket/prefix.") var path: String
        @Option(help: "Only keys that begin with this.") var prefix: String?
        @Option(
            help: """
                Names are told up to the next delimiter only, and each such beginning once; with \
                / as a folder's listing.
                """)
        var delimiter: String?
        @Option(name: .customLong("start-after"), help: "Only keys that sort after this.")
        var startAfter: String?
        @Option(help: "At most so many.") var limit: Int?

        func validate() throws {
            if let limit, limit < 1 { throw ValidationError("--limit takes 1 and more") }
            if prefix != nil, ObjectPath.parts(path).count > 2 {
                throw ValidationError("a prefix is given in the path or with --prefix, not in both")
            }
        }

        func run() async throws {
            let parts = ObjectPath.parts(path)
            let bucket = try ObjectPath.bucket("/" + parts.prefix(2).joined(separator: "/"))
            let text = prefix ?? (parts.count > 2 ? parts[2] : "")
            let query = ListQuery(
                prefix: Array(text.utf8), delimiter: Array((delimiter ?? "").utf8),
                startAfter: Array((startAfter ?? "").utf8))
            let walk = KeyWalk(
                client: try await cluster.client(), bucket: bucket, query: query,
                user: cluster.user, limit: limit ?? .max)
            // Rows on a terminal tell themselves how far it is.
            let line = StatusLine(isQuiet: cluster.json || Escaping.outputIsTerminal)
            var array = cluster.json ? JSONArrayPrinter() : nil
            var isFirst = true
            try await walk.pages { page, total in
                // Not before it is known that there is something to list.
                if isFirst, array == nil {
                    print(KeyRow.columns("BYTES", "MODIFIED", "ETAG", "KEY"))
                }
                isFirst = false
                for entry in page.entries {
                    switch entry {
                    case .key(let info):
                        let row = KeyRow(info)
                        if array != nil {
                            try array?.append(row)
                        } else {
                            print(
                                KeyRow.columns(
                                    String(row.length), row.modified, shown(row.etag),
                                    shown(row.key)))
                        }
                    case .prefix(let bytes):
                        let name = String(decoding: bytes, as: UTF8.self)
                        if array != nil {
                            try array?.append(["prefix": name])
                        } else {
                            print(KeyRow.columns("-", "-", "-", shown(name)))
                        }
                    }
                }
                try StandardOutput.flush()
                line.show("\(total) listed")
            }
            array?.end()
            line.end()
        }
    }

    struct Info: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "What is known of a key.")
        @OptionGroup var cluster: ClusterOptions
        @Argument(help: "Which: /volume/bucket/key.") var key: String
        @Flag(help: "Also its groups, containers, replicas and their datanodes.")
        var blocks = false

        func run() async throws {
            let info = try await cluster.client().key(ObjectPath.key(key), user: cluster.user)
            var row = KeyRow(info)
            if blocks { row.blocks = info.blockGroups.map(KeyRow.Group.init) }
            if cluster.json { return try printJSON(row) }
            var fields: [(String, String?)] = [
                ("key", row.key), ("bytes", "\(row.length)"), ("replication", row.replication),
                ("modified", row.modified), ("etag", row.etag), ("checksum", row.checksum),
                ("parts", row.parts.map { "\($0)" }),
            ]
            fields += (row.headers ?? [:]).sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
            fields += (row.metadata ?? [:]).sorted { $0.key < $1.key }.map {
                ("x-amz-meta-" + $0.key, $0.value)
            }
            printFields(fields.map { (shown($0.0), $0.1) })
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
        @Argument(help: "Which: /volume/bucket/key.") var key: String
        func run() async throws {
            let path = try ObjectPath.key(key)
            guard
                try await cluster.client().deleteKey(path, condition: .none, user: cluster.user)
            else { throw StoreError(.noSuchKey, "there is no key \(path)") }
            try Done(done: "deleted", kind: "key", name: "\(path)").print(json: cluster.json)
        }
    }
}

/// All entries of a listing, page by page: memory does not grow with them.
struct KeyWalk: Sendable {
    enum Entry {
        case key(KeyInfo)
        case prefix([UInt8])

        fileprivate var bytes: [UInt8] {
            switch self {
            case .key(let info): info.name.bytes
            case .prefix(let bytes): bytes
            }
        }
    }

    /// Keys and common prefixes of a page, in the order of their bytes.
    struct Page {
        let entries: [Entry]

        init(_ page: ListPage) {
            entries = (page.keys.map(Entry.key) + page.commonPrefixes.map(Entry.prefix))
                .sorted { $0.bytes.lexicographicallyPrecedes($1.bytes) }
        }
    }

    let client: ClusterClient
    let bucket: BucketPath
    var query: ListQuery
    let user: String
    /// Entries at most.
    var limit = Int.max

    /// Calls `body` with each page, and the number of entries up to its end.
    func pages(_ body: (Page, _ total: Int) throws -> Void) async throws {
        var query = query
        let pageLimit = query.limit
        var total = 0
        while total < limit {
            query.limit = min(pageLimit, limit - total)
            let page = try await client.list(bucket, query, user: user)
            total += page.keys.count + page.commonPrefixes.count
            try body(Page(page), total)
            guard let next = page.next else { return }
            query.startAfter = next
        }
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
    /// As S3 has it: `CRC32C …`, with its kind if it is made of those of parts.
    var checksum: String?
    var headers: [String: String]?
    var metadata: [String: String]?
    var parts: Int?
    var blocks: [Group]?

    init(_ info: KeyInfo) {
        key = info.name.description
        length = info.length
        etag = info.etag
        modified = info.modified.text
        replication = info.replication.description
        checksum = info.checksum.map {
            "\($0.algorithm.rawValue) \($0.value)" + ($0.kind == .composite ? " of parts" : "")
        }
        if !info.attributes.headers.isEmpty { headers = info.attributes.headers }
        if !info.attributes.metadata.isEmpty { metadata = info.attributes.metadata }
        if !info.parts.isEmpty { parts = info.parts.count }
    }

    /// A line of a listing. The key comes last, as nobody knows yet how long the longest is.
    static func columns(_ bytes: String, _ modified: String, _ etag: String, _ key: String)
        -> String
    {
        func pad(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(0, width - text.count))
        }
        let right = String(repeating: " ", count: max(0, 14 - bytes.count)) + bytes
        return "\(right)  \(pad(modified, 20))  \(pad(etag, 32))  \(key)"
    }
}
