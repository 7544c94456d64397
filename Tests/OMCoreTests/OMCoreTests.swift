import Chance
import Model
import Testing
import Wire

@testable import OMCore

@Suite("OMCore: names")
struct NamesTests {
    @Test(
        "bucket names follow S3's rules",
        arguments: [
            ("abc", true), ("my-bucket.1", true), ("1ab", true),
            (String(repeating: "a", count: 63), true), ("ab", false),
            (String(repeating: "a", count: 64), false), ("Abc", false), ("a_b", false),
            ("-abc", false), ("abc-", false), (".abc", false), ("abc.", false), ("a..b", false),
            ("192.168.5.4", false), ("192.168.5.4a", true), ("xn--abc", false),
            ("sthree-abc", false), ("abc-s3alias", false), ("abc--ol-s3", false), ("bücket", false),
            ("", false), ("amzn-s3-demo-bucket", true), ("abc.mrap", false), ("abc--x-s3", false),
            ("abc--table-s3", false),
        ])
    func bucketNames(name: String, isValid: Bool) {
        let error = code { () throws(StoreError) in try NameRules.checkBucket(name) }
        #expect(error == (isValid ? nil : .invalidArgument))
        #expect(BucketName.isValid(name) == isValid, "gateways ask the same rule")
    }

    @Test("key names are 1 to 1024 bytes of UTF-8")
    func keyNames() {
        let check = { (bytes: [UInt8]) in
            code { () throws(StoreError) in try NameRules.checkKey(bytes) }
        }
        #expect(check([]) == .invalidArgument)
        #expect(check([UInt8](repeating: 0x61, count: 1024)) == nil)
        #expect(check([UInt8](repeating: 0x61, count: 1025)) == .invalidArgument)
        #expect(check([0xFF]) == .invalidArgument)
        #expect(check([0]) == nil)
    }

