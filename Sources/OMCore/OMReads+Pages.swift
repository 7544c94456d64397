import Model
import Wire

// Lists in pages, bounded in entries and in bytes.

/// How much more goes into an answer.
struct AnswerRoom {
    /// What an entry takes beside its names, about.
    static let overhead = 64

    private let limit: Int
    private(set) var count = 0
    private var bytes = 0

    /// - Parameter limit: entries that were asked for; nil: all that go in.
    init(limit: Int?) { self.limit = limit.map { min($0, OMLimits.listLimit) } ?? .max }

    /// Whether one more goes in. The first always does.
    var hasRoom: Bool { count < limit && bytes < OMLimits.answerBytes }

    /// Counts an entry that goes in; `size` is what its names and texts take.
    mutating func add(_ size: Int) {
        count += 1
        bytes += size + Self.overhead
    }
}

extension OMReads {
    /// Entries of a table whose keys are names behind a scope, after `after`, as far as a page
    /// goes. `entry` gives an entry, its name and the bytes of its texts, or nil for a record that
    /// is left out. The last name comes with them if there are more.
    ///
    /// Without a limit the caller knows of no pages: it gets all, or `invalidArgument` where that
    /// is too much for one answer.
    func page<Record: StoredRecord, Entry>(
        _ table: MetadataTable, in scope: [UInt8] = [], after: String, limit: UInt32,
        _ entry: (Record) -> (Entry, name: String, size: Int)?
    ) throws(StoreError) -> (entries: [Entry], next: String) {
        var room = AnswerRoom(limit: limit == 0 ? nil : Int(limit))
        var entries: [Entry] = []
        var last = ""
        var isCut = false
        var failure: StoreError?
        let start = after.isEmpty ? scope : scope + Array(after.utf8) + [0]
        reader.scan(table, from: start) { key, value in
            guard key.starts(with: scope) else { return false }
            do throws(StoreError) {
                guard let found = entry(try parse(value, in: table, at: key)) else { return true }
                guard room.hasRoom else {
                    isCut = true
                    return false
                }
                room.add(found.size)
                entries.append(found.0)
                last = found.name
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
        guard !isCut || limit > 0 else {
            throw StoreError(
                .invalidArgument,
                "the list is longer than the \(OMLimits.answerBytes) bytes, about, of one answer: "
                    + "ask for it in pages")
        }
        return (entries, isCut ? last : "")
    }

    /// Parts of an upload after a number, a page of them.
    public func parts(_ request: OMListPartsRequest) throws(StoreError) -> OMListPartsResponse {
        let bucket = try bucket(request.key.bucket, user: request.user)
        _ = try upload(bucket: bucket.number, name: request.key.name.octets, request.upload)
        var room = AnswerRoom(limit: Int(request.limit))
        let scope = OMTableKey.parts(request.upload)
        let start = OMTableKey.part(request.upload, number: min(request.after, 0xFFFE) + 1)
        var response = OMListPartsResponse()
        var failure: StoreError?
        reader.scan(OMTable.parts, from: start) { key, value in
            guard key.starts(with: scope) else { return false }
            guard room.hasRoom else {
                response.isTruncated = true
                return false
            }
            do throws(StoreError) {
                let record: OMPartRecord = try parse(value, in: OMTable.parts, at: key)
                room.add(record.part.etag.utf8.count + record.part.checksum.value.utf8.count)
                response.parts.append(record.part)
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
        return response
    }
}

extension OMAttributes {
    /// Bytes of its names and values, about as many as it takes in an answer.
    var textSize: Int {
        var size = 0
        for (name, value) in headers { size += name.utf8.count + value.utf8.count + 8 }
        for (name, value) in metadata { size += name.utf8.count + value.utf8.count + 8 }
        return size
    }
}
