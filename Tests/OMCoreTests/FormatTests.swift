import Chance
import Model
import SwiftProtobuf
import Testing
import Wire

@testable import OMCore

/// What released versions have written is read, and their commands give what they gave.
@Suite("OMCore: formats")
struct FormatTests {
    /// Tables as version 1 left them: ann has a bucket of number 2 with `count` keys.
    private func oldTables(keys count: Int) -> Bench {
        let tables = InMemoryTables()
        tables.put(OMTable.users, Array("ann".utf8), OldForm.user("ann", buckets: 1))
        tables.put(OMTable.accessKeys, Array("AK-ann".utf8), Array("ann".utf8))
        tables.put(
            OMTable.volumes, Array("s3v".utf8), OldForm.text(1, "s3v") + OldForm.text(2, "ann"))
        tables.put(
            OMTable.buckets, Array("s3v\0old".utf8),
            OldForm.bucket("old", number: 2, owner: "ann"))
        for number in 0..<UInt64(count) {
            tables.put(
                OMTable.keys, [0, 0, 0, 0, 0, 0, 0, 2] + Array(name(number).utf8),
                OldForm.key(
                    [(7, 2 * number + 1, 1000), (8, 2 * number + 2, number)], etag: "e",
                    modified: 9, openID: 500 + number))
        }
        let bench = Bench(tables)
        bench.index = 100_000
        bench.nextBlock = 1_000_000
        return bench
    }

    private func name(_ number: UInt64) -> String { "k\(10_000 + number)" }

    @Test("a row of version 1 is a key of generation 0 that refers to whole groups")
    func oldRow() throws {
        let bench = oldTables(keys: 3)
        let path = Bench.path("old", name(2))
        let key = try bench.reads.key(path, user: "ann")
        #expect(key.length == 1002 && key.generation == 0 && key.modified == 9)
        #expect(key.groups.map(\.length) == [1000, 2])
        #expect(key.groups.map(\.offset) == [0, 0] && key.groups.map(\.count) == [0, 0])
        #expect(key.groups.map { BlockID($0.block) }.map(\.localID) == [5, 6])
        var list = OMListKeysRequest()
        list.bucket = path.bucket
        list.limit = 10
        list.user = "ann"
        #expect(try bench.reads.list(list).keys.map(\.generation) == [0, 0, 0])
        var look = OMLookupKeyRequest()
        look.key = path
        look.user = "ann"
        look.selection = .with {
            $0.kind = .suffix
            $0.count = 1
        }
        let tail = try bench.reads.key(look)
        #expect(tail.key.groups.map(\.length) == [2])
        #expect(tail.excerpt.first?.groupsOffset == 1000)
    }

    @Test("a replaced row of version 1 gives its groups back and has a generation")
    func oldRowReplaced() throws {
        let bench = oldTables(keys: 2)
        let path = Bench.path("old", name(1))
        let first = try bench.put(path, user: "ann")
        #expect(first.generation == bench.index)
        #expect(try bench.discardedBlocks().map(\.localID) == [3, 4])
        let second = try bench.put(path, user: "ann")
        #expect(second.generation > first.generation)
        #expect(try bench.delete(Bench.path("old", name(0)), user: "ann"))
        #expect(try bench.discardedBlocks().map(\.localID).suffix(2) == [1, 2])
    }

    @Test("a bucket of version 1 is counted in bounded steps, whatever changes meanwhile")
    func counting() throws {
        let bench = oldTables(keys: 95)
        var random = SeededGenerator(seed: 3)
        var steps = 0
        while let bucket = bench.reads.uncountedBuckets(from: [], limit: 10).found.first {
            let before = try bench.usage("old", user: "ann")
            #expect(!before.isComplete)
            var command = OMCountUsageCommand()
            command.bucket = bucket.bucket
            command.number = bucket.number
            command.limit = 10
            try bench.run(.countUsage(command))
            steps += 1
            // Before, within and behind what is counted.
            for _ in 0..<4 {
                let path = Bench.path("old", name(UInt64.random(in: 0..<120, using: &random)))
                if Bool.random(using: &random) {
                    try bench.put(
                        path, user: "ann", length: UInt64.random(in: 1...50, using: &random))
                } else {
                    _ = try bench.delete(path, user: "ann")
                }
            }
        }
        #expect(steps >= 8)
        let usage = try bench.usage("old", user: "ann")
        #expect(usage.isComplete)
        let counted = try bench.recount("old")
        #expect(usage.keys == counted.keys && usage.bytes == counted.bytes)
        // Once more changes nothing.
        var command = OMCountUsageCommand()
        command.bucket = Bench.path("old", "").bucket
        command.number = 2
        command.limit = 10
        try bench.run(.countUsage(command))
        #expect(try bench.usage("old", user: "ann") == usage)
    }