    @Test(
        "names with an end keep their order, also with zero bytes",
        arguments: 0..<10 as Range<UInt64>)
    func terminatedNames(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let names = (0..<200).map { _ in
            (0..<Int.random(in: 0...4, using: &random)).map { _ in
                [0, 1, 2, 0xFE, 0xFF].randomElement(using: &random) ?? 0 as UInt8
            }
        }
        for name in names {
            let encoded = TerminatedName.encode(name)
            let decoded = TerminatedName.decode((encoded + [7, 8])[...])
            #expect(decoded?.name == name)
            #expect(decoded.map { Array($0.rest) } == [7, 8])
            for other in names {
                let order = name.lexicographicallyPrecedes(other)
                let encodedOther = TerminatedName.encode(other)
                #expect(
                    (encoded + [9]).lexicographicallyPrecedes(encodedOther + [1]) == order
                        || name == other)
                #expect(
                    encodedOther.starts(with: TerminatedName.encodePrefix(name))
                        == other.starts(with: name))
            }
        }
    }

    @Test("a user is found by name and key, and is not made twice")
    func users() throws {
        let bench = Bench()
        try bench.createUser("ann")
        #expect(try bench.reads.user(accessKeyID: "AK-ann")?.name == "ann")
        #expect(try bench.reads.user(named: "bob") == nil)
        #expect(code { () throws(StoreError) in try bench.createUser("ann") } == .userExists)
        var user = OMUser()
        user.name = "bob"
        user.accessKeyID = "AK-ann"
        user.secretAccessKey = "s"
        #expect(code { () throws(StoreError) in try bench.run(.createUser(user)) } == .userExists)
        user.accessKeyID = "a/b"
        #expect(
            code { () throws(StoreError) in try bench.run(.createUser(user)) } == .invalidArgument)
        // The first user owns the volume of S3's buckets and therefore stays.
        #expect(
            code { () throws(StoreError) in try bench.run(.deleteUser("ann")) }
                == .invalidArgument)
        try bench.createUser("bob")
        try bench.createBucket("bobs", user: "bob")
        #expect(
            code { () throws(StoreError) in try bench.run(.deleteUser("bob")) }
                == .invalidArgument)
        try bench.deleteBucket("bobs", user: "bob")
        try bench.run(.deleteUser("bob"))
        #expect(try bench.reads.user(accessKeyID: "AK-bob") == nil)
        #expect(code { () throws(StoreError) in try bench.run(.deleteUser("bob")) } == .noSuchUser)
    }

    @Test("a bucket belongs to its creator; administrators may everything")
    func ownership() throws {
        let bench = Bench()
        try bench.createUser("root", administrator: true)
        try bench.createUser("ann")
        try bench.createUser("bob")
        try bench.createBucket("anns", user: "ann")
        let path = Bench.path("anns", "k")
        try bench.put(path, user: "ann")
        #expect(
            code { () throws(StoreError) in try bench.createBucket("anns", user: "ann") }
                == .bucketOwnedByYou)
        #expect(
            code { () throws(StoreError) in try bench.createBucket("anns", user: "bob") }
                == .bucketExists)
        for name in ["bob", "nobody"] {
            #expect(
                code { () throws(StoreError) in try bench.reads.key(path, user: name) }
                    == .accessDenied)
            #expect(
                code { () throws(StoreError) in try bench.put(path, user: name) } == .accessDenied)
            #expect(
                code { () throws(StoreError) in try bench.delete(path, user: name) }
                    == .accessDenied)
            #expect(
                code { () throws(StoreError) in try bench.createUpload(path, user: name) }
                    == .accessDenied)
            #expect(
                code { () throws(StoreError) in try bench.deleteBucket("anns", user: name) }
                    == .accessDenied)
        }
        #expect(try bench.reads.key(path, user: "root").length == 10)
        var request = OMListBucketsRequest()
        request.volume = "s3v"
        for (user, expected) in [("ann", ["anns"]), ("bob", []), ("root", ["anns"])] {
            request.user = user
            #expect(try bench.reads.buckets(request).buckets.map(\.name) == expected)
        }
        #expect(
            code { () throws(StoreError) in try bench.deleteBucket("anns", user: "ann") }
                == .bucketNotEmpty)
        #expect(try bench.delete(path, user: "root"))
        try bench.deleteBucket("anns", user: "ann")
        #expect(
            code { () throws(StoreError) in try bench.reads.key(path, user: "ann") }
                == .noSuchBucket)
    }

    @Test("only its owner creates buckets in a volume; one with buckets stays")
    func volumes() throws {
        let bench = Bench()
        try bench.createUser("root", administrator: true)
        try bench.createUser("ann")
        try bench.createUser("bob")
        var create = OMCreateVolumeRequest()
        create.name = "lake"
        create.user = "ann"
        try bench.run(.createVolume(create))
        #expect(
            code { () throws(StoreError) in try bench.run(.createVolume(create)) }
                == .volumeExists)
        #expect(
            code { () throws(StoreError) in
                try bench.createBucket("raw", user: "bob", volume: "lake")
            } == .accessDenied)
        try bench.createBucket("raw", user: "ann", volume: "lake")
        // The same name in another volume is another bucket.
        try bench.createBucket("raw", user: "bob")
        var delete = OMDeleteVolumeRequest()
        delete.name = "lake"
        delete.user = "ann"
        #expect(
            code { () throws(StoreError) in try bench.run(.deleteVolume(delete)) }
                == .volumeNotEmpty)
        var bucket = OMBucketRequest()
        bucket.bucket.volume = "lake"
        bucket.bucket.bucket = "raw"
        bucket.user = "ann"
        try bench.run(.deleteBucket(bucket))
        delete.user = "bob"
        #expect(
            code { () throws(StoreError) in try bench.run(.deleteVolume(delete)) }
                == .accessDenied)
        delete.user = "ann"
        try bench.run(.deleteVolume(delete))
        #expect(
            code { () throws(StoreError) in try bench.run(.deleteVolume(delete)) }
                == .noSuchVolume)
        delete.name = "s3v"
        delete.user = "root"
        #expect(
            code { () throws(StoreError) in try bench.run(.deleteVolume(delete)) }
                == .invalidArgument)
        var list = OMListVolumesRequest()
        list.user = "bob"
        #expect(try bench.reads.volumes(list).volumes.map(\.name) == ["s3v"])
    }
}

@Suite("OMCore: keys")
struct KeysTests {
    private func bench() throws -> Bench {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("b-1", user: "ann")
        return bench
    }

