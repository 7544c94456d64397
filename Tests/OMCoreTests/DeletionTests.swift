import Model
import Testing
import Wire

@testable import OMCore

private let second: UInt64 = 1_000_000_000

private func block(_ number: UInt64) -> BlockID {
    BlockID(containerID: ContainerID(number % 5 + 1), localID: number)
}

@Suite("OMCore: blocks held for readers")
struct BlockHoldsTests {
    @Test("a hold lasts one grace after it was last renewed")
    func grace() throws {
        var holds = BlockHolds(grace: 60 * second)
        try holds.hold([block(1), block(2)], at: 10 * second)
        #expect(holds.isHeld(block(1), at: 69 * second) && !holds.isHeld(block(3), at: 0))
        try holds.hold([block(2)], at: 50 * second)
        #expect(!holds.isHeld(block(1), at: 70 * second))
        #expect(holds.isHeld(block(2), at: 109 * second))
        #expect(!holds.isHeld(block(2), at: 110 * second))
        // What has ended takes no room for long.
        holds.removeExpired(at: 75 * second)
        #expect(holds.count == 1)
        holds.removeExpired(at: 76 * second + 15 * second)
        holds.removeExpired(at: 130 * second)
        #expect(holds.count == 0)
    }

    @Test("no more are held than there is room for, all of a request or none")
    func capacity() throws {
        var holds = BlockHolds(grace: 60 * second, capacity: 10)
        try holds.hold((0..<8).map { block($0) }, at: second)
        let more = (6..<11).map { block($0) }
        #expect(
            code { () throws(StoreError) in try holds.hold(more, at: 2 * second) } == .overloaded)
        #expect(!holds.isHeld(block(8), at: 2 * second))
        // Two of these are held already.
        try holds.hold((6..<10).map { block($0) }, at: 30 * second)
        #expect(holds.count == 10)
        // The first six have ended, and make room.
        try holds.hold((20..<26).map { block($0) }, at: 62 * second)
        #expect(holds.count == 10 && !holds.isHeld(block(0), at: 62 * second))
    }
}

@Suite("OMCore: when discarded blocks are due")
struct DeletionScheduleTests {
    @Test(
        "nothing is due before one grace has passed since the start, then what was applied by then")
    func due() {
        var schedule = DeletionSchedule(grace: 60 * second)
        #expect(schedule.due(at: 5 * second) == nil)
        for time in UInt64(10)...200 {
            schedule.note(applied: time, at: time * second)
            let due = schedule.due(at: time * second)
            if time < 70 {
                #expect(due == nil)
            } else {
                // Not before its grace, and not much later.
                #expect(due.map { $0 <= time - 60 && $0 + 5 >= time - 60 } == true, "\(time)")
            }
        }
        // Nothing more happens: in the end all is due.
        #expect(schedule.due(at: 300 * second).map { $0 >= 196 } == true)
        schedule.note(applied: 200, at: 301 * second)
        #expect(schedule.due(at: 362 * second) == 200)
    }

    @Test("a walk goes on where it was, and begins again for what it passed over")
    func walk() {
        var schedule = DeletionSchedule(grace: 60 * second)
        #expect(schedule.begin(at: second) == [])
        schedule.advance(from: [], to: [1], isAtEnd: false, passedOver: 2)
        #expect(schedule.begin(at: second) == [1])
        schedule.advance(from: [1], to: [2], isAtEnd: true, passedOver: 0)
        #expect(schedule.begin(at: 30 * second) == [2])
        schedule.advance(from: [2], to: [3], isAtEnd: true, passedOver: 0)
        #expect(schedule.begin(at: 31 * second) == [], "half a grace after it began")
        schedule.advance(from: [], to: [4], isAtEnd: true, passedOver: 0)
        // A look of before this schedule began counts for nothing.
        schedule.advance(from: [9], to: [10], isAtEnd: true, passedOver: 3)
        #expect(schedule.begin(at: 100 * second) == [4], "nothing was left behind")
        // A look that failed is made again.
        #expect(schedule.begin(at: 101 * second) == [4])
    }
}

@Suite("OMCore: discarded blocks")
struct DiscardedTests {
    private let path = Bench.path("b-1", "k")

    private func bench() throws -> Bench {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("b-1", user: "ann")
        return bench
    }

    @Test("a key of many blocks is discarded in records of bounded size, in order")
    func pieces() throws {
        let bench = try bench()
        let count = 3 * OMLimits.discardedBlocks + 7
        let (id, blocks) = try bench.open(path, user: "ann", blocks: count)
        try bench.abort(id, user: "ann")
        let second = try bench.open(path, user: "ann")
        try bench.abort(second.id, user: "ann")
        let sizes = bench.tables.dump(OMTable.deleted).map { key, value in
            (key.count, (try? OMDeletedRecord(parsing: value).blocks.count) ?? -1)
        }
        #expect(sizes.map(\.0) == [8, 12, 12, 12, 8])
        #expect(sizes.map(\.1) == [1000, 1000, 1000, 7, 1])
        #expect(try bench.discardedBlocks() == (blocks + second.blocks).map { BlockID($0) })
        #expect(try bench.heldBlocks().count == count + 1)
    }

