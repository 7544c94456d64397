import Bytes
import Client
import Model
import Synchronization

/// Gathers the bytes of one key or part.
public final class InMemoryWriter: ObjectWriter {
    enum Target: Sendable {
        case key(KeyPath, ReplicationConfig)
        case part(KeyPath, UploadID, Int)
    }
    private struct State {
        var bytes: [UInt8] = []
        var isOpen = true
    }

    private let store: InMemoryObjectStore
    private let target: Target
    private let user: String
    private let state = Mutex(State())

    init(store: InMemoryObjectStore, target: Target, user: String) {
        self.store = store
        self.target = target
        self.user = user
    }

    public func write(_ bytes: UnsafeRawBufferPointer) async throws(StoreError) {
        try store.enter("write")
        state.withLock { state in
            precondition(state.isOpen, "a writer is written to before it is committed or aborted")
            state.bytes.append(contentsOf: bytes)
        }
    }

    public func commit(_ commit: KeyCommit) async throws(StoreError) -> KeyInfo {
        try store.enter("commit")
        let modified = store.now()
        let bytes = state.withLock { $0.bytes }
        let info = try store.state.withLock { state throws(StoreError) in
            switch target {
            case .key(let key, let replication):
                try state.commit(bytes, key, replication, commit, modified, user)
            case .part(let key, let upload, let number):
                try state.commit(bytes, key, upload, number, commit, modified, user)
            }
        }
        close()
        return info
    }

    public func abort() async { close() }

    private func close() {
        let wasOpen = state.withLock { state in
            defer {
                state.isOpen = false
                state.bytes = []
            }
            return state.isOpen
        }
        if wasOpen { store.state.withLock { $0.openWriters -= 1 } }
    }
}

extension InMemoryObjectStore.State {
    fileprivate mutating func commit(
        _ bytes: [UInt8], _ key: KeyPath, _ replication: ReplicationConfig, _ commit: KeyCommit,
        _ modified: Timestamp, _ user: String
    ) throws(StoreError) -> KeyInfo {
        try commit.condition.check(bucket(key.bucket, user).keys[key.name])
        let group = keep(bytes, replication)
        let info = KeyInfo(
            name: key.name, length: bytes.count, etag: commit.etag, modified: modified,
            replication: replication, attributes: commit.attributes, checksum: commit.checksum,
            blockGroups: [group])
        replace(key, with: info)
        return info
    }

    fileprivate mutating func commit(
        _ bytes: [UInt8], _ key: KeyPath, _ upload: UploadID, _ number: Int, _ commit: KeyCommit,
        _ modified: Timestamp, _ user: String
    ) throws(StoreError) -> KeyInfo {
        let found = try self.upload(key, upload, user)
        let group = keep(bytes, found.info.replication)
        let part = PartInfo(
            number: number, length: bytes.count, etag: commit.etag, modified: modified,
            checksum: commit.checksum)
        let former = buckets[key.bucket]?.uploads[upload]?.parts.updateValue(
            (part, group), forKey: number)
        if let former { data[former.block.blockID.localID] = nil }
        return KeyInfo(
            name: key.name, length: bytes.count, etag: commit.etag, modified: modified,
            replication: found.info.replication, checksum: commit.checksum, blockGroups: [group])
    }
}

/// Hands out the bytes of one key, a cell at a time.
public final class InMemoryReader: ObjectReader {
    private let store: InMemoryObjectStore
    private let pieces: [[UInt8]]
    /// Where in the key the first piece begins.
    private let start: Int
    private let cell: Int

    init(store: InMemoryObjectStore, pieces: [[UInt8]], start: Int, cell: Int) {
        self.store = store
        self.pieces = pieces
        self.start = start
        self.cell = cell
    }

    public func read(
        _ range: Range<Int>, _ body: @Sendable (Payload) async throws -> Void
    ) async throws {
        let end = pieces.reduce(start) { $0 + $1.count }
        precondition(
            range.isEmpty || range.lowerBound >= start && range.upperBound <= end,
            "a range that was asked for is read")
        var start = start
        for piece in pieces {
            let end = start + piece.count
            var position = max(start, range.lowerBound)
            while position < min(end, range.upperBound) {
                try store.enter("read")
                let next = min(end, range.upperBound, position + cell)
                try await hand(Array(piece[(position - start)..<(next - start)]), to: body)
                position = next
            }
            start = end
        }
    }

    private func hand(
        _ bytes: [UInt8], to body: @Sendable (Payload) async throws -> Void
    ) async throws {
        try await body(Payload(copying: bytes, pool: .process))
    }
}
