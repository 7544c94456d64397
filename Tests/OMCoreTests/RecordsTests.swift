import Chance
import Model
import SwiftProtobuf
import Testing
import Wire

@testable import OMCore

/// The forms that versions, snapshots, packing and policies are to be built on.
@Suite("OMCore: records to build on")
struct RecordsTests {
    private func bench() throws -> Bench {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("b-1", user: "ann")
        return bench
    }

    // MARK: History

    @Test(
        "history is ordered by name, the newest of a key first, and its keys say what they are",
        arguments: 0..<8 as Range<UInt64>)
    func historyKeys(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var all: [(bucket: UInt64, name: [UInt8], generation: UInt64)] = []
        for _ in 0..<100 {
            let name = (0..<Int.random(in: 1...3, using: &random)).map { _ in
                [0, 1, 0x61, 0xFF].randomElement(using: &random) ?? 0 as UInt8
            }
            let generations: [UInt64] = [0, 1, 255, 256, .max - 1, .max]
            let generation = generations.randomElement(using: &random) ?? 0
            all.append((UInt64.random(in: 1...2, using: &random), name, generation))
        }
        for one in all {
            let key = OMTableKey.history(
                bucket: one.bucket, name: one.name, generation: one.generation)
            let found = try #require(OMTableKey.decodeHistory(key))
            #expect(found.bucket == one.bucket && found.name == one.name)
            #expect(found.generation == one.generation)
            #expect(key.starts(with: OMTableKey.history(bucket: one.bucket, name: one.name)))
            for other in all {
                let otherKey = OMTableKey.history(
                    bucket: other.bucket, name: other.name, generation: other.generation)
                let isBefore =
                    one.bucket != other.bucket
                    ? one.bucket < other.bucket
                    : one.name != other.name
                        ? one.name.lexicographicallyPrecedes(other.name)
                        : one.generation > other.generation
                #expect(key.lexicographicallyPrecedes(otherKey) == isBefore)
            }
        }
        #expect(OMTableKey.decodeHistory([1, 2, 3]) == nil)
        #expect(OMTableKey.decodeHistory([0, 0, 0, 0, 0, 0, 0, 1, 0x61, 0, 1, 5]) == nil)
    }

