import Model
import Wire

@testable import OMCore

/// A state machine on tables in memory, with one call for each command.
final class Bench {
    let tables: InMemoryTables
    let machine = OMStateMachine()
    var index: UInt64 = 0
    var time: Int64 = 1_000_000
    var nextBlock: UInt64 = 1
    /// The rules that commands are made for.
    var version = OMFormat.command
    /// Every command so far, for running them again.
    var commands: [[UInt8]] = []
    var answers: [OMAnswer] = []

    init(_ tables: InMemoryTables = InMemoryTables()) { self.tables = tables }

    static let replication: WireReplication = {
        var message = WireReplication()
        message.codec = .rs
        message.data = 3
        message.parity = 2
        message.cellSize = 1 << 20
        return message
    }()

    var reads: OMReads { OMReads(tables) }

    @discardableResult
    func run(_ body: OMCommand.OneOf_Body) throws(StoreError) -> [UInt8] {
        index += 1
        time += 1000
        var command = OMCommand()
        command.time = time
        command.body = body
        command.version = version
        commands.append(machine.encode(command))
        // What the log holds, not what was put into it.
        let answer = machine.apply(
            try machine.decode(machine.encode(command)), at: index, in: tables)
        answers.append(answer)
        return try answer.encoded()
    }

    func newBlock() -> WireBlock {
        var block = WireBlock()
        block.container = nextBlock % 7 + 1
        block.local = nextBlock
        nextBlock += 1
        return block
    }

    static func path(_ bucket: String, _ key: String, volume: String = "s3v") -> OMKeyPath {
        var path = OMKeyPath()
        path.bucket.volume = volume
        path.bucket.bucket = bucket
        path.name = .octets(Array(key.utf8))
        return path
    }

    func createUser(_ name: String, administrator: Bool = false) throws(StoreError) {
        var user = OMUser()
        user.name = name
        user.accessKeyID = "AK-" + name
        user.secretAccessKey = "secret"
        user.isAdministrator = administrator
        try run(.createUser(user))
    }

    func createBucket(
        _ name: String, user: String, volume: String = "s3v"
    ) throws(StoreError) {
        var command = OMCreateBucketCommand()
        command.bucket.volume = volume
        command.bucket.bucket = name
        command.replication = Self.replication
        command.user = user
        try run(.createBucket(command))
    }

    func deleteBucket(_ name: String, user: String) throws(StoreError) {
        var request = OMBucketRequest()
        request.bucket = Self.path(name, "").bucket
        request.user = user
        try run(.deleteBucket(request))
    }

    /// Opens a key with `blocks` new blocks; returns its ID and them.
    func open(
        _ path: OMKeyPath, user: String, blocks: Int = 1, upload: WireIdentity? = nil,
        part: UInt32 = 0
    ) throws(StoreError) -> (id: UInt64, blocks: [WireBlock]) {
        var command = OMOpenCommand()
        command.key = path
        command.replication = Self.replication
        command.user = user
        command.blocks = (0..<blocks).map { _ in newBlock() }
        if let upload { command.upload = upload }
        command.part = part
        let response = try OMOpenResponse(parsing: try run(.open(command)))
        return (response.openID, command.blocks)
    }

    func commit(
        _ id: UInt64, _ blocks: [(WireBlock, UInt64)], etag: String, user: String,
        condition: OMCondition.Kind = .none, conditionETag: String = "",
        retry: (OMKeyPath, WireIdentity?, UInt32)? = nil
    ) throws(StoreError) -> OMKey {
        var request = OMCommitRequest()
        request.openID = id
        request.groups = blocks.map { block, length in
            var group = WireGroup()
            group.block = block
            group.length = length
            return group
        }
        request.etag = etag
        request.user = user
        request.condition.kind = condition
        request.condition.etag = conditionETag
        if let (key, upload, part) = retry {
            request.key = key
            if let upload { request.upload = upload }
            request.part = part
        }
        return try OMKeyResponse(parsing: try run(.commit(request))).key
    }

    /// Opens and commits a key of one block.
    @discardableResult
    func put(
        _ path: OMKeyPath, user: String, etag: String = "e", length: UInt64 = 10,
        condition: OMCondition.Kind = .none, conditionETag: String = ""
    ) throws(StoreError) -> OMKey {
        let (id, blocks) = try open(path, user: user)
        return try commit(
            id, [(blocks[0], length)], etag: etag, user: user, condition: condition,
            conditionETag: conditionETag)
    }

