import Chance
import MetadataStore
import Model
import Testing
import Wire

@testable import OMCore

/// A plain dictionary in the place of the state machine, and a random run on both.
private struct DictionaryModel {
    struct Key: Equatable {
        var etag: String
        var blocks: [WireBlock]
        var length: UInt64
    }

    struct Open {
        var bucket: String
        /// Which of the buckets of that name, in the order of their making.
        var life: Int
        var name: String
        var blocks: [WireBlock]
        var upload: WireIdentity?
        var part: UInt32
    }

    struct Upload {
        var bucket: String
        var name: String
        var parts: [UInt32: Key] = [:]
    }

    var buckets: [String: [String: Key]] = [:]
    var lives: [String: Int] = [:]
    var opens: [UInt64: Open] = [:]
    var uploads: [WireIdentity: Upload] = [:]
    var allBlocks: [BlockID] = []

    func refusal(
        _ kind: OMCondition.Kind, _ etag: String, _ existing: Key?
    ) -> StoreError.Code? {
        switch (kind, existing) {
        case (.ifAbsent, .some): .preconditionFailed
        case (.ifPresent, nil), (.ifEtag, nil): .noSuchKey
        case (.ifEtag, .some(let key)): key.etag == etag ? nil : .preconditionFailed
        default: nil
        }
    }
}

/// Runs random commands and compares each answer with the model's.
private struct RandomRun {
    let bench = Bench()
    var model = DictionaryModel()
    var random: SeededGenerator
    let buckets = ["aaa", "bbb"]
    let names = ["k", "k/1", "k/2", "l"]
    let etags = ["e1", "e2", "e3"]
    /// Of keys when they were looked at last.
    var generations: [String: UInt64] = [:]

    init(seed: UInt64) throws {
        random = SeededGenerator(seed: seed)
        try bench.createUser("ann")
    }

    mutating func step() throws {
        let bucket = buckets.randomElement(using: &random) ?? ""
        let name = names.randomElement(using: &random) ?? ""
        switch Int.random(in: 0..<20, using: &random) {
        case 0: createBucket(bucket)
        case 1: deleteBucket(bucket)
        case 2...6: try open(bucket, name)
        case 7: addBlock()
        case 8...11: try commit()
        case 12: abort()
        case 13, 14: try delete(bucket, name)
        case 15: createUpload(bucket, name)
        case 16: try Bool.random(using: &random) ? openPart() : dropOrphans()
        case 17, 18: try complete()
        default: abortUpload()
        }
    }

    private mutating func pickCondition() -> (OMCondition.Kind, String) {
        let kinds: [OMCondition.Kind] = [.none, .none, .ifAbsent, .ifPresent, .ifEtag]
        return (
            kinds.randomElement(using: &random) ?? .none,
            etags.randomElement(using: &random) ?? ""
        )
    }

    private mutating func createBucket(_ bucket: String) {
        let error = code { () throws(StoreError) in
            try bench.createBucket(bucket, user: "ann")
        }
        if model.buckets[bucket] == nil {
            #expect(error == nil)
            model.buckets[bucket] = [:]
            model.lives[bucket, default: 0] += 1
        } else {
            #expect(error == .bucketOwnedByYou)
        }
    }

    private mutating func deleteBucket(_ bucket: String) {
        let error = code { () throws(StoreError) in
            try bench.deleteBucket(bucket, user: "ann")
        }
        if let keys = model.buckets[bucket] {
            #expect(error == (keys.isEmpty ? nil : .bucketNotEmpty))
            guard keys.isEmpty else { return }
            model.buckets[bucket] = nil
            // Out of reach from now on; `dropOrphans` gives their blocks back.
            model.uploads = model.uploads.filter { $0.value.bucket != bucket }
        } else {
            #expect(error == .noSuchBucket)
        }
    }

    private mutating func open(
        _ bucket: String, _ name: String, upload: WireIdentity? = nil, part: UInt32 = 0
    ) throws {
        let count = Int.random(in: 0...3, using: &random)
        do throws(StoreError) {
            let (id, blocks) = try bench.open(
                Bench.path(bucket, name), user: "ann", blocks: count, upload: upload, part: part)
            #expect(model.buckets[bucket] != nil)
            model.opens[id] = .init(
                bucket: bucket, life: model.lives[bucket] ?? 0, name: name, blocks: blocks,
                upload: upload, part: part)
            model.allBlocks += blocks.map { BlockID($0) }
        } catch {
            #expect(error.code == .noSuchBucket && model.buckets[bucket] == nil)
        }
    }

    private mutating func addBlock() {
        guard let id = model.opens.keys.sorted().randomElement(using: &random) else { return }
        var command = OMAddBlockCommand()
        command.openID = id
        command.user = "ann"
        command.block = bench.newBlock()
        let error = code { () throws(StoreError) in try bench.run(.addBlock(command)) }
        #expect(error == nil)
        model.opens[id]?.blocks.append(command.block)
        model.allBlocks.append(BlockID(command.block))
    }

