import Client
import Eventually
import Logging
import Model
import RaftDriver
import RaftLog
import Reactor
import SwiftProtobuf
import Synchronization
import Testing
import Wire

@testable import OM
@testable import OMCore

@Suite("OzoneManager")
struct OzoneManagerTests {
    @Test("a key written, listed, looked up and deleted through the client is as it was given")
    func roundTrip() async throws {
        try await withManager { setup, manager, client in
            let key = try path("dir/é")
            let open = try await client.openKey(key, length: 100, replication: nil, user: "ann")
            #expect(open.groups.count == 1)
            #expect(open.groups[0].nodes.count == 5 && !open.groups[0].nodes.contains(nil))
            var group = open.groups[0]
            group.length = 100
            let commit = KeyCommit(
                etag: "0123",
                attributes: .init(
                    headers: ["content-type": "text/plain"], metadata: ["a": "b"]),
                checksum: .init(algorithm: .crc64nvme, kind: .fullObject, value: "AAA="))
            let written = try await client.commit(open, groups: [group], commit)
            #expect(written.blockGroups == [group])
            let read = try await client.key(key, user: "ann")
            #expect(read == written)
            #expect(read.attributes == commit.attributes && read.checksum == commit.checksum)
            #expect(read.modified == setup.clock.now && read.replication == setup.replication)
            #expect(setup.blocks.with { $0.locates } == 0, "places are known from the open")

            let page = try await client.list(
                bucket, ListQuery(delimiter: [0x2F]), user: "ann")
            #expect(page == ListPage(commonPrefixes: [Array("dir/".utf8)]))
            let inner = try await client.list(
                bucket, ListQuery(prefix: Array("dir/".utf8), limit: 1), user: "ann")
            #expect(inner.keys.map(\.name) == [key.name] && inner.keys[0].blockGroups.isEmpty)

            #expect(try await client.deleteKey(key, condition: .none, user: "ann"))
            #expect(try await client.deleteKey(key, condition: .none, user: "ann") == false)
            #expect(await code { try await client.key(key, user: "ann") } == .noSuchKey)
        }
    }

    @Test("users, volumes and buckets come back as they were made, also after a restart")
    func names() async throws {
        try await withManager { setup, manager, client in
            let root = user("root", administrator: true)
            try await client.createUser(root)
            #expect(try await client.user(accessKeyID: "AKroot") == root)
            #expect(try await client.user(named: "root") == root)
            #expect(try await client.user(named: "nobody") == nil)
            try await client.createVolume("vol", user: "ann")
            let wide = try ReplicationConfig("xor-2-1-64k")
            let other = BucketPath(volume: "vol", bucket: "wide")
            try await client.createBucket(other, replication: wide, user: "ann")
            #expect(try await client.bucket(other, user: "ann").replication == wide)
            let impossible = try ReplicationConfig("rs-6-3-1024k")
            let error = await code {
                try await client.createBucket(
                    BucketPath(volume: "vol", bucket: "toowide"), replication: impossible,
                    user: "ann")
            }
            #expect(error == .cannotPlace)
            try await manager.close()

            let (again, reopened) = try await setup.open()
            #expect(try await reopened.users().map(\.name) == ["ann", "root"])
            #expect(try await reopened.volumes(user: "ann").map(\.name) == ["s3v", "vol"])
            #expect(try await reopened.buckets(volume: "vol", user: "root").map(\.name) == ["wide"])
            try await reopened.deleteBucket(other, user: "ann")
            try await reopened.deleteVolume("vol", user: "ann")
            #expect(try await reopened.volumes(user: "ann").map(\.name) == ["s3v"])
            try await again.close()
        }
    }

