import Chance
import Model
import Testing
import Wire

@testable import OMCore

/// What a listing should give, from all names: groups made first, then sorted, then cut.
private struct NaiveListing {
    enum Entry: Equatable {
        case name([UInt8])
        case group([UInt8])

        var bytes: [UInt8] {
            switch self {
            case .name(let bytes), .group(let bytes): bytes
            }
        }
    }

    static func group(_ name: [UInt8], prefix: [UInt8], delimiter: [UInt8]) -> [UInt8]? {
        guard !delimiter.isEmpty else { return nil }
        var at = prefix.count
        while at + delimiter.count <= name.count {
            if Array(name[at..<at + delimiter.count]) == delimiter {
                return Array(name[..<(at + delimiter.count)])
            }
            at += 1
        }
        return nil
    }

    /// `names` sorted; entries after `after`.
    static func entries(
        _ names: [[UInt8]], prefix: [UInt8], delimiter: [UInt8], after: [UInt8]
    ) -> [Entry] {
        var entries: [Entry] = []
        for name in names where name.starts(with: prefix) {
            let entry: Entry =
                group(name, prefix: prefix, delimiter: delimiter).map { .group($0) }
                ?? .name(name)
            if entries.last != entry { entries.append(entry) }
        }
        return entries.filter { after.lexicographicallyPrecedes($0.bytes) }
    }
}

private let letters: [[UInt8]] = [
    Array("a".utf8), Array("b".utf8), Array("/".utf8), Array("/".utf8), [0], Array("é".utf8),
    Array("-".utf8), Array("\u{10FFFF}".utf8),
]

private func randomName(_ random: inout SeededGenerator, longest: Int = 6) -> [UInt8] {
    (0..<Int.random(in: 1...longest, using: &random)).flatMap { _ in
        letters.randomElement(using: &random) ?? []
    }
}

