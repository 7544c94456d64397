import Model
import Testing
import Wire

@testable import OMCore

/// Keys of whole copies: none is made, and records that name them are read as what they are.
@Suite("OMCore: replications of copies")
struct CopiesTests {
    private let copies = ReplicationConfig.replicated(.three).message
    private let path = Bench.path("b-1", "k")

    private func bench() throws -> Bench {
        let bench = Bench()
        try bench.createUser("ann")
        try bench.createBucket("b-1", user: "ann")
        return bench
    }

    @Test("no command makes a bucket, key, upload or reservation of copies")
    func commands() throws {
        let bench = try bench()
        let before = bench.dump()
        var bucket = OMCreateBucketCommand()
        bucket.bucket = Bench.path("b-2", "").bucket
        bucket.user = "ann"
        bucket.replication = copies
        var open = OMOpenCommand()
        open.key = path
        open.user = "ann"
        open.replication = copies
        open.blocks = [bench.newBlock()]
        var reserve = OMReserveCommand()
        reserve.bucket = path.bucket
        reserve.user = "ann"
        reserve.replication = copies
        reserve.blocks = [bench.newBlock()]
        var upload = OMCreateUploadCommand()
        upload.request.key = path
        upload.request.user = "ann"
        upload.request.replication = copies
        let commands: [OMCommand.OneOf_Body] = [
            .createBucket(bucket), .open(open), .reserve(reserve), .createUpload(upload),
        ]
        for command in commands {
            do throws(StoreError) {
                try bench.run(command)
                Issue.record("applied: \(command)")
            } catch {
                #expect(error.code == .unsupported, "\(error)")
                #expect(error.message.contains("Ratis pipelines"))
            }
        }
        #expect(bench.dump() == before)
    }

    @Test("a bucket whose record says copies is shown as it is, and takes no key or upload")
    func bucket() throws {
        let bench = try bench()
        let key = OMTableKey.bucket(path.bucket)
        var record = try OMBucketRecord(parsing: #require(bench.tables.get(OMTable.buckets, key)))
        record.bucket.replication = copies
        bench.tables.put(OMTable.buckets, key, record.encoded)
        var request = OMBucketRequest()
        request.bucket = path.bucket
        request.user = "ann"
        let asked = request
        #expect(
            try ReplicationConfig(bench.reads.bucket(asked).replication).description == "ratis-3")
        #expect(
            code { () throws(StoreError) in try bench.createUpload(path, user: "ann") }
                == .unsupported)
        // A key may still ask for what can be written.
        try bench.put(path, user: "ann")
        #expect(try bench.reads.key(path, user: "ann").etag == "e")
    }
}