    @Test("of many writers that race to make one key exactly one wins, and so with ETags")
    func races() async throws {
        try await withManager { _, _, client in
            for round in 0..<5 {
                let condition: WriteCondition = round == 0 ? .ifAbsent : .ifETag("r\(round - 1)")
                let wins = try await withThrowingTaskGroup(of: Bool.self) { tasks in
                    for _ in 0..<16 {
                        tasks.addTask {
                            let error = await code {
                                try await put(
                                    client, "raced", etag: "r\(round)", condition: condition)
                            }
                            #expect(error == nil || error == .preconditionFailed)
                            return error == nil
                        }
                    }
                    return try await tasks.reduce(into: 0) { $0 += $1 ? 1 : 0 }
                }
                #expect(wins == 1, "round \(round)")
            }
        }
    }

    @Test("an upload in parts becomes a key whose blocks are those of its parts, in order")
    func multipart() async throws {
        try await withManager { _, _, client in
            let key = try path("parts")
            let upload = try await client.createUpload(
                key, attributes: .init(metadata: ["m": "1"]),
                checksum: .init(algorithm: .sha256, kind: .composite), replication: nil,
                user: "ann")
            var expected: [BlockID] = []
            for number in [2, 1] {
                let open = try await client.openPart(
                    key, upload: upload, number: number, length: 5 << 20, user: "ann")
                var group = open.groups[0]
                group.length = 5 << 20
                _ = try await client.commit(open, groups: [group], KeyCommit(etag: "p\(number)"))
                expected.insert(group.blockID, at: 0)
            }
            let info = try await client.upload(key, upload: upload, user: "ann")
            #expect(info.checksum == .init(algorithm: .sha256, kind: .composite))
            #expect(info.initiator == "ann" && info.attributes.metadata == ["m": "1"])
            let parts = try await client.parts(
                key, upload: upload, after: 0, limit: 1, user: "ann")
            #expect(parts.isTruncated && parts.parts.map(\.etag) == ["p1"])
            let listed = try await client.uploads(bucket, UploadsQuery(), user: "ann")
            #expect(listed.uploads.map(\.upload) == [upload])
            let whole = try await client.completeUpload(
                key, upload: upload,
                parts: [.init(number: 1, etag: "p1"), .init(number: 2, etag: "p2")],
                etag: "w-2", checksum: nil, condition: .none, user: "ann")
            #expect(whole.length == 10 << 20 && whole.parts.map(\.number) == [1, 2])
            #expect(whole.blockGroups.map(\.blockID) == expected)
            #expect(whole.attributes.metadata == ["m": "1"])
            #expect(try await client.key(key, user: "ann") == whole)
        }
    }

    @Test("opening keys asks SCM once for many, and not again for nodes that went")
    func leases() async throws {
        try await withManager { setup, manager, client in
            for number in 0..<100 { try await put(client, "k\(number)") }
            let asked = setup.blocks.with { $0.allocations }
            #expect(asked.count < 40, "asked \(asked.count) times for 100 keys")
            let gone = setup.blocks.with { $0.nodes[0].id }
            setup.blocks.with { state in state.nodes.removeFirst() }
            await manager.invalidateLeases(excluding: [gone])
            for number in 0..<20 {
                let open = try await client.openKey(
                    try path("after\(number)"), length: nil, replication: nil, user: "ann")
                #expect(!open.groups.flatMap(\.nodes).contains { $0?.id == gone })
            }
        }
    }

    @Test("a group asked for without some nodes has none of them, and neither have later ones")
    func excluding() async throws {
        try await withManager { setup, _, client in
            let open = try await client.openKey(
                try path("k"), length: nil, replication: nil, user: "ann")
            let bad = try #require(open.groups[0].nodes[0]?.id)
            let group = try await client.allocateGroup(open, excluding: ExcludeList(nodes: [bad]))
            #expect(!group.nodes.contains { $0?.id == bad })
            let error = await code {
                let second = try #require(open.groups[0].nodes[1]?.id)
                return try await client.allocateGroup(
                    open, excluding: ExcludeList(nodes: [bad, second]))
            }
            #expect(error == .cannotPlace)
            var used = group
            used.length = 7
            var first = open.groups[0]
            first.length = 0
            let key = try await client.commit(open, groups: [first, used], KeyCommit(etag: "e"))
            #expect(key.blockGroups.map(\.blockID) == [group.blockID])
            let other = try await client.openKey(
                try path("l"), length: nil, replication: nil, user: "ann", avoiding: [bad])
            #expect(!other.groups[0].nodes.contains { $0?.id == bad })
            // Without two there are too few: then they come as they are.
            let any = try await client.openKey(
                try path("m"), length: nil, replication: nil, user: "ann",
                avoiding: Set(group.nodes.prefix(2).compactMap { $0?.id }))
            #expect(any.groups.count == 1)
        }
    }