@Suite("OMCore: listings")
struct ListingTests {
    @Test(
        "every page of every query is what a naive listing gives",
        arguments: 0..<30 as Range<UInt64>)
    func keys(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let bench = Bench()
        try bench.createUser("ann")
        // Buckets on both sides, whose keys must not show.
        for bucket in ["before", "listed", "behind"] {
            try bench.createBucket(bucket, user: "ann")
        }
        var names: Set<[UInt8]> = []
        for _ in 0..<80 { names.insert(randomName(&random)) }
        for name in names {
            for bucket in ["before", "listed", "behind"] {
                var path = Bench.path(bucket, "")
                path.name = .octets(name)
                try bench.put(path, user: "ann")
            }
        }
        let sorted = names.sorted { $0.lexicographicallyPrecedes($1) }
        for _ in 0..<150 {
            let prefix = Bool.random(using: &random) ? [] : randomName(&random, longest: 2)
            let delimiters: [[UInt8]] = [
                [], [0x2F], [0x2F], Array("/a".utf8), [0], [0xC3], [0x61, 0x62],
            ]
            let delimiter = delimiters.randomElement(using: &random) ?? []
            let after = Bool.random(using: &random) ? [] : randomName(&random, longest: 4)
            let limit = Int.random(in: 1...12, using: &random)
            var request = OMListKeysRequest()
            request.bucket = Bench.path("listed", "").bucket
            request.prefix = .octets(prefix)
            request.delimiter = .octets(delimiter)
            request.startAfter = .octets(after)
            request.limit = UInt32(limit)
            request.user = "ann"

            let expected = NaiveListing.entries(
                sorted, prefix: prefix, delimiter: delimiter, after: after)
            var found: [NaiveListing.Entry] = []
            var pages = 0
            while true {
                let page = try bench.reads.list(request)
                let entries =
                    page.keys.map { NaiveListing.Entry.name($0.name.octets) }
                    + page.commonPrefixes.map { NaiveListing.Entry.group($0.octets) }
                found += entries.sorted { $0.bytes.lexicographicallyPrecedes($1.bytes) }
                #expect(entries.count <= limit)
                pages += 1
                try #require(pages <= names.count + 1, "pages without end")
                guard page.hasNext else { break }
                #expect(entries.count == limit)
                request.startAfter = page.next
            }
            #expect(
                found == expected,
                "seed \(seed) prefix \(prefix) delimiter \(delimiter) after \(after)")
            #expect(pages == max(1, (expected.count + limit - 1) / limit))
        }
    }

    @Test(
        "uploads are listed by key and upload in pages, rolled up like keys",
        arguments: 0..<15 as Range<UInt64>)
    func uploads(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("listed", user: "ann")
        var all: [(name: [UInt8], upload: Identity128)] = []
        for _ in 0..<60 {
            var path = Bench.path("listed", "")
            let name = randomName(&random, longest: 4)
            path.name = .octets(name)
            all.append((name, Identity128(try bench.createUpload(path, user: "ann"))))
        }
        all.sort {
            $0.name == $1.name
                ? $0.upload < $1.upload : $0.name.lexicographicallyPrecedes($1.name)
        }
        for _ in 0..<60 {
            let prefix = Bool.random(using: &random) ? [] : randomName(&random, longest: 1)
            let delimiter: [UInt8] = Bool.random(using: &random) ? [] : [0x2F]
            var request = OMListUploadsRequest()
            request.bucket = Bench.path("listed", "").bucket
            request.prefix = .octets(prefix)
            request.delimiter = .octets(delimiter)
            request.limit = UInt32.random(in: 1...7, using: &random)
            request.user = "ann"
            var uploads: [Identity128] = []
            var groups: [[UInt8]] = []
            while true {
                let page = try bench.reads.uploads(request)
                uploads += page.uploads.map { Identity128($0.upload) }
                groups += page.commonPrefixes.map(\.octets)
                #expect(page.uploads.count + page.commonPrefixes.count <= Int(request.limit))
                try #require(uploads.count + groups.count <= all.count, "pages without end")
                guard page.isTruncated else { break }
                request.keyMarker = page.nextKeyMarker
                if page.hasNextUploadMarker {
                    request.uploadMarker = page.nextUploadMarker
                } else {
                    request.clearUploadMarker()
                }
            }
            let named = all.filter { $0.name.starts(with: prefix) }
            let grouped = named.map {
                NaiveListing.group($0.name, prefix: prefix, delimiter: delimiter)
            }
            let single = zip(named, grouped).filter { $0.1 == nil }.map(\.0.upload)
            var rolled: [[UInt8]] = []
            for group in grouped.compactMap({ $0 }) where rolled.last != group {
                rolled.append(group)
            }
            #expect(uploads == single, "seed \(seed)")
            #expect(groups == rolled, "seed \(seed)")

            // A marker without an upload: only keys beyond it.
            if let marker = named.randomElement(using: &random) {
                var beyond = request
                beyond.clearUploadMarker()
                beyond.delimiter = .octets([])
                beyond.keyMarker = .octets(marker.name)
                beyond.limit = 1000
                let found = try bench.reads.uploads(beyond).uploads.map {
                    Identity128($0.upload)
                }
                let expected = named.filter {
                    marker.name.lexicographicallyPrecedes($0.name)
                }
                #expect(found == expected.map(\.upload))
            }
        }
    }

    @Test("a limit of 0 gives an empty page")
    func nothing() throws {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("listed", user: "ann")
        try bench.put(Bench.path("listed", "k"), user: "ann")
        var request = OMListKeysRequest()
        request.bucket = Bench.path("listed", "").bucket
        request.user = "ann"
        let page = try bench.reads.list(request)
        #expect(page.keys.isEmpty && !page.hasNext)
    }

    @Test("a group of many keys costs one seek")
    func seeks() throws {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("listed", user: "ann")
        for folder in 0..<5 {
            for key in 0..<200 {
                try bench.put(Bench.path("listed", "f\(folder)/\(key)"), user: "ann")
            }
        }
        let counted = CountingReader(bench.tables)
        var request = OMListKeysRequest()
        request.bucket = Bench.path("listed", "").bucket
        request.delimiter = .octets([0x2F])
        request.limit = 1000
        request.user = "ann"
        let page = try OMReads(counted).list(request)
        #expect(page.commonPrefixes.count == 5)
        #expect(counted.rows <= 5, "one row of each group")
        #expect(counted.scans <= 6)
    }
}

/// Counts what a listing looks at.
private final class CountingReader: MetadataReader {
    let tables: InMemoryTables
    var rows = 0
    var scans = 0

    init(_ tables: InMemoryTables) { self.tables = tables }

    func get(_ table: MetadataTable, _ key: [UInt8]) -> [UInt8]? { tables.get(table, key) }

    func scan(
        _ table: MetadataTable, from start: [UInt8], _ body: ([UInt8], [UInt8]) -> Bool
    ) {
        scans += 1
        tables.scan(table, from: start) { key, value in
            rows += 1
            return body(key, value)
        }
    }
}