    private mutating func commit() throws {
        guard let id = model.opens.keys.sorted().randomElement(using: &random),
            let open = model.opens[id]
        else { return }
        let used = open.blocks.filter { _ in Int.random(in: 0..<4, using: &random) > 0 }
        let lengths = used.map { _ in UInt64.random(in: 1...(6 << 20), using: &random) }
        let key = DictionaryModel.Key(
            etag: etags.randomElement(using: &random) ?? "", blocks: used,
            length: lengths.reduce(0, +))
        let (condition, etag) = pickCondition()
        let groups = Array(zip(used, lengths))
        let bench = bench
        let error = code { () throws(StoreError) in
            try bench.commit(
                id, groups, etag: key.etag, user: "ann", condition: condition,
                conditionETag: etag)
        }
        guard let keys = model.buckets[open.bucket], model.lives[open.bucket] == open.life else {
            #expect(error == .noSuchBucket)
            return
        }
        if let upload = open.upload {
            #expect(error == (model.uploads[upload] == nil ? .noSuchUpload : nil))
            if error == nil { model.uploads[upload]?.parts[open.part] = key }
        } else {
            #expect(error == model.refusal(condition, etag, keys[open.name]))
            if error == nil { model.buckets[open.bucket]?[open.name] = key }
        }
        if error == nil { model.opens[id] = nil }
    }

    private mutating func abort() {
        guard let id = model.opens.keys.sorted().randomElement(using: &random) else { return }
        #expect(code { () throws(StoreError) in try bench.abort(id, user: "ann") } == nil)
        model.opens[id] = nil
    }

    private mutating func delete(_ bucket: String, _ name: String) throws {
        let (condition, etag) = pickCondition()
        do throws(StoreError) {
            let existed = try bench.delete(
                Bench.path(bucket, name), user: "ann", condition: condition, etag: etag)
            let removed = model.buckets[bucket]?.removeValue(forKey: name)
            #expect(existed == (removed != nil))
            #expect(model.refusal(condition, etag, removed) == nil)
        } catch {
            guard let keys = model.buckets[bucket] else {
                #expect(error.code == .noSuchBucket)
                return
            }
            #expect(error.code == model.refusal(condition, etag, keys[name]))
        }
    }

    private mutating func createUpload(_ bucket: String, _ name: String) {
        do throws(StoreError) {
            let upload = try bench.createUpload(Bench.path(bucket, name), user: "ann")
            #expect(model.buckets[bucket] != nil)
            model.uploads[upload] = .init(bucket: bucket, name: name)
        } catch {
            #expect(error.code == .noSuchBucket && model.buckets[bucket] == nil)
        }
    }

    private mutating func pickUpload() -> (WireIdentity, DictionaryModel.Upload)? {
        let ids = model.uploads.keys.sorted { Identity128($0) < Identity128($1) }
        guard let id = ids.randomElement(using: &random), let upload = model.uploads[id]
        else { return nil }
        return (id, upload)
    }

    private mutating func openPart() throws {
        guard let (id, upload) = pickUpload() else { return }
        try open(
            upload.bucket, upload.name, upload: id,
            part: UInt32.random(in: 1...4, using: &random))
    }

    private mutating func complete() throws {
        guard let (id, upload) = pickUpload() else { return }
        let numbers = upload.parts.keys.sorted()
            .filter { _ in Int.random(in: 0..<4, using: &random) > 0 }
        let chosen = numbers.compactMap { number in upload.parts[number].map { (number, $0) } }
        let (condition, etag) = pickCondition()
        let isSmall = chosen.dropLast().contains { $0.1.length < UInt64(OMLimits.minimumPartSize) }
        let existing = model.buckets[upload.bucket]?[upload.name]
        let expected: StoreError.Code? =
            chosen.isEmpty
            ? .invalidArgument
            : isSmall
                ? .partTooSmall
                : condition == .ifEtag
                    ? model.refusal(.ifPresent, "", existing)
                    : model.refusal(condition, etag, existing)
        // The bench's completion takes no ETag: ask for presence in its place.
        let error = code { () throws(StoreError) in
            try bench.complete(
                Bench.path(upload.bucket, upload.name), id, chosen.map { ($0.0, $0.1.etag) },
                etag: "all", user: "ann",
                condition: condition == .ifEtag ? .ifPresent : condition)
        }
        #expect(error == expected)
        guard error == nil else { return }
        model.buckets[upload.bucket]?[upload.name] = .init(
            etag: "all", blocks: chosen.flatMap { $0.1.blocks },
            length: chosen.reduce(0) { $0 + $1.1.length })
        model.uploads[id] = nil
    }

