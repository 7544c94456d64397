import Model
import SwiftProtobuf
import Testing
import Wire

@testable import OMCore

/// Look-ups that ask for some of a key.
@Suite("OMCore: look-ups")
struct LookupTests {
    private let path = Bench.path("b-1", "big")
    private let size = UInt64(OMLimits.minimumPartSize)

    /// A bucket with a key of `parts` parts, numbered 2, 4, 6 and so on if they are few; the last
    /// is one byte.
    private func bench(parts: Int) throws -> Bench {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("b-1", user: "ann")
        let upload = try bench.createUpload(path, user: "ann")
        var listed: [(UInt32, String)] = []
        for index in 1...parts {
            let number = UInt32(parts > 5000 ? index : 2 * index)
            let etag = "0123456789abcdef0123456789ab\(1000 + index % 9000)"
            try bench.putPart(
                path, upload, number, length: index == parts ? 1 : size, etag: etag, user: "ann")
            listed.append((number, etag))
        }
        _ = try bench.complete(path, upload, listed, etag: "whole-\(parts)", user: "ann")
        return bench
    }

    private func look(
        _ bench: Bench, _ path: OMKeyPath? = nil, _ selection: OMKeySelection?
    ) throws -> OMKeyResponse {
        var request = OMLookupKeyRequest()
        request.key = path ?? self.path
        request.user = "ann"
        if let selection { request.selection = selection }
        return try bench.reads.key(request)
    }

    private func range(_ start: UInt64, _ end: UInt64) -> OMKeySelection {
        .with {
            $0.kind = .range
            $0.start = start
            $0.end = end
        }
    }

    private func suffix(_ count: UInt64) -> OMKeySelection {
        .with {
            $0.kind = .suffix
            $0.count = count
        }
    }

    private func part(_ number: UInt32) -> OMKeySelection {
        .with {
            $0.kind = .part
            $0.part = number
        }
    }

    @Test("a look-up brings the groups that hold what it asks for, and where they begin")
    func ranges() throws {
        let bench = try bench(parts: 5)
        let whole = try look(bench, nil, nil).key
        #expect(whole.groups.count == 5 && whole.parts.map(\.number) == [2, 4, 6, 8, 10])
        let length = 4 * size + 1
        #expect(whole.length == length)
        let cases: [(OMKeySelection, Range<Int>)] = [
            (range(0, 0), 0..<5), (range(0, 1), 0..<1), (range(size - 1, size), 0..<1),
            (range(size - 1, size + 1), 0..<2), (range(size, 2 * size), 1..<2),
            (range(size, 2 * size + 1), 1..<3), (range(3 * size, 0), 3..<5),
            (range(4 * size, 0), 4..<5), (range(length - 1, .max), 4..<5),
            (range(length, 0), 0..<0), (range(length + 5, .max), 0..<0), (range(7, 3), 0..<0),
            (suffix(1), 4..<5), (suffix(2), 3..<5), (suffix(size + 1), 3..<5),
            (suffix(size + 2), 2..<5), (suffix(length), 0..<5), (suffix(.max), 0..<5),
            (suffix(0), 0..<0), (.with { $0.kind = .head }, 0..<0),
        ]
        var head = whole
        head.groups = []
        head.parts = []
        for (selection, expected) in cases {
            let found = try look(bench, nil, selection)
            #expect(found.key.groups == Array(whole.groups[expected]), "\(selection)")
            #expect(
                (found.excerpt.first?.groupsOffset ?? 0) == size * UInt64(expected.lowerBound),
                "\(selection)")
            var rest = found.key
            rest.groups = []
            #expect(rest == head)
        }
        let later = OMKeySelection.with { $0.kind = .UNRECOGNIZED(9) }
        #expect(throws: StoreError.self) { try look(bench, nil, later) }
    }

    @Test("a part is found by the number that it was uploaded with")
    func parts() throws {
        let bench = try bench(parts: 5)
        let whole = try look(bench, nil, nil).key
        for index in 0..<5 {
            let found = try look(bench, nil, part(UInt32(2 * index + 2)))
            #expect(found.key.parts == [whole.parts[index]])
            #expect(found.key.groups == [whole.groups[index]])
            let excerpt = try #require(found.excerpt.first)
            #expect(excerpt.partsCount == 5)
            #expect(excerpt.partOffset == size * UInt64(index))
            #expect(excerpt.groupsOffset == size * UInt64(index))
        }
        for number in [0, 1, 3, 11, 10_000] as [UInt32] {
            let found = try look(bench, nil, part(number))
            #expect(found.key.parts == [] && found.key.groups == [])
            #expect(found.excerpt.first?.partsCount == 5)
        }
        // A key that was written at once has no parts; all of it is number 1.
        let plain = Bench.path("b-1", "plain")
        try bench.put(plain, user: "ann")
        let one = try look(bench, plain, part(1))
        #expect(one.key.groups.count == 1 && one.excerpt == [])
        #expect(try look(bench, plain, part(2)).key.groups == [])
        #expect(try look(bench, plain, range(0, 0)).excerpt == [], "nothing that says nothing")
    }

    @Test("the answer for the head or the end of a key of 10,000 parts is small")
    func large() throws {
        let bench = try bench(parts: 10_000)
        let whole = try look(bench, nil, nil)
        #expect(whole.key.groups.count == 10_000 && whole.encoded.count > 500_000)
        let length = whole.key.length
        #expect(try look(bench, nil, .with { $0.kind = .head }).encoded.count < 200)
        let footer = try look(bench, nil, suffix(8))
        #expect(footer.key.groups == Array(whole.key.groups.suffix(2)))
        #expect(footer.excerpt.first?.groupsOffset == length - 1 - size)
        #expect(footer.encoded.count < 300)
        #expect(try look(bench, nil, range(length / 2, length / 2 + 10)).encoded.count < 300)
        #expect(try look(bench, nil, part(10_000)).encoded.count < 400)
    }

    @Test("a listing leaves out what its caller does not look at, and nothing unless it says so")
    func listing() throws {
        let bench = try bench(parts: 3)
        let (id, blocks) = try bench.open(Bench.path("b-1", "a"), user: "ann")
        var request = OMCommitRequest()
        request.openID = id
        request.groups = [
            .with {
                $0.block = blocks[0]; $0.length = 4
            }
        ]
        request.etag = "e"
        request.user = "ann"
        request.attributes.headers = ["content-type": "text/plain"]
        request.attributes.metadata = ["note": String(repeating: "x", count: 500)]
        request.checksum = .with {
            $0.algorithm = .crc32; $0.value = "AAAA"
        }
        try bench.run(.commit(request))
        for (attributes, checksums) in [(true, true), (true, false), (false, true), (false, false)]
        {
            var list = OMListKeysRequest()
            list.bucket = path.bucket
            list.limit = 10
            list.user = "ann"
            list.withoutAttributes = !attributes
            list.withoutChecksums = !checksums
            let keys = try bench.reads.list(list).keys
            #expect(keys.map(\.name) == [.octets(Array("a".utf8)), .octets(Array("big".utf8))])
            #expect(keys.map(\.length) == [4, 2 * size + 1] && keys[1].etag == "whole-3")
            #expect(keys[0].attributes == (attributes ? request.attributes : OMAttributes()))
            #expect(keys[0].hasChecksum == checksums)
            #expect(keys.allSatisfy { $0.groups.isEmpty && $0.parts.isEmpty && $0.hasReplication })
        }
    }
}