    func delete(
        _ path: OMKeyPath, user: String, condition: OMCondition.Kind = .none, etag: String = ""
    ) throws(StoreError) -> Bool {
        var request = OMDeleteKeyRequest()
        request.key = path
        request.user = user
        request.condition.kind = condition
        request.condition.etag = etag
        return try OMDeleteKeyResponse(parsing: try run(.deleteKey(request))).existed
    }

    func createUpload(_ path: OMKeyPath, user: String) throws(StoreError) -> WireIdentity {
        var command = OMCreateUploadCommand()
        command.request.key = path
        command.request.user = user
        command.upload.high = (index &+ 1) &* 0x9E37_79B9_7F4A_7C15
        command.upload.low = index
        return try OMCreateUploadResponse(parsing: try run(.createUpload(command))).upload
    }

    @discardableResult
    func putPart(
        _ path: OMKeyPath, _ upload: WireIdentity, _ number: UInt32, length: UInt64, etag: String,
        user: String
    ) throws(StoreError) -> OMKey {
        let (id, blocks) = try open(path, user: user, upload: upload, part: number)
        return try commit(id, [(blocks[0], length)], etag: etag, user: user)
    }

    func complete(
        _ path: OMKeyPath, _ upload: WireIdentity, _ parts: [(UInt32, String)], etag: String,
        user: String, condition: OMCondition.Kind = .none
    ) throws(StoreError) -> OMKey {
        var request = OMCompleteUploadRequest()
        request.key = path
        request.upload = upload
        request.parts = parts.map { number, etag in
            var part = OMCompletedPart()
            part.number = number
            part.etag = etag
            return part
        }
        request.etag = etag
        request.user = user
        request.condition.kind = condition
        return try OMKeyResponse(parsing: try run(.completeUpload(request))).key
    }

    func abortUpload(
        _ path: OMKeyPath, _ upload: WireIdentity, user: String
    ) throws(StoreError) {
        var request = OMUploadRequest()
        request.key = path
        request.upload = upload
        request.user = user
        try run(.abortUpload(request))
    }

    func abort(_ id: UInt64, user: String) throws(StoreError) {
        var request = OMAbortOpenRequest()
        request.openID = id
        request.user = user
        try run(.abortOpen(request))
    }

    /// The blocks that wait for SCM, in the order in which they were discarded.
    func discardedBlocks() throws(StoreError) -> [BlockID] {
        let page = reads.discarded(from: [], through: .max, limit: .max, blocks: .max)
        if let (_, error) = page.unreadable.first { throw error }
        return page.records.flatMap(\.blocks)
    }

    /// All blocks that the tables hold, wherever they stand.
    func heldBlocks() throws -> [BlockID] {
        var held: [BlockID] = []
        for (_, value) in tables.dump(OMTable.opens) {
            held += try OMOpenRecord(parsing: value).blocks.map { BlockID($0) }
        }
        for (_, value) in tables.dump(OMTable.keys) {
            held += try OMKeyRecord(parsing: value).allReferences().map { BlockID($0.block) }
        }
        for (_, value) in tables.dump(OMTable.parts) {
            held += try OMPartRecord(parsing: value).blocks.map { BlockID($0.block) }
        }
        for (_, value) in tables.dump(OMTable.deleted) {
            held += try OMDeletedRecord(parsing: value).blocks.map { BlockID($0) }
        }
        return held.sorted()
    }

    /// What the keys of a bucket come to, by looking at each of them.
    func recount(_ bucket: String) throws -> (keys: UInt64, bytes: UInt64) {
        let key = OMTableKey.bucket(Self.path(bucket, "").bucket)
        let record = try OMBucketRecord(parsing: tables.get(OMTable.buckets, key) ?? [])
        let found = tables.entries(
            OMTable.keys, prefix: OMTableKey.number(record.number), limit: .max)
        var bytes: UInt64 = 0
        for entry in found { bytes += try OMKeyRecord(parsing: entry.value).length }
        return (UInt64(found.count), bytes)
    }

    func usage(_ bucket: String, user: String) throws(StoreError) -> OMReads.Usage {
        var request = OMBucketRequest()
        request.bucket = Self.path(bucket, "").bucket
        request.user = user
        return try reads.usage(request)
    }

    func dump() -> [[[UInt8]]] {
        OMTable.all.map { table in tables.dump(table).flatMap { [$0.key, $0.value] } }
    }
}

/// The code of the error that `body` throws, nil if it throws none.
func code<R>(_ body: () throws(StoreError) -> R) -> StoreError.Code? {
    do throws(StoreError) {
        _ = try body()
        return nil
    } catch {
        return error.code
    }
}
