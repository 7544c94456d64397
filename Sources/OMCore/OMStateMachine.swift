import Model
import SwiftProtobuf
import Wire

/// The Ozone Manager's state machine: names, and the blocks that keys consist of.
///
/// A command checks everything before it
/// changes anything: one that is refused leaves the tables as they were.
public struct OMStateMachine: StateMachine {
    /// The volume that S3's buckets live in. Made with the first user; anybody may create
    /// buckets in it.
    public static let s3Volume = "s3v"

    /// Called after a command that may have changed a user can be read.
    private let usersChanged: (@Sendable () -> Void)?

    public init(usersChanged: (@Sendable () -> Void)? = nil) { self.usersChanged = usersChanged }

    public var tables: [MetadataTable] { OMTable.all }
    public var format: TablesFormat { OMFormat.tables }

    /// Tables whose records are looked up one by one, again and again.
    public static let cachedTables: Set<MetadataTable> = [
        OMTable.users, OMTable.accessKeys, OMTable.volumes, OMTable.buckets, OMTable.keys,
        OMTable.opens, OMTable.uploads, OMTable.usage, OMTable.settings,
    ]

    public func encode(_ command: OMCommand) -> [UInt8] { command.encoded }

    public func decode(_ bytes: [UInt8]) throws(StoreError) -> OMCommand {
        let command = try OMCommand(parsing: bytes)
        guard command.version <= OMFormat.command else {
            throw StoreError(
                .versionMismatch,
                "the log holds a command of version \(command.version); this program knows those "
                    + "up to version \(OMFormat.command)")
        }
        guard command.body != nil else {
            throw StoreError(
                .versionMismatch, "the log holds a command of a kind not known to this version")
        }
        return command
    }

    public func apply(
        _ command: OMCommand, at index: UInt64, in transaction: some MetadataTransaction
    ) -> OMAnswer {
        do throws(StoreError) {
            let clock = LoggedTime(of: command, in: transaction)
            let answer = try OMChanges(
                transaction, index: index, time: command.time, logTime: clock.time,
                version: command.version
            ).run(command)
            clock.keep(in: transaction)
            return answer
        } catch {
            return .refused(error)
        }
    }

    /// The tables are another's: what was kept of users may be wrong.
    public func reset(from tables: some MetadataReader) { usersChanged?() }

    public func applied(_ command: OMCommand, answer: OMAnswer, at index: UInt64) {
        switch command.body {
        case .createUser, .deleteUser: usersChanged?()
        case .createVolume, .deleteVolume, .createBucket, .deleteBucket, .open, .addBlock,
            .commit, .abortOpen, .deleteKey, .createUpload, .completeUpload, .abortUpload,
            .expireOpens, .expireUploads, .purgeDeleted, .reserve, .putSetting, .deleteSetting,
            .countUsage, nil:
            break
        }
    }
}

/// The time by which a command decides: that which it bears, or the latest before it if that is
/// later, as of another leader with another clock.
private struct LoggedTime {
    let time: Int64
    private let isNew: Bool

    init(of command: OMCommand, in transaction: some MetadataTransaction) {
        guard command.version >= 2 else {
            time = command.time
            isNew = false
            return
        }
        // One that was made without a log clock has the wall clock's time.
        let proposed = command.logTime > 0 ? command.logTime : command.time
        let last = OMReads(transaction).logTime
        time = max(proposed, last ?? proposed)
        isNew = time != last
    }

    func keep(in transaction: some MetadataTransaction) {
        guard isNew else { return }
        transaction.put(OMTable.clock, [], OMTableKey.number(UInt64(bitPattern: time)))
    }
}

/// What the proposer of a command is told.
public enum OMAnswer: Sendable, Equatable {
    /// Done; there is nothing more to say.
    case done
    case open(OMOpenResponse)
    case reserved(OMReserveResponse)
    case key(OMKeyResponse)
    case deletedKey(OMDeleteKeyResponse)
    case upload(OMCreateUploadResponse)
    /// One more block group for an open key, without its places.
    case group(OMAllocateGroupResponse)
    case refused(StoreError)