    @Test("while SCM is away keys are opened with what is at hand, also where a node is slow")
    func slowNodesWithoutSCM() async throws {
        try await withManager { setup, _, client in
            let first = try await client.openKey(
                try path("k"), length: nil, replication: nil, user: "ann")
            let slow = try #require(first.groups[0].nodes[0]?.id)
            let two = Set(first.groups[0].nodes.prefix(2).compactMap { $0?.id })
            var places: [[DatanodeID?]] = []
            for code in [.unavailable, .notReady, .deadlineExceeded] as [StoreError.Code] {
                setup.blocks.fail(with: StoreError(code, "SCM is away"))
                let open = try await client.openKey(
                    try path("\(code)"), length: nil, replication: nil, user: "ann",
                    avoiding: [slow])
                #expect(open.groups.count == 1, "\(code)")
                places.append(open.groups.flatMap(\.nodes).map { $0?.id })
                // No group of five of six is without two: any will do.
                let any = try await client.openKey(
                    try path("\(code) 2"), length: nil, replication: nil, user: "ann",
                    avoiding: two)
                #expect(any.groups.count == 1, "\(code)")
            }
            #expect(places.first?.contains(slow) == false, "one of six has no place on it")
        }
    }

    @Test("what was fetched ahead stays where a writer goes on without a node that is merely slow")
    func leasesOfSlowNodes() async throws {
        try await withManager { setup, _, client in
            let open = try await client.openKey(
                try path("k"), length: nil, replication: nil, user: "ann")
            let slow = try #require(open.groups[0].nodes[0]?.id)
            let other = try await client.allocateGroup(
                open,
                excluding: ExcludeList(nodes: [slow], slowNodes: [slow], degradedGroups: true))
            #expect(!other.nodes.contains { $0?.id == slow })
            setup.blocks.fail(with: StoreError(.notReady, "SCM is away"))
            try await openKeys(client, GroupLeases.Limits.leastKept)
        }
    }

    @Test("a writer that can go on without a whole group does not wait for it for long")
    func patience() async throws {
        try await withManager { setup, _, client in
            let open = try await client.openKey(
                try path("k"), length: nil, replication: nil, user: "ann")
            // Of six nodes five are needed.
            let two = Set((1...2).map { DatanodeID(high: 0, low: $0) })
            let error = await code {
                try await client.allocateGroup(
                    open, excluding: ExcludeList(nodes: two, slowNodes: two, degradedGroups: true))
            }
            #expect(error == .cannotPlace)
            let patience = setup.blocks.patiences.last
            #expect(patience == GroupLeases.Limits.patience)
        }
    }

    private func openKeys(_ client: OMClient<DirectCaller>, _ count: Int) async throws {
        for number in 0..<count {
            _ = try await client.openKey(
                try path("l\(number)"), length: nil, replication: nil, user: "ann")
        }
    }

    @Test("many keys opened at once get blocks of their own")
    func distinctBlocks() async throws {
        try await withManager { _, manager, client in
            let ids = try await withThrowingTaskGroup(of: [BlockID].self) { tasks in
                for number in 0..<300 {
                    tasks.addTask {
                        if number % 50 == 25 { await manager.invalidateLeases(excluding: nil) }
                        return try await client.openKey(
                            try path("k\(number)"), length: number % 3 == 0 ? 4 << 30 : nil,
                            replication: nil, user: "ann"
                        ).groups.map(\.blockID)
                    }
                }
                return try await tasks.reduce(into: []) { $0 += $1 }
            }
            #expect(ids.count == 100 * 4 + 200)
            #expect(Set(ids).count == ids.count, "a block was handed out twice")
        }
    }