    /// Takes away what uploads of deleted buckets have left, and no other upload.
    private mutating func dropOrphans() throws {
        var command = OMExpireUploadsCommand()
        let partLimit = Int.random(in: 1...3, using: &random)
        command.keys = try bench.reads.orphanUploads(limit: 2, partLimit: partLimit)
            .map { .octets($0) }
        let error = code { () throws(StoreError) in try bench.run(.expireUploads(command)) }
        #expect(error == nil)
        for (id, upload) in model.uploads {
            var request = OMUploadRequest()
            request.key = Bench.path(upload.bucket, upload.name)
            request.upload = id
            request.user = "ann"
            #expect(code { () throws(StoreError) in try bench.reads.upload(request) } == nil)
        }
    }

    private mutating func abortUpload() {
        guard Int.random(in: 0..<3, using: &random) == 0, let (id, upload) = pickUpload()
        else { return }
        let path = Bench.path(upload.bucket, upload.name)
        #expect(
            code { () throws(StoreError) in try bench.abortUpload(path, id, user: "ann") } == nil)
        model.uploads[id] = nil
    }

    /// All keys as they are listed and looked up, against the model; no block lost or doubled;
    /// usage as it is when everything is counted again, and generations that only grow.
    mutating func check() throws {
        for bucket in buckets {
            var request = OMListKeysRequest()
            request.bucket = Bench.path(bucket, "").bucket
            request.limit = 1000
            request.user = "ann"
            guard let keys = model.buckets[bucket] else {
                #expect(
                    code { () throws(StoreError) in try bench.reads.list(request) }
                        == .noSuchBucket)
                continue
            }
            let usage = try bench.usage(bucket, user: "ann")
            let counted = try bench.recount(bucket)
            #expect(usage.isComplete)
            #expect(usage.keys == counted.keys && usage.bytes == counted.bytes)
            #expect(usage.bytes == keys.values.reduce(0) { $0 + $1.length })
            let listed = try bench.reads.list(request).keys
            for key in listed {
                let name = String(decoding: key.name, as: UTF8.self)
                let before = generations[bucket + "/" + name] ?? 0
                #expect(key.generation >= before && key.generation <= bench.index)
                #expect(key.generation > 0, "each key has a generation")
                generations[bucket + "/" + name] = key.generation
            }
            #expect(listed.map { String(decoding: $0.name, as: UTF8.self) } == keys.keys.sorted())
            for (name, key) in keys {
                let found = try bench.reads.key(Bench.path(bucket, name), user: "ann")
                let seen = DictionaryModel.Key(
                    etag: found.etag, blocks: found.groups.map(\.block), length: found.length)
                #expect(seen == key)
            }
        }
        #expect(try bench.heldBlocks() == model.allBlocks.sorted(), "a block is lost or doubled")
    }
}

@Suite("OMCore: against a dictionary")
struct ModelTests {
    @Test(
        "random commands give what a dictionary gives, and no block is lost",
        arguments: 0..<40 as Range<UInt64>)
    func random(seed: UInt64) throws {
        var run = try RandomRun(seed: seed)
        for step in 0..<400 {
            try run.step()
            if step % 40 == 39 { try run.check() }
        }
    }

    @Test(
        "the same commands give the same answers and bytes again, in memory and in SQLite",
        arguments: 0..<8 as Range<UInt64>)
    func everywhere(seed: UInt64) async throws {
        var run = try RandomRun(seed: seed)
        for _ in 0..<500 { try run.step() }
        let bench = run.bench
        let (commands, answers) = (bench.commands, bench.answers)
        let machine = OMStateMachine()

        let again = Bench()
        for (offset, command) in commands.enumerated() {
            let answer = machine.apply(
                try machine.decode(command), at: UInt64(offset) + 1, in: again.tables)
            #expect(answer == answers[offset], "seed \(seed)")
        }
        #expect(again.dump() == bench.dump())

        try await withTemporaryDirectory { directory in
            let store = try await MetadataStore.open(
                path: directory + "/om.db", role: "om", tables: machine.tables,
                format: machine.format)
            var random = SeededGenerator(seed: seed)
            var done = 0
            while done < commands.count {
                let count = min(Int.random(in: 1...100, using: &random), commands.count - done)
                let batch = try commands[done..<done + count].map { try machine.decode($0) }
                let first = done
                let found = try await store.apply(through: UInt64(done + count)) { tables in
                    batch.enumerated().map { offset, command in
                        machine.apply(command, at: UInt64(first + offset) + 1, in: tables)
                    }
                }
                #expect(found == Array(answers[done..<done + count]), "seed \(seed)")
                done += count
            }
            let dump = try await store.read { tables in
                OMTable.all.map { table in
                    tables.entries(table, prefix: [], limit: .max).flatMap { [$0.key, $0.value] }
                }
            }
            #expect(dump == bench.dump())
            try await store.close()
        }
    }
}
