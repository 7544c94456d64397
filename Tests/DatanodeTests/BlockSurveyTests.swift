import ErasureCode
import Model
import Testing

@testable import Datanode

@Suite("what is to be rebuilt of a block") struct BlockSurveyTests {
    private let cell = 65_536
    private var stripe: Int { 3 * cell }

    private func survey(_ index: Int, empty: Set<Int> = []) throws -> BlockSurvey {
        BlockSurvey(
            coding: try ReplicationConfig("rs-3-2-64k").erasureCoding(), index: index,
            emptyIndexes: empty)
    }

    private func has(_ length: Int, of group: Int, ended: Bool = true) -> BlockSurvey.Word {
        .has(length: length, groupLength: group, isEnded: ended)
    }

    @Test("a whole block is rebuilt as long as the group says")
    func whole() throws {
        let group = stripe + cell + 10
        let words = [
            1: has(2 * cell, of: group), 2: has(cell + 10, of: group), 4: has(2 * cell, of: group),
        ]
        let lengths = [3: cell, 5: 2 * cell]
        for (index, length) in lengths {
            #expect(
                try survey(index).decide(words)
                    == .rebuild(
                        .init(
                            groupLength: group, length: length, isEnded: true, sources: [1, 2, 4])))
        }
    }

    @Test("what only some have of it is dropped: the stripe, and its end")
    func orphanStripe() throws {
        let words = [
            1: has(2 * cell, of: 2 * stripe), 3: has(cell, of: stripe, ended: false),
            4: has(2 * cell, of: 2 * stripe), 5: has(2 * cell, of: 2 * stripe),
        ]
        #expect(
            try survey(2).decide(words)
                == .rebuild(
                    .init(
                        groupLength: stripe, length: cell, isEnded: false, sources: [1, 3, 4, 5])))
    }

    @Test("a block that index 1, a parity index or one with bytes of it lacks is nobody's")
    func lacking() throws {
        let whole = [
            1: has(cell, of: stripe), 2: has(cell, of: stripe), 4: has(cell, of: stripe),
            5: has(cell, of: stripe),
        ]
        for index in whole.keys {
            var words = whole
            words[index] = .lacks
            #expect(try survey(3).decide(words) == .drop)
            // One that was not asked says nothing.
            words[index] = nil
            #expect(try survey(3).decide(words) != .drop)
        }
        #expect(try survey(3, empty: [2]).decide(whole) == .drop)
    }

    @Test("a data index that no byte falls to may lack it, and gets it where others were told")
    func empty() throws {
        var words: [Int: BlockSurvey.Word] = [
            1: has(500, of: 500), 3: .lacks, 4: has(500, of: 500), 5: has(500, of: 500),
        ]
        #expect(try survey(2).decide(words) == .nothing)
        #expect(try survey(2, empty: [3]).decide(words) == .nothing)
        words[3] = has(0, of: 500)
        #expect(
            try survey(2).decide(words)
                == .rebuild(
                    .init(groupLength: 500, length: 0, isEnded: true, sources: [1, 3, 4, 5])))
    }

    @Test("one that has fewer bytes than it says is no source")
    func short() throws {
        let words = [
            1: has(cell, of: stripe), 2: has(4096, of: stripe), 4: has(cell, of: stripe),
            5: has(cell, of: stripe),
        ]
        guard case .rebuild(let goal) = try survey(3).decide(words) else {
            Issue.record("it is not rebuilt")
            return
        }
        #expect(goal.sources == [1, 4, 5])
    }

    @Test("replicas are gone through together, a page of each at a time")
    func merge() throws {
        func entry(_ localID: UInt64) -> BlockMerge.Entry {
            .init(localID: localID, length: 1, groupLength: 1, isEnded: true)
        }
        let lists: [Int: [UInt64]] = [1: [1, 2, 5, 9], 3: [2, 3, 9, 10, 11], 4: []]
        var merge = BlockMerge(lists.keys)
        var found: [UInt64: Set<Int>] = [:]
        var asked = 0
        while true {
            for request in merge.missing {
                let rest = lists[request.index]!.filter { $0 > request.after }
                try merge.take(
                    .init(entries: rest.prefix(2).map(entry), hasMore: rest.count > 2),
                    of: request.index)
                asked += 1
            }
            guard let (localID, words) = merge.next() else { break }
            #expect(Set(words.keys) == [1, 3, 4])
            found[localID] = Set(words.filter { $0.value != .lacks }.keys)
        }
        #expect(asked == 6)
        #expect(
            found == [1: [1], 2: [1, 3], 3: [3], 5: [1], 9: [1, 3], 10: [3], 11: [3]])
        // One that lists out of order, or nothing for ever, is not listened to.
        var other = BlockMerge([1])
        #expect(throws: StoreError.self) {
            try other.take(.init(entries: [entry(4), entry(3)], hasMore: false), of: 1)
        }
        #expect(throws: StoreError.self) {
            try other.take(.init(entries: [], hasMore: true), of: 1)
        }
    }

    @Test("chunks of a block follow each other, and say what they are decoded from")
    func chunks() throws {
        let coding = try ReplicationConfig("rs-3-2-2048k").erasureCoding()
        let geometry = StripeGeometry(coding, groupLength: coding.stripeSize + (3 << 20) + 100)
        // Index 2 has a cell, and 1 MiB and 100 bytes of the second.
        var chunk = Chunk(geometry, index: 2, from: 0)
        #expect(chunk.count == 1 << 20 && !chunk.isLast && chunk.range(of: 5) == 0..<1 << 20)
        chunk = Chunk(geometry, index: 2, from: 2 << 20)
        #expect(chunk.count == 1 << 20 && !chunk.isLast && chunk.range(of: 3).isEmpty)
        #expect(chunk.groupLength == geometry.groupLength)
        chunk = Chunk(geometry, index: 2, from: 3 << 20)
        #expect(chunk.count == 100 && chunk.isLast)
        #expect(chunk.range(of: 1) == 3 << 20..<(3 << 20) + 100)
        // Two of the others hold nothing there but one: three are needed, one is free.
        #expect(chunk.choose(from: [1, 4, 5], have: [], coding: coding, turn: 0) == [1, 4])
        #expect(chunk.choose(from: [1, 4, 5], have: [1], coding: coding, turn: 1) == [5])
        #expect(chunk.choose(from: [1, 4, 5], have: [1, 5], coding: coding, turn: 1) == [])
        #expect(chunk.choose(from: [1], have: [], coding: coding, turn: 0) == nil)
        chunk = Chunk(geometry, index: 2, from: (3 << 20) + 100)
        #expect(chunk.count == 0 && chunk.isLast && chunk.offset == (3 << 20) + 100)
    }
}
