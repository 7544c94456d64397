import Model
import Wire

/// Walks entries in the order of their names, rolling up those that share a prefix that ends at
/// a delimiter.
///
/// A group is never scanned: its first entry tells its prefix, and the walk goes on with a seek
/// beyond all that begin with it. O((keys + groups) · log n), whatever the groups hold.
struct GroupingWalk {
    let reader: any MetadataReader
    let table: MetadataTable
    /// What the keys of the table begin with before the name.
    let scope: [UInt8]
    /// How (part of) a name stands in the keys of the table.
    let encodePrefix: ([UInt8]) -> [UInt8]
    let prefix: [UInt8]
    let delimiter: [UInt8]

    enum Step { case goOn, stop }

    /// The group that `name` is rolled up into: up to and with the first delimiter after the
    /// prefix; nil if it stands for itself.
    func group(of name: [UInt8]) -> [UInt8]? {
        guard !delimiter.isEmpty, name.starts(with: prefix) else { return nil }
        var at = prefix.count
        while at + delimiter.count <= name.count {
            if name[at] == delimiter[0], name[at...].starts(with: delimiter) {
                return Array(name[..<(at + delimiter.count)])
            }
            at += 1
        }
        return nil
    }

    /// The key just above every entry whose name begins with `group`.
    func bound(after group: [UInt8]) -> [UInt8]? {
        (scope + encodePrefix(group)).prefixSuccessor
    }

    /// Calls `each` for entries and `group` for groups in order, from the table key `start` on.
    /// - Parameter name: the name in a key of the table.
    func walk(
        from start: [UInt8], name: ([UInt8]) -> [UInt8],
        each: ([UInt8], [UInt8], [UInt8]) -> Step, group: ([UInt8]) -> Step
    ) {
        let first = scope + encodePrefix(prefix)
        var bound: [UInt8]? = start.lexicographicallyPrecedes(first) ? first : start
        while let from = bound {
            bound = nil
            reader.scan(table, from: from) { key, value in
                guard key.starts(with: first) else { return false }
                let found = name(key)
                guard let rolled = self.group(of: found) else {
                    return each(key, found, value) == .goOn
                }
                if group(rolled) == .goOn { bound = self.bound(after: rolled) }
                return false
            }
        }
    }
}

extension OMReads {
    /// Keys and common prefixes after `request.startAfter`, in the order of their bytes.
    public func list(_ request: OMListKeysRequest) throws(StoreError) -> OMListKeysResponse {
        let bucket = try bucket(request.bucket, user: request.user)
        let scope = OMTableKey.number(bucket.number)
        let walk = GroupingWalk(
            reader: reader, table: OMTable.keys, scope: scope, encodePrefix: { $0 },
            prefix: request.prefix.octets, delimiter: request.delimiter.octets)
        var response = OMListKeysResponse()
        guard request.limit > 0 else { return response }
        var room = AnswerRoom(limit: Int(request.limit))
        var last: [UInt8] = []
        var isTruncated = false
        var failure: StoreError?
        let wantsAttributes = !request.withoutAttributes
        let withoutChecksums = request.withoutChecksums
        /// Whether the page has room for `entry`; ends the walk if not.
        func take(_ entry: [UInt8]) -> Bool {
            guard room.hasRoom else {
                isTruncated = true
                return false
            }
            last = entry
            return true
        }

        let after = request.startAfter.octets
        // A group that holds `startAfter` begins before it, so none of it comes after.
        let start = walk.group(of: after).map { walk.bound(after: $0) ?? scope + after }
        walk.walk(from: start ?? (after.isEmpty ? scope : scope + after + [0])) { key in
            Array(key.dropFirst(scope.count))
        } each: { _, name, value in
            guard take(name) else { return .stop }
            do throws(StoreError) {
                var size = name.count
                let record = try OMKeyRecord(
                    head: value, attributes: wantsAttributes, size: &size)
                var head = record.head(named: name)
                if withoutChecksums { head.clearChecksum() }
                room.add(size)
                response.keys.append(head)
            } catch {
                failure = StoreError(
                    .corrupt,
                    "the record of key '\(KeyName(unchecked: name))' is damaged: "
                        + error.message)
                return .stop
            }
            return .goOn
        } group: { group in
            guard take(group) else { return .stop }
            room.add(group.count)
            response.commonPrefixes.append(.octets(group))
            return .goOn
        }
        if let failure { throw failure }
        if isTruncated { response.next = .octets(last) }
        return response
    }

    /// Uploads in progress in the order of (key, upload), after the pair of markers.
    public func uploads(_ request: OMListUploadsRequest) throws(StoreError) -> OMListUploadsResponse
    {
        let bucket = try bucket(request.bucket, user: request.user)
        let scope = OMTableKey.number(bucket.number)
        let walk = GroupingWalk(
            reader: reader, table: OMTable.uploads, scope: scope,
            encodePrefix: TerminatedName.encodePrefix,
            prefix: request.prefix.octets, delimiter: request.delimiter.octets)
        var response = OMListUploadsResponse()
        guard request.limit > 0 else { return response }
        var room = AnswerRoom(limit: Int(request.limit))
        var failure: StoreError?

        walk.walk(from: uploadsStart(request, scope: scope, walk: walk)) { key in
            TerminatedName.decode(key.dropFirst(scope.count))?.name ?? []
        } each: { _, name, value in
            guard room.hasRoom else {
                response.isTruncated = true
                return .stop
            }
            do throws(StoreError) {
                let record: OMUploadRecord = try parse(value, in: OMTable.uploads)
                var upload = record.upload
                if request.withoutAttributes { upload.clearAttributes() }
                room.add(
                    name.count + upload.initiator.utf8.count + upload.attributes.textSize)
                response.uploads.append(upload)
                response.nextUploadMarker = upload.upload
            } catch {
                failure = error
                return .stop
            }
            response.nextKeyMarker = .octets(name)
            return .goOn
        } group: { group in
            guard room.hasRoom else {
                response.isTruncated = true
                return .stop
            }
            response.commonPrefixes.append(.octets(group))
            response.nextKeyMarker = .octets(group)
            response.clearNextUploadMarker()
            room.add(group.count)
            return .goOn
        }
        if let failure { throw failure }
        if !response.isTruncated {
            response.nextKeyMarker = .octets([])
            response.clearNextUploadMarker()
        }
        return response
    }

    private func uploadsStart(
        _ request: OMListUploadsRequest, scope: [UInt8], walk: GroupingWalk
    ) -> [UInt8] {
        let marker = request.keyMarker.octets
        guard !marker.isEmpty else { return scope }
        if let group = walk.group(of: marker) { return walk.bound(after: group) ?? scope }
        let uploads = scope + TerminatedName.encode(marker)
        if request.hasUploadMarker {
            return uploads + OMTableKey.identity(request.uploadMarker) + [0]
        }
        // Without an upload only keys beyond the marker's.
        return uploads.prefixSuccessor ?? uploads
    }
}
