import Client
import Logging
import Model
import OMCore
import RaftDriver
import RaftLog
import Reactor
import Synchronization
import Testing
import Wire

@testable import OM
@testable import OMCore

/// Makes each change under an identity, and again when it is answered, as a client does that lost
/// the answer. Notes where the answers differ.
private final class RepeatingCaller: OMCaller {
    let manager: OzoneManager
    let blocks: FakeBlocks
    /// 0: each change is made once.
    let repeats: Int
    let methods = Mutex<Set<OMMethod>>([])
    let differences = Mutex<[String]>([])
    private let sequence = Atomic<UInt64>(0)

    init(_ manager: OzoneManager, _ blocks: FakeBlocks, repeats: Int) {
        self.manager = manager
        self.blocks = blocks
        self.repeats = repeats
    }

    func call(_ method: OMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
        guard method.isChange else {
            return try await manager.handle(method: method, message: message)
        }
        methods.withLock { _ = $0.insert(method) }
        var id = CallID(
            client: Identity128(high: 1, low: 1),
            sequence: sequence.wrappingAdd(1, ordering: .relaxed).newValue)
        id.answeredBelow = id.sequence
        let first = await outcome(method, message, id)
        for number in 0..<repeats {
            // While SCM cannot be asked: what is answered again does not ask it.
            blocks.with { $0.failure = StoreError(.cannotPlace, "no nodes are left") }
            // That one came while the first was under way is told by the log alone.
            id.isRepeat = number == 0 || method == .deleteKey || Self.asksSCM(method)
            let again = await outcome(method, message, id)
            blocks.with { $0.failure = nil }
            if try !Self.equal(first, again, method) {
                differences.withLock { $0.append("\(method): \(first), then \(again)") }
            }
            // Other blocks would come the next time.
            if Self.asksSCM(method) {
                id.isRepeat = false
                let raced = await outcome(method, message, id)
                if try !Self.equal(first, raced, method) {
                    differences.withLock { $0.append("\(method): \(first), raced \(raced)") }
                }
            }
        }
        return try first.get()
    }

    private func outcome(
        _ method: OMMethod, _ message: [UInt8], _ id: CallID
    ) async -> Result<[UInt8], StoreError> {
        do throws(StoreError) {
            return .success(try await manager.handle(method: method, message: message, call: id))
        } catch {
            return .failure(error)
        }
    }

    private static func asksSCM(_ method: OMMethod) -> Bool {
        [.openKey, .openPart, .reserve, .allocateGroup].contains(method)
    }

    /// Messages may have their fields in another order.
    private static func equal(
        _ first: Result<[UInt8], StoreError>, _ second: Result<[UInt8], StoreError>,
        _ method: OMMethod
    ) throws(StoreError) -> Bool {
        guard case .success(let first) = first, case .success(let second) = second else {
            return first == second
        }
        switch method {
        case .openKey, .openPart:
            return try OMOpenResponse(parsing: first) == OMOpenResponse(parsing: second)
        case .reserve:
            return try OMReserveResponse(parsing: first) == OMReserveResponse(parsing: second)
        default: return first == second
        }
    }
}

@Suite("OzoneManager: each change once")
struct RepeatsTests {
    private static let bucket = BucketPath(volume: "s3v", bucket: "lake")

    private func path(_ name: String) throws -> Client.KeyPath {
        KeyPath(bucket: Self.bucket, name: try #require(KeyName(name)))
    }

    private func message(_ name: String) -> OMKeyPath {
        var path = OMKeyPath()
        path.bucket.volume = Self.bucket.volume
        path.bucket.bucket = Self.bucket.bucket
        path.name = .octets(Array(name.utf8))
        return path
    }

    private func user(_ name: String) -> UserInfo {
        UserInfo(
            name: name, accessKeyID: "AK" + name, secretAccessKey: "secret",
            canonicalID: String(repeating: "0", count: 64), displayName: name,
            isAdministrator: false)
    }

    private func withManager(
        _ body: (OzoneManager, FakeBlocks) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let blocks = FakeBlocks()
            var options = OzoneManager.Options(
                defaultReplication: try ReplicationConfig("rs-3-2-1024k"))
            options.group.log = .init(segmentSize: 1 << 20)
            let clock = TestClock()
            let manager = try await OzoneManager.open(
                directory: directory + "/om", reactor: reactor, blocks: blocks, options: options,
                clock: { clock.now }, uptime: { clock.uptime }, generator: SplitMix64(state: 5),
                logger: Logger(label: "om-test"))
            try await body(manager, blocks)
            try await manager.close()
        }
    }

    private func put(
        _ client: OMClient<RepeatingCaller>, _ name: String, condition: WriteCondition = .none
    ) async throws {
        let open = try await client.openKey(
            path(name), length: 10, replication: nil, user: "ann")
        var groups = open.groups
        groups[0].length = 10
        _ = try await client.commit(
            open, groups: groups, KeyCommit(etag: "e", condition: condition))
    }