    @Test("a key is visible from its commit on, and replacing it gives its blocks back")
    func putAndReplace() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        let (id, blocks) = try bench.open(path, user: "ann", blocks: 2)
        #expect(
            code { () throws(StoreError) in try bench.reads.key(path, user: "ann") } == .noSuchKey)
        var add = OMAddBlockCommand()
        add.openID = id
        add.user = "ann"
        add.block = bench.newBlock()
        try bench.run(.addBlock(add))
        let key = try bench.commit(
            id, [(blocks[0], 100), (add.block, 23)], etag: "e1", user: "ann")
        #expect(key.length == 123)
        #expect(try bench.reads.key(path, user: "ann") == key)
        #expect(key.groups.map(\.block) == [blocks[0], add.block])
        // The block that was not used is gone.
        var deleted = try bench.discardedBlocks()
        #expect(deleted == [BlockID(blocks[1])])
        try bench.put(path, user: "ann", etag: "e2")
        deleted = try bench.discardedBlocks()
        #expect(deleted == [blocks[1], blocks[0], add.block].map { BlockID($0) })
        #expect(try bench.reads.key(path, user: "ann").etag == "e2")
    }

    @Test("an empty key has no blocks, and gives back the one it was given")
    func emptyKey() throws {
        let bench = try bench()
        let (id, blocks) = try bench.open(Bench.path("b-1", "k"), user: "ann")
        let key = try bench.commit(id, [(blocks[0], 0)], etag: "e", user: "ann")
        #expect(key.length == 0 && key.groups.isEmpty)
        #expect(
            try bench.discardedBlocks() == [BlockID(blocks[0])])
    }

    @Test("a commit with a foreign, repeated or overfull block is refused and changes nothing")
    func badCommit() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        let (id, blocks) = try bench.open(path, user: "ann")
        let before = bench.dump()
        let full = try UInt64(ReplicationConfig(Bench.replication).blockGroupSize)
        let refused: [[(WireBlock, UInt64)]] = [
            [(bench.newBlock(), 10)], [(blocks[0], 1), (blocks[0], 1)], [(blocks[0], full + 1)],
        ]
        for groups in refused {
            #expect(
                code { () throws(StoreError) in
                    try bench.commit(id, groups, etag: "e", user: "ann")
                } == .badRequest)
        }
        try bench.createUser("bob")
        #expect(
            code { () throws(StoreError) in
                try bench.commit(id, [(blocks[0], 1)], etag: "e", user: "bob")
            } == .accessDenied)
        // But for what the new user is: his name, his key, and when he came.
        #expect(bench.dump()[2...].dropLast() == before[2...].dropLast())
        _ = try bench.commit(id, [(blocks[0], full)], etag: "e", user: "ann")
    }

    @Test("conditions are decided against the key as it is when the write is applied")
    func conditions() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        func put(_ kind: OMCondition.Kind, _ etag: String = "") -> StoreError.Code? {
            code { () throws(StoreError) in
                try bench.put(
                    path, user: "ann", etag: "v\(bench.index)", condition: kind,
                    conditionETag: etag)
            }
        }
        #expect(put(.ifEtag, "x") == .noSuchKey)
        #expect(put(.ifPresent) == .noSuchKey)
        #expect(put(.ifAbsent) == nil)
        #expect(put(.ifAbsent) == .preconditionFailed)
        #expect(put(.ifPresent) == nil)
        let etag = try bench.reads.key(path, user: "ann").etag
        #expect(put(.ifEtag, "x") == .preconditionFailed)
        #expect(put(.ifEtag, etag) == nil)
        #expect(put(.ifEtag, etag) == .preconditionFailed)
        #expect(
            code { () throws(StoreError) in
                try bench.delete(path, user: "ann", condition: .ifEtag, etag: etag)
            } == .preconditionFailed)
        #expect(try bench.delete(path, user: "ann", condition: .ifPresent))
        #expect(try bench.delete(path, user: "ann") == false)
    }

    @Test("of two writers that race with a condition the first to commit wins")
    func race() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        let one = try bench.open(path, user: "ann")
        let two = try bench.open(path, user: "ann")
        _ = try bench.commit(
            two.id, [(two.blocks[0], 2)], etag: "two", user: "ann", condition: .ifAbsent)
        #expect(
            code { () throws(StoreError) in
                try bench.commit(
                    one.id, [(one.blocks[0], 1)], etag: "one", user: "ann",
                    condition: .ifAbsent)
            } == .preconditionFailed)
        try bench.abort(one.id, user: "ann")
        try bench.abort(one.id, user: "ann")
        #expect(try bench.reads.key(path, user: "ann").etag == "two")
        #expect(
            try bench.discardedBlocks()
                == [BlockID(one.blocks[0])])
    }

    @Test("a commit whose answer was lost is answered again, unless another write came between")
    func repeatedCommit() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        let (id, blocks) = try bench.open(path, user: "ann")
        func commit() throws(StoreError) -> OMKey {
            try bench.commit(
                id, [(blocks[0], 5)], etag: "e", user: "ann", condition: .ifAbsent,
                retry: (path, nil, 0))
        }
        let key = try commit()
        #expect(try commit() == key)
        try bench.put(path, user: "ann", etag: "f")
        #expect(code(commit) == .conflict)
        #expect(try bench.reads.key(path, user: "ann").etag == "f")
    }

    @Test("a reserved key gets its name with its commit, once, by who reserved it")
    func reserved() throws {
        let bench = try bench()
        try bench.createUser("bob")
        var command = OMReserveCommand()
        command.bucket = Bench.path("b-1", "k").bucket
        command.user = "ann"
        command.replication = Bench.replication
        command.blocks = [bench.newBlock(), bench.newBlock(), bench.newBlock()]
        let answer = try OMReserveResponse(parsing: bench.run(.reserve(command)))
        let ids = answer.openIds
        #expect(Set(ids).count == 3 && ids == ids.sorted())
        let other = try bench.open(Bench.path("b-1", "other"), user: "ann")
        #expect(other.id > ids[2], "numbers grow with time")

        func commit(
            _ place: Int, _ name: String?, user: String = "ann", block: Int? = nil,
            bucket: String = "b-1"
        ) throws(StoreError) -> OMKey {
            let block = command.blocks[block ?? place]
            return try bench.commit(
                ids[place], [(block, 5)], etag: "e\(place)", user: user, condition: .ifAbsent,
                retry: name.map { (Bench.path(bucket, $0), nil, 0) })
        }
        #expect(code { () throws(StoreError) in try commit(0, nil) } == .badRequest)
        #expect(code { () throws(StoreError) in try commit(0, "x", user: "bob") } == .accessDenied)
        #expect(code { () throws(StoreError) in try commit(0, "x", block: 1) } == .badRequest)
        #expect(code { () throws(StoreError) in try commit(0, "") } == .invalidArgument)
        #expect(
            code { () throws(StoreError) in try commit(0, "x", bucket: "b-2") } == .noSuchBucket)
        let key = try commit(0, "x")
        #expect(try bench.reads.key(Bench.path("b-1", "x"), user: "ann") == key)
        #expect(try commit(0, "x") == key, "a lost answer is given again")
        #expect(code { () throws(StoreError) in try commit(1, "x") } == .preconditionFailed)
        #expect(try commit(1, "y").groups.map(\.block) == [command.blocks[1]])
        // The third is given up: its block goes.
        try bench.abort(ids[2], user: "ann")
        #expect(code { () throws(StoreError) in try commit(2, "z") } == .conflict)
        #expect(
            try bench.discardedBlocks()
                == [BlockID(command.blocks[2])])
    }

    @Test("reserved keys expire with their blocks, and too many are refused")
    func reservedExpire() throws {
        let bench = try bench()
        var command = OMReserveCommand()
        command.bucket = Bench.path("b-1", "k").bucket
        command.user = "ann"
        command.replication = Bench.replication
        command.blocks = [bench.newBlock(), bench.newBlock()]
        _ = try bench.run(.reserve(command))
        let old = bench.reads.oldOpens(
            before: .min, reservedBefore: .max, from: [], limit: 10)
        #expect(old.reserved.count == 2 && old.named == [] && old.next == nil)
        var expire = OMExpireOpensCommand()
        expire.openIds = old.reserved
        expire.before = .max
        _ = try bench.run(.expireOpens(expire))
        #expect(
            try bench.discardedBlocks()
                == command.blocks.map { BlockID($0) })
        command.blocks = (0...OMLimits.reservedKeys).map { _ in bench.newBlock() }
        #expect(
            code { () throws(StoreError) in _ = try bench.run(.reserve(command)) }
                == .invalidArgument)
    }

    @Test("reserved keys that are too old are found behind others that may stay open, in pages")
    func reservedAmongOthers() throws {
        let bench = try bench()
        var command = OMReserveCommand()
        command.bucket = Bench.path("b-1", "k").bucket
        command.user = "ann"
        command.replication = Bench.replication
        var reserved: [UInt64] = []
        for round in 0..<3 {
            _ = try bench.open(Bench.path("b-1", "k\(round)"), user: "ann")
            command.blocks = [bench.newBlock(), bench.newBlock()]
            let answer = try OMReserveResponse(parsing: bench.run(.reserve(command)))
            reserved += answer.openIds
        }
        let before = bench.time + 1
        command.blocks = [bench.newBlock()]
        _ = try bench.run(.reserve(command))
        var found: [UInt64] = []
        var next: [UInt8]? = []
        var pages = 0
        while let start = next {
            let page = bench.reads.oldOpens(
                before: .min, reservedBefore: before, from: start, limit: 2)
            #expect(page.named == [])
            found += page.reserved
            next = page.next
            pages += 1
        }
        #expect(found == reserved)
        #expect(pages == 6, "all ten are looked at, two a page, and then there are no more")
    }

    @Test("a key opened in a bucket that was deleted meanwhile is not committed")
    func bucketGone() throws {
        let bench = try bench()
        let (id, blocks) = try bench.open(Bench.path("b-1", "k"), user: "ann")
        try bench.deleteBucket("b-1", user: "ann")
        let commit = { () throws(StoreError) in
            try bench.commit(id, [(blocks[0], 5)], etag: "e", user: "ann")
        }
        #expect(code(commit) == .noSuchBucket)
        try bench.createBucket("b-1", user: "ann")
        #expect(code(commit) == .noSuchBucket)
    }

    @Test("open keys and uploads expire with their blocks, younger ones stay")
    func expiry() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        let old = try bench.open(path, user: "ann", blocks: 2)
        let oldUpload = try bench.createUpload(path, user: "ann")
        try bench.putPart(path, oldUpload, 1, length: 5, etag: "p", user: "ann")
        let before = bench.time + 1
        let young = try bench.open(path, user: "ann")
        let youngUpload = try bench.createUpload(path, user: "ann")
        let found = bench.reads.oldOpens(
            before: before, reservedBefore: before, from: [], limit: 10)
        #expect(found.named == [old.id] && found.reserved == [] && found.next == nil)
        let uploads = bench.reads.oldUploads(before: before, from: [], limit: 10)
        #expect(uploads.keys.count == 1 && uploads.next == nil)

        var opens = OMExpireOpensCommand()
        opens.openIds = [old.id, young.id, 999]
        opens.before = before
        try bench.run(.expireOpens(opens))
        var expire = OMExpireUploadsCommand()
        expire.keys = uploads.keys.map { .octets($0) }
        expire.before = before
        try bench.run(.expireUploads(expire))
        try bench.run(.expireUploads(expire))

        let held = try bench.heldBlocks()
        #expect(held.count == 4, "two of the old key, one part, one of the young key")
        let deleted = bench.reads.discarded(from: [], through: .max, limit: 10, blocks: 10)
        #expect(deleted.records.flatMap(\.blocks).count == 3 && deleted.isAtEnd)
        #expect(
            code { () throws(StoreError) in
                try bench.commit(old.id, [(old.blocks[0], 1)], etag: "e", user: "ann")
            } == .conflict)
        _ = try bench.commit(young.id, [(young.blocks[0], 1)], etag: "e", user: "ann")
        try bench.abortUpload(path, youngUpload, user: "ann")

        var purge = OMPurgeDeletedCommand()
        purge.keys = deleted.records.map { .octets($0.key) }
        try bench.run(.purgeDeleted(purge))
        #expect(try bench.discardedBlocks() == [])
    }

    @Test("bytes that are no command are refused, and not passed over")
    func garbage() throws {
        let machine = OMStateMachine()
        for command in [[], [0xFF, 0xFF, 0xFF], Array("hello".utf8)] as [[UInt8]] {
            let error = code { () throws(StoreError) in try machine.decode(command) }
            #expect(error == .badRequest || error == .versionMismatch)
        }
    }
}