    /// The message that answers the request; throws why it was refused.
    public func encoded() throws(StoreError) -> [UInt8] {
        switch self {
        case .done: []
        case .open(let response): response.encoded
        case .reserved(let response): response.encoded
        case .key(let response): response.encoded
        case .deletedKey(let response): response.encoded
        case .upload(let response): response.encoded
        case .group(let response): response.encoded
        case .refused(let error): throw error
        }
    }
}

/// One command at work on the tables.
///
/// Its methods throw `StoreError` before their first change or not at all.
struct OMChanges {
    let transaction: any MetadataTransaction
    /// The command's place in the log: the source of numbers that are never given twice.
    let index: UInt64
    /// The leader's wall clock when it prepared the command, in milliseconds since 1970: what is
    /// shown to users.
    let time: Int64
    /// The same by the log's clock: what decides whether something is too old.
    let logTime: Int64
    /// The rules that it is applied by, as it says itself: see `OMFormat.command`.
    let version: UInt32

    init(
        _ transaction: any MetadataTransaction, index: UInt64, time: Int64,
        logTime: Int64? = nil, version: UInt32 = OMFormat.command
    ) {
        self.transaction = transaction
        self.index = index
        self.time = time
        self.logTime = logTime ?? time
        self.version = version
    }

    var reads: OMReads { OMReads(transaction) }

    func put(_ table: MetadataTable, _ key: [UInt8], _ record: some SwiftProtobuf.Message) {
        transaction.put(table, key, record.encoded)
    }

    /// The same for records that are written by hand.
    func put(_ table: MetadataTable, _ key: [UInt8], _ record: some FieldWritable) {
        transaction.put(table, key, record.encoded)
    }

    /// Numbers are never given twice, so neither are these keys.
    func add(_ table: MetadataTable, _ key: [UInt8], _ record: some FieldWritable) {
        transaction.add(table, key, record.encoded)
    }

    /// The same for other records.
    func add(_ table: MetadataTable, _ key: [UInt8], _ record: some SwiftProtobuf.Message) {
        transaction.add(table, key, record.encoded)
    }

    func run(_ command: OMCommand) throws(StoreError) -> OMAnswer {
        switch command.body {
        case .createUser(let user): try createUser(user)
        case .deleteUser(let name): try deleteUser(name)
        case .createVolume(let request): try createVolume(request)
        case .deleteVolume(let request): try deleteVolume(request)
        case .createBucket(let request): try createBucket(request)
        case .deleteBucket(let request): try deleteBucket(request)
        case .open(let request): return .open(try open(request))
        case .addBlock(let request): return .group(try addBlock(request))
        case .commit(let request): return .key(try commit(request))
        case .abortOpen(let request): try abortOpen(request)
        case .deleteKey(let request): return .deletedKey(try deleteKey(request))
        case .createUpload(let request): return .upload(try createUpload(request))
        case .completeUpload(let request): return .key(try completeUpload(request))
        case .abortUpload(let request): try abortUpload(request)
        case .expireOpens(let request): try expireOpens(request)
        case .expireUploads(let request): try expireUploads(request)
        case .purgeDeleted(let request): purgeDeleted(request)
        case .reserve(let request): return .reserved(try reserve(request))
        case .putSetting(let request): try putSetting(request)
        case .deleteSetting(let request): try deleteSetting(request)
        case .countUsage(let request): try countUsage(request)
        case nil:
            throw StoreError(
                .versionMismatch, "the command at \(index) is of a kind not known to this version")
        }
        return .done
    }

    /// Hands `blocks` to the loop that has SCM delete them, in records of bounded size. Once in a
    /// command.
    func discard(_ blocks: [WireBlock]) {
        var record = OMDeletedRecord()
        record.deleted = logTime
        let size = OMLimits.discardedBlocks
        for (piece, start) in stride(from: 0, to: blocks.count, by: size).enumerated() {
            let end = min(start + size, blocks.count)
            record.blocks = end - start == blocks.count ? blocks : Array(blocks[start..<end])
            add(OMTable.deleted, OMTableKey.deleted(index, piece: piece), record)
        }
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

extension OMUploadRecord {
    /// When it began, by the clock that decides. Those of before the log had one have only what is
    /// shown.
    var beganAt: Int64 { begun > 0 ? begun : upload.initiated }
}
