import Model
import SwiftProtobuf
import Testing
import Wire

@testable import OMCore

/// No answer grows beyond what the transport takes: what does not go in comes with the next.
@Suite("OMCore: answers in pages")
struct PagesTests {
    /// Well above a page, which may be that and one entry more, and far below the transport's
    /// 32 MiB.
    private static let bound = OMLimits.answerBytes + (64 << 10)

    private func bench() throws -> Bench {
        let bench = Bench()
        try bench.createUser("ann", administrator: true)
        try bench.createBucket("b-1", user: "ann")
        return bench
    }

    private func bucketNumber(_ bench: Bench) throws -> UInt64 {
        let key = OMTableKey.bucket(Bench.path("b-1", "").bucket)
        return try OMBucketRecord(parsing: bench.tables.get(OMTable.buckets, key) ?? []).number
    }

    @Test("a listing of keys with large attributes is cut by bytes, and loses none")
    func largeAttributes() throws {
        let bench = try bench()
        let number = try bucketNumber(bench)
        var record = OMKeyRecord()
        record.replication = Bench.replication
        record.attributes.metadata = ["x": String(repeating: "m", count: 15 << 10)]
        let count = 4200
        let value = record.encoded
        let names = (0..<count).map { "k\(10_000 + $0)" }
        for name in names {
            bench.tables.put(
                OMTable.keys, OMTableKey.key(bucket: number, name: Array(name.utf8)), value)
        }
        var request = OMListKeysRequest()
        request.bucket = Bench.path("b-1", "").bucket
        request.limit = UInt32(count)
        request.user = "ann"
        var listed: [String] = []
        var pages = 0
        repeat {
            let page = try bench.reads.list(request)
            #expect(page.encoded.count <= Self.bound)
            listed += page.keys.map { String(decoding: $0.name, as: UTF8.self) }
            request.startAfter = page.next
            pages += 1
        } while !request.startAfter.isEmpty
        #expect(listed == names)
        #expect(pages > 10)
        request.startAfter = .octets([])
        request.withoutAttributes = true
        let lean = try bench.reads.list(request)
        #expect(lean.keys.count == count && !lean.hasNext, "what is not asked for takes no room")
    }

    @Test("long common prefixes are cut by bytes too")
    func longPrefixes() throws {
        let bench = try bench()
        let number = try bucketNumber(bench)
        let tail = String(repeating: "p", count: 1000) + "/k"
        for index in 0..<6000 {
            let name = Array("\(10_000 + index)\(tail)".utf8)
            bench.tables.put(OMTable.keys, OMTableKey.key(bucket: number, name: name), [])
        }
        var request = OMListKeysRequest()
        request.bucket = Bench.path("b-1", "").bucket
        request.delimiter = .octets([UInt8(ascii: "/")])
        request.limit = 10_000
        request.user = "ann"
        var count = 0
        repeat {
            let page = try bench.reads.list(request)
            #expect(page.encoded.count <= Self.bound)
            count += page.commonPrefixes.count
            request.startAfter = page.next
        } while !request.startAfter.isEmpty
        #expect(count == 6000)
    }

    @Test("users, volumes and buckets come in pages, and whole to who knows of none")
    func names() throws {
        let bench = try bench()
        for index in 0..<50 {
            try bench.createUser("u\(100 + index)")
            try bench.createBucket("bucket-\(100 + index)", user: "ann")
            var volume = OMCreateVolumeRequest()
            volume.name = "vol-\(100 + index)"
            volume.user = "ann"
            try bench.run(.createVolume(volume))
        }
        var users = OMListUsersRequest()
        let allUsers = try bench.reads.users(users).users
        #expect(allUsers.count == 51)
        var volumes = OMListVolumesRequest()
        volumes.user = "ann"
        let allVolumes = try bench.reads.volumes(volumes).volumes
        #expect(allVolumes.count == 51)
        var buckets = OMListBucketsRequest()
        (buckets.user, buckets.volume) = ("ann", "s3v")
        let allBuckets = try bench.reads.buckets(buckets).buckets
        #expect(allBuckets.count == 51)

        (users.limit, volumes.limit, buckets.limit) = (7, 7, 7)
        var found: (users: [OMUser], volumes: [OMVolume], buckets: [OMBucket]) = ([], [], [])
        repeat {
            let page = try bench.reads.users(users)
            #expect(page.users.count <= 7)
            found.users += page.users
            users.startAfter = page.next
        } while !users.startAfter.isEmpty
        repeat {
            let page = try bench.reads.volumes(volumes)
            found.volumes += page.volumes
            volumes.startAfter = page.next
        } while !volumes.startAfter.isEmpty
        repeat {
            let page = try bench.reads.buckets(buckets)
            found.buckets += page.buckets
            buckets.startAfter = page.next
        } while !buckets.startAfter.isEmpty
        #expect(found.users == allUsers)
        #expect(found.volumes == allVolumes)
        #expect(found.buckets == allBuckets)
    }