    @Test("places are looked up again when a reader says they are stale")
    func refresh() async throws {
        try await withManager { setup, manager, client in
            let written = try await put(client, "k")
            let container = written.blockGroups[0].blockID.containerID
            let moved: [DatanodeAddress?] = written.blockGroups[0].nodes.dropLast() + [nil]
            setup.blocks.with { $0.places[container] = moved }
            let cached = try await client.key(try path("k"), user: "ann")
            #expect(cached.blockGroups[0].nodes == written.blockGroups[0].nodes)
            let fresh = try await client.key(try path("k"), refresh: true, user: "ann")
            #expect(fresh.blockGroups[0].nodes == moved)
            let again = try await client.key(try path("k"), user: "ann")
            #expect(again.blockGroups[0].nodes == moved)
            #expect(setup.blocks.with { $0.locates } == 1)
        }
    }

    @Test("a commit is answered though SCM is away; what SCM must say then fails with its reason")
    func withoutSCM() async throws {
        try await withManager { setup, manager, client in
            let open = try await client.openKey(
                try path("k"), length: 10, replication: nil, user: "ann")
            setup.blocks.with { $0.failure = StoreError(.notReady, "SCM is in safe mode") }
            var group = open.groups[0]
            group.length = 10
            let key = try await client.commit(open, groups: [group], KeyCommit(etag: "e"))
            #expect(key.length == 10)
            await manager.invalidateLeases(excluding: nil)
            let error = await code {
                try await client.openKey(
                    try path("l"), length: nil, replication: nil, user: "ann")
            }
            #expect(error == .notReady)
            // An empty key needs no block.
            let empty = try await put(client, "empty", length: 0)
            #expect(empty.blockGroups.isEmpty)
        }
    }

