import Client
import Logging
import Model
import RaftDriver
import RaftLog
import Reactor
import Synchronization
import Testing
import Wire

@testable import OM
@testable import OMCore

/// Requests reach the Ozone Manager by a call in the same process.
struct DirectCaller: OMCaller {
    let manager: OzoneManager

    func call(_ method: OMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
        try await manager.handle(method: method, message: message)
    }
}

/// A clock that stands still until it is moved.
final class TestClock: Sendable {
    private let milliseconds = Atomic<Int64>(1_700_000_000_000)
    /// Since some moment, as a clock that nobody sets.
    var uptime: UInt64 {
        UInt64(milliseconds.load(ordering: .relaxed) - 1_600_000_000_000) * 1_000_000
    }
    var now: Timestamp {
        Timestamp(
            milliseconds: milliseconds.load(ordering: .relaxed) + ahead.load(ordering: .relaxed))
    }
    private let ahead = Atomic<Int64>(0)
    /// Somebody sets the wall clock.
    func set(aheadBy hours: Int64) { ahead.store(hours * 3_600_000, ordering: .relaxed) }
    func advance(_ duration: Duration) {
        milliseconds.wrappingAdd(
            duration.components.seconds * 1000
                + duration.components.attoseconds / 1_000_000_000_000_000, ordering: .relaxed)
    }
}

let bucket = BucketPath(volume: "s3v", bucket: "lake")

func path(_ name: String) throws -> Client.KeyPath {
    Client.KeyPath(bucket: bucket, name: try #require(KeyName(name)))
}

/// What an Ozone Manager under test runs on; opened more than once, it starts with what it had.
struct ManagerRig {
    let directory: String
    let reactor: Reactor
    let blocks: FakeBlocks
    let clock = TestClock()
    var replication: ReplicationConfig

    func open() async throws(StoreError) -> (OzoneManager, OMClient<DirectCaller>) {
        var options = OzoneManager.Options(defaultReplication: replication)
        options.deletionDelay = .seconds(60)
        options.group.log = .init(segmentSize: 1 << 20)
        let clock = clock
        let manager = try await OzoneManager.open(
            directory: directory + "/om", reactor: reactor, blocks: blocks, options: options,
            clock: { clock.now }, uptime: { clock.uptime }, generator: SplitMix64(state: 5),
            logger: Logger(label: "om-test"))
        return (manager, OMClient(DirectCaller(manager: manager)))
    }
}

func withManager(
    nodes: Int = 6,
    _ body: (ManagerRig, OzoneManager, OMClient<DirectCaller>) async throws -> Void
) async throws {
    try await withTemporaryDirectory { directory in
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let setup = ManagerRig(
            directory: directory, reactor: reactor, blocks: FakeBlocks(nodes: nodes),
            replication: try ReplicationConfig("rs-3-2-1024k"))
        let (manager, client) = try await setup.open()
        try await client.createUser(user("ann"))
        try await client.createBucket(bucket, replication: nil, user: "ann")
        try await body(setup, manager, client)
        try await manager.close()
    }
}

func user(_ name: String, administrator: Bool = false) -> UserInfo {
    UserInfo(
        name: name, accessKeyID: "AK" + name, secretAccessKey: "secret",
        canonicalID: String(repeating: "0", count: 64), displayName: name,
        isAdministrator: administrator)
}

/// Opens and commits a key whose groups are full as far as `length` goes.
@discardableResult
func put(
    _ client: OMClient<DirectCaller>, _ name: String, length: Int = 10, etag: String = "e",
    condition: WriteCondition = .none
) async throws -> KeyInfo {
    let open = try await client.openKey(
        try path(name), length: length, replication: nil, user: "ann")
    var groups = open.groups
    var left = length
    while left > open.replication.blockGroupSize * groups.count {
        groups.append(try await client.allocateGroup(open))
    }
    for index in groups.indices {
        groups[index].length = min(left, open.replication.blockGroupSize)
        left -= groups[index].length
    }
    return try await client.commit(
        open, groups: groups, KeyCommit(etag: etag, condition: condition))
}

func code<R>(_ body: () async throws -> R) async -> StoreError.Code? {
    do {
        _ = try await body()
        return nil
    } catch {
        return (error as? StoreError)?.code
    }
}
