import Bytes
import Client
import Foundation
import Model
import Synchronization

/// The keys of one run: names, sizes, and how they are written, read, checked and removed.
struct BenchKeys: Sendable {
    let client: ClusterClient
    let bucket: BucketPath
    /// What the names of all runs with the same options begin with.
    let base: String
    /// The number of this run.
    let run: UInt64
    /// What the names of all keys begin with that this run writes, and no others; but for the
    /// scattered ones.
    let prefix: String
    let user: String
    let replication: ReplicationConfig?
    let sizes: SizeDistribution

    /// Bytes handed to a writer at once.
    private static let pieceBytes = 1 << 20

    /// Key `index` of a kind. Names sort as their numbers.
    func path(_ kind: String, _ index: Int) -> KeyPath {
        guard let name = KeyName(prefix + kind + String(format: "-%09d", index)) else {
            preconditionFailure("the prefix was checked when the run began")
        }
        return KeyPath(bucket: bucket, name: name)
    }

    /// Key `index`, where names are in no order and fall between those of all runs with the same
    /// prefix: `removeAll` does not find them.
    func scattered(_ index: Int) -> KeyPath {
        var random = BenchRandom(seed: run &+ UInt64(truncatingIfNeeded: index))
        guard let name = KeyName(base + String(format: "%016lx", random.next() >> 1)) else {
            preconditionFailure("the prefix was checked when the run began")
        }
        return KeyPath(bucket: bucket, name: name)
    }

    /// Writes `bytes` bytes of the key's content and commits. Returns `bytes`.
    ///
    /// The entity tag is not the MD5 that the S3 gateway makes: a native client needs none.
    func write(_ key: KeyPath, bytes: Int) async throws -> Int {
        let content = BenchContent(name: key.name.bytes)
        let writer = try await client.openWriter(
            key, length: bytes, replication: replication, user: user)
        do {
            var offset = 0
            // The writer takes a copy, so one buffer serves all pieces.
            let buffer = BufferPool.process.allocate(max(1, min(bytes, Self.pieceBytes)))
            while offset < bytes {
                let count = min(Self.pieceBytes, bytes - offset)
                content.fill(buffer.bytes(in: 0..<count), from: offset)
                try await writer.write(Payload(buffer, 0..<count))
                offset += count
            }
            _ = try await writer.commit(KeyCommit(etag: "bench-\(bytes)"))
            return bytes
        } catch {
            await writer.abort()
            throw error
        }
    }

    /// Looks the key up, reads a range (nil: all of it) and compares every byte.
    func read(_ key: KeyPath, _ choose: @Sendable (Int) -> Range<Int>) async throws -> Int {
        let info = try await client.key(key, user: user)
        let range = choose(info.length)
        guard !range.isEmpty else { return 0 }
        let content = BenchContent(name: key.name.bytes)
        let position = Atomic(range.lowerBound)
        try await client.openReader(info).read(range) { piece in
            let offset = position.load(ordering: .relaxed)
            if let wrong = piece.withBytes({ content.mismatch($0, from: offset) }) {
                throw BenchMismatch(description: "\(key) differs at byte \(wrong)")
            }
            position.store(offset + piece.count, ordering: .relaxed)
        }
        let end = position.load(ordering: .relaxed)
        guard end == range.upperBound else {
            throw BenchMismatch(
                description: "\(key): \(end - range.lowerBound) bytes came of \(range.count)")
        }
        return range.count
    }

    /// All keys whose names begin with `prefix`, by name.
    func existing(under prefix: String) async throws -> [KeyPath] {
        var query = ListQuery(prefix: Array(prefix.utf8))
        var found: [KeyPath] = []
        while true {
            let page = try await client.list(bucket, query, user: user)
            found += page.keys.map { KeyPath(bucket: bucket, name: $0.name) }
            guard let next = page.next else { return found }
            query.startAfter = next
        }
    }

    /// Writes `count` keys of a kind, `clients` at a time, and returns them by name.
    /// - Parameter bytes: the size of each; nil: as the distribution gives it.
    func prepare(
        _ kind: String, count: Int, bytes: Int? = nil, clients: Int
    ) async throws -> [KeyPath] {
        try await forEach(Array(0..<count), clients: clients) { index in
            _ = try await write(path(kind, index), bytes: bytes ?? sizes.size(of: index))
        }
        return (0..<count).map { path(kind, $0) }
    }

    /// Removes everything this run has written, `clients` at a time. Returns how many keys.
    func removeAll(clients: Int) async throws -> Int {
        let keys = try await existing(under: prefix)
        try await forEach(keys, clients: clients) { key in
            try await client.deleteKey(key, condition: .none, user: user)
        }
        return keys.count
    }

    /// Calls `body` for all `items`, at most `clients` at a time; the first error ends it.
    func forEach<Item: Sendable>(
        _ items: [Item], clients: Int, _ body: @escaping @Sendable (Item) async throws -> Void
    ) async throws {
        let next = Counter()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<min(clients, items.count) {
                group.addTask {
                    while true {
                        let index = next.take()
                        guard index < items.count else { return }
                        try await body(items[index])
                    }
                }
            }
            try await group.waitForAll()
        }
    }
}