    @Test("looks at the table are bounded, go on where they ended, and stop at what is not due")
    func looks() throws {
        let bench = try bench()
        var last: UInt64 = 0
        var expected: [BlockID] = []
        for number in 0..<20 {
            let open = try bench.open(path, user: "ann", blocks: number % 3 + 1)
            try bench.abort(open.id, user: "ann")
            if number < 15 {
                expected += open.blocks.map { BlockID($0) }
                last = bench.index
            }
        }
        for (limit, size) in [(1, 100), (3, 100), (100, 1), (100, 4), (100, 100)] {
            var found: [BlockID] = []
            var from: [UInt8] = []
            while true {
                let page = bench.reads.discarded(
                    from: from, through: last, limit: limit, blocks: size)
                #expect(page.records.count <= limit)
                #expect(page.records.dropLast().flatMap(\.blocks).count < size)
                found += page.records.flatMap(\.blocks)
                #expect(page.next != from || page.isAtEnd)
                from = page.next
                if page.isAtEnd { break }
            }
            #expect(found == expected)
        }
    }

    @Test("a record that cannot be read does not stand before others")
    func unreadable() throws {
        let bench = try bench()
        let open = try bench.open(path, user: "ann")
        try bench.abort(open.id, user: "ann")
        bench.tables.put(OMTable.deleted, OMTableKey.deleted(1, piece: 0), [0xFF])
        bench.tables.put(OMTable.deleted, [0, 0], [])
        let page = bench.reads.discarded(from: [], through: .max, limit: 10, blocks: 10)
        #expect(page.unreadable.map(\.key) == [[0, 0], OMTableKey.deleted(1, piece: 0)])
        #expect(page.records.flatMap(\.blocks) == open.blocks.map { BlockID($0) })
    }

    @Test("uploads expire as many at once as their parts allow, open keys as their blocks do")
    func expiry() throws {
        let bench = try bench()
        for number in 0..<6 {
            let upload = try bench.createUpload(Bench.path("b-1", "u\(number)"), user: "ann")
            for part in 0..<(number == 3 ? 9 : 3) {
                try bench.putPart(
                    Bench.path("b-1", "u\(number)"), upload, UInt32(part + 1), length: 1,
                    etag: "e", user: "ann")
            }
        }
        var counts: [Int] = []
        var next: [UInt8]? = []
        while let start = next {
            let found = bench.reads.oldUploads(
                before: .max, from: start, limit: 10, parts: 7)
            counts.append(found.keys.count)
            next = found.next
        }
        #expect(counts == [2, 1, 1, 2], "6 parts, 3, 9 alone, 6")

        for blocks in [2, 2, 5, 9, 1] { _ = try bench.open(path, user: "ann", blocks: blocks) }
        counts = []
        next = []
        while let start = next {
            let found = bench.reads.oldOpens(
                before: .max, reservedBefore: .max, from: start, limit: 10, blocks: 4)
            counts.append(found.named.count)
            next = found.next
        }
        #expect(counts == [2, 1, 1, 1])
    }

    @Test("neither a damaged record nor one of the future keeps others from expiring")
    func expiryGoesOn() throws {
        let bench = try bench()
        _ = try bench.createUpload(Bench.path("b-1", "u"), user: "ann")
        bench.tables.put(OMTable.uploads, [0], [0xFF])
        let uploads = bench.reads.oldUploads(before: .max, from: [], limit: 10)
        #expect(uploads.keys.count == 1 && uploads.next == nil)
        #expect(uploads.unreadable.map { $0.message.contains("table 7 at key 00") } == [true])

        bench.tables.put(OMTable.opens, OMTableKey.open(1), [0xFF])
        // As a leader whose clock was wrong has left it, before the log had one of its own.
        let early = try bench.open(path, user: "ann")
        var future = try bench.reads.open(early.id, user: "ann")
        future.created += 1_000_000_000
        bench.tables.put(OMTable.opens, OMTableKey.open(early.id), future.encoded)
        let old = try bench.open(path, user: "ann")
        let opens = bench.reads.oldOpens(
            before: bench.time + 1, reservedBefore: .min, from: [], limit: 10)
        #expect(opens.named == [old.id] && opens.next == nil)
        #expect(
            opens.unreadable.map { $0.message.contains("key 0000000000000001") } == [true])
    }
}