    @Test("a list that is too long for one answer is refused to who knows of no pages")
    func withoutPages() throws {
        let bench = try bench()
        var record = OMUserRecord()
        record.user.displayName = String(repeating: "d", count: 1000)
        for index in 0..<6000 {
            record.user.name = "u\(10_000 + index)"
            bench.tables.put(OMTable.users, OMTableKey.user(record.user.name), record.encoded)
        }
        let error = #expect(throws: StoreError.self) {
            try bench.reads.users(OMListUsersRequest())
        }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains("\(OMLimits.answerBytes) bytes") == true)
        var request = OMListUsersRequest()
        request.limit = 10_000
        let page = try bench.reads.users(request)
        #expect(page.encoded.count <= Self.bound && !page.next.isEmpty)
    }

    @Test("uploads with large attributes and parts with long checksums are cut by bytes")
    func uploads() throws {
        let bench = try bench()
        let number = try bucketNumber(bench)
        var record = OMUploadRecord()
        record.bucket = Bench.path("b-1", "").bucket
        record.upload.replication = Bench.replication
        record.upload.attributes.metadata = ["x": String(repeating: "m", count: 15 << 10)]
        for index in 0..<1000 {
            let name = Array("k\(10_000 + index)".utf8)
            record.upload.key = .octets(name)
            record.upload.upload.low = UInt64(index)
            bench.tables.put(
                OMTable.uploads,
                OMTableKey.upload(bucket: number, name: name, upload: record.upload.upload),
                record.encoded)
        }
        var request = OMListUploadsRequest()
        request.bucket = record.bucket
        request.user = "ann"
        request.limit = 1000
        var count = 0
        while true {
            let page = try bench.reads.uploads(request)
            #expect(page.encoded.count <= Self.bound)
            count += page.uploads.count
            guard page.isTruncated else { break }
            request.keyMarker = page.nextKeyMarker
            request.uploadMarker = page.nextUploadMarker
        }
        #expect(count == 1000)

        var part = OMPartRecord()
        part.part.etag = String(repeating: "e", count: 1000)
        for number in 1...6000 as ClosedRange<UInt32> {
            part.part.number = number
            bench.tables.put(
                OMTable.parts, OMTableKey.part(record.upload.upload, number: number),
                part.encoded)
        }
        var list = OMListPartsRequest()
        list.key.bucket = record.bucket
        list.key.name = record.upload.key
        list.upload = record.upload.upload
        list.limit = 10_000
        list.user = "ann"
        var numbers: [UInt32] = []
        while true {
            let page = try bench.reads.parts(list)
            #expect(page.encoded.count <= Self.bound)
            numbers += page.parts.map(\.number)
            guard page.isTruncated else { break }
            list.after = numbers.last ?? 0
        }
        #expect(numbers == Array(1...6000))
    }

    @Test("a look-up gives no more groups than go into one answer, and says where they end")
    func manyGroups() throws {
        let bench = try bench()
        let number = try bucketNumber(bench)
        let count = OMLimits.groupsPerAnswer + 500
        var layout = OMKeyLayout()
        layout.blocks = (0..<UInt64(count)).map { index in
            .with {
                $0.container = 1
                $0.local = index
                $0.length = 3
            }
        }
        var record = OMKeyRecord()
        record.replication = Bench.replication
        record.length = 3 * UInt64(count)
        record.layout = .octets(layout.encoded)
        let path = Bench.path("b-1", "big")
        bench.tables.put(
            OMTable.keys, OMTableKey.key(bucket: number, name: Array("big".utf8)), record.encoded)
        var request = OMLookupKeyRequest()
        request.key = path
        request.user = "ann"
        for selection in [nil, OMKeySelection.with { $0.kind = .range }] {
            if let selection { request.selection = selection }
            let first = try bench.reads.key(request)
            let end = try #require(first.excerpt.first?.groupsEnd)
            #expect(first.key.groups.count == OMLimits.groupsPerAnswer)
            #expect(end == 3 * UInt64(OMLimits.groupsPerAnswer))
            var rest = request
            rest.selection = .with {
                $0.kind = .range
                $0.start = end
            }
            let second = try bench.reads.key(rest)
            #expect(second.key.groups.count == 500)
            #expect(second.excerpt.first?.groupsOffset == end)
            #expect(second.excerpt.first?.groupsEnd == 0)
        }
    }
}