    @Test("commands of version 1 give the rows that they gave")
    func oldCommands() throws {
        let bench = Bench()
        let machine = bench.machine
        let id: UInt64 = 3 << 8
        let commands = [
            OldForm.createUser("ann"), OldForm.createBucket("old", user: "ann"),
            OldForm.open("old", "k", user: "ann", block: OldForm.block(7, 1)),
            OldForm.commit(id, user: "ann", etag: "e", block: OldForm.block(7, 1), length: 10),
        ]
        for (place, bytes) in commands.enumerated() {
            let command = try machine.decode(bytes)
            #expect(command.version == 0)
            let answer = machine.apply(command, at: UInt64(place) + 1, in: bench.tables)
            if case .refused(let error) = answer { Issue.record("\(error)") }
        }
        #expect(
            bench.tables.dump(OMTable.keys).map(\.value)
                == [OldForm.key([(7, 1, 10)], etag: "e", modified: 4, openID: id)])
        #expect(
            bench.tables.dump(OMTable.buckets).map(\.value)
                == [
                    OldForm.number(1, 2)
                        + OldForm.bytes(
                            2,
                            OldForm.text(1, "s3v") + OldForm.text(2, "old")
                                + OldForm.text(3, "ann") + OldForm.number(6, 2)
                                + OldForm.bytes(7, OldForm.replication))
                ])
        #expect(bench.tables.dump(OMTable.usage).isEmpty, "it is counted later")
        let delete = try machine.decode(OldForm.delete("old", "k", user: "ann"))
        _ = machine.apply(delete, at: 5, in: bench.tables)
        #expect(bench.tables.dump(OMTable.keys).isEmpty)
        #expect(try bench.discardedBlocks().map(\.localID) == [1])
    }

    @Test("a command of a version that is not known is refused with its number")
    func laterCommand() throws {
        let bytes = OldForm.createUser("ann") + OldForm.number(23, UInt64(OMFormat.command) + 1)
        let error = #expect(throws: StoreError.self) { try Bench().machine.decode(bytes) }
        #expect(error?.code == .versionMismatch)
        #expect(error?.message.contains("version \(OMFormat.command + 1)") == true)
    }

    @Test("a bucket whose layout is not known is refused with its number, and none is made so")
    func layouts() throws {
        let bench = Bench()
        try bench.createUser("ann")
        var command = OMCreateBucketCommand()
        command.bucket = Bench.path("b-1", "").bucket
        command.replication = Bench.replication
        command.user = "ann"
        command.layout = .UNRECOGNIZED(7)
        #expect(
            code { () throws(StoreError) in try bench.run(.createBucket(command)) }
                == .unsupported)
        command.layout = .objectStore
        try bench.run(.createBucket(command))
        let key = OMTableKey.bucket(command.bucket)
        var record = try OMBucketRecord(parsing: bench.tables.get(OMTable.buckets, key) ?? [])
        record.bucket.layout = .UNRECOGNIZED(7)
        bench.tables.put(OMTable.buckets, key, record.encoded)
        let path = Bench.path("b-1", "k")
        #expect(
            code { () throws(StoreError) in try bench.put(path, user: "ann") } == .unsupported)
        #expect(
            code { () throws(StoreError) in try bench.reads.key(path, user: "ann") }
                == .unsupported)
        #expect(
            code { () throws(StoreError) in try bench.deleteBucket("b-1", user: "ann") }
                == .unsupported)
    }
}