@Suite("OMCore: uploads")
struct UploadsTests {
    private let path = Bench.path("b-1", "big")
    private let minimum = UInt64(OMLimits.minimumPartSize)

    private func bench() throws -> (Bench, WireIdentity) {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("b-1", user: "ann")
        return (bench, try bench.createUpload(path, user: "ann"))
    }

    @Test("the listed parts become the key; the others' blocks are given back")
    func complete() throws {
        let (bench, upload) = try bench()
        try bench.putPart(path, upload, 2, length: 7, etag: "b0", user: "ann")
        try bench.putPart(path, upload, 2, length: 9, etag: "b", user: "ann")
        try bench.putPart(path, upload, 1, length: minimum, etag: "a", user: "ann")
        try bench.putPart(path, upload, 7, length: 3, etag: "x", user: "ann")
        let key = try bench.complete(
            path, upload, [(1, "a"), (2, "b")], etag: "all-2", user: "ann")
        #expect(key.length == minimum + 9)
        #expect(key.parts.map(\.number) == [1, 2])
        #expect(key.groups.map(\.length) == [minimum, 9])
        #expect(try bench.reads.key(path, user: "ann") == key)
        #expect(try bench.discardedBlocks().count == 2)
        #expect(try bench.heldBlocks().count == 4)
        // Asked again after the answer was lost: the same; with another ETag: gone.
        #expect(
            try bench.complete(path, upload, [(1, "a"), (2, "b")], etag: "all-2", user: "ann")
                == key)
        #expect(
            code { () throws(StoreError) in
                try bench.complete(path, upload, [(1, "a")], etag: "all-1", user: "ann")
            } == .noSuchUpload)
        #expect(
            code { () throws(StoreError) in
                try bench.putPart(path, upload, 3, length: 1, etag: "c", user: "ann")
            } == .noSuchUpload)
    }

    @Test("parts are checked for order, presence, ETag and size, and a refusal changes nothing")
    func checks() throws {
        let (bench, upload) = try bench()
        try bench.putPart(path, upload, 1, length: minimum - 1, etag: "a", user: "ann")
        try bench.putPart(path, upload, 2, length: minimum, etag: "b", user: "ann")
        try bench.putPart(path, upload, 3, length: 1, etag: "c", user: "ann")
        let before = bench.dump()
        func complete(_ parts: [(UInt32, String)]) -> StoreError.Code? {
            code { () throws(StoreError) in
                try bench.complete(path, upload, parts, etag: "e", user: "ann")
            }
        }
        #expect(complete([]) == .invalidArgument)
        #expect(complete([(2, "b"), (1, "a")]) == .invalidPartOrder)
        #expect(complete([(2, "b"), (2, "b")]) == .invalidPartOrder)
        #expect(complete([(4, "a")]) == .invalidPart)
        #expect(complete([(2, "a")]) == .invalidPart)
        #expect(complete([(1, "a"), (2, "b")]) == .partTooSmall)
        #expect(
            code { () throws(StoreError) in
                try bench.complete(
                    path, upload, [(2, "b")], etag: "e", user: "ann", condition: .ifPresent)
            } == .noSuchKey)
        #expect(bench.dump() == before)
        #expect(complete([(2, "b"), (3, "c")]) == nil)
    }

    @Test(
        "parts are numbered 1 to 10,000",
        arguments: [(0, false), (1, true), (10_000, true), (10_001, false)])
    func numbers(number: UInt32, isValid: Bool) throws {
        let (bench, upload) = try bench()
        let error = code { () throws(StoreError) in
            try bench.putPart(path, upload, number, length: 1, etag: "a", user: "ann")
        }
        #expect(error == (isValid ? nil : .invalidArgument))
    }

    @Test("parts are listed in pages after a number")
    func listParts() throws {
        let (bench, upload) = try bench()
        for number in [300, 1, 2, 256, 255] as [UInt32] {
            try bench.putPart(path, upload, number, length: 1, etag: "\(number)", user: "ann")
        }
        var request = OMListPartsRequest()
        request.key = path
        request.upload = upload
        request.user = "ann"
        request.limit = 2
        var pages: [[UInt32]] = []
        while true {
            let page = try bench.reads.parts(request)
            pages.append(page.parts.map(\.number))
            guard page.isTruncated, let last = page.parts.last else { break }
            request.after = last.number
        }
        #expect(pages == [[1, 2], [255, 256], [300]])
    }

    @Test("aborting gives all blocks back, and a second time there is no such upload")
    func abort() throws {
        let (bench, upload) = try bench()
        try bench.putPart(path, upload, 1, length: 1, etag: "a", user: "ann")
        let open = try bench.open(path, user: "ann", upload: upload, part: 2)
        try bench.abortUpload(path, upload, user: "ann")
        #expect(
            code { () throws(StoreError) in try bench.abortUpload(path, upload, user: "ann") }
                == .noSuchUpload)
        #expect(
            code { () throws(StoreError) in
                try bench.commit(open.id, [(open.blocks[0], 1)], etag: "b", user: "ann")
            } == .noSuchUpload)
        try bench.abort(open.id, user: "ann")
        #expect(try bench.discardedBlocks().count == 2)
    }

    @Test("a bucket with keys keeps its uploads; one without is deleted with them, bit by bit")
    func deletedBucket() throws {
        let (bench, upload) = try bench()
        let key = Bench.path("b-1", "k")
        try bench.put(key, user: "ann")
        try bench.putPart(path, upload, 1, length: 1, etag: "a", user: "ann")
        let before = bench.dump()
        #expect(
            code { () throws(StoreError) in try bench.deleteBucket("b-1", user: "ann") }
                == .bucketNotEmpty)
        #expect(bench.dump() == before)
        #expect(try bench.reads.orphanUploads(limit: 9, partLimit: 9) == [])

        _ = try bench.delete(key, user: "ann")
        let second = try bench.createUpload(path, user: "ann")
        for number in 1...3 as ClosedRange<UInt32> {
            try bench.putPart(path, second, number, length: 1, etag: "b", user: "ann")
        }
        let open = try bench.open(path, user: "ann", upload: second, part: 4)
        try bench.createBucket("c-1", user: "ann")
        let other = Bench.path("c-1", "big")
        let kept = try bench.createUpload(other, user: "ann")
        try bench.putPart(other, kept, 1, length: 1, etag: "c", user: "ann")
        let held = try bench.heldBlocks()
        try bench.deleteBucket("b-1", user: "ann")
        // The name may be taken again at once; the new bucket has nothing of the old one.
        try bench.createBucket("b-1", user: "ann")
        var list = OMListUploadsRequest()
        list.bucket = path.bucket
        list.limit = 10
        list.user = "ann"
        #expect(try bench.reads.uploads(list).uploads.isEmpty)
        for id in [upload, second] {
            #expect(
                code { () throws(StoreError) in
                    try bench.complete(path, id, [(1, "a")], etag: "e", user: "ann")
                } == .noSuchUpload)
        }
        #expect(
            code { () throws(StoreError) in
                try bench.commit(open.id, [(open.blocks[0], 1)], etag: "d", user: "ann")
            } == .noSuchBucket)

        // One of four parts, then one of three: more than two parts go one upload at a time.
        var rounds = 0
        while true {
            let keys = try bench.reads.orphanUploads(limit: 9, partLimit: 2)
            if keys.isEmpty { break }
            #expect(keys.count == 1)
            var command = OMExpireUploadsCommand()
            command.keys = keys.map { .octets($0) }
            try bench.run(.expireUploads(command))
            rounds += 1
        }
        #expect(rounds == 2)
        let page = bench.reads.discarded(from: [], through: .max, limit: 99, blocks: 99)
        #expect(page.records.reduce(0) { $0 + $1.blocks.count } == 5)
        #expect(try bench.heldBlocks() == held, "no block is lost or doubled")
        #expect(
            try bench.complete(other, kept, [(1, "c")], etag: "whole-1", user: "ann").length == 1)
    }
}