    /// Makes every change that there is. What is refused is a change too.
    private func everything(_ client: OMClient<RepeatingCaller>) async throws {
        try await client.createUser(user("ann"))
        try await client.createUser(user("bob"))
        _ = try? await client.createUser(user("bob"))
        try await client.deleteUser(named: "bob")
        try await client.createVolume("v-1", user: "ann")
        try await client.createVolume("v-2", user: "ann")
        try await client.deleteVolume("v-2", user: "ann")
        try await client.createBucket(
            Self.bucket, replication: ReplicationConfig("rs-3-2-1024k"), user: "ann")
        let other = BucketPath(volume: "s3v", bucket: "pond")
        try await client.createBucket(other, replication: nil, user: "ann")
        try await client.deleteBucket(other, user: "ann")
        try await put(client, "a")
        _ = try? await put(client, "a", condition: .ifAbsent)
        try await put(client, "b")
        #expect(try await client.deleteKey(path("a"), condition: .none, user: "ann"))
        _ = try? await client.deleteKey(path("b"), condition: .ifETag("x"), user: "ann")
        let open = try await client.openKey(
            path("c"), length: nil, replication: nil, user: "ann")
        let more = try await client.allocateGroup(open)
        #expect(more.blockID != open.groups[0].blockID)
        try await client.abort(open)
        var reserve = OMReserveRequest()
        reserve.bucket = message("").bucket
        reserve.count = 3
        reserve.user = "ann"
        let reserved = try OMReserveResponse(
            parsing: await client.caller.call(.reserve, reserve.encoded))
        #expect(Set(reserved.openIds).count == 3 && reserved.groups.count == 3)
        let upload = try await client.createUpload(
            path("d"), attributes: ObjectAttributes(), checksum: nil, replication: nil,
            user: "ann")
        let part = try await client.openPart(
            path("d"), upload: upload, number: 1, length: 10, user: "ann")
        var groups = part.groups
        groups[0].length = 10
        let info = try await client.commit(part, groups: groups, KeyCommit(etag: "p"))
        _ = try await client.completeUpload(
            path("d"), upload: upload, parts: [CompletedPart(number: 1, etag: info.etag)],
            etag: "d-1", checksum: nil, condition: .none, user: "ann")
        let second = try await client.createUpload(
            path("d"), attributes: ObjectAttributes(), checksum: nil, replication: nil,
            user: "ann")
        try await client.abortUpload(path("d"), upload: second, user: "ann")
    }

    /// How many rows each table has.
    private func rows(_ manager: OzoneManager) async throws -> [Int] {
        try await manager.group.read { tables in
            OMTable.all.map { tables.entries($0, prefix: [], limit: .max).count }
        }
    }

    @Test("every change that is asked for again is made once, and answered as the first time")
    func everyMethod() async throws {
        var expected: [Int] = []
        for repeats in [0, 2] {
            try await withManager { manager, blocks in
                let caller = RepeatingCaller(manager, blocks, repeats: repeats)
                try await everything(OMClient(caller))
                #expect(
                    caller.methods.withLock { $0 } == Set(OMMethod.allCases.filter(\.isChange)))
                #expect(caller.differences.withLock { $0 } == [])
                let rows = try await rows(manager)
                if repeats == 0 { expected = rows } else { #expect(rows == expected) }
            }
        }
    }

    @Test("a repeated deletion says that there was something, though there is nothing any more")
    func deletion() async throws {
        try await withManager { manager, blocks in
            let caller = RepeatingCaller(manager, blocks, repeats: 0)
            let client = OMClient(caller)
            try await client.createUser(user("ann"))
            try await client.createBucket(Self.bucket, replication: nil, user: "ann")
            try await put(client, "a")
            var request = OMDeleteKeyRequest()
            request.key = message("a")
            request.user = "ann"
            var id = CallID(client: Identity128(high: 2, low: 2), sequence: 1)
            func delete() async throws -> Bool {
                try OMDeleteKeyResponse(
                    parsing: await manager.handle(
                        method: .deleteKey, message: request.encoded, call: id)
                ).existed
            }
            #expect(try await delete())
            id.isRepeat = true
            #expect(try await delete())
            // Somebody makes it anew: that is not what was asked to go.
            try await put(client, "a")
            #expect(try await delete())
            _ = try await client.key(path("a"), user: "ann")
            id.sequence = 2
            #expect(try await delete())
            #expect(try await delete())
            id.sequence = 3
            #expect(try await !delete())
        }
    }

    @Test("a repeat that is refused before it is logged is refused for good: the first attempt too")
    func refusedBeforeLog() async throws {
        try await withManager { manager, blocks in
            let client = OMClient(RepeatingCaller(manager, blocks, repeats: 0))
            try await client.createUser(user("ann"))
            var request = OMOpenKeyRequest()
            request.key = message("a")
            request.length = 10
            request.user = "ann"
            let bytes = request.encoded
            var id = CallID(
                client: Identity128(high: 2, low: 2), sequence: 1, isRepeat: true)
            for _ in 0..<2 {
                let error = await #expect(throws: StoreError.self) {
                    try await manager.handle(method: .openKey, message: bytes, call: id)
                }
                #expect(error?.code == .noSuchBucket)
                // The first attempt, which was slow, and would succeed by now.
                if id.isRepeat {
                    try await client.createBucket(Self.bucket, replication: nil, user: "ann")
                }
                id.isRepeat = false
            }
            // What fails for want of SCM or a leader is no answer, and may be tried again.
            id = CallID(client: Identity128(high: 2, low: 2), sequence: 2, isRepeat: true)
            // Of which no groups are kept.
            request.replication = try ReplicationConfig("xor-2-1-64k").message
            let other = request.encoded
            blocks.with { $0.failure = StoreError(.connection, "SCM is not there") }
            let error = await #expect(throws: StoreError.self) {
                try await manager.handle(method: .openKey, message: other, call: id)
            }
            #expect(error?.code == .connection)
            blocks.with { $0.failure = nil }
            _ = try await manager.handle(method: .openKey, message: other, call: id)
        }
    }
}