    @Test("blocks of deleted, replaced and expired keys reach SCM, each after its time")
    func deletion() async throws {
        try await withManager { setup, manager, client in
            let first = try await put(client, "k", etag: "1").blockGroups[0].blockID
            let second = try await put(client, "k", etag: "2").blockGroups[0].blockID
            _ = try await client.deleteKey(try path("k"), condition: .none, user: "ann")
            let open = try await client.openKey(
                try path("left"), length: nil, replication: nil, user: "ann")
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted } == [], "readers may still be at work")
            setup.clock.advance(.seconds(61))
            setup.blocks.with { $0.failure = StoreError(.notReady, "away") }
            #expect(await code { try await manager.deleteBlocks() } == .notReady)
            setup.blocks.with { $0.failure = nil }
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted } == [first, second])
            try await manager.expire()
            setup.clock.advance(.seconds(25 * 3600))
            try await manager.expire()
            while try await manager.deleteBlocks() {}
            setup.clock.advance(.seconds(61))
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted } == [first, second, open.groups[0].blockID])
            var late = open.groups[0]
            late.length = 1
            let error = await code {
                try await client.commit(open, groups: [late], KeyCommit(etag: "e"))
            }
            #expect(error == .conflict)
        }
    }

    @Test("a wall clock that is set ahead expires nothing that is younger than half its age")
    func clockSetAhead() async throws {
        try await withManager { setup, manager, client in
            let open = try await client.openKey(
                try path("slow"), length: nil, replication: nil, user: "ann")
            let gone = try await client.openKey(
                try path("gone"), length: nil, replication: nil, user: "ann")
            setup.clock.set(aheadBy: 365 * 24)
            try await manager.expire()
            // With the wrong clock, too, keys are made, and the log keeps its time.
            _ = try await put(client, "k")
            setup.clock.advance(.seconds(11 * 3600))
            try await manager.expire()
            var written = open.groups[0]
            written.length = 1
            _ = try await client.commit(open, groups: [written], KeyCommit(etag: "e"))
            // Set right, and back by a year: what is old enough goes all the same.
            setup.clock.set(aheadBy: -365 * 24)
            for _ in 0..<14 {
                setup.clock.advance(.seconds(2 * 3600))
                try await manager.expire()
            }
            written = gone.groups[0]
            written.length = 1
            let error = await code {
                try await client.commit(gone, groups: [written], KeyCommit(etag: "e"))
            }
            #expect(error == .conflict)
        }
    }

    @Test("what was reserved and not used expires long before what was opened under a name")
    func reservedExpiry() async throws {
        try await withManager { setup, manager, client in
            let open = try await client.openKey(
                try path("slow"), length: nil, replication: nil, user: "ann")
            var request = OMReserveRequest()
            request.bucket.volume = bucket.volume
            request.bucket.bucket = bucket.bucket
            request.user = "ann"
            // More than are looked at at once.
            request.count = 60
            for _ in 0..<5 {
                _ = try await manager.handle(method: .reserve, message: request.encoded)
            }
            setup.clock.advance(.seconds(1700))
            try await manager.expire()
            while try await manager.deleteBlocks() {}
            setup.clock.advance(.seconds(61))
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted.isEmpty }, "a body may still be coming")
            setup.clock.advance(.seconds(100))
            try await manager.expire()
            while try await manager.deleteBlocks() {}
            setup.clock.advance(.seconds(61))
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { Set($0.deleted).count } == 300)
            #expect(setup.blocks.with { !$0.deleted.contains(open.groups[0].blockID) })
            var written = open.groups[0]
            written.length = 1
            _ = try await client.commit(open, groups: [written], KeyCommit(etag: "e"))
        }
    }

    @Test("blocks that are being read stay until their readers have gone, and keep no others")
    func heldBlocks() async throws {
        try await withManager { setup, manager, client in
            let slow = try await put(client, "slow").blockGroups[0].blockID
            let held = try await put(client, "k", etag: "1").blockGroups[0].blockID
            let free = try await put(client, "k", etag: "2").blockGroups[0].blockID
            #expect(try await client.holdBlocks([slow, held]) == .seconds(60))
            _ = try await client.deleteKey(try path("k"), condition: .none, user: "ann")
            #expect(try await manager.deleteBlocks() == false)
            for _ in 0..<30 {
                setup.clock.advance(.seconds(20))
                _ = try await client.holdBlocks([held])
                while try await manager.deleteBlocks() {}
            }
            #expect(setup.blocks.with { $0.deleted } == [free], "nobody reads the other one")
            // Its reader is gone: a grace later it goes, and with it its record.
            for _ in 0..<6 {
                setup.clock.advance(.seconds(20))
                while try await manager.deleteBlocks() {}
            }
            #expect(setup.blocks.with { $0.deleted } == [free, held])
            // However long it is read, it goes in the end.
            _ = try await client.deleteKey(try path("slow"), condition: .none, user: "ann")
            #expect(try await manager.deleteBlocks() == false)
            for _ in 0..<24 {
                setup.clock.advance(.seconds(3600))
                _ = try await client.holdBlocks([slow])
                while try await manager.deleteBlocks() {}
            }
            #expect(setup.blocks.with { $0.deleted.count } == 2)
            setup.clock.advance(.seconds(3600))
            _ = try await client.holdBlocks([slow])
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted } == [free, held, slow])
            let many = (0...4096).map { BlockID(containerID: ContainerID(1), localID: $0) }
            #expect(await code { try await client.holdBlocks(many) } == .invalidArgument)
        }
    }

    @Test("after a start nothing is given away before readers could say that they are there")
    func heldOverRestart() async throws {
        try await withManager { setup, manager, client in
            let block = try await put(client, "k").blockGroups[0].blockID
            _ = try await client.deleteKey(try path("k"), condition: .none, user: "ann")
            setup.clock.advance(.seconds(3600))
            try await manager.close()
            let (again, reopened) = try await setup.open()
            while try await again.deleteBlocks() {}
            setup.clock.advance(.seconds(59))
            _ = try await reopened.holdBlocks([block])
            while try await again.deleteBlocks() {}
            setup.clock.advance(.seconds(2))
            while try await again.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted } == [])
            for _ in 0..<3 {
                setup.clock.advance(.seconds(31))
                while try await again.deleteBlocks() {}
            }
            #expect(setup.blocks.with { $0.deleted } == [block])
            try await again.close()
        }
    }

    @Test("neither a record of the future nor one that SCM refuses stands before others")
    func nothingStandsBefore() async throws {
        try await withManager { setup, manager, client in
            var expected: [BlockID] = []
            for number in 0..<20 {
                // The clock is a year ahead for some, and is set right again.
                let ahead = number == 3 ? Duration.seconds(365 * 86_400) : .zero
                expected.append(try await put(client, "k\(number)").blockGroups[0].blockID)
                let command = OMDeleteKeyRequest.with {
                    $0.key = .with {
                        $0.bucket = .with {
                            $0.volume = "s3v"; $0.bucket = "lake"
                        }
                        $0.name = .octets(Array("k\(number)".utf8))
                    }
                    $0.user = "ann"
                }
                var body = OMCommand()
                body.time = (setup.clock.now.milliseconds) + ahead.components.seconds * 1000
                body.deleteKey = command
                _ = try await manager.group.propose(body)
            }
            let bad = Set([expected[0], expected[7], expected[8]])
            setup.blocks.with { $0.refused = bad }
            while try await manager.deleteBlocks() {}
            setup.clock.advance(.seconds(61))
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted } == expected.filter { !bad.contains($0) })
            // What was refused is tried again later.
            setup.blocks.with { $0.refused = [expected[7]] }
            setup.clock.advance(.seconds(31))
            while try await manager.deleteBlocks() {}
            #expect(
                setup.blocks.with { Set($0.deleted) } == Set(expected).subtracting([expected[7]]))
            // Those that SCM has taken are forgotten.
            setup.blocks.with { $0.refused = [] }
            setup.clock.advance(.seconds(31))
            while try await manager.deleteBlocks() {}
            #expect(setup.blocks.with { $0.deleted.count } == 20)
        }
    }

    @Test(
        "a bucket, key or upload of copies is refused before blocks are asked for or it is logged")
    func copies() async throws {
        try await withManager { setup, manager, client in
            for factor in ReplicationConfig.Factor.allCases {
                let copies = ReplicationConfig.replicated(factor)
                let other = BucketPath(volume: "s3v", bucket: "copies")
                #expect(
                    await code {
                        try await client.createBucket(other, replication: copies, user: "ann")
                    } == .unsupported)
                #expect(
                    await code { try await client.bucket(other, user: "ann") } == .noSuchBucket)
                let key = try path("k")
                for length in [nil, 0, 1, 1 << 30] {
                    #expect(
                        await code {
                            try await client.openKey(
                                key, length: length, replication: copies, user: "ann")
                        } == .unsupported)
                }
                #expect(
                    await code {
                        try await client.createUpload(
                            key, attributes: .init(), checksum: nil, replication: copies,
                            user: "ann")
                    } == .unsupported)
            }
            #expect(setup.blocks.with { $0.allocations.isEmpty })
            try await put(client, "k")
            #expect(try await client.key(try path("k"), user: "ann").length == 10)
        }
    }

    @Test("with copies as its default the Ozone Manager refuses buckets that ask for nothing else")
    func copiesByDefault() async throws {
        try await withManager { setup, manager, client in
            try await manager.close()
            var changed = setup
            changed.replication = .replicated(.three)
            let (again, reopened) = try await changed.open()
            let other = BucketPath(volume: "s3v", bucket: "other")
            #expect(
                await code {
                    try await reopened.createBucket(other, replication: nil, user: "ann")
                } == .unsupported)
            try await reopened.createBucket(other, replication: setup.replication, user: "ann")
            #expect(try await reopened.bucket(bucket, user: "ann").replication == setup.replication)
            try await again.close()
        }
    }

    @Test("more blocks than one request takes are handed over in several, of an old record too")
    func largeRecords() async throws {
        try await withManager { setup, manager, client in
            var open = OMOpenCommand()
            open.key = .with {
                $0.bucket = .with {
                    $0.volume = "s3v"; $0.bucket = "lake"
                }
                $0.name = .octets(Array("large".utf8))
            }
            open.user = "ann"
            open.replication = setup.replication.message
            open.blocks = (0..<25_000 as Range<UInt64>).map { number in
                BlockID(containerID: ContainerID(1 + number % 9), localID: number).message
            }
            guard case .open(let opened) = try await manager.answer(.open(open)) else {
                Issue.record("a key was not opened")
                return
            }
            _ = try await manager.answer(
                .abortOpen(
                    .with {
                        $0.openID = opened.openID; $0.user = "ann"
                    }))
            while try await manager.deleteBlocks() {}
            setup.clock.advance(.seconds(61))
            while try await manager.deleteBlocks() {}
            let (deleted, sizes) = setup.blocks.with { ($0.deleted, $0.deletions) }
            #expect(deleted == open.blocks.map { BlockID($0) })
            #expect(sizes.max() ?? .max <= 5000 && sizes.count >= 5)
            // A record of a version that did not bound them.
            let old = OMReads.Discarded(
                key: [0, 0, 0, 0, 0, 0, 0, 1], deleted: 0,
                blocks: (100_000..<130_000).map {
                    BlockID(containerID: ContainerID(3), localID: $0)
                })
            #expect(try await manager.handOver([old]) == 0)
            #expect(setup.blocks.with { Array($0.deleted.dropFirst(25_000)) } == old.blocks)
            #expect(setup.blocks.with { $0.deletions.max() ?? .max } <= 8000)
        }
    }

    @Test("the head and the end of a key come without the rest of it, and are of one version")
    func selections() async throws {
        try await withManager { setup, _, client in
            let size = setup.replication.blockGroupSize
            let written = try await put(client, "k", length: 5 * size + 7, etag: "v1")
            #expect(written.blockGroups.count == 6)
            let key = try path("k")
            let head = try await client.key(key, .head, user: "ann")
            #expect(head.length == written.length && head.blockGroups.isEmpty)
            let footer = try await client.key(key, .suffix(8), user: "ann")
            #expect(footer.blockGroups == Array(written.blockGroups.suffix(2)))
            #expect(footer.groupsOffset == 4 * size && footer.etag == "v1")
            let middle = try await client.key(
                key, .range(from: 2 * size, to: 3 * size), user: "ann")
            #expect(middle.blockGroups == [written.blockGroups[2]])
            #expect(middle.groupsOffset == 2 * size)
            let whole = try await client.key(key, .bytes, user: "ann")
            #expect(whole == written)
            #expect(try await client.key(key, .range(from: 0, to: 0), user: "ann") == head)
            let part = try await client.key(key, .part(1), user: "ann")
            #expect(part.blockGroups == written.blockGroups && part.selectedPart == nil)
        }
    }

    @Test("the uploads of a deleted bucket go with it, in commands of a bounded size")
    func deletedBucket() async throws {
        try await withManager { setup, manager, client in
            var parts: [BlockID] = []
            for upload in 0..<300 {
                let key = try path("u\(upload)")
                let id = try await client.createUpload(
                    key, attributes: .init(), checksum: nil, replication: nil, user: "ann")
                guard upload % 100 == 0 else { continue }
                let open = try await client.openPart(
                    key, upload: id, number: 1, length: 10, user: "ann")
                var group = open.groups[0]
                group.length = 10
                _ = try await client.commit(open, groups: [group], KeyCommit(etag: "p"))
                parts.append(group.blockID)
            }
            try await put(client, "k")
            let error = await code { try await client.deleteBucket(bucket, user: "ann") }
            #expect(error == .bucketNotEmpty)
            let uploads = try await client.uploads(bucket, UploadsQuery(), user: "ann")
            #expect(uploads.uploads.count == 300)
            _ = try await client.deleteKey(try path("k"), condition: .none, user: "ann")
            try await client.deleteBucket(bucket, user: "ann")
            let before = manager.appliedIndex
            try await manager.dropOrphans()
            #expect(manager.appliedIndex == before + 2, "256 uploads and the rest")
            try await manager.dropOrphans()
            #expect(manager.appliedIndex == before + 2)
            while try await manager.deleteBlocks() {}
            setup.clock.advance(.seconds(61))
            while try await manager.deleteBlocks() {}
            #expect(Set(parts).isSubset(of: setup.blocks.with { Set($0.deleted) }))
        }
    }

    @Test("the loops delete and expire by themselves and stop when the service closes")
    func loops() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let blocks = FakeBlocks()
            var options = OzoneManager.Options(
                defaultReplication: try ReplicationConfig("rs-3-2-1024k"))
            options.deletionDelay = .zero
            options.deletionInterval = .milliseconds(5)
            options.expiryInterval = .milliseconds(5)
            let clock = TestClock()
            let manager = try await OzoneManager.open(
                directory: directory + "/om", reactor: reactor, blocks: blocks,
                options: options, clock: { clock.now },
                uptime: { MonotonicTime.now().nanoseconds + clock.uptime },
                generator: SplitMix64(state: 1),
                logger: Logger(label: "om-test"))
            manager.start()
            let client = OMClient(DirectCaller(manager: manager))
            try await client.createUser(user("ann"))
            try await client.createBucket(bucket, replication: nil, user: "ann")
            for number in 0..<10 { try await put(client, "k\(number)") }
            for number in 0..<10 {
                _ = try await client.deleteKey(
                    try path("k\(number)"), condition: .none, user: "ann")
            }
            _ = try await client.openKey(
                try path("left"), length: nil, replication: nil, user: "ann")
            // A part of an upload whose bucket goes.
            let upload = try await client.createUpload(
                try path("u"), attributes: .init(), checksum: nil, replication: nil, user: "ann")
            let open = try await client.openPart(
                try path("u"), upload: upload, number: 1, length: 10, user: "ann")
            var group = open.groups[0]
            group.length = 10
            _ = try await client.commit(open, groups: [group], KeyCommit(etag: "p"))
            try await client.deleteBucket(bucket, user: "ann")
            try await eventually("the part is deleted, long before it expires") {
                clock.advance(.milliseconds(1))
                return blocks.with { $0.deleted.contains(group.blockID) }
            }
            clock.advance(.seconds(48 * 3600))
            try await eventually("all blocks are deleted") {
                clock.advance(.milliseconds(1))
                return blocks.with { $0.deleted.count } >= 12
            }
            #expect(Set(blocks.with { $0.deleted }).count == 12)
            try await manager.close()
        }
    }

    @Test("a change of a user is seen at once by who asks for its key")
    func userCache() async throws {
        try await withManager { _, _, client in
            for round in 0..<20 {
                var info = user("bob")
                info.secretAccessKey = "secret\(round)"
                try await client.createUser(info)
                #expect(try await client.user(accessKeyID: "AKbob") == info)
                #expect(try await client.user(accessKeyID: "AKbob") == info)
                try await client.deleteUser(named: "bob")
                #expect(try await client.user(accessKeyID: "AKbob") == nil)
            }
        }
    }

    @Test("bytes that are no request are refused by every method, and change nothing")
    func garbage() async throws {
        try await withManager { _, manager, _ in
            let before = manager.appliedIndex
            for method in OMMethod.allCases {
                let error = await code {
                    try await manager.handle(method: method, message: [0xFF, 0xFF, 0xFF, 0x01])
                }
                #expect(error == .badRequest, "\(method)")
            }
            #expect(manager.appliedIndex == before)
        }
    }
}