    @Test("a bucket keeps no history, and discards what is replaced")
    func noHistory() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        try bench.put(path, user: "ann")
        try bench.put(path, user: "ann")
        #expect(try bench.delete(path, user: "ann"))
        #expect(bench.tables.dump(OMTable.history).isEmpty)
        #expect(try bench.discardedBlocks().count == 2)
    }

    @Test("where history is kept, what is replaced or deleted goes there with its interval")
    func history() throws {
        let bench = try bench()
        let bucket = OMTableKey.bucket(Bench.path("b-1", "").bucket)
        var record = try OMBucketRecord(parsing: bench.tables.get(OMTable.buckets, bucket) ?? [])
        record.keepsHistory = true
        bench.tables.put(OMTable.buckets, bucket, record.encoded)
        let path = Bench.path("b-1", "k")
        let first = try bench.put(path, user: "ann", etag: "e1", length: 7)
        let second = try bench.put(path, user: "ann", etag: "e2", length: 9)
        #expect(try bench.delete(path, user: "ann"))
        let deleted = bench.index
        var found: [(generation: UInt64, etag: String, until: UInt64)] = []
        for (key, value) in bench.tables.dump(OMTable.history) {
            let place = try #require(OMTableKey.decodeHistory(key))
            #expect(place.bucket == record.number && place.name == Array("k".utf8))
            let history = try OMHistoryRecord(parsing: value)
            let old = try OMKeyRecord(parsing: history.key.octets)
            #expect(old.generation == place.generation)
            #expect(try old.allReferences().count == 1)
            found.append((place.generation, old.etag, history.until))
        }
        #expect(found.map(\.generation) == [second.generation, first.generation])
        #expect(found.map(\.etag) == ["e2", "e1"])
        #expect(found.map(\.until) == [deleted, second.generation])
        #expect(try bench.discardedBlocks().isEmpty, "their blocks stay with them")
        let usage = try bench.usage("b-1", user: "ann")
        #expect(usage.keys == 0 && usage.bytes == 0, "usage is of what is current")
        #expect(
            code { () throws(StoreError) in try bench.deleteBucket("b-1", user: "ann") }
                == .bucketNotEmpty)
    }

    // MARK: Generations

    @Test("a write or deletion can ask for the generation that was looked up")
    func generations() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        var request = OMDeleteKeyRequest()
        request.key = path
        request.user = "ann"
        request.condition.kind = .ifGeneration
        request.condition.generation = 1
        let delete = { () throws(StoreError) in _ = try bench.run(.deleteKey(request)) }
        #expect(code(delete) == .noSuchKey)
        let first = try bench.put(path, user: "ann")
        let second = try bench.put(path, user: "ann", etag: first.etag)
        request.condition.generation = first.generation
        #expect(code(delete) == .preconditionFailed)
        #expect(try bench.reads.key(path, user: "ann").generation == second.generation)
        request.condition.generation = second.generation
        #expect(code(delete) == nil)
    }

    // MARK: References

    private func reference(
        _ local: UInt64, _ length: UInt64, _ offset: UInt64 = 0, _ count: UInt64 = 0
    ) -> OMStoredBlock {
        .with {
            $0.container = 1
            $0.local = local
            $0.length = length
            $0.offset = offset
            $0.count = count
        }
    }

    @Test(
        "a group goes with the reference to all of it, once, and stays where others may have some",
        arguments: [0, 100 as UInt64])
    func released(more: UInt64) {
        // With more of them another way is taken.
        let others = (0..<more).map { reference(1000 + $0, 5) }
        let gone = [
            reference(1, 10), reference(2, 10, 2, 3), reference(3, 10), reference(1, 10),
            reference(4, 10, 0, 10), reference(5, 10, 0, 9),
        ]
        let found = BlockReferences.released(by: gone + others, keptBy: [reference(3, 10, 4, 1)])
        #expect(found.map(\.local) == [1, 4] + others.map(\.local))
    }

    @Test("a key of parts of groups is looked up with them, and damage is not misread")
    func parts() throws {
        let bench = try bench()
        let path = Bench.path("b-1", "k")
        let key = try bench.put(path, user: "ann")
        let place = OMTableKey.key(
            bucket: try OMBucketRecord(
                parsing: bench.tables.get(OMTable.buckets, OMTableKey.bucket(path.bucket)) ?? []
            ).number, name: Array("k".utf8))
        var record = try OMKeyRecord(parsing: bench.tables.get(OMTable.keys, place) ?? [])
        var layout = OMKeyLayout()
        layout.blocks = [reference(1, 100, 20, 30), reference(2, 50)]
        record.layout = .octets(layout.encoded)
        record.length = 80
        bench.tables.put(OMTable.keys, place, record.encoded)
        var request = OMLookupKeyRequest()
        request.key = path
        request.user = "ann"
        request.selection = .with {
            $0.kind = .range
            $0.start = 29
            $0.end = 31
        }
        let found = try bench.reads.key(request)
        #expect(found.key.groups.map(\.offset) == [20, 0])
        #expect(found.key.groups.map(\.count) == [30, 0])
        request.selection.start = 30
        let second = try bench.reads.key(request)
        #expect(second.key.groups.map { $0.block.local } == [2])
        #expect(second.excerpt.first?.groupsOffset == 30, "a part counts as long as it is")
        #expect(key.generation == found.key.generation)
        for damaged in [
            reference(1, 100, 20, 81), reference(1, 100, 20, 0), reference(1, 5, .max, 9),
        ] {
            layout.blocks = [damaged]
            record.layout = .octets(layout.encoded)
            bench.tables.put(OMTable.keys, place, record.encoded)
            #expect(
                code { () throws(StoreError) in try bench.reads.key(path, user: "ann") }
                    == .corrupt)
        }
    }

    @Test("a commit that names a part of a block is refused")
    func commitOfPart() throws {
        let bench = try bench()
        let (id, blocks) = try bench.open(Bench.path("b-1", "k"), user: "ann")
        var request = OMCommitRequest()
        request.openID = id
        request.user = "ann"
        request.groups = [
            .with {
                $0.block = blocks[0]
                $0.length = 10
                $0.offset = 2
                $0.count = 3
            }
        ]
        #expect(
            code { () throws(StoreError) in try bench.run(.commit(request)) } == .unsupported)
    }

    // MARK: Entries of directories

    @Test("entries of a directory stand together in the order of their leaves")
    func entries() throws {
        let leaves: [[UInt8]] = [[0], [0x61], [0x61, 0], [0x62], [0xFF]]
        let parents: [UInt64] = [3, OMTableKey.directoryNumber(of: 9, place: 1)]
        var keys: [[UInt8]] = []
        for parent in parents {
            for leaf in leaves {
                let key = OMTableKey.entry(bucket: 3, parent: parent, leaf: leaf)
                let found = try #require(OMTableKey.decodeEntry(key))
                #expect(found.bucket == 3 && found.parent == parent && found.leaf == leaf)
                #expect(key.starts(with: OMTableKey.directory(bucket: 3, parent: parent)))
                keys.append(key)
            }
        }
        #expect(keys == keys.sorted { $0.lexicographicallyPrecedes($1) })
        #expect(OMTableKey.decodeEntry(OMTableKey.directory(bucket: 3, parent: 3)) == nil)
    }

    @Test("no two directories and buckets have the same number")
    func numbers() {
        var seen: Set<UInt64> = []
        for index in [1, 2, 255, 256, 257, 1 << 20, 1 << 55] as [UInt64] {
            for place in [0, 1, 2, 255] {
                #expect(
                    seen.insert(OMTableKey.directoryNumber(of: index, place: place)).inserted)
            }
            // A bucket's is the index, as that of a command's first directory.
            #expect(OMTableKey.directoryNumber(of: index, place: 0) == index)
        }
    }

    // MARK: Settings

    /// A document of one number.
    private struct Threshold: BucketSetting {
        static var kind: BucketSettingKind { .lifecycle }
        static var version: UInt32 { 2 }
        var value: UInt8

        init(document: [UInt8], version: UInt32) throws(StoreError) {
            guard document.count == 1 else {
                throw StoreError(.corrupt, "a threshold is one byte")
            }
            value = version == 1 ? document[0] : document[0] * 2
        }
    }

    private func put(
        _ bench: Bench, _ document: [UInt8], version: UInt32 = 1,
        kind: UInt32 = UInt32(BucketSettingKind.lifecycle.rawValue), user: String = "ann"
    ) throws(StoreError) {
        var command = OMPutSettingCommand()
        command.bucket = Bench.path("b-1", "").bucket
        command.user = user
        command.kind = kind
        command.version = version
        command.document = .octets(document)
        try bench.run(.putSetting(command))
    }

    @Test("a setting is put, replaced and deleted, and read as its type has it")
    func settings() throws {
        let bench = try bench()
        let number = bench.index
        let read = { () throws(StoreError) in
            try bench.reads.setting(Threshold.self, of: number)
        }
        #expect(try read()?.generation == nil)
        try put(bench, [5])
        #expect(try read()?.setting.value == 5)
        #expect(try read()?.generation == bench.index)
        try put(bench, [5], version: 2)
        #expect(try read()?.setting.value == 10)
        #expect(try read()?.generation == bench.index)
        try put(bench, [5], version: 3)
        #expect(code(read) == .versionMismatch)
        try put(bench, [5, 6])
        #expect(code(read) == .corrupt)
        var delete = OMDeleteSettingCommand()
        delete.bucket = Bench.path("b-1", "").bucket
        delete.user = "ann"
        delete.kind = UInt32(BucketSettingKind.lifecycle.rawValue)
        try bench.run(.deleteSetting(delete))
        #expect(try read()?.generation == nil)
        try bench.run(.deleteSetting(delete))
    }

    @Test("a setting that cannot be is refused: of others' buckets, kinds, versions, too long")
    func badSettings() throws {
        let bench = try bench()
        try bench.createUser("bob")
        let long = [UInt8](repeating: 1, count: OMLimits.settingSize + 1)
        #expect(code { () throws(StoreError) in try put(bench, [1], user: "bob") } == .accessDenied)
        #expect(code { () throws(StoreError) in try put(bench, [1], kind: 99) } == .unsupported)
        #expect(
            code { () throws(StoreError) in try put(bench, [1], version: 0) } == .invalidArgument)
        #expect(code { () throws(StoreError) in try put(bench, long) } == .invalidArgument)
        #expect(bench.tables.dump(OMTable.settings).isEmpty)
    }

    @Test("settings and usage go with their bucket, and those of others stay")
    func settingsOfDeleted() throws {
        let bench = try bench()
        try bench.createBucket("b-2", user: "ann")
        for kind in BucketSettingKind.allCases {
            try put(bench, [1], kind: UInt32(kind.rawValue))
        }
        var other = OMPutSettingCommand()
        other.bucket = Bench.path("b-2", "").bucket
        other.user = "ann"
        other.kind = 1
        other.version = 1
        try bench.run(.putSetting(other))
        #expect(bench.tables.dump(OMTable.settings).count == BucketSettingKind.allCases.count + 1)
        try bench.deleteBucket("b-1", user: "ann")
        #expect(bench.tables.dump(OMTable.settings).count == 1)
        #expect(bench.tables.dump(OMTable.usage).count == 1)
        try bench.createBucket("b-1", user: "ann")
        #expect(try bench.reads.setting(Threshold.self, of: bench.index)?.generation == nil)
    }
}
