import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization

/// What stands behind a `MetadataGroup`, whatever its state machine: the member, its log and the
/// tables that it applies entries to.
public final class MetadataEngine: Sendable {
    public let member: RaftMember
    let tables: TablesApplier
    let log: SharedLog
    /// The largest command that is taken, in bytes.
    public let maximumCommandSize: Int
    public let directory: String
    private let isClosed = Atomic(false)

    /// What opening it took.
    let start: MetadataStart

    private init(
        member: RaftMember, tables: TablesApplier, log: SharedLog, directory: String,
        start: MetadataStart
    ) {
        self.start = start
        self.member = member
        self.tables = tables
        self.log = log
        self.directory = directory
        maximumCommandSize = min(log.options.maximumEntrySize, MetadataGroupLimits.commandBytes)
    }

    var store: any TableStore { tables.store }
    public var reactor: Reactor { member.reactor }

    /// The members in force. Any thread.
    var members: ConfState { tables.members }
    /// Names and addresses of the members.
    var book: MemberBook { tables.book }

    static func open(
        directory: String, role: String, reactor: Reactor, replay: any CommandReplay,
        options: MetadataGroupOptions, transport: some RaftTransport,
        generator: sending some RandomNumberGenerator & Sendable
    ) async throws(StoreError) -> MetadataEngine {
        let began = reactor.now()
        do throws(IOError) {
            try await reactor.makeDurableDirectory(directory)
        } catch {
            throw StoreError(error)
        }
        let store = try await open(
            "\(directory)/metadata.db", role, replay, options)
        let tablesOpened = reactor.now()
        var opened: SharedLog?
        var started: RaftMember?
        do throws(StoreError) {
            let log = try await SharedLog.open(
                directory: "\(directory)/log", on: reactor, options: options.log)
            opened = log
            let group = try await group(in: log, store, directory, options)
            do throws(IOError) {
                try await reactor.synchronizeDirectory(directory)
            } catch {
                throw StoreError(error)
            }
            let logOpened = reactor.now()
            let flushed = store.appliedIndex
            let tables = TablesApplier(
                store: store, replay: replay, log: group,
                book: MemberBook(options.identity?.members ?? []), options: options, on: reactor)
            try await tables.resetMachine()
            let member = try await RaftMember.start(
                log: group, applier: tables, transport: transport,
                snapshots: "\(directory)/snapshots", options: options.member, on: reactor,
                generator: generator)
            started = member
            try await member.untilReplayed()
            return MetadataEngine(
                member: member, tables: tables, log: log, directory: directory,
                start: MetadataStart(
                    tables: began.duration(to: tablesOpened),
                    log: tablesOpened.duration(to: logOpened),
                    replay: logOpened.duration(to: reactor.now()),
                    entries: Int(store.appliedIndex - flushed)))
        } catch {
            // Its loops may be at work on log and tables.
            await started?.close()
            try? await opened?.close()
            try? await store.close()
            throw error
        }
    }

    private static func open(
        _ path: String, _ role: String, _ replay: any CommandReplay,
        _ options: MetadataGroupOptions
    ) async throws(StoreError) -> any TableStore {
        if let open = options.openTables { return try await open(path) }
        return try await MetadataStore.open(
            path: path, role: role, tables: replay.tables + GroupTable.all,
            format: replay.format, cache: options.cache, pace: options.member.snapshotPace)
    }

    /// The group's part of the log; a new one only where the tables are new too.
    private static func group(
        in log: SharedLog, _ store: any TableStore, _ directory: String,
        _ options: MetadataGroupOptions
    ) async throws(StoreError) -> GroupLog {
        // What a recovery left when it was cut off at its very end.
        for former in options.identity?.formerGroups ?? [] where log.group(former) != nil {
            try await log.remove(former)
        }
        if let found = log.group(options.group) {
            let members = found.confState.0
            guard options.identity?.isAssumed != true || members == ConfState(voters: [1]) else {
                throw StoreError(
                    .corrupt,
                    "\(directory)/\(MemberIdentity.fileName) is lost, and its group has more members "
                        + "than one: which of them this is, nothing says. Move the directory away, "
                        + "start the role again and have it added anew")
            }
            return found
        }
        if let identity = options.identity, identity.isBegun {
            throw StoreError(
                .corrupt,
                "the log of \(identity.name) in \(directory) is lost: it must not vote as if it "
                    + "remembered. Move what is left of the directory away, start it again, and "
                    + "have it added anew: apus admin \(identity.role) add \(identity.name) ADDRESS"
            )
        }
        guard store.appliedIndex == 0 else {
            throw StoreError(
                .corrupt,
                "the tables in \(directory) have applied \(store.appliedIndex), but the log "
                    + "knows nothing of their group")
        }
        return try await log.create(options.group, confState: ConfState(voters: options.voters))
    }

    /// Ends everything; a second call does nothing.
    func close() async throws(StoreError) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        await member.close()
        // The log alone would do; this makes the next start quick.
        var failure: StoreError?
        do throws(StoreError) {
            try await tables.end()
        } catch {
            failure = error
        }
        do throws(StoreError) {
            try await log.close()
        } catch {
            failure = failure ?? error
        }
        try await store.close()
        if let failure { throw failure }
    }
}

/// What opening a group took, for whoever waits for a restart.
public struct MetadataStart: Sendable, CustomStringConvertible {
    /// Until the tables were open.
    public var tables: Duration
    /// From then until the log was read.
    public var log: Duration
    /// From then until the member had applied what the tables did not have.
    public var replay: Duration
    /// How many entries that was; those of a group of several are not waited for.
    public var entries: Int

    public var description: String {
        func milliseconds(_ time: Duration) -> Int64 {
            time.components.seconds * 1000 + time.components.attoseconds / 1_000_000_000_000_000
        }
        return "tables opened in \(milliseconds(tables)) ms, log in \(milliseconds(log)) ms, "
            + "\(entries) entries applied again in \(milliseconds(replay)) ms"
    }
}

/// In a group of one there is nobody to send to.
public struct NoTransport: RaftTransport {
    public init() {}
    public func send(_ messages: [Message]) {}
    public func address(of peer: PeerID) -> String? { nil }

    public func deliver(
        _ request: SnapshotRequest, to peer: PeerID
    ) async throws(StoreError) -> Int {
        throw StoreError(.connection, "there is no way to member \(peer)")
    }
}
