import Model
import SwiftProtobuf
import Wire

/// The Ozone Manager's state machine: names, and the blocks that keys consist of.
///
/// Commands are `OMCommand`s, answers `OMCommandResult`s. A command checks everything before it
/// changes anything: one that is refused leaves the tables as they were.
public struct OMStateMachine: StateMachine {
    /// The volume that S3's buckets live in. Made with the first user; anybody may create
    /// buckets in it.
    public static let s3Volume = "s3v"

    /// Called after a command that may have changed a user can be read.
    private let usersChanged: (@Sendable () -> Void)?

    public init(usersChanged: (@Sendable () -> Void)? = nil) { self.usersChanged = usersChanged }

    public var tables: [MetadataTable] { OMTable.all }

    /// Tables whose records are looked up one by one, again and again.
    public static let cachedTables: Set<MetadataTable> = [
        OMTable.users, OMTable.accessKeys, OMTable.volumes, OMTable.buckets, OMTable.keys,
        OMTable.opens, OMTable.uploads,
    ]

    public func apply(
        _ command: [UInt8], at index: UInt64, in transaction: some MetadataTransaction
    ) -> [UInt8] {
        var result = OMCommandResult()
        do throws(StoreError) {
            let command = try OMCommand(parsing: command)
            let changes = OMChanges(transaction, index: index, time: command.time)
            result.response = .octets(try changes.run(command))
        } catch {
            result.error = UInt32(error.code.rawValue)
            result.message = error.message
        }
        return result.encoded
    }

    public func applied(_ command: [UInt8], answer: [UInt8], at index: UInt64) {
        guard let usersChanged else { return }
        // Cheaper than parsing: commands on users are rare, and few bytes.
        guard command.count < 4096, let parsed = try? OMCommand(parsing: command) else { return }
        switch parsed.body {
        case .createUser, .deleteUser: usersChanged()
        default: break
        }
    }

    /// The response within an answer of `apply`, or the error that it carries.
    public static func response(_ answer: [UInt8]) throws(StoreError) -> [UInt8] {
        let result = try OMCommandResult(parsing: answer)
        guard result.error != 0 else { return result.response.octets }
        let code = UInt16(exactly: result.error).flatMap { StoreError.Code(rawValue: $0) }
        throw StoreError(code ?? .internal, result.message)
    }
}

/// One command at work on the tables.
///
/// Its methods throw `StoreError` before their first change or not at all.
struct OMChanges<Transaction: MetadataTransaction> {
    let transaction: Transaction
    /// The command's place in the log: the source of numbers that are never given twice.
    let index: UInt64
    /// The leader's clock when it prepared the command, in milliseconds since 1970.
    let time: Int64

    init(_ transaction: Transaction, index: UInt64, time: Int64) {
        self.transaction = transaction
        self.index = index
        self.time = time
    }

    var reads: OMReads<Transaction> { OMReads(transaction) }

    func put(_ table: MetadataTable, _ key: [UInt8], _ record: some SwiftProtobuf.Message) {
        transaction.put(table, key, record.encoded)
    }

    /// Runs `command` and returns the bytes of its response.
    func run(_ command: OMCommand) throws(StoreError) -> [UInt8] {
        switch command.body {
        case .createUser(let user): try createUser(user)
        case .deleteUser(let name): try deleteUser(name)
        case .createVolume(let request): try createVolume(request)
        case .deleteVolume(let request): try deleteVolume(request)
        case .createBucket(let request): try createBucket(request)
        case .deleteBucket(let request): try deleteBucket(request)
        case .open(let request): return try open(request).encoded
        case .addBlock(let request): try addBlock(request)
        case .commit(let request): return try commit(request).encoded
        case .abortOpen(let request): try abortOpen(request)
        case .deleteKey(let request): return try deleteKey(request).encoded
        case .createUpload(let request): return try createUpload(request).encoded
        case .completeUpload(let request): return try completeUpload(request).encoded
        case .abortUpload(let request): try abortUpload(request)
        case .expireOpens(let request): try expireOpens(request)
        case .expireUploads(let request): try expireUploads(request)
        case .purgeDeleted(let request): purgeDeleted(request)
        case nil:
            throw StoreError(
                .versionMismatch, "the command at \(index) is of a kind not known to this version")
        }
        return []
    }

    /// Hands `blocks` to the loop that has SCM delete them. Once in a command.
    func discard(_ blocks: [WireBlock]) {
        guard !blocks.isEmpty else { return }
        var record = OMDeletedRecord()
        record.deleted = time
        record.blocks = blocks
        put(OMTable.deleted, OMTableKey.deleted(index), record)
    }

    private func purgeDeleted(_ command: OMPurgeDeletedCommand) {
        for key in command.keys { transaction.delete(OMTable.deleted, key.octets) }
    }
}

extension OMStoredBlock {
    var block: WireBlock {
        var block = WireBlock()
        block.container = container
        block.local = local
        return block
    }
}
